//! A session: one broker connection with its lanes, from the first look at the stores to the close.
//!
//! The stores are asked first, so messages are taken only when there is somewhere to put them. Any
//! error ends the whole of it; nothing of an old session can settle on a new one.
//!
//! A session begins on probation: one lane, one message at a time. A message that kills the process
//! raises the delivery count of all that was unsettled with it; handed out four times before, a
//! message is a suspect, and is processed with nothing beside it. With the first message that is
//! none and went well, the lane widens and the others begin. A suspect that turns up later ends the
//! session, as the next one begins like this again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::flush::Writer;
use super::lane::{Lane, LaneEnd, LaneError, Trust};
use super::prefetch::Prefetch;
use super::servers::{Broker, Servers};
use super::supervisor::{Drained, Shared};
use crate::broker::BrokerError;
use crate::projection::ProjectionError;
use crate::retry::Class;
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use crate::telemetry::{Dependency, chain};

/// Why a session could not begin, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error("a lane stopped")]
    Lane(#[from] LaneError),
    #[error("a lane panicked")]
    Panicked,
    #[error("{ready} messages are ready in the queue and none has been delivered for {seconds} s")]
    Starved { ready: u32, seconds: u64 },
}

impl SessionError {
    pub fn class(&self) -> Class {
        match self {
            Self::Broker(error) | Self::Lane(LaneError::Broker(error)) => error.class(),
            Self::Store(error) => error.class(),
            Self::Projection(error) => error.class(),
            // The next session waits until the store answers.
            Self::Lane(LaneError::HeldTooLong(_)) => Class::Transient,
            // The supervisor stands by until somebody looks.
            Self::Lane(LaneError::Breaker(_)) => Class::Config,
            // The broker forgot about us: a new session makes it remember.
            Self::Starved { .. } => Class::Transient,
            // A fault of ours: the messages come again, to this process or another.
            Self::Panicked => Class::Transient,
        }
    }

    pub fn dependency(&self) -> Option<Dependency> {
        match self {
            Self::Broker(_) | Self::Lane(LaneError::Broker(_)) => Some(Dependency::Rabbitmq),
            Self::Store(_) => Some(Dependency::Postgres),
            Self::Projection(_) => Some(Dependency::Redis),
            Self::Lane(LaneError::HeldTooLong(held)) => Some(held.dependency),
            Self::Starved { .. } => Some(Dependency::Rabbitmq),
            Self::Lane(LaneError::Breaker(_)) | Self::Panicked => None,
        }
    }
}

/// How often the queue's depth is looked at, for those who watch, and how long that may take.
const DEPTH_EVERY: Duration = Duration::from_secs(5);
const DEPTH_MAX: Duration = Duration::from_secs(1);

/// How a session ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Drained(Drained),
    /// A suspect was found: the next session begins on probation and takes it alone.
    Suspect,
}

/// What the lanes of one session tell it.
#[derive(Debug, Default)]
pub struct Pulse {
    /// The probation has been passed.
    pub trusted: Notify,
    /// Deliveries taken, and settlements: any change is progress.
    pub moves: AtomicU64,
    /// Deliveries taken and not settled.
    pub in_flight: AtomicU64,
}

/// For saying goodbye to a server.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// The same in a drain, where it is done twice: RabbitMQ and Redis.
pub fn close_max(drain: Duration) -> Duration {
    CLOSE_MAX.min(drain / 6)
}

/// What a drain leaves for writing and settling: without the goodbyes, and the process must end.
fn time_to_finish(drain: Duration) -> Duration {
    (drain - 2 * close_max(drain)).mul_f64(0.95)
}

/// Opens a session and runs it to its end.
pub async fn run<S: Servers>(shared: &Shared<S>, drain: &Shutdown) -> Result<Ended, SessionError> {
    let Some(opened) = drain.run_until_drain(Session::open(shared)).await else {
        return Ok(Ended::Drained(Drained::Whole));
    };
    let mut session = opened?;
    shared.metrics.sessions.increment(1);
    let ended = session.run(drain).await;
    // Whatever still runs is stopped before the connection goes: nothing of it may settle later.
    session.tasks.shutdown().await;
    shared.metrics.queue_ready.saw(None, Instant::now());
    // Politeness only: the broker notices a closed socket as well.
    let limit = match drain.is_draining() {
        true => close_max(shared.config.ingest.drain),
        false => CLOSE_MAX,
    };
    let _ = tokio::time::timeout(limit, session.broker.close()).await;
    ended
}

struct Session<'a, S: Servers> {
    shared: &'a Shared<S>,
    broker: S::Broker,
    /// One for each lane that has not begun.
    stores: Vec<S::Store>,
    tasks: JoinSet<Result<LaneEnd, LaneError>>,
    pulse: Arc<Pulse>,
    /// Drains this session alone.
    stop: Shutdown,
}

