//! Says in Redis how this worker does, for those who watch: rates of the last few seconds, what
//! waits, what was condemned. Beside ingest, which never waits for it: what fails is left unsaid.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};

use super::servers::Real;
use super::supervisor::Shared;
use super::watch::LOOK;
use crate::pipeline::{self, Pipeline, Report};
use crate::projection::ProjectionError;
use crate::telemetry::{Metrics, Outcome, chain};

/// For a report, and for taking out those of others.
const REPORT_MAX: Duration = Duration::from_secs(2);
/// Every so many reports it takes out those of processes that died: once a minute.
const PRUNE_EVERY: u32 = 12;

/// For as long as it is polled.
pub async fn run(shared: &Shared<Real>) -> Infallible {
    let process = process(shared);
    let mut before = Totals::of(&shared.metrics, Instant::now());
    for round in 0u32.. {
        sleep(LOOK).await;
        let now = Totals::of(&shared.metrics, Instant::now());
        let report = report(&shared.metrics, &before, &now, OffsetDateTime::now_utc());
        before = now;
        let told = timeout(REPORT_MAX, tell(shared, &process, &report, round)).await;
        if let Ok(Err(error)) = &told {
            tracing::debug!(error = chain(error), "the report could not be written");
        }
        shared.metrics.drain.set(report.drained_per_second);
        let fleet = told.ok().and_then(Result::ok).flatten();
        shared.metrics.time_to_empty.set(time_to_empty(fleet.as_ref()));
    }
    // After 680 years.
    std::future::pending().await
}

/// As Prometheus tells it: NaN where it is not known, infinite while nothing is settled.
fn time_to_empty(fleet: Option<&Pipeline>) -> f64 {
    let known = fleet.filter(|fleet| fleet.queue_ready.is_some());
    known.map_or(f64::NAN, |fleet| fleet.time_to_empty_seconds.unwrap_or(f64::INFINITY))
}

/// Takes this process's report out: it has ended, and nothing died.
pub async fn leave(shared: &Shared<Real>) -> Result<(), ProjectionError> {
    shared.servers.projection.forget_reports(&[process(shared)]).await
}

fn process(shared: &Shared<Real>) -> String {
    shared.ledger.lock().unwrap_or_else(PoisonError::into_inner).process().to_owned()
}

/// What all workers say, this one included.
async fn tell(
    shared: &Shared<Real>,
    process: &str,
    report: &Report,
    round: u32,
) -> Result<Option<Pipeline>, ProjectionError> {
    let redis = &shared.servers.projection;
    // Plain numbers and names: it can always be written.
    let text = serde_json::to_string(report).unwrap_or_default();
    redis.report(process, &text).await?;
    let reports = redis.reports().await?;
    let now = OffsetDateTime::now_utc();
    let fleet = pipeline::sum(reports.values(), now);
    if round.is_multiple_of(PRUNE_EVERY) {
        let left = reports.into_iter().filter(|(_, report)| report.is_left(now));
        redis.forget_reports(&left.map(|(process, _)| process).collect::<Vec<_>>()).await?;
    }
    Ok(fleet)
}

/// What had been counted at one moment.
struct Totals {
    at: Instant,
    deliveries: u64,
    decoded: u64,
    stored: u64,
    applied: u64,
    drained: u64,
    queue: Option<(u64, Instant)>,
}

impl Totals {
    fn of(metrics: &Metrics, at: Instant) -> Totals {
        Totals {
            at,
            deliveries: metrics.deliveries.total(),
            decoded: metrics.events_decoded.total(),
            stored: metrics.events_stored.total(),
            applied: metrics.events_applied.total(),
            drained: metrics.settlements.of(Outcome::Ack).total(),
            queue: metrics.queue_ready.last(),
        }
    }
}

