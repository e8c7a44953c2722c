//! `rollcall top`: what the page of `rollcall serve` shows, for a terminal, straight from Redis.
//! Live, or one look for a script. It has no way to write: all it holds is a [`Reader`].
//!
//! Its counts come from the same [`Looker`] as the page's. `verdict` says how far to trust a
//! snapshot, `frame` lays it out, `figures` writes numbers, `screen` owns the terminal.
//!
//! Never: a 0 for what is not known, or a terminal that obeys what an event holds.

mod figures;
mod frame;
mod screen;
mod verdict;

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context, Result};
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt as _;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::cli::{Outcome, Top};
use crate::config::Config;
use crate::fault;
use crate::projection::Reader;
use crate::shutdown::Shutdown;
use crate::snapshot::{Looker, Snapshot, Trouble};
use frame::Frame;
use screen::Screen;
use verdict::Age;

/// How wide a look is written where there is no terminal.
const WIDTH_OF_FILES: usize = 100;
/// The page's: one look a second, and stale without one for five.
const USUAL: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(5);
/// Ages on the screen move on between two looks.
const REDRAW: Duration = Duration::from_millis(500);

/// Until the person has had enough, or the drain. Never writes to Redis.
///
/// # Errors
/// The terminal, or standard output, has gone. A Redis that does not answer is told, and no error.
pub async fn run(
    args: &Top,
    redis: Reader,
    config: &Config,
    shutdown: &Shutdown,
) -> Result<Outcome> {
    let looker = Looker::new(redis, config.sets.clone());
    let patience = config.serve.timeout;
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if args.once || !(terminal || args.output.json) {
        let done = shutdown.run_until_drain(once(args, looker, patience)).await;
        return done.unwrap_or(Ok(Outcome::TryLater));
    }
    let every = Duration::from_secs_f64(args.interval);
    let asker = looker.asker().clone();
    let (sender, receiver) = watch::channel(None);
    let told = |snapshot| drop(sender.send_replace(Some((Instant::now(), snapshot))));
    let shown = async {
        match args.output.json {
            true => lines(receiver).await,
            false => watched(receiver, every).await,
        }
    };
    tokio::select! {
        never = looker.follow(every, patience, told) => match never {},
        never = asker.walk() => match never {},
        done = shown => done.map(|()| Outcome::Done),
        () = shutdown.draining() => Ok(Outcome::Done),
    }
}

/// One look, the groups included. By its exit code a script knows whether the counts are known.
async fn once(args: &Top, mut looker: Looker, patience: Duration) -> Result<Outcome> {
    let asker = looker.asker().clone();
    // Without them the busiest groups are unknown; that Redis is away the look that follows says.
    let _ = timeout(patience, asker.walk_once()).await;
    let found = match timeout(patience, asker.ask()).await {
        Ok(found) => found.map_err(|error| Trouble::of(&error)),
        Err(_) => Err(Trouble::silent(patience)),
    };
    let snapshot = looker.tell(found, OffsetDateTime::now_utc());
    if args.output.json {
        say!("{}", serde_json::to_string(&snapshot)?);
    } else {
        let width = crossterm::terminal::size().map_or(WIDTH_OF_FILES, |(width, _)| width.into());
        let frame = Frame::of(&snapshot, Age { of_look: Duration::ZERO, silent: SILENT }, width);
        for line in frame.lines {
            say!("{}", line.plain());
        }
    }
    Ok(if snapshot.redis.ok && snapshot.known { Outcome::Done } else { Outcome::TryLater })
}

/// A snapshot and when it was made, by the clock that only goes forward.
type Looked = Option<(Instant, Snapshot)>;

/// A line of JSON a look.
async fn lines(mut looked: watch::Receiver<Looked>) -> Result<()> {
    while looked.changed().await.is_ok() {
        let line = match &*looked.borrow_and_update() {
            Some((_, snapshot)) => serde_json::to_string(snapshot)?,
            None => continue,
        };
        say!("{line}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Draws until the person has had enough.
async fn watched(mut looked: watch::Receiver<Looked>, every: Duration) -> Result<()> {
    let silent = every.saturating_sub(USUAL) + SILENT;
    let mut screen = Screen::open().context("taking over the terminal")?;
    let mut events = EventStream::new();
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (width, _) = screen.size();
        let frame = match &*looked.borrow_and_update() {
            Some((at, snapshot)) => {
                Frame::of(snapshot, Age { of_look: at.elapsed(), silent }, width)
            }
            None => Frame::waiting(),
        };
        fault::point(fault::POINT_DRAWING);
        screen.draw(&frame.lines).context("drawing")?;
        // All three are cancel-safe. The sender lives as long as this does.
        tokio::select! {
            changed = looked.changed() => changed.context("looking at Redis")?,
            _ = redraw.tick() => {}
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) if is_end(key) => return Ok(()),
                Some(Ok(Event::Key(key))) => scroll(&mut screen, key),
                // A resize, say: the next frame is of the new size.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("reading the keyboard"),
                None => return Ok(()),
            },
        }
    }
}

fn is_end(key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if control => true,
        KeyCode::Char('q') | KeyCode::Esc => true,
        _ => false,
    }
}

fn scroll(screen: &mut Screen, key: KeyEvent) {
    if key.kind == KeyEventKind::Release {
        return;
    }
    let (_, height) = screen.size();
    let page = height.saturating_sub(2) as isize;
    match key.code {
        KeyCode::Down | KeyCode::Char('j') => screen.scroll(1),
        KeyCode::Up | KeyCode::Char('k') => screen.scroll(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => screen.scroll(page),
        KeyCode::PageUp => screen.scroll(-page),
        KeyCode::Home | KeyCode::Char('g') => screen.scroll(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => screen.scroll(isize::MAX),
        _ => {}
    }
}
