//! Every metric, made once and shared. All series are there from the start, at zero, so that an
//! alert can tell "none" from "not yet".

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use time::OffsetDateTime;

use super::labels::{ByLabel, Dependency, Drift, Label, Outcome, Stage, Trigger};
use super::tally::{Level, Peak, Sighting, Tally};
use crate::retry::Class;

const BATCH_EVENTS: &str = "rollcall_batch_events";
const FLUSH_SECONDS: &str = "rollcall_flush_seconds";
const STORE_LAG_SECONDS: &str = "rollcall_store_lag_seconds";
const EVENT_LAG_SECONDS: &str = "rollcall_event_lag_seconds";

/// Up to the most that a batch may hold.
const EVENTS_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4];
/// A Redis round trip on one host takes 0.1 ms, a commit 1 ms, the default timeout is 20 s.
const FLUSH_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0,
];
/// From live to a day behind.
const LAG_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0,
    86_400.0,
];

/// Handles of all series. Books that must balance:
/// deliveries = settlements of all outcomes + deliveries in flight.
pub struct Metrics {
    pub deliveries: Tally,
    pub settlements: ByLabel<Outcome, Tally>,
    pub deliveries_in_flight: Level,
    pub queue_ready: Sighting,
    /// Messages acknowledged a second by this process, and what all workers need for the backlog.
    pub drain: Gauge,
    pub time_to_empty: Gauge,
    pub events_decoded: Tally,
    pub events_stored: Tally,
    /// Stored before or not: their members are in Redis.
    pub events_applied: Tally,
    pub duplicates: Counter,
    pub batches_flushed: ByLabel<Trigger, Counter>,
    pub batch_events: Histogram,
    pub flush_seconds: ByLabel<Stage, Histogram>,
    pub store_lag_seconds: Histogram,
    pub event_lag_seconds: Histogram,
    /// Seconds from a batch's last event to its row and to its members: for `pipeline`.
    pub lag_store: Peak,
    pub lag_apply: Peak,
    pub members_written: Counter,
    pub retries: ByLabel<Dependency, Counter>,
    /// Lanes that hold a batch for it: `increment` when a hold begins, `decrement` when it ends.
    pub holding: ByLabel<Dependency, Gauge>,
    pub sessions: Counter,
    pub session_errors: ByLabel<Class, Counter>,
    pub lanes: Gauge,
    pub prefetch: Gauge,
    pub wrong_type_keys: Counter,
    /// Handed out before, whatever the reason.
    pub redeliveries: Counter,
    pub suspects: Counter,
    pub breaker_trips: Counter,
    /// 1 while the worker stands by.
    pub breaker_open: Gauge,
    /// 1 while readers are told *unknown*.
    pub generation_missing: Gauge,
    /// Stored without Redis: to be caught up.
    pub projection_skipped_events: Counter,
    /// 1 while ingest goes on without Redis.
    pub projection_skipping: Gauge,
    pub redis_losses: Counter,
    /// 1 while Redis may evict what it was given.
    pub redis_evicts: Gauge,
    /// 1 while Postgres has a note of what Redis lacks.
    pub repair_needed: Gauge,
    pub repair_errors: Counter,
    /// As a look at the queue last found it.
    pub queue_consumers: Gauge,
    pub dead_letters_ready: Gauge,
    pub partitions_ahead: Gauge,
    /// Unix seconds; 0 is never. Of the last look that found all that was given to Redis.
    pub watermark_timestamp: Gauge,
    /// Of the last batch that anybody gave to Redis.
    pub applied_timestamp: Gauge,
    /// Of the last comparison of all sets with Postgres, and what it found.
    pub verified_timestamp: Gauge,
    pub drift: ByLabel<Drift, Gauge>,
    /// As `/readyz` has it.
    pub ready: Gauge,
    pub dependency_up: ByLabel<Dependency, Gauge>,
    dead_letters: Vec<(&'static str, Tally)>,
    exporter: Exporter,
}

/// The page of one process. Cheap to clone.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

impl Exporter {
    pub(super) fn new(handle: PrometheusHandle) -> Exporter {
        Exporter(handle)
    }

