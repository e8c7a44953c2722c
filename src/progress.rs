//! How far a long piece of work got, on standard error: a bar on a terminal, elsewhere a line now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Redrawing costs a write to the terminal.
const DRAWS_PER_SECOND: u8 = 10;

const WITH_END: &str = "{prefix} {wide_bar} {human_pos}/{human_len} {per_sec:>14} {eta:>4}";
const WITHOUT_END: &str = "{prefix} {spinner} {human_pos} {per_sec} {elapsed}";

pub enum Progress {
    Bar(ProgressBar),
    Lines { what: &'static str, total: Option<u64>, last: Instant },
}

impl Progress {
    /// `total` is `None` where the end is not known.
    pub fn new(what: &'static str, total: Option<u64>) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress::Lines { what, total, last: Instant::now() };
        }
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
        let (bar, template) = match total {
            Some(total) => (ProgressBar::with_draw_target(Some(total), target), WITH_END),
            None => (ProgressBar::with_draw_target(None, target), WITHOUT_END),
        };
        // The templates are constants that a test builds.
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Progress::Bar(bar.with_style(style).with_prefix(what))
    }

    pub fn at(&mut self, done: u64) {
        match self {
            Progress::Bar(bar) => bar.set_position(done),
            Progress::Lines { what, total, last } => {
                if last.elapsed() < LINE_EVERY {
                    return;
                }
                *last = Instant::now();
                let of = total.map(|n| format!(" of {}", HumanCount(n))).unwrap_or_default();
                eprintln!("rollcall: {what} {}{of}", HumanCount(done));
            }
        }
    }

    /// Something the user should know, without tearing the bar.
    pub fn say(&self, text: &str) {
        match self {
            Progress::Bar(bar) => bar.suspend(|| eprintln!("rollcall: {text}")),
            Progress::Lines { .. } => eprintln!("rollcall: {text}"),
        }
    }

    pub fn finish(&self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_sound() {
        for template in [WITH_END, WITHOUT_END] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
