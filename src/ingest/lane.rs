//! A lane: one channel, one consumer and one Postgres connection, in one task that is the only one
//! to settle on that channel. While one batch is written the next one fills; batches finish in
//! order, so one `basic.ack(multiple)` settles a batch.
//!
//! It reads whatever was sent, also while it has no use for it: so it knows what waits in memory,
//! and since when, and stops the flow when that weighs too much.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until};

use super::batch::{Batch, Bounds};
use super::breaker::Tripped;
use super::flush::{self, Writer, Written};
use super::hold::HeldTooLong;
use super::prefetch::Prefetch;
use super::servers::{Broker, Consumer, Servers};
use super::session::Pulse;
use super::supervisor::Shared;
use crate::broker::{BrokerError, Delivery};
use crate::event::Rules;
use crate::fault;
use crate::shutdown::Shutdown;
use crate::telemetry::{Outcome, Trigger};

/// Deliveries decoded in one go before a running write is looked after again: some 100 µs.
const TURN: usize = 64;

/// While a batch is written nobody waits for what arrives: it is looked for this often. Woken for
/// each delivery, a lane and the client's thread spent their time on waking each other.
const LOOK: Duration = Duration::from_millis(1);

/// Why a lane, and with it the session, ends.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    HeldTooLong(#[from] HeldTooLong),
    #[error(transparent)]
    Breaker(#[from] Tripped),
}

/// How a lane ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneEnd {
    Drained,
    /// It stopped before a suspect, everything before that being settled.
    Suspect,
}

/// How much a lane is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// One delivery at a time, suspects too, until one that is none went well.
    Probation,
    Full,
}

impl Trust {
    pub fn prefetch(self, prefetch: &Prefetch) -> u16 {
        match self {
            Self::Probation => 1,
            Self::Full => prefetch.now(),
        }
    }
}

/// Handed out this often before, a delivery may be what killed whoever had it. Restarts and lost
/// connections count as well, so the first few say nothing: taken for suspects, the messages of two
/// ordinary restarts would end sessions and make suspects of their neighbours in turn.
const SUSPECT: u64 = 4;

/// What a write gives back: the writer for the next one.
type Writing<S> = Pin<Box<dyn Future<Output = WriteEnd<S>> + Send>>;
type WriteEnd<S> = (Writer<S>, Result<Written, HeldTooLong>);

pub struct Lane<S: Servers> {
    shared: Shared<S>,
    pulse: Arc<Pulse>,
    trust: Trust,
    consumer: <S::Broker as Broker>::Consumer,
    prefetch: Prefetch,
    bounds: Bounds,
    /// Read and not decoded: the filling batch is full. With when each came.
    waiting: VecDeque<(Delivery, Instant)>,
    /// The bodies of those.
    waiting_bytes: usize,
    filling: Batch,
    /// `None` while `writing` has it.
    writer: Option<Writer<S>>,
    writing: Option<Writing<S>>,
    flow: Flow,
    /// Nothing was at hand: until then it is not looked again, if something is being written.
    next_look: Instant,
}

/// What the consumer is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    /// Cancelled, to be opened again with another prefetch once what was sent has been read.
    Reopening,
    /// The same, read to the end: opened again when nothing waits.
    Reopenable,
    /// Cancelled for good.
    Draining,
    /// Read to the end.
    Drained,
    /// A suspect was found: nothing more is read.
    Suspect,
}

impl<S: Servers> Lane<S> {
    pub fn new(
        shared: Shared<S>,
        pulse: Arc<Pulse>,
        consumer: <S::Broker as Broker>::Consumer,
        writer: Writer<S>,
        prefetch: Prefetch,
        trust: Trust,
    ) -> Self {
        shared.metrics.lanes.increment(1);
        let ingest = &shared.config.ingest;
        let bounds = Bounds {
            events_max: ingest.batch_events_max,
            deliveries_max: usize::from(ingest.prefetch_max / 2).max(1),
            bytes_max: ingest.batch_bytes_max,
            age_max: ingest.batch_age_max,
        };
        shared.metrics.prefetch.set(f64::from(trust.prefetch(&prefetch)));
        Self {
            shared,
            pulse,
            trust,
            consumer,
            prefetch,
            bounds,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            filling: Batch::default(),
            writer: Some(writer),
            writing: None,
            flow: Flow::Open,
            next_look: Instant::now(),
        }
    }

