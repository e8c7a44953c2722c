//! Writing one batch through all stages: the order of effects, on one page.
//!
//! [`Writer::write`] then [`settle`]. Every step is idempotent, so after any doubt the answer is to
//! run the batch again; a batch that is dropped half-way is delivered again and does the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::batch::{Batch, Taken};
use super::hold::{HeldTooLong, Hold};
use super::lane::LaneError;
use super::ledger::Ledger;
use super::plan::{Planned, plan};
use super::servers::{Consumer, Servers, Store};
use super::supervisor::Shared;
use crate::broker::{DeadLetter, Incoming, Tokens};
use crate::event::{Event, Reason, Rejected};
use crate::fault;
use crate::projection::{KeyAdditions, Mark};
use crate::store::{Refusal, Row, StoreError, Stored};
use crate::telemetry::{BatchSpan, Dependency, Outcome, Stage, spans};

/// The lane's own connection to Postgres, and the way to Redis.
pub struct Writer<S: Servers> {
    /// Its number among the lanes.
    lane: usize,
    events: S::Store,
    shared: Shared<S>,
}

/// A batch that is in both stores, with what is left to do: its dead letters and its ack.
pub struct Written {
    tokens: Tokens,
    deliveries: Vec<Incoming>,
    condemned: Vec<Condemned>,
    span: BatchSpan,
    arrived: Option<Instant>,
    first_seen: Option<OffsetDateTime>,
    good: u64,
    /// The largest body, for the lane's prefetch.
    pub largest: usize,
    /// Whether it held a suspect.
    pub suspect: bool,
}

struct Condemned {
    delivery: usize,
    element: Bytes,
    reason: Reason,
    detail: String,
    stage: &'static str,
    sqlstate: Option<String>,
}

impl<S: Servers> Writer<S> {
    pub fn new(lane: usize, events: S::Store, shared: Shared<S>) -> Self {
        Self { lane, events, shared }
    }

    /// Postgres, then Redis. Holds the batch while either is away, up to `hold_max`; but where
    /// Redis is away for long, Postgres takes a note instead.
    pub async fn write(&mut self, batch: Batch) -> Result<Written, HeldTooLong> {
        let Batch { tokens, deliveries, mut events, rejected, arrived, first_seen, .. } = batch;
        let links = deliveries.iter().filter_map(Incoming::trace_parent);
        let span = self.shared.spans.batch(&self.shared.config.queue, deliveries.len(), links);
        let mut condemned: Vec<_> = rejected.into_iter().map(Condemned::rejected).collect();
        fault::point("before_commit");
        let way = OnItsWay::begin(self.shared.ledger.clone(), self.lane);
        // A crash before the COMMIT: nothing happened, the broker delivers again.
        let stored = span.step(Stage::Store, self.store(&events, arrived)).await?;
        span.stored(stored.inserted, stored.duplicates);
        fault::point("after_commit");
        // A crash between COMMIT and SADD: the redelivery finds duplicates, and adds their members
        // all the same. So this takes every event but the refused, not just the new rows.
        let txid_min = stored.txid_min;
        way.stored(txid_min);
        take_refused(&mut events, stored, &mut condemned);
        let projected = span.step(Stage::Projection, self.project(&events, arrived)).await?;
        if projected == Projected::Skipped {
            // Redis never sees it. A crash between COMMIT and note: the redelivery notes it.
            span.within(self.note_missing(txid_min, arrived)).await?;
            fault::point("after_note");
            self.shared.metrics.projection_skipped_events.increment(events.len() as u64);
            // A repair adds it, late: until then it counts as given up.
            drop(way);
        } else {
            way.done();
        }
        fault::point("after_redis");
        // A crash from here on: SADD again changes nothing. See `settle` for the rest.
        let (good, largest, suspect) = (events.len() as u64, batch.largest, batch.suspect);
        Ok(Written {
            tokens,
            deliveries,
            condemned,
            span,
            arrived,
            first_seen,
            good,
            largest,
            suspect,
        })
    }

    pub async fn close(self) {
        self.events.close().await;
    }