impl<'a, S: Servers> Session<'a, S> {
    /// The stores first, then the broker: consuming begins with the last step.
    async fn open(shared: &'a Shared<S>) -> Result<Self, SessionError> {
        let Shared { config, servers, health, .. } = shared;
        let mut stores = Vec::new();
        for _ in 0..config.ingest.lanes {
            stores.push(servers.store().await?);
        }
        // A write: a store that answers but takes nothing would be held for again, and each such
        // session raises the delivery count of what it had taken.
        servers.probe_store().await?;
        health.up(Dependency::Postgres);
        match servers.probe_projection().await {
            Ok(()) => drop(health.up(Dependency::Redis)),
            // It has been away for so long that ingest goes on without it.
            Err(SessionError::Projection(error)) if shared.outage.failed(Instant::now()) => {
                health.down(Dependency::Redis, &chain(&error));
            }
            Err(error) => return Err(error),
        }
        let broker = servers.broker().await?;
        let (tasks, pulse, stop) = (JoinSet::new(), Arc::default(), Shutdown::new());
        let mut session = Self { shared, broker, stores, tasks, pulse, stop };
        session.begin_lane(Trust::Probation).await?;
        health.up(Dependency::Rabbitmq);
        Ok(session)
    }

    async fn begin_lane(&mut self, trust: Trust) -> Result<(), SessionError> {
        let Some(events) = self.stores.pop() else { return Ok(()) };
        // Each of its own, the same ones in the next session.
        let number = self.stores.len();
        let shared = self.shared.clone();
        let ingest = &self.shared.config.ingest;
        let prefetch = Prefetch::new(ingest.prefetch_max, ingest.prefetch_bytes);
        let consumer = self.broker.lane(trust.prefetch(&prefetch)).await?;
        let writer = Writer::new(number, events, shared.clone());
        let lane = Lane::new(shared, self.pulse.clone(), consumer, writer, prefetch, trust);
        self.tasks.spawn(lane.run(self.stop.clone()));
        Ok(())
    }

    /// Until the lanes have drained, one of them fails, or the drain's deadline passes.
    async fn run(&mut self, drain: &Shutdown) -> Result<Ended, SessionError> {
        let queue = &self.shared.config.queue;
        tracing::info!(queue, "consuming, one message at a time until one went well");
        let pulse = self.pulse.clone();
        let mut watchdog = Watchdog::new(self.shared.config.ingest.watchdog);
        let mut depth_due = Instant::now();
        let mut suspect = false;
        let deadline = self.shared.config.ingest.drain;
        let too_late = async {
            drain.draining().await;
            tokio::time::sleep(time_to_finish(deadline)).await;
        };
        tokio::pin!(too_late);
        loop {
            // In order, so that the same events always take the same course. None of them can
            // starve the others: each is rare, or ends the loop.
            tokio::select! {
                biased;
                joined = self.tasks.join_next() => match joined {
                    None if suspect && !drain.is_draining() => return Ok(Ended::Suspect),
                    None => return Ok(Ended::Drained(Drained::Whole)),
                    Some(Ok(Ok(LaneEnd::Drained))) => {}
                    Some(Ok(Ok(LaneEnd::Suspect))) => {
                        suspect = true;
                        self.stop.begin();
                    }
                    Some(Ok(Err(error))) => return Err(error.into()),
                    Some(Err(_)) => return Err(SessionError::Panicked),
                },
                () = pulse.trusted.notified() => {
                    while !self.stores.is_empty() {
                        self.begin_lane(Trust::Full).await?;
                    }
                    tracing::info!(lanes = self.tasks.len(), queue, "consuming");
                }
                () = drain.draining(), if !self.stop.is_draining() => self.stop.begin(),
                () = tokio::time::sleep_until(watchdog.due) => {
                    watchdog.look(&self.pulse, &self.broker).await?;
                }
                () = tokio::time::sleep_until(depth_due), if !drain.is_draining() => {
                    self.look_at_depth(drain).await;
                    depth_due = Instant::now() + DEPTH_EVERY;
                }
                () = &mut too_late => {
                    tracing::warn!(
                        ?deadline,
                        "drain cut short: what is unsettled stays with the broker"
                    );
                    return Ok(Ended::Drained(Drained::CutShort));
                }
            }
        }
    }
}

impl<S: Servers> Session<'_, S> {
    /// Only told, so it is given up soon, and for a drain at once. Lanes go on meanwhile.
    async fn look_at_depth(&self, drain: &Shutdown) {
        let ready = async {
            let asked = tokio::time::timeout(DEPTH_MAX, self.broker.ready()).await;
            asked.ok().and_then(Result::ok)
        };
        let ready = drain.run_until_drain(ready).await.flatten();
        self.shared.metrics.queue_ready.saw(ready.map(u64::from), Instant::now());
    }
}

/// Notices a session that looks sound and is given nothing.
struct Watchdog {
    patience: Duration,
    due: Instant,
    moves: u64,
    since: Instant,
}

impl Watchdog {
    fn new(patience: Duration) -> Self {
        let now = Instant::now();
        Self { patience, due: now + patience / 4, moves: 0, since: now }
    }

    async fn look(&mut self, pulse: &Pulse, broker: &impl Broker) -> Result<(), SessionError> {
        let now = Instant::now();
        self.due = now + self.patience / 4;
        let moves = pulse.moves.load(Ordering::Relaxed);
        let waits_for_us = pulse.in_flight.load(Ordering::Relaxed) > 0;
        if moves != self.moves || waits_for_us {
            (self.moves, self.since) = (moves, now);
            return Ok(());
        }
        if now - self.since < self.patience {
            return Ok(());
        }
        // Not to be had under an alarm, when the broker reads nothing: then there is no verdict.
        let Ok(ready) = broker.ready().await else { return Ok(()) };
        match ready {
            0 => Ok(()),
            ready => {
                let seconds = (now - self.since).as_secs();
                Err(SessionError::Starved { ready, seconds })
            }
        }
    }
}