fn report(metrics: &Metrics, before: &Totals, now: &Totals, at: OffsetDateTime) -> Report {
    let seconds = (now.at - before.at).as_secs_f64().max(0.001);
    let more = |of: fn(&Totals) -> u64| of(now).saturating_sub(of(before)) as f64;
    let (messages, events) = (more(|totals| totals.deliveries), more(|totals| totals.decoded));
    let growth = before.queue.zip(now.queue).and_then(|((then, from), (ready, to))| {
        let seconds = (to - from).as_secs_f64();
        (seconds > 0.0).then(|| (ready as f64 - then as f64) / seconds)
    });
    Report {
        at_ms: i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or_default(),
        received_per_second: rounded(events / seconds),
        stored_per_second: rounded(more(|totals| totals.stored) / seconds),
        applied_per_second: rounded(more(|totals| totals.applied) / seconds),
        drained_per_second: rounded(more(|totals| totals.drained) / seconds),
        unacked: metrics.deliveries_in_flight.now(),
        queue_ready: now.queue.map(|(ready, _)| ready),
        queue_growth_per_second: growth.map(rounded),
        events_per_message: (messages > 0.0).then(|| rounded(events / messages)),
        lag_store_seconds: metrics.lag_store.take().map(rounded),
        lag_apply_seconds: metrics.lag_apply.take().map(rounded),
        dead_letters: metrics
            .dead_lettered()
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect(),
    }
}

/// To thousandths: it is read by people.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn rates_are_those_of_the_last_few_seconds() {
        let metrics = Metrics::new(&["json", "too_old"]);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        metrics.queue_ready.saw(Some(1_000), at(0));
        metrics.deliveries.increment(999);
        metrics.events_decoded.increment(999);
        let before = Totals::of(&metrics, at(0));
        metrics.deliveries.increment(10);
        metrics.events_decoded.increment(100);
        metrics.events_stored.increment(80);
        metrics.events_applied.increment(90);
        metrics.settlements.of(Outcome::Ack).increment(8);
        metrics.settlements.of(Outcome::Returned).increment(2);
        metrics.deliveries_in_flight.increment(7);
        metrics.dead_letter("json");
        metrics.lag_apply.note(0.25);
        metrics.queue_ready.saw(Some(900), at(4));
        let now = Totals::of(&metrics, at(5));
        let report = report(&metrics, &before, &now, datetime!(2026-11-23 10:00:00 UTC));
        let rates =
            [report.received_per_second, report.stored_per_second, report.applied_per_second];
        assert_eq!(rates, [20.0, 16.0, 18.0]);
        assert_eq!(report.drained_per_second, 1.6, "what is returned comes again");
        assert_eq!((report.unacked, report.queue_ready), (7, Some(900)));
        assert_eq!(report.queue_growth_per_second, Some(-25.0));
        assert_eq!(report.events_per_message, Some(10.0));
        assert_eq!((report.lag_store_seconds, report.lag_apply_seconds), (None, Some(0.25)));
        assert_eq!(report.dead_letters, [("json".to_owned(), 1)].into());
        assert_eq!(report.at_ms, 1_795_428_000_000);
    }

    #[test]
    fn a_time_that_is_not_known_is_not_zero() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let of = |report: Report| time_to_empty(pipeline::sum([report].iter(), now).as_ref());
        let seen = Report { queue_ready: Some(30), drained_per_second: 2.0, ..Report::default() };
        assert_eq!(of(seen.clone()), 15.0);
        assert_eq!(of(Report { drained_per_second: 0.0, ..seen.clone() }), f64::INFINITY);
        assert!(of(Report { queue_ready: None, ..seen }).is_nan());
        assert!(time_to_empty(None).is_nan(), "redis did not tell what the others do");
    }

    #[test]
    fn a_queue_that_nobody_saw_is_unknown_and_not_empty() {
        let metrics = Metrics::new(&[]);
        let start = Instant::now();
        let before = Totals::of(&metrics, start);
        let now = Totals::of(&metrics, start + LOOK);
        let quiet = report(&metrics, &before, &now, OffsetDateTime::UNIX_EPOCH);
        assert_eq!((quiet.queue_ready, quiet.queue_growth_per_second), (None, None));
        assert_eq!((quiet.received_per_second, quiet.events_per_message), (0.0, None));
    }
}
