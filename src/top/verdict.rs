//! How far to trust what is shown. The same rules as the page's. Pure.

use std::time::Duration;

use super::figures::{seconds_between, span, whole};
use crate::snapshot::Snapshot;
use crate::terminal::covered;

/// Events wait and none was applied for so long.
const HELD_SECS: f64 = 8.0;
/// Workers report every few seconds.
const WORKERS_SILENT_SECS: f64 = 15.0;

/// Of a look that is shown.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    pub of_look: Duration,
    /// From this age on it is stale.
    pub silent: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Live,
    /// True, with something to know.
    Note,
    /// Behind, or perhaps.
    Stale,
    /// Nothing is known.
    Gone,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    pub word: &'static str,
    /// Empty where there is nothing to explain.
    pub text: String,
}

pub fn of(snapshot: &Snapshot, age: Age) -> Verdict {
    let Age { of_look, silent } = age;
    let age = of_look.as_secs_f64();
    let verdict = |level, word, text: &str| Verdict { level, word, text: text.to_owned() };
    if of_look >= silent {
        let text = format!("No look at Redis came back for {}.", span(age));
        return verdict(Level::Stale, "stale", &text);
    }
    if !snapshot.redis.ok {
        let why = covered(snapshot.redis.error.as_deref().unwrap_or("no answer"));
        let text = format!("Counts are unknown until it answers. {why}");
        return verdict(Level::Gone, "Redis is away", &text);
    }
    if !snapshot.known {
        let text = "Redis holds no generation: it was emptied, or never filled. Counts are \
            unknown, not zero, until a rebuild has been made.";
        return verdict(Level::Gone, "unknown", text);
    }
    if let Some(text) = held(snapshot, age) {
        return verdict(Level::Stale, "stale", &text);
    }
    match snapshot.state {
        Some("stale") => {
            let text = "Redis missed events that Postgres holds, and nobody adds them yet. Counts \
                may be too low.";
            return verdict(Level::Stale, "stale", text);
        }
        Some("catching_up") => {
            let text = "Events that Redis missed are being added from Postgres. Until that is done \
                counts may be too low.";
            return verdict(Level::Note, "catching up", text);
        }
        Some("rebuilding") => {
            let text = "The sets are being made anew from Postgres. Until that is done counts may \
                be off.";
            return verdict(Level::Note, "rebuilding", text);
        }
        _ => {}
    }
    if workers_silence(snapshot, age).is_none_or(|silence| silence >= WORKERS_SILENT_SECS) {
        let text = "No worker reports, so whether events wait is unknown. Counts are as the last \
            one left them.";
        return verdict(Level::Note, "no worker", text);
    }
    verdict(Level::Live, "live", "")
}

/// Since the newest report of a worker.
pub fn workers_silence(snapshot: &Snapshot, age: f64) -> Option<f64> {
    let pipeline = snapshot.pipeline.as_ref()?;
    seconds_between(Some(&pipeline.updated_at), &snapshot.at).map(|seconds| seconds + age)
}

fn held(snapshot: &Snapshot, age: f64) -> Option<String> {
    let pipeline = snapshot.pipeline.as_ref()?;
    let waiting = pipeline.queue_ready.unwrap_or(0).saturating_add(pipeline.unacked.unwrap_or(0));
    let since = snapshot.age_seconds? + age;
    (waiting > 0 && since >= HELD_SECS).then(|| {
        let verb = if waiting == 1 { "message waits" } else { "messages wait" };
        let (waiting, since) = (whole(waiting), span(since));
        format!("{waiting} {verb} in the queue, and nothing was applied for {since}.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Pipeline;
    use crate::snapshot::RedisSeen;

    fn live() -> Snapshot {
        Snapshot {
            at: "2026-11-23T10:00:00Z".to_owned(),
            redis: RedisSeen::well(),
            known: true,
            generation: Some("g".to_owned()),
            state: Some("fresh"),
            last_event_at: None,
            last_applied_at: Some("2026-11-23T09:59:59Z".to_owned()),
            age_seconds: Some(1.0),
            sets: Vec::new(),
            pipeline: Some(Pipeline {
                workers: 1,
                queue_ready: Some(0),
                unacked: Some(0),
                updated_at: "2026-11-23T09:59:58Z".to_owned(),
                ..Pipeline::default()
            }),
        }
    }

    fn word(change: impl FnOnce(&mut Snapshot), age: u64) -> &'static str {
        let mut snapshot = live();
        change(&mut snapshot);
        let of_look = Duration::from_secs(age);
        of(&snapshot, Age { of_look, silent: super::super::SILENT }).word
    }

    fn waits(snapshot: &mut Snapshot) {
        snapshot.pipeline.as_mut().unwrap().unacked = Some(1);
    }

    #[test]
    fn each_trouble_has_its_word_and_the_worst_comes_first() {
        assert_eq!(word(|_| {}, 0), "live");
        assert_eq!(word(|_| {}, 5), "stale");
        assert_eq!(word(|one| one.redis.ok = false, 0), "Redis is away");
        assert_eq!(word(|one| one.known = false, 0), "unknown");
        assert_eq!(word(|one| one.state = Some("stale"), 0), "stale");
        assert_eq!(word(|one| one.state = Some("catching_up"), 0), "catching up");
        assert_eq!(word(|one| one.state = Some("rebuilding"), 0), "rebuilding");
        assert_eq!(word(|one| one.pipeline = None, 0), "no worker");
        let silent = |one: &mut Snapshot| {
            one.pipeline.as_mut().unwrap().updated_at = "2026-11-23T09:59:40Z".to_owned();
        };
        assert_eq!(word(silent, 0), "no worker");
    }

    /// Two programs, one verdict.
    #[test]
    fn the_page_goes_by_the_same_bounds() {
        let page = include_str!("../serve/page.html");
        for (name, seconds) in [
            ("SILENT_MS", super::super::SILENT.as_secs_f64()),
            ("HELD_MS", HELD_SECS),
            ("WORKERS_SILENT_MS", WORKERS_SILENT_SECS),
        ] {
            let line = format!("const {name} = {:.0};", seconds * 1000.0);
            assert!(page.contains(&line), "{line}");
        }
    }

    #[test]
    fn an_old_write_is_staleness_only_where_events_wait() {
        assert_eq!(word(|one| one.age_seconds = Some(9000.0), 0), "live");
        assert_eq!(word(waits, 0), "live");
        let both = |one: &mut Snapshot| {
            waits(one);
            one.age_seconds = Some(6.0);
        };
        assert_eq!(word(both, 1), "live");
        assert_eq!(word(both, 2), "stale");
    }
}