    /// Until `drain`: then reads what was prefetched, writes, settles, and returns.
    pub async fn run(mut self, drain: Shutdown) -> Result<LaneEnd, LaneError> {
        let ended = self.work(&drain).await?;
        if let Some(writer) = self.writer.take() {
            writer.close().await;
        }
        Ok(ended)
    }

    async fn work(&mut self, drain: &Shutdown) -> Result<LaneEnd, LaneError> {
        loop {
            self.begin_write(false);
            if self.flow == Flow::Reopenable && self.waiting.is_empty() {
                self.consumer.resume(self.prefetch.now()).await?;
                self.flow = Flow::Open;
            }
            if self.writing.is_none() && self.waiting.is_empty() && self.filling.is_empty() {
                match self.flow {
                    Flow::Drained => return Ok(LaneEnd::Drained),
                    Flow::Suspect => return Ok(LaneEnd::Suspect),
                    Flow::Open | Flow::Reopening | Flow::Reopenable | Flow::Draining => {}
                }
            }
            let reads = matches!(self.flow, Flow::Open | Flow::Reopening | Flow::Draining);
            let rests = self.writing.is_some() && Instant::now() < self.next_look;
            let may_fill = !self.waiting.is_empty() && !self.filling.is_full(self.bounds);
            let may_begin = self.writing.is_none() && !self.filling.is_empty();
            let may_drain = matches!(self.flow, Flow::Open | Flow::Reopening | Flow::Reopenable);
            tokio::select! {
                biased;
                () = drain.draining(), if may_drain => self.drain().await?,
                (writer, written) = finished(&mut self.writing), if self.writing.is_some() => {
                    self.writing = None;
                    self.writer = Some(writer);
                    self.finish(written?).await?;
                }
                // Cancel-safe: a delivery leaves the client's buffer only when it is returned.
                delivery = self.consumer.next(), if reads && !rests => {
                    self.take(delivery?).await?;
                }
                () = std::future::ready(()), if may_fill => self.fill(),
                () = sleep_until(self.next_look), if reads && rests => {}
                // Polled only when nothing is at hand: an idle lane does not wait for company.
                () = std::future::ready(()), if may_begin => self.begin_write(true),
            }
        }
    }

    /// Closes the filling batch and starts to write it, if it is time and nothing is being written.
    fn begin_write(&mut self, idle: bool) {
        let draining = !matches!(self.flow, Flow::Open | Flow::Reopening | Flow::Reopenable);
        let now = Instant::now();
        let Some(trigger) = self.filling.trigger(self.bounds, now, idle, draining) else {
            return;
        };
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        let batch = std::mem::take(&mut self.filling);
        self.note(&batch, trigger);
        self.writing = Some(Box::pin(async move {
            let written = writer.write(batch).await;
            (writer, written)
        }));
    }

    fn note(&self, batch: &Batch, trigger: Trigger) {
        let metrics = &self.shared.metrics;
        metrics.batches_flushed.of(trigger).increment(1);
        metrics.batch_events.record(batch.len() as f64);
        metrics.events_decoded.increment(batch.events.len() as u64);
    }

    /// Takes a delivery, and those that are at hand behind it.
    async fn take(&mut self, first: Option<Delivery>) -> Result<(), LaneError> {
        let shared = self.shared.clone();
        let (now, arrived) = (time::OffsetDateTime::now_utc(), Instant::now());
        let mut next = first;
        let mut taken = 0;
        loop {
            let Some(delivery) = next else {
                self.read_to_the_end();
                return Ok(());
            };
            self.count(&delivery);
            fault::point("after_delivery");
            let suspect = delivery.message.delivery_count >= SUSPECT;
            if suspect && self.trust == Trust::Full {
                // Neither decoded nor settled: it goes back with the session, and what follows it.
                self.flow = Flow::Suspect;
                return Ok(());
            }
            if self.waiting.is_empty() && !self.filling.is_full(self.bounds) {
                self.decode(delivery, arrived, shared.rules(now));
            } else {
                self.waiting_bytes += delivery.message.body.len();
                self.waiting.push_back((delivery, arrived));
            }
            if self.waiting_bytes > shared.config.ingest.prefetch_bytes && self.flow == Flow::Open {
                // Bodies have grown, and nothing can be done for what is here but to stop the flow.
                // What is on its way counts as returned, once.
                let largest = self.waiting.iter().map(|(waits, _)| waits.message.body.len()).max();
                let prefetch = self.prefetch.narrow(largest.unwrap_or_default());
                return self.reopen(prefetch).await;
            }
            taken += 1;
            if taken == TURN {
                return Ok(());
            }
            next = match self.consumer.next().now_or_never() {
                Some(next) => next?,
                None => {
                    self.next_look = Instant::now() + LOOK;
                    return Ok(());
                }
            };
        }
    }

