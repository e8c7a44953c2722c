//! Keeps one session alive until it is told to drain.
//!
//! Any error ends a session; after a wait with jitter a new one is opened. What keeps failing is
//! said once, and never ends the process.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::breaker::{Breaker, Tripped};
use super::lane::LaneError;
use super::ledger::Ledger;
use super::outage::Outage;
use super::servers::Servers;
use super::session::{self, Ended, SessionError};
use crate::config;
use crate::event::{Limits, Rules};
use crate::health::Health;
use crate::retry::{Backoff, Class};
use crate::sets::Sets;
use crate::shutdown::Shutdown;
use crate::telemetry::{Dependency, Metrics, Spans, chain};

/// What every lane of a worker reads. Cheap to clone.
#[derive(Clone)]
pub struct Shared<S> {
    pub config: Arc<WorkerConfig>,
    pub servers: S,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    /// Sets with keys of another type that were told of already.
    pub wrong_type_log: Arc<Mutex<HashSet<String>>>,
    pub breaker: Arc<Mutex<Breaker>>,
    /// What is on its way to Redis.
    pub ledger: Arc<Mutex<Ledger>>,
    pub outage: Arc<Outage>,
    pub spans: Spans,
}

impl<S> Shared<S> {
    /// What a decoder needs to know.
    pub fn rules(&self, now: OffsetDateTime) -> Rules<'_> {
        Rules { sets: &self.config.sets, limits: &self.config.limits, now }
    }
}

pub struct WorkerConfig {
    /// Its name, for the log.
    pub queue: String,
    pub ingest: config::Ingest,
    pub sets: Sets,
    pub limits: Limits,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Everything that was taken has been settled.
    Whole,
    /// The drain's deadline passed: what was not settled goes to another worker.
    CutShort,
}

/// A session that lasted this long was sound: the next failure starts from a short wait again.
const SOUND: Duration = Duration::from_secs(30);

/// How often the worker shows that it lives.
const BEAT: Duration = Duration::from_secs(5);

/// Beats beside `work` in one task: where that hangs without waiting, the beat stops.
pub async fn beating<T>(health: &Health, work: impl Future<Output = T>) -> T {
    let beats = async {
        let mut beats = tokio::time::interval(BEAT);
        loop {
            beats.tick().await;
            health.beat();
        }
    };
    tokio::select! {
        done = work => done,
        never = beats => never,
    }
}

/// Runs sessions until `drain`, and then one drain.
pub async fn run<S: Servers>(shared: &Shared<S>, drain: &Shutdown) -> Drained {
    let ingest = &shared.config.ingest;
    let mut backoff = Backoff::new(ingest.retry_min, ingest.retry_max);
    let mut last_said = String::new();
    loop {
        let began = Instant::now();
        // Boxed: one for hours, and its type is a deep one.
        let ended = Box::pin(session::run(shared, drain)).await;
        shared.health.down(Dependency::Rabbitmq, "no session");
        let error = match ended {
            Ok(Ended::Drained(drained)) => return drained,
            Ok(Ended::Suspect) => continue,
            Err(SessionError::Lane(LaneError::Breaker(tripped))) => {
                stand_by(shared, &tripped, drain).await;
                continue;
            }
            Err(error) => error,
        };
        if drain.is_draining() {
            // What it had taken is with the broker again.
            tracing::warn!(error = chain(&error), "the session ended while draining");
            return Drained::CutShort;
        }
        if began.elapsed() > SOUND {
            backoff.reset();
            last_said.clear();
        }
        report(shared, &error, &mut last_said);
        tokio::select! {
            () = tokio::time::sleep(backoff.next_after(began.elapsed())) => {}
            () = drain.draining() => return Drained::Whole,
        }
    }
}

/// Takes nothing until somebody says so, or long enough has passed to try a window more.
async fn stand_by<S>(shared: &Shared<S>, tripped: &Tripped, drain: &Shutdown) {
    let wait = shared.config.ingest.breaker_wait;
    let why = tripped.to_string();
    shared.health.down(Dependency::Rabbitmq, &why);
    shared.metrics.breaker_trips.increment(1);
    shared.metrics.breaker_open.set(1.0);
    tracing::error!(
        why,
        ?wait,
        "stopped consuming: look at the dead letters; POST /resume to the ops endpoint to go on"
    );
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = shared.health.resumed() => {}
        () = drain.draining() => {}
    }
    shared.metrics.breaker_open.set(0.0);
    if let Ok(mut breaker) = shared.breaker.lock() {
        breaker.reset();
    }
}

/// Logs a failure once, and again only when it is another one.
fn report<S>(shared: &Shared<S>, error: &SessionError, last_said: &mut String) {
    let (class, said) = (error.class(), chain(error));
    shared.metrics.session_errors.of(class).increment(1);
    if let Some(dependency) = error.dependency() {
        shared.metrics.retries.of(dependency).increment(1);
        shared.health.down(dependency, &said);
    }
    if said == *last_said {
        tracing::debug!(error = said, "no session yet");
    } else if class == Class::Config {
        tracing::error!(error = said, "no session: a hand is needed; trying again all the same");
    } else {
        tracing::warn!(error = said, "no session; trying again");
    }
    *last_said = said;
}