    /// The page that Prometheus reads, text format 0.0.4.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds what histograms have gathered since the last time; else it piles up between scrapes.
    pub fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}

impl Metrics {
    /// `reasons` are all that a dead letter can have.
    pub fn new(reasons: &[&'static str]) -> Metrics {
        // The buckets are constants that are not empty, which is all that can be wrong with them.
        let builder = PrometheusBuilder::new();
        let builder = [
            (BATCH_EVENTS, EVENTS_BUCKETS),
            (FLUSH_SECONDS, FLUSH_BUCKETS),
            (STORE_LAG_SECONDS, LAG_BUCKETS),
            (EVENT_LAG_SECONDS, LAG_BUCKETS),
        ]
        .into_iter()
        .fold(builder, |builder, (name, buckets)| {
            builder
                .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
                .expect("the buckets are not empty")
        });
        let recorder = builder.build_recorder();
        // Local and not global: the handles outlive it, nobody else records, and tests can have
        // as many as they like in one process.
        metrics::with_local_recorder(&recorder, || {
            register(reasons, Exporter::new(recorder.handle()))
        })
    }

    /// Counts a dead letter of one of the reasons given to `new`.
    pub fn dead_letter(&self, reason: &str) {
        let known = self.dead_letters.iter().find(|(known, _)| *known == reason);
        debug_assert!(known.is_some(), "{reason} is not among the reasons of dead letters");
        if let Some((_, counter)) = known {
            counter.increment(1);
        }
    }

    /// All that was given to Redis was there just now; `applied_at` is when it was last given some.
    pub fn found_whole(&self, applied_at: Option<OffsetDateTime>) {
        self.watermark_timestamp.set(now());
        self.applied_timestamp.set(applied_at.map_or(0.0, seconds));
    }

    /// What the last comparison with Postgres found, whoever made it.
    pub fn verified(&self, at: Option<OffsetDateTime>, missing: Option<i64>, phantom: Option<i64>) {
        self.verified_timestamp.set(at.map_or(0.0, seconds));
        self.drift.of(Drift::Missing).set(missing.unwrap_or_default() as f64);
        self.drift.of(Drift::Phantom).set(phantom.unwrap_or_default() as f64);
    }

    /// The reasons that a dead letter had, and how often.
    pub fn dead_lettered(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counted = self.dead_letters.iter().map(|(reason, tally)| (*reason, tally.total()));
        counted.filter(|(_, count)| *count > 0)
    }

    pub fn exporter(&self) -> &Exporter {
        &self.exporter
    }
}

fn register(reasons: &[&'static str], exporter: Exporter) -> Metrics {
    info();
    Metrics {
        deliveries: tally("rollcall_deliveries_total", "Messages handed to us, again included"),
        settlements: settlements(),
        deliveries_in_flight: Level::new(level(
            "rollcall_deliveries_in_flight",
            "Deliveries that are not settled",
        )),
        queue_ready: Sighting::new(level(
            "rollcall_queue_ready",
            "Messages that wait in the queue, as this worker saw it last",
        )),
        drain: level(
            "rollcall_drain_messages_per_second",
            "Messages acknowledged by this worker, over the last few seconds",
        ),
        time_to_empty: time_to_empty(),
        events_decoded: tally("rollcall_events_decoded_total", "Events read from messages"),
        events_stored: tally("rollcall_events_stored_total", "Events new in Postgres"),
        events_applied: tally(
            "rollcall_events_applied_total",
            "Events whose members were added to Redis, those stored before included",
        ),
        duplicates: count(
            "rollcall_duplicates_total",
            "Events that Postgres already had; a success",
        ),
        batches_flushed: counts(
            "rollcall_batches_flushed_total",
            "trigger",
            "Batches written, by why they closed",
        ),
        batch_events: spread(BATCH_EVENTS, Unit::Count, "Events of a batch"),
        flush_seconds: ByLabel::new(|stage| {
            describe_histogram!(FLUSH_SECONDS, Unit::Seconds, "Time of each stage of a flush");
            histogram!(FLUSH_SECONDS, "stage" => stage)
        }),
        store_lag_seconds: spread(
            STORE_LAG_SECONDS,
            Unit::Seconds,
            "From occurred_at of a batch's last event to its commit in Postgres",
        ),
        event_lag_seconds: spread(
            EVENT_LAG_SECONDS,
            Unit::Seconds,
            "From occurred_at of a batch's last event to its members in Redis",
        ),
        lag_store: Peak::default(),
        lag_apply: Peak::default(),
        members_written: count(
            "rollcall_members_written_total",
            "Members sent to Redis, known ones included",
        ),
        retries: counts("rollcall_retries_total", "dependency", "Tries after the first"),
        holding: levels(
            "rollcall_holding",
            "dependency",
            "Lanes that hold a batch for it; 0 is well",
        ),
        sessions: count("rollcall_sessions_total", "Sessions opened with RabbitMQ"),
        session_errors: counts(
            "rollcall_session_errors_total",
            "class",
            "Sessions that failed to open or ended in an error",
        ),
        lanes: level("rollcall_lanes", "Lanes that run"),
        prefetch: level("rollcall_prefetch", "Unacknowledged deliveries allowed to a lane now"),
        wrong_type_keys: count(
            "rollcall_wrong_type_keys_total",
            "Writes to Redis keys that hold another type; a hand is needed",
        ),
        redeliveries: count(
            "rollcall_redeliveries_total",
            "Deliveries handed out before: a crash, a restart or a lost connection",
        ),
        suspects: count(
            "rollcall_suspects_total",
            "Deliveries that had been handed out at least four times before, processed alone",
        ),
        breaker_trips: count(
            "rollcall_breaker_trips_total",
            "Times that most of what arrived was condemned, and consuming stopped",
        ),
        breaker_open: level("rollcall_breaker_open", "1 while consuming is stopped by the breaker"),
        generation_missing: level(
            "rollcall_generation_missing",
            "1 while Redis holds no generation and readers are told unknown",
        ),
        projection_skipped_events: count(
            "rollcall_projection_skipped_events_total",
            "Events stored while Redis was away, to be caught up from Postgres",
        ),
        projection_skipping: level(
            "rollcall_projection_skipping",
            "1 while ingest goes on without Redis",
        ),
        redis_losses: count(
            "rollcall_redis_losses_total",
            "Times that Redis was found to lack what it was given, or to be another server",
        ),
        redis_evicts: level(
            "rollcall_redis_evicts",
            "1 while Redis may evict keys (maxmemory-policy); a hand is needed",
        ),
        repair_needed: level(
            "rollcall_repair_needed",
            "1 while Postgres has a note of what Redis lacks",
        ),
        repair_errors: count(
            "rollcall_repair_errors_total",
            "Repairs of Redis that failed and will be tried again",
        ),
        queue_consumers: level("rollcall_queue_consumers", "Consumers of the queue, all workers'"),
        dead_letters_ready: level(
            "rollcall_dead_letters_ready",
            "Messages that wait among the dead letters",
        ),
        partitions_ahead: level("rollcall_partitions_ahead", "Partitions made for times to come"),
        watermark_timestamp: moment(
            "rollcall_watermark_timestamp_seconds",
            "When a look last found in Redis all that this process gave to it",
        ),
        applied_timestamp: moment(
            "rollcall_applied_timestamp_seconds",
            "When a batch was last added to Redis, by any worker",
        ),
        verified_timestamp: moment(
            "rollcall_verified_timestamp_seconds",
            "When all sets were last compared with Postgres",
        ),
        drift: levels(
            "rollcall_drift_members",
            "side",
            "Members by which Redis differed from Postgres when it was last compared",
        ),
        ready: level("rollcall_ready", "1 while /readyz answers 200"),
        dependency_up: levels(
            "rollcall_dependency_up",
            "dependency",
            "1 while the server is known to answer",
        ),
        dead_letters: dead_letters(reasons),
        exporter,
    }
}

pub(super) fn info() {
    describe_gauge!("rollcall_build_info", Unit::Count, "The version that runs; always 1");
    gauge!("rollcall_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    moment("rollcall_start_timestamp_seconds", "When this process began").set(now());
}

fn settlements() -> ByLabel<Outcome, Tally> {
    let name = "rollcall_settlements_total";
    describe_counter!(name, Unit::Count, "Deliveries acknowledged, or returned with their session");
    ByLabel::new(|outcome| Tally::new(counter!(name, "outcome" => outcome)))
}

/// Unknown until somebody looked, and not zero.
fn time_to_empty() -> Gauge {
    let name = "rollcall_time_to_empty_seconds";
    let help = "For what waits and is handed out, as fast as all workers acknowledge; NaN: unknown";
    describe_gauge!(name, Unit::Seconds, help);
    let gauge = gauge!(name);
    gauge.set(f64::NAN);
    gauge
}

fn dead_letters(reasons: &[&'static str]) -> Vec<(&'static str, Tally)> {
    let name = "rollcall_dead_letters_total";
    describe_counter!(name, Unit::Count, "Events condemned, by reason");
    let tally = |reason: &&'static str| Tally::new(counter!(name, "reason" => *reason));
    reasons.iter().map(|reason| (*reason, tally(reason))).collect()
}

fn count(name: &'static str, help: &'static str) -> Counter {
    describe_counter!(name, Unit::Count, help);
    counter!(name)
}

fn tally(name: &'static str, help: &'static str) -> Tally {
    Tally::new(count(name, help))
}

fn counts<L: Label>(
    name: &'static str,
    label: &'static str,
    help: &'static str,
) -> ByLabel<L, Counter> {
    describe_counter!(name, Unit::Count, help);
    ByLabel::new(|value| counter!(name, label => value))
}

fn level(name: &'static str, help: &'static str) -> Gauge {
    describe_gauge!(name, Unit::Count, help);
    gauge!(name)
}

fn levels<L: Label>(
    name: &'static str,
    label: &'static str,
    help: &'static str,
) -> ByLabel<L, Gauge> {
    describe_gauge!(name, Unit::Count, help);
    ByLabel::new(|value| gauge!(name, label => value))
}

/// A point in time; its age is for whoever asks to tell.
fn moment(name: &'static str, help: &'static str) -> Gauge {
    describe_gauge!(name, Unit::Seconds, format!("{help}, in Unix seconds; 0: never"));
    gauge!(name)
}

fn now() -> f64 {
    seconds(OffsetDateTime::now_utc())
}

/// As a metric tells a time.
fn seconds(at: OffsetDateTime) -> f64 {
    at.unix_timestamp_nanos() as f64 / 1e9
}

fn spread(name: &'static str, unit: Unit, help: &'static str) -> Histogram {
    describe_histogram!(name, unit, help);
    histogram!(name)
}

#[cfg(test)]
mod tests;