    /// Decodes some of what waits.
    fn fill(&mut self) {
        let shared = self.shared.clone();
        let now = time::OffsetDateTime::now_utc();
        for _ in 0..TURN {
            if self.filling.is_full(self.bounds) {
                return;
            }
            let Some((delivery, arrived)) = self.waiting.pop_front() else { return };
            self.waiting_bytes -= delivery.message.body.len();
            self.decode(delivery, arrived, shared.rules(now));
        }
    }

    fn decode(&mut self, delivery: Delivery, arrived: Instant, rules: Rules<'_>) {
        fault::poison(&delivery.message.body);
        self.filling.suspect |= delivery.message.delivery_count >= SUSPECT;
        self.filling.push(delivery, rules, arrived, Instant::now());
    }

    /// Before anything is done with it, so that the books balance however it ends.
    fn count(&self, delivery: &Delivery) {
        self.shared.metrics.deliveries.increment(1);
        self.shared.metrics.deliveries_in_flight.increment(1);
        self.pulse.moves.fetch_add(1, Ordering::Relaxed);
        self.pulse.in_flight.fetch_add(1, Ordering::Relaxed);
        if delivery.message.redelivered {
            self.shared.metrics.redeliveries.increment(1);
        }
        if delivery.message.delivery_count >= SUSPECT {
            self.shared.metrics.suspects.increment(1);
        }
    }

    /// A cancelled consumer has given everything that was sent to it.
    fn read_to_the_end(&mut self) {
        self.flow = match self.flow {
            Flow::Reopening => Flow::Reopenable,
            _ => Flow::Drained,
        };
    }

    /// The batch is in both stores: condemn, ack, and see whether more may wait from now on.
    async fn finish(&mut self, written: Written) -> Result<(), LaneError> {
        let largest = written.largest;
        let passed = self.trust == Trust::Probation && !written.suspect;
        if passed {
            // It did not kill the process. The others begin before its dead letter, if it is one.
            self.trust = Trust::Full;
            self.pulse.trusted.notify_one();
        }
        let in_flight = self.consumer.in_flight();
        let wanted = match self.trust {
            Trust::Probation => None,
            Trust::Full if passed => Some(self.prefetch.now()),
            Trust::Full => self.prefetch.after_batch(largest, in_flight),
        };
        if let (Some(prefetch), Flow::Open) = (wanted, self.flow) {
            // Before the ack: a window that is used up has nothing on its way. What the broker is
            // sending while it is cancelled it counts as returned.
            self.reopen(prefetch).await?;
        }
        let settled = flush::settle(&self.shared, &mut self.consumer, written).await;
        self.pulse.moves.fetch_add(1, Ordering::Relaxed);
        let now = self.consumer.in_flight();
        self.pulse.in_flight.fetch_sub(in_flight - now, Ordering::Relaxed);
        settled
    }

    async fn reopen(&mut self, prefetch: u16) -> Result<(), LaneError> {
        tracing::debug!(prefetch, "changing the prefetch of a lane");
        self.shared.metrics.prefetch.set(f64::from(prefetch));
        self.consumer.cancel().await?;
        self.flow = Flow::Reopening;
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), LaneError> {
        if self.flow == Flow::Open {
            self.consumer.cancel().await?;
        }
        self.flow = match self.flow {
            Flow::Reopenable => Flow::Drained,
            _ => Flow::Draining,
        };
        Ok(())
    }
}

impl<S: Servers> Drop for Lane<S> {
    /// However a lane ends, what it did not settle goes back to the broker with its channel.
    fn drop(&mut self) {
        let Shared { metrics, .. } = &self.shared;
        let unsettled = self.consumer.in_flight();
        self.pulse.in_flight.fetch_sub(unsettled, Ordering::Relaxed);
        metrics.settlements.of(Outcome::Returned).increment(unsettled);
        metrics.deliveries_in_flight.decrement(unsettled);
        metrics.lanes.decrement(1);
    }
}

/// The end of the running write. Cancel-safe: the future stays where it is.
async fn finished<S: Servers>(writing: &mut Option<Writing<S>>) -> WriteEnd<S> {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}
