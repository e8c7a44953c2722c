//! A snapshot as lines of text, as wide as the window. Pure.

use unicode_width::UnicodeWidthStr as _;

use super::figures::{ago, bar, cut, known, left, line, rate, right, seconds_between, span, whole};
use super::verdict::{self, Age, Level, Verdict};
use crate::pipeline::Pipeline;
use crate::snapshot::{SetSeen, Snapshot};
use crate::terminal::covered;

/// Buckets of a set that are shown; the page has more room.
const BUCKETS_MAX: usize = 7;
const NAME_MAX: usize = 28;
const NUMBER: usize = 15;
const BAR_MAX: usize = 40;
/// The narrowest that it is laid out for; a window below that cuts it off.
const WIDTH_MIN: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Soft,
    Strong,
    Good,
    Warn,
    Bad,
}

/// Parts of a line, each in its tone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Line(pub Vec<(Tone, String)>);

impl Line {
    fn with(mut self, tone: Tone, text: impl Into<String>) -> Line {
        self.0.push((tone, text.into()));
        self
    }

    fn of(tone: Tone, text: impl Into<String>) -> Line {
        Line::default().with(tone, text)
    }

    /// What of it fits into so many columns.
    pub fn within(&self, mut columns: usize) -> Line {
        let mut line = Line::default();
        for (tone, text) in &self.0 {
            let text = cut(text, columns);
            columns -= text.width().min(columns);
            line.0.push((*tone, text));
        }
        line
    }

    /// Without tones, and without blanks at the end.
    pub fn plain(&self) -> String {
        let text: String = self.0.iter().map(|(_, text)| text.as_str()).collect();
        text.trim_end().to_owned()
    }
}

pub struct Frame {
    pub lines: Vec<Line>,
    width: usize,
    /// Columns of the widest name.
    name: usize,
}

impl Frame {
    pub fn waiting() -> Frame {
        Frame { lines: vec![Line::of(Tone::Soft, "asking Redis")], width: 0, name: 0 }
    }

    pub fn of(snapshot: &Snapshot, age: Age, width: usize) -> Frame {
        let names = snapshot.sets.iter().map(|set| set.name.len());
        let width = width.max(WIDTH_MIN);
        let name = names.max().unwrap_or(0).clamp(8, NAME_MAX.min(width / 3));
        let mut frame = Frame { lines: Vec::new(), width, name };
        let verdict = verdict::of(snapshot, age);
        let age = age.of_look.as_secs_f64();
        frame.head(snapshot, &verdict, age);
        frame.pipeline(snapshot, age);
        let sets = || snapshot.sets.iter();
        frame.counts(sets().filter(|set| !set.grouped).collect(), snapshot.known);
        frame.groups(sets().filter(|set| set.grouped).collect());
        frame.windows(sets().filter(|set| set.window.is_some() && !set.grouped).collect());
        frame
    }

    fn head(&mut self, snapshot: &Snapshot, verdict: &Verdict, age: f64) {
        let (tone, mark) = match verdict.level {
            Level::Live => (Tone::Good, "●"),
            Level::Note => (Tone::Warn, "○"),
            Level::Stale => (Tone::Warn, "■"),
            Level::Gone => (Tone::Bad, "◆"),
        };
        let since = |at: Option<&str>| match seconds_between(at, &snapshot.at) {
            Some(seconds) => ago(seconds + age),
            None => "unknown".to_owned(),
        };
        let clock = snapshot.at.get(11..19).unwrap_or_default();
        self.lines.push(
            Line::of(Tone::Strong, "rollcall  ")
                .with(tone, format!("{mark} {}  ", verdict.word))
                .with(Tone::Soft, "applied ")
                .with(Tone::Plain, since(snapshot.last_applied_at.as_deref()))
                .with(Tone::Soft, "  newest event ")
                .with(Tone::Plain, since(snapshot.last_event_at.as_deref()))
                .with(Tone::Soft, format!("  as of {clock} UTC")),
        );
        for text in wrapped(&verdict.text, self.width) {
            self.lines.push(Line::of(tone, text));
        }
    }