    async fn store(
        &mut self,
        events: &[Taken<Event>],
        since: Option<Instant>,
    ) -> Result<Stored, HeldTooLong> {
        let rows: Vec<Row<'_>> = events
            .iter()
            .map(|Taken { decoded: event, .. }| Row {
                occurred_at: event.occurred_at,
                id: event.id,
                payload: &event.payload,
            })
            .collect();
        if rows.is_empty() {
            return Ok(Stored::default());
        }
        let started = Instant::now();
        let mut hold = Hold::new(&self.shared, Dependency::Postgres, since);
        let stored = loop {
            match insert(&mut self.events, &self.shared, &rows).await {
                Ok(stored) => break stored,
                Err(error) => hold.wait(&error, error.class()).await?,
            }
        };
        hold.over();
        let metrics = &self.shared.metrics;
        metrics.flush_seconds.of(Stage::Store).record(started.elapsed());
        metrics.events_stored.increment(stored.inserted);
        if let Some(last_event_at) = rows.iter().map(|row| row.occurred_at).max() {
            let lag = since_event(last_event_at);
            metrics.store_lag_seconds.record(lag);
            metrics.lag_store.note(lag);
        }
        metrics.duplicates.increment(stored.duplicates);
        Ok(stored)
    }

    async fn project(
        &mut self,
        events: &[Taken<Event>],
        since: Option<Instant>,
    ) -> Result<Projected, HeldTooLong> {
        let times = events.iter().map(|taken| taken.decoded.occurred_at);
        let Some(last_event_at) = times.max() else { return Ok(Projected::Added) };
        let shared = &self.shared;
        let plan = plan(&shared.config.sets, events);
        let additions: Vec<KeyAdditions<'_>> = plan.iter().map(Planned::borrow).collect();
        let started = Instant::now();
        let mut hold = Hold::new(shared, Dependency::Redis, since);
        let applied = loop {
            if shared.outage.is_skipping() {
                spans::skipped();
                return Ok(Projected::Skipped);
            }
            let mark =
                Mark { last_event_at, last_applied_at: OffsetDateTime::now_utc(), state: None };
            match shared.servers.apply(self.lane, &additions, &mark).await {
                Ok(applied) => break applied,
                Err(error) => hold.for_redis(&error).await?,
            }
        };
        hold.over();
        shared.outage.over();
        shared.metrics.flush_seconds.of(Stage::Projection).record(started.elapsed());
        let lag = since_event(last_event_at);
        shared.metrics.event_lag_seconds.record(lag);
        shared.metrics.lag_apply.note(lag);
        shared.metrics.events_applied.increment(events.len() as u64);
        shared
            .metrics
            .members_written
            .increment(additions.iter().map(|addition| addition.members.len() as u64).sum());
        self.set_aside(applied.wrong_type);
        Ok(Projected::Added)
    }

    /// What Postgres is to catch Redis up from: committed before the ack that Redis does not see.
    async fn note_missing(
        &mut self,
        txid_min: Option<i64>,
        since: Option<Instant>,
    ) -> Result<(), HeldTooLong> {
        // Without a row there is nothing to miss.
        let Some(from) = txid_min else { return Ok(()) };
        let mut hold = Hold::new(&self.shared, Dependency::Postgres, since);
        while let Err(error) = note(&mut self.events, &self.shared, from).await {
            hold.wait(&error, error.class()).await?;
        }
        hold.over();
        Ok(())
    }

    /// Keys of another type: told once a set, without the key, whose group is an event's. Somebody
    /// wrote there, so somebody must look at it.
    fn set_aside(&self, keys: Vec<String>) {
        let Shared { config, metrics, wrong_type_log, .. } = &self.shared;
        metrics.wrong_type_keys.increment(keys.len() as u64);
        for set in keys.iter().filter_map(|key| config.sets.name_of(key)) {
            if wrong_type_log.lock().is_ok_and(|mut told| told.insert(set.to_owned())) {
                tracing::error!(
                    set,
                    "redis: a key of this set holds another type and is left alone: rollcall manage \
                     verify names such keys, with --repair it puts the set there"
                );
            }
        }
    }
}

/// Seconds; none for a producer whose clock is ahead of ours.
fn since_event(occurred_at: OffsetDateTime) -> f64 {
    (OffsetDateTime::now_utc() - occurred_at).as_seconds_f64().max(0.0)
}

/// One try, on a new connection where the old one is no good any more.
async fn insert<S: Servers>(
    events: &mut S::Store,
    shared: &Shared<S>,
    rows: &[Row<'_>],
) -> Result<Stored, StoreError> {
    if events.is_broken() {
        *events = shared.servers.store().await?;
    }
    events.insert(rows).await
}

/// As `insert`.
async fn note<S: Servers>(
    events: &mut S::Store,
    shared: &Shared<S>,
    from: i64,
) -> Result<(), StoreError> {
    if events.is_broken() {
        *events = shared.servers.store().await?;
    }
    events.note_missing(from, "redis away").await
}

/// Whether Redis has a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Projected {
    Added,
    Skipped,
}

