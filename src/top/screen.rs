//! The terminal, while it is ours: an alternate screen in raw mode, given back however we leave.

use std::io::{self, Stdout, Write};
use std::panic;

use crossterm::style::{Attribute, Color, Print, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    self, Clear, ClearType, DisableLineWrap, EnableLineWrap, EnterAlternateScreen,
    LeaveAlternateScreen,
};
use crossterm::{cursor, execute, queue};

use super::frame::{Line, Tone};

/// Where the terminal does not tell its size.
const USUAL: (u16, u16) = (80, 24);

pub struct Screen {
    out: Stdout,
    /// Lines above the first that is shown.
    above: usize,
}

impl Screen {
    /// # Errors
    /// The terminal cannot be taken over.
    pub fn open() -> io::Result<Screen> {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |why| {
            // Before it is told: what is said on the alternate screen goes with it.
            give_back();
            default(why);
        }));
        terminal::enable_raw_mode()?;
        // From here on dropping it gives the terminal back.
        let mut screen = Screen { out: io::stdout(), above: 0 };
        execute!(screen.out, EnterAlternateScreen, cursor::Hide, DisableLineWrap)?;
        Ok(screen)
    }

    pub fn size(&self) -> (usize, usize) {
        let (width, height) = terminal::size().unwrap_or(USUAL);
        (width.into(), height.into())
    }

    pub fn scroll(&mut self, lines: isize) {
        self.above = self.above.saturating_add_signed(lines);
    }

    /// The part of it that the window shows. The first line stays where it is; the last row says
    /// what the keys do.
    pub fn draw(&mut self, lines: &[Line]) -> io::Result<()> {
        let (width, height) = self.size();
        let Some((first, rest)) = lines.split_first() else { return Ok(()) };
        let room = height.saturating_sub(2);
        self.above = self.above.min(rest.len().saturating_sub(room));
        let below = rest.len().saturating_sub(self.above + room);
        let foot = foot(self.above, below);
        let shown = std::iter::once(first).chain(rest.iter().skip(self.above).take(room));
        let blank = Line::default();
        let shown = shown.chain(std::iter::repeat(&blank)).take(room + 1).chain([&foot]);
        // One write, so that no half a frame is seen.
        let mut frame = Vec::new();
        for (row, line) in shown.enumerate().take(height) {
            // The position rather than a line feed, which scrolls in the last row.
            queue!(frame, cursor::MoveTo(0, u16::try_from(row).unwrap_or(u16::MAX)))?;
            write_line(&mut frame, &line.within(width))?;
            queue!(frame, Clear(ClearType::UntilNewLine))?;
        }
        self.out.write_all(&frame)?;
        self.out.flush()
    }
}

fn foot(above: usize, below: usize) -> Line {
    let mut text = "q ends".to_owned();
    if above + below > 0 {
        text += &format!("  arrows move: {above} lines above, {below} below");
    }
    Line(vec![(Tone::Soft, text)])
}

/// Colours are left out by crossterm itself where NO_COLOR is set.
fn write_line(frame: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    for (tone, text) in line.0.iter().filter(|(_, text)| !text.is_empty()) {
        match tone {
            Tone::Plain => {}
            Tone::Strong => queue!(frame, SetAttribute(Attribute::Bold))?,
            // Rather than grey, which some themes do not show.
            Tone::Soft => queue!(frame, SetAttribute(Attribute::Dim))?,
            Tone::Good => queue!(frame, SetForegroundColor(Color::DarkCyan))?,
            Tone::Warn => {
                queue!(frame, SetForegroundColor(Color::DarkYellow), SetAttribute(Attribute::Bold))?
            }
            Tone::Bad => {
                queue!(frame, SetForegroundColor(Color::Red), SetAttribute(Attribute::Bold))?
            }
        }
        queue!(frame, Print(text))?;
        if *tone != Tone::Plain {
            // Colours as well.
            queue!(frame, SetAttribute(Attribute::Reset))?;
        }
    }
    Ok(())
}

/// More than once does no harm.
fn give_back() {
    // Nobody is left to tell.
    let _ = execute!(io::stdout(), EnableLineWrap, cursor::Show, LeaveAlternateScreen);
    let _ = terminal::disable_raw_mode();
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}