    fn title(&mut self, title: &str) {
        self.lines.push(Line::default());
        self.lines.push(Line::of(Tone::Strong, title));
    }

    fn pipeline(&mut self, snapshot: &Snapshot, age: f64) {
        let Some(pipeline) = &snapshot.pipeline else {
            let text = match snapshot.redis.ok {
                true => "no worker reports",
                false => "unknown: workers report through Redis",
            };
            self.title(&format!("PIPELINE  {text}"));
            return;
        };
        let workers = pipeline.workers;
        let plural = if workers == 1 { "" } else { "s" };
        let silence = verdict::workers_silence(snapshot, age).unwrap_or(0.0);
        self.title(&format!("PIPELINE  {workers} worker{plural}, heard {}", ago(silence)));
        let lag = |seconds: Option<f64>| match seconds {
            Some(seconds) => format!(", lag {}", span(seconds)),
            None => String::new(),
        };
        let stored = rate(Some(pipeline.stored_per_second)) + &lag(pipeline.lag_store_seconds);
        let applied = rate(Some(pipeline.applied_per_second)) + &lag(pipeline.lag_apply_seconds);
        for (stage, text) in [
            ("published", rate(pipeline.published_per_second)),
            ("queue", queue(pipeline)),
            ("received", rate(Some(pipeline.received_per_second))),
            ("stored", stored),
            ("applied", applied),
            ("dead letters", dead_letters(pipeline)),
        ] {
            let text = cut(&text, self.width.saturating_sub(15));
            let stage = Line::of(Tone::Soft, format!("  {}", left(stage, 13)));
            self.lines.push(stage.with(Tone::Plain, text));
        }
    }

    fn counts(&mut self, sets: Vec<&SetSeen>, generation: bool) {
        if sets.is_empty() {
            return;
        }
        self.title("DISTINCT MEMBERS");
        for set in sets {
            let cardinality = set.cardinality.filter(|_| generation);
            let mark = if set.kind == "estimated" && cardinality.is_some() { "≈ " } else { "" };
            let tone = if cardinality.is_some() { Tone::Strong } else { Tone::Warn };
            let of = match set.window {
                Some("day") => "today".to_owned(),
                Some(window) => format!("this {window}"),
                None => String::new(),
            };
            let number = right(&format!("{mark}{}", known(cardinality)), NUMBER);
            let room = self.width.saturating_sub(self.name + NUMBER + 18);
            let moved = right(&moved(set, cardinality), 12);
            let name = left(&covered(&set.name), self.name);
            self.lines.push(
                Line::of(Tone::Plain, format!("  {name}"))
                    .with(tone, number)
                    .with(Tone::Soft, if room > 8 { format!(" {moved}  ") } else { " ".into() })
                    .with(Tone::Good, line(&set.history, room.saturating_sub(12).min(BAR_MAX)))
                    .with(Tone::Soft, if room > 12 { format!("  {of}") } else { String::new() }),
            );
        }
    }

    fn groups(&mut self, sets: Vec<&SetSeen>) {
        if sets.is_empty() {
            return;
        }
        self.title("BUSIEST GROUPS");
        for set in sets {
            let groups = set.groups.as_deref();
            let rows: Option<Vec<_>> = groups.map(|groups| {
                groups.iter().map(|one| (one.group.as_str(), one.cardinality)).collect()
            });
            self.rows(set, rows, if set.groups_truncated { "of those looked at" } else { "" });
        }
    }

    fn windows(&mut self, sets: Vec<&SetSeen>) {
        if sets.is_empty() {
            return;
        }
        self.title("WINDOW BY WINDOW, UTC");
        for set in sets {
            let buckets = set.buckets.as_deref();
            let rows: Option<Vec<_>> = buckets.map(|buckets| {
                let newest = buckets.iter().take(BUCKETS_MAX);
                newest.map(|one| (one.bucket.as_str(), one.cardinality)).collect()
            });
            self.rows(set, rows, "");
        }
    }

