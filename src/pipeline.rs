//! What workers say of themselves in `<prefix>:pipeline`: a hash with one field for each process,
//! named by its id, and small JSON as the value. Writer and reader share this file. Pure: the clock
//! is an argument.
//!
//! It is for people who watch. Nothing is decided by it, and a worker never waits for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// The last part of the key, and for that no name of a set.
pub const NAME: &str = "pipeline";
/// How old a report may be and count. Workers write one every few seconds.
pub const FRESH_MAX_SECS: i64 = 60;
/// Older ones are of processes that died: a worker takes them out.
pub const KEPT_MAX_SECS: i64 = 15 * 60;

/// One worker's view, over the last few seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// When it was written, in Unix milliseconds, by the worker's clock.
    pub at_ms: i64,
    /// Events read from messages.
    pub received_per_second: f64,
    /// Events new in Postgres.
    pub stored_per_second: f64,
    /// Events whose members are in Redis, those stored before included.
    pub applied_per_second: f64,
    /// Messages acknowledged.
    pub drained_per_second: f64,
    /// Messages that it has and has not settled.
    pub unacked: u64,
    /// Messages that wait in the queue; absent where RabbitMQ did not tell.
    pub queue_ready: Option<u64>,
    /// How fast that grows; below zero it shrinks.
    pub queue_growth_per_second: Option<f64>,
    /// Events in a message, of those that it had of late.
    pub events_per_message: Option<f64>,
    /// From an event's time to its row in Postgres, and to its members in Redis: the longest of the
    /// last few seconds. Absent where nothing was written.
    pub lag_store_seconds: Option<f64>,
    pub lag_apply_seconds: Option<f64>,
    /// Events condemned since the process began, by reason; none where there was none.
    pub dead_letters: BTreeMap<String, u64>,
}

/// All workers together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pipeline {
    pub workers: u32,
    /// An estimate: what is received, and what the queue grows by.
    pub published_per_second: Option<f64>,
    pub received_per_second: f64,
    pub stored_per_second: f64,
    pub applied_per_second: f64,
    /// Messages acknowledged.
    pub drained_per_second: f64,
    pub queue_ready: Option<u64>,
    /// How fast that grows; below zero it shrinks.
    pub queue_growth_per_second: Option<f64>,
    pub unacked: Option<u64>,
    /// For all that waits and is handed out, as fast as messages were acknowledged in the last few
    /// seconds; absent where none was, or nobody saw the queue.
    pub time_to_empty_seconds: Option<f64>,
    pub lag_store_seconds: Option<f64>,
    pub lag_apply_seconds: Option<f64>,
    pub dead_letters: BTreeMap<String, u64>,
    /// Of the newest report.
    pub updated_at: String,
}

impl Report {
    /// What a field holds; `None` where it is of another form.
    pub fn parse(text: &str) -> Option<Report> {
        serde_json::from_str(text).ok()
    }

    /// Whether it is of a worker that writes: not too old, nor ahead by more than clocks differ.
    pub fn is_fresh(&self, now: OffsetDateTime) -> bool {
        self.age_secs(now).abs() <= FRESH_MAX_SECS
    }

    /// Whether it is of a process that died.
    pub fn is_left(&self, now: OffsetDateTime) -> bool {
        self.age_secs(now) > KEPT_MAX_SECS
    }

    fn age_secs(&self, now: OffsetDateTime) -> i64 {
        now.unix_timestamp().saturating_sub(self.at_ms / 1_000)
    }
}

/// What the fresh ones come to; `None` where there is none.
pub fn sum<'r>(reports: impl Iterator<Item = &'r Report>, now: OffsetDateTime) -> Option<Pipeline> {
    let fresh: Vec<&Report> = reports.filter(|report| report.is_fresh(now)).collect();
    let newest = fresh.iter().max_by_key(|report| report.at_ms)?;
    let total = |of: fn(&Report) -> f64| {
        fresh.iter().map(|report| of(report)).fold(0.0, |sum, one| sum + one)
    };
    let longest = |of: fn(&Report) -> Option<f64>| {
        fresh.iter().filter_map(|report| of(report)).reduce(f64::max)
    };
    // Of the one queue every worker sees the same: who looked last knows best.
    let queue = fresh
        .iter()
        .filter(|report| report.queue_ready.is_some())
        .max_by_key(|report| report.at_ms);
    let queue_ready = queue.and_then(|report| report.queue_ready);
    let growth = queue.and_then(|report| report.queue_growth_per_second);
    let unacked = fresh.iter().fold(0, |sum, report| report.unacked.saturating_add(sum));
    let drained = total(|report| report.drained_per_second);
    let received = total(|report| report.received_per_second);
    let published = growth.map(|growth| {
        let events = longest(|report| report.events_per_message).unwrap_or(1.0);
        (received + growth * events).max(0.0)
    });
    let mut dead_letters = BTreeMap::new();
    for (reason, count) in fresh.iter().flat_map(|report| &report.dead_letters) {
        let total: &mut u64 = dead_letters.entry(reason.clone()).or_default();
        *total = total.saturating_add(*count);
    }
    Some(Pipeline {
        workers: u32::try_from(fresh.len()).unwrap_or(u32::MAX),
        published_per_second: published,
        received_per_second: received,
        stored_per_second: total(|report| report.stored_per_second),
        applied_per_second: total(|report| report.applied_per_second),
        drained_per_second: drained,
        queue_ready,
        queue_growth_per_second: growth,
        unacked: Some(unacked),
        time_to_empty_seconds: queue_ready
            .and_then(|ready| time_to_empty(ready.saturating_add(unacked), drained)),
        lag_store_seconds: longest(|report| report.lag_store_seconds),
        lag_apply_seconds: longest(|report| report.lag_apply_seconds),
        dead_letters,
        updated_at: written_at(newest),
    })
}