/// A batch from its COMMIT to Redis, in the ledger. Dropped on the way, it was given up.
struct OnItsWay {
    ledger: Arc<Mutex<Ledger>>,
    lane: usize,
}

impl OnItsWay {
    fn begin(ledger: Arc<Mutex<Ledger>>, lane: usize) -> Self {
        let way = Self { ledger, lane };
        way.note(|ledger| ledger.begin(lane));
        way
    }

    fn stored(&self, txid_min: Option<i64>) {
        self.note(|ledger| ledger.stored(self.lane, txid_min));
    }

    fn done(self) {
        self.note(|ledger| ledger.done(self.lane));
    }

    fn note(&self, note: impl FnOnce(&mut Ledger)) {
        // Whatever a lane was at when it panicked, its neighbours go on.
        note(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.note(|ledger| ledger.leave(self.lane, Instant::now()));
    }
}

/// Dead letters confirmed, then one ack for the whole batch. Fails after that, too, where most of
/// what arrived of late was condemned.
pub async fn settle<S: Servers>(
    shared: &Shared<S>,
    consumer: &mut impl Consumer,
    written: Written,
) -> Result<(), LaneError> {
    let Written { tokens, deliveries, condemned, span, arrived, first_seen, good, .. } = written;
    let started = Instant::now();
    let letters: Vec<DeadLetter<'_>> = condemned
        .iter()
        .map(|bad| DeadLetter {
            incoming: &deliveries[bad.delivery],
            body: bad.element.clone(),
            reason: bad.reason.as_str(),
            detail: &bad.detail,
            stage: bad.stage,
            sqlstate: bad.sqlstate.as_deref(),
            first_seen: first_seen.unwrap_or_else(OffsetDateTime::now_utc),
        })
        .collect();
    let mut hold = Hold::new(shared, Dependency::Rabbitmq, arrived);
    while let Err(error) = consumer.condemn(&letters).await {
        if !consumer.is_connected() {
            return Err(error.into());
        }
        // An alarm, or dead letters that cannot take more: the batch waits, its neighbours' counts
        // do not grow. A letter that did arrive may then be there twice.
        span.within(hold.wait(&error, error.class())).await?;
    }
    hold.over();
    fault::point("after_dead_letters");
    // A crash here: the letters are out and the batch comes again, so a letter can be there twice.
    for bad in &condemned {
        shared.metrics.dead_letter(bad.reason.as_str());
    }
    // Last of all. A crash before it: the batch runs again and changes nothing.
    let settled = consumer.settle(tokens).await?;
    span.settled(condemned.len());
    let metrics = &shared.metrics;
    metrics.flush_seconds.of(Stage::Settle).record(started.elapsed());
    metrics.settlements.of(Outcome::Ack).increment(settled);
    metrics.deliveries_in_flight.decrement(settled);
    fault::point("after_ack");
    if let Ok(mut breaker) = shared.breaker.lock() {
        breaker.note(good, condemned.len() as u64)?;
    }
    Ok(())
}

impl Condemned {
    fn rejected(taken: Taken<Rejected>) -> Self {
        let Taken { delivery, element, decoded: Rejected { reason, detail } } = taken;
        Self { delivery, element, reason, detail, stage: "decode", sqlstate: None }
    }

    fn refused(taken: &Taken<Event>, why: Refusal) -> Self {
        let (reason, detail, sqlstate) = match why {
            Refusal::IdConflict => {
                let detail = "another payload is stored under this id and occurred_at".to_owned();
                (Reason::IdConflict, detail, None)
            }
            Refusal::Data { sqlstate, detail } => (Reason::StoreRefused, detail, Some(sqlstate)),
        };
        let (delivery, element) = (taken.delivery, taken.element.clone());
        Self { delivery, element, reason, detail, stage: "store", sqlstate }
    }
}

/// Moves the events that Postgres will not have to the condemned.
fn take_refused(events: &mut Vec<Taken<Event>>, stored: Stored, condemned: &mut Vec<Condemned>) {
    if stored.refused.is_empty() {
        return;
    }
    let mut refused: HashMap<usize, Refusal> =
        stored.refused.into_iter().map(|refused| (refused.row, refused.why)).collect();
    // `retain` goes in order, and the rows were made in the same.
    let mut rows = 0..;
    events.retain(|taken| {
        let Some(why) = rows.next().and_then(|row| refused.remove(&row)) else { return true };
        condemned.push(Condemned::refused(taken, why));
        false
    });
}