    /// The set's name before the first row, and a bar after each.
    fn rows(&mut self, set: &SetSeen, rows: Option<Vec<(&str, u64)>>, note: &str) {
        let name = covered(&set.name);
        let rows = match rows {
            Some(rows) if !rows.is_empty() => rows,
            other => {
                let word = if other.is_some() { "none yet" } else { "unknown" };
                let line = Line::of(Tone::Plain, format!("  {}", left(&name, self.name)));
                self.lines.push(line.with(Tone::Soft, format!("  {word}")));
                return;
            }
        };
        let label = (self.width.saturating_sub(self.name + NUMBER + 6) / 2).clamp(6, 30);
        let room = self.width.saturating_sub(self.name + label + NUMBER + 6).min(BAR_MAX);
        let most = rows.iter().map(|(_, number)| *number).max().unwrap_or(0);
        for (row, (text, number)) in rows.into_iter().enumerate() {
            let name = left(if row == 0 { &name } else { "" }, self.name);
            let (text, bar) = (left(&covered(text), label), bar(number, most, room));
            let note =
                if row == 0 && !note.is_empty() { format!("  {note}") } else { String::new() };
            self.lines.push(
                Line::of(Tone::Plain, format!("  {name}  {text}"))
                    .with(Tone::Strong, right(&whole(number), NUMBER))
                    .with(Tone::Good, format!("  {bar}"))
                    .with(Tone::Soft, note),
            );
        }
    }
}

/// Since the first point of the last hour.
fn moved(set: &SetSeen, now: Option<u64>) -> String {
    match (set.history.first(), now) {
        (Some((_, then)), Some(now)) if now >= *then => format!("+{}", whole(now - then)),
        (Some((_, then)), Some(now)) => format!("-{}", whole(then - now)),
        _ => String::new(),
    }
}

/// While it grows nobody knows when it is empty: what waits is so much work.
fn queue(pipeline: &Pipeline) -> String {
    let ready = known(pipeline.queue_ready);
    let unacked = known(pipeline.unacked);
    let growing = pipeline.queue_growth_per_second > Some(0.0);
    let time = match pipeline.time_to_empty_seconds {
        _ if pipeline.queue_ready == Some(0) => String::new(),
        Some(seconds) if growing => format!(", {} of work and growing", span(seconds)),
        Some(seconds) => format!(", empty in {}", span(seconds)),
        None => ", time to empty unknown".to_owned(),
    };
    format!("{ready} ready{time}, {unacked} unacknowledged")
}

fn dead_letters(pipeline: &Pipeline) -> String {
    let mut reasons: Vec<_> = pipeline.dead_letters.iter().filter(|(_, many)| **many > 0).collect();
    reasons.sort_by_key(|(_, many)| std::cmp::Reverse(**many));
    let total = reasons.iter().fold(0_u64, |sum, (_, many)| sum.saturating_add(**many));
    if total == 0 {
        return "none".to_owned();
    }
    let reasons: Vec<String> = reasons
        .iter()
        .map(|(reason, many)| format!("{} {}", covered(reason), whole(**many)))
        .collect();
    format!("{}: {}", whole(total), reasons.join(", "))
}

/// At blanks, each line within so many columns where a word is.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(cut(word, columns)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_grows_is_not_empty_soon() {
        let queue = |ready, growth, time| {
            queue(&Pipeline {
                queue_ready: Some(ready),
                queue_growth_per_second: growth,
                unacked: Some(40),
                time_to_empty_seconds: time,
                ..Pipeline::default()
            })
        };
        let shrinks = queue(1200, Some(-1.0), Some(90.0));
        assert_eq!(shrinks, "1,200 ready, empty in 1 min 30 s, 40 unacknowledged");
        let grows = queue(1200, Some(1.0), Some(90.0));
        assert_eq!(grows, "1,200 ready, 1 min 30 s of work and growing, 40 unacknowledged");
        let stands = queue(1200, None, None);
        assert_eq!(stands, "1,200 ready, time to empty unknown, 40 unacknowledged");
        assert_eq!(queue(0, Some(0.0), Some(4.0)), "0 ready, 40 unacknowledged");
    }
}