fn time_to_empty(backlog: u64, drained_per_second: f64) -> Option<f64> {
    match backlog {
        0 => Some(0.0),
        backlog if drained_per_second > 0.0 => Some(backlog as f64 / drained_per_second),
        _ => None,
    }
}

fn written_at(report: &Report) -> String {
    let nanos = i128::from(report.at_ms) * 1_000_000;
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    crate::telemetry::rfc3339(at)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 10:00:00 UTC);

    fn report(age_secs: i64) -> Report {
        Report {
            at_ms: (NOW.unix_timestamp() - age_secs) * 1_000,
            received_per_second: 10.0,
            stored_per_second: 8.0,
            applied_per_second: 10.0,
            drained_per_second: 2.5,
            unacked: 5,
            dead_letters: [("json".to_owned(), 2)].into(),
            ..Report::default()
        }
    }

    #[test]
    fn only_fresh_reports_count() {
        let reports = [report(1), report(60), report(61), report(-61)];
        let all = sum(reports.iter(), NOW).unwrap();
        assert_eq!((all.workers, all.received_per_second), (2, 20.0));
        assert_eq!((all.unacked, all.dead_letters["json"]), (Some(10), 4));
        assert_eq!(all.updated_at, "2026-11-23T09:59:59Z");
        assert_eq!(sum([report(61)].iter(), NOW), None, "nobody works");
        assert!(report(901).is_left(NOW) && !report(900).is_left(NOW));
    }

    #[test]
    fn the_queue_is_counted_once_however_many_see_it() {
        let seen = |age, ready, growth| Report {
            queue_ready: Some(ready),
            queue_growth_per_second: Some(growth),
            ..report(age)
        };
        let all = sum([seen(4, 900, 7.0), seen(1, 600, -5.0)].iter(), NOW).unwrap();
        assert_eq!(all.queue_ready, Some(600));
        assert_eq!(all.queue_growth_per_second, Some(-5.0));
        assert_eq!(all.published_per_second, Some(15.0));
        let unseen = sum([report(1)].iter(), NOW).unwrap();
        assert_eq!((unseen.queue_ready, unseen.published_per_second), (None, None));
    }

    #[test]
    fn the_time_to_empty_is_that_of_all_that_is_not_settled() {
        let seen = |ready, unacked, drained_per_second| Report {
            queue_ready: Some(ready),
            unacked,
            drained_per_second,
            ..report(1)
        };
        let time = |reports: &[Report]| sum(reports.iter(), NOW).unwrap().time_to_empty_seconds;
        // Of the one queue, and of what two workers hold, as fast as both.
        assert_eq!(time(&[seen(600, 100, 4.0), seen(600, 300, 6.0)]), Some(100.0));
        assert_eq!(time(&[seen(0, 100, 4.0)]), Some(25.0), "what is handed out waits as well");
        assert_eq!(time(&[seen(0, 0, 0.0)]), Some(0.0));
        assert_eq!(time(&[seen(1, 0, 0.0)]), None, "as long as nothing is settled");
        assert_eq!(time(&[report(1)]), None, "nobody saw the queue");
    }

    #[test]
    fn a_report_of_another_version_is_read_as_far_as_it_goes() {
        let report = Report::parse(r#"{"at_ms": 7, "unacked": 3, "new": [1]}"#).unwrap();
        assert_eq!((report.at_ms, report.unacked, report.queue_ready), (7, 3, None));
        assert_eq!(Report::parse("17"), None);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(Report::parse(&text), Some(report));
    }
}
