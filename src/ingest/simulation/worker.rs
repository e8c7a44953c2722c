//! Worker processes: the real supervisor over the models, killed, drained and started again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::load::{PREFIX, SETS};
use super::world::Sim;
use super::{broker, projection, store};
use crate::broker::BrokerError;
use crate::config;
use crate::event::{Limits, Reason};
use crate::health::Health;
use crate::ingest::breaker::Breaker;
use crate::ingest::ledger::Ledger;
use crate::ingest::outage::Outage;
use crate::ingest::servers::Servers;
use crate::ingest::session::SessionError;
use crate::ingest::supervisor::{self, Shared, WorkerConfig};
use crate::projection::{Applied, KeyAdditions, Mark};
use crate::sets::{Sets, WindowTtl};
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use crate::telemetry::{Dependency, Metrics};

/// The servers, as one worker process sees them.
#[derive(Clone)]
pub struct Models {
    pub sim: Sim,
    pub worker: usize,
}

impl Servers for Models {
    type Broker = broker::Connection;
    type Store = store::SimStore;

    async fn store(&self) -> Result<store::SimStore, StoreError> {
        store::connect(&self.sim).await
    }

    async fn probe_store(&self) -> Result<(), StoreError> {
        store::connect(&self.sim).await.map(drop)
    }

    async fn probe_projection(&self) -> Result<(), SessionError> {
        Ok(projection::apply(&self.sim, &[]).await.map(drop)?)
    }

    async fn apply(
        &self,
        _: usize,
        additions: &[KeyAdditions<'_>],
        _: &Mark,
    ) -> Result<Applied, SessionError> {
        Ok(projection::apply(&self.sim, additions).await?)
    }

    async fn broker(&self) -> Result<broker::Connection, BrokerError> {
        broker::connect(self).await
    }
}

/// One that runs until it is told to stop for good.
pub struct Worker {
    stop: Shutdown,
    task: JoinHandle<()>,
}

pub fn start(sim: &Sim) -> Vec<Worker> {
    let count = sim.lock().killed.len();
    let start = |worker| {
        let stop = Shutdown::new();
        let models = Models { sim: sim.clone(), worker };
        Worker { task: tokio::spawn(live(models, stop.clone())), stop }
    };
    (0..count).map(start).collect()
}

pub async fn stop(sim: &Sim, workers: Vec<Worker>) {
    for worker in workers {
        worker.stop.begin();
        if worker.task.await.is_err() {
            sim.lock().violate("a worker panicked".to_owned());
        }
    }
}

/// Beside the deadline of a drain: two goodbyes and one step that cannot be cut short.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Process after process.
async fn live(models: Models, stop: Shutdown) {
    let Models { sim, worker } = &models;
    let (killed, told) = {
        let world = sim.lock();
        (world.killed[*worker].clone(), world.told_to_drain[*worker].clone())
    };
    while !stop.is_draining() {
        let drain = Shutdown::new();
        let shared = shared(&models);
        let limit = shared.config.ingest.drain + DRAIN_GRACE;
        let began = Mutex::new(None);
        let draining = async {
            tokio::select! {
                () = stop.draining() => {}
                () = told.notified() => {}
            }
            *began.lock().unwrap() = Some(Instant::now());
            drain.begin();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = killed.notified() => {
                sim.lock().count("crash");
                sim.say(format!("worker {worker} died"));
            }
            ended = supervisor::run(&shared, &drain) => {
                sim.lock().count("drained");
                sim.say(format!("worker {worker} drained: {ended:?}"));
                let took = began.lock().unwrap().map(|began: Instant| began.elapsed());
                if took.is_none_or(|took| took > limit) {
                    sim.lock().violate(format!("worker {worker} drained in {took:?}"));
                }
            }
            () = draining => {}
        }
        sim.take_time(300).await;
    }
}

fn shared(models: &Models) -> Shared<Models> {
    let day = Duration::from_secs(86_400);
    let sets = Sets::parse(PREFIX, SETS, WindowTtl { hour: day, day, month: day });
    let reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    let ingest = ingest(models);
    let lanes = ingest.lanes;
    Shared {
        breaker: Arc::new(Mutex::new(Breaker::new(ingest.breaker_percent, ingest.breaker_events))),
        config: Arc::new(WorkerConfig {
            queue: "model".to_owned(),
            ingest,
            sets: sets.expect("the text is right"),
            limits: limits(),
        }),
        servers: models.clone(),
        metrics: Arc::new(Metrics::new(&reasons)),
        health: Arc::new(Health::new(&[Dependency::Rabbitmq])),
        wrong_type_log: Arc::default(),
        ledger: Arc::new(Mutex::new(Ledger::new("model".to_owned(), lanes, Instant::now()))),
        outage: Arc::new(Outage::new(REDIS_HOLD)),
        spans: crate::telemetry::Spans::default(),
    }
}

/// Longer than any outage: nothing is skipped.
const REDIS_HOLD: Duration = Duration::from_secs(86_400);

/// How long a lane holds a batch.
pub const HOLD_MAX: Duration = Duration::from_secs(40);

fn ingest(models: &Models) -> config::Ingest {
    let mut world = models.sim.lock();
    let dice = &mut world.dice;
    // Both alike: the jitter between them is not ours to seed.
    let retry = dice.millis(50, 2_000);
    config::Ingest {
        lanes: dice.between(1, 3) as u16,
        prefetch_max: dice.pick(&[1, 3, 50, 4000]),
        prefetch_bytes: dice.pick(&[500, 1 << 20]),
        batch_events_max: dice.pick(&[1, 5, 500]),
        batch_bytes_max: dice.pick(&[300, 1 << 20]),
        batch_age_max: Duration::from_millis(20),
        hold_max: HOLD_MAX,
        breaker_percent: dice.pick(&[0, 0, 50]),
        breaker_events: 10,
        breaker_wait: Duration::from_secs(30),
        watchdog: Duration::from_secs(60),
        drain: Duration::from_secs(dice.between(1, 25)),
        retry_min: retry,
        retry_max: retry,
    }
}

fn limits() -> Limits {
    Limits {
        message_bytes_max: 1 << 20,
        message_events_max: 100,
        nesting_max: 64,
        id_bytes_max: 128,
        member_bytes_max: 1024,
        event_members_max: 1000,
        // The load is of one day, whenever this runs.
        event_age_max: time::Duration::days(36_500),
        clock_skew_max: time::Duration::days(36_500),
    }
}
