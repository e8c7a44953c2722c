//! Looks after the neighbours while the queue is empty: a worker that has nothing to write would
//! not notice that it could not. Never takes part in writing.

use std::convert::Infallible;
use std::future::pending;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::generation;
use super::guard::{self, Looked};
use super::report;
use super::servers::Real;
use super::session::SessionError;
use super::supervisor::Shared;
use crate::projection::{ProjectionError, State};
use crate::store;
use crate::telemetry::{Dependency, Label, chain};

/// How often it looks. Readiness follows within this and `ANSWER_MAX`.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// The same while a store is away: an idle worker is ready again this much after it is back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Postgres does not answer that has not within this: a look is little work, however patient
/// statements may be. With `LOOK` it stays below the 25 s in which a hung store is noticed.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// How often metrics follow what is known. Those who scrape come every few seconds.
const TELL: Duration = Duration::from_secs(1);

/// Readers of a Redis that evicts are told so within this, whatever it does with writes.
const TELL_MAX: Duration = Duration::from_secs(2);

/// For as long as it is polled. A store that hangs does not keep it from looking at the other.
pub async fn run(shared: &Shared<Real>) -> Infallible {
    let (postgres, redis) = (Seen::new(Dependency::Postgres), Seen::new(Dependency::Redis));
    let (never, ..) = tokio::join!(
        postgres.watch(shared, async || pending().await, async || look_at_postgres(shared).await),
        redis.watch(
            shared,
            async || shared.servers.guard.look.notified().await,
            async || look_at_redis(shared).await,
        ),
        report::run(shared),
        watch_queue(shared),
        tell_readiness(shared),
    );
    never
}

/// What `/readyz` says, for those who scrape.
async fn tell_readiness(shared: &Shared<Real>) -> Infallible {
    loop {
        shared.health.tell(&shared.metrics, Instant::now().into_std());
        sleep(TELL).await;
    }
}

/// How much waits, for whoever scales or is on call. Says nothing of RabbitMQ's health: the session
/// knows that first.
async fn watch_queue(shared: &Shared<Real>) -> Infallible {
    loop {
        sleep(LOOK).await;
        let looker = shared.servers.looker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(looker) = looker else { continue };
        match looker.depth().await {
            Some(Ok(depth)) => {
                let metrics = &shared.metrics;
                metrics.queue_consumers.set(f64::from(depth.queue.consumers));
                metrics.dead_letters_ready.set(f64::from(depth.dead_letters.ready));
            }
            // A queue that is being deleted, an alarm: what was seen last stays.
            Some(Err(error)) => tracing::debug!(error = chain(&error), "could not see the queue"),
            None => {}
        }
    }
}

async fn look_at_postgres(shared: &Shared<Real>) -> Result<(), String> {
    let (silent, looked) = match timeout(ANSWER_MAX, store::ping(&shared.servers.store)).await {
        Ok(Ok(_)) => (false, Ok(())),
        Ok(Err(error)) => (error.is_silence(), Err(chain(&error))),
        Err(_) => (true, Err(format!("no answer in {ANSWER_MAX:?}"))),
    };
    shared.servers.silences.fetch_add(u64::from(silent), Ordering::Relaxed);
    looked
}

/// That it answers, takes writes, keeps what it is given and has lost nothing of it. Where ingest
/// went on without it, it is given batches again.
async fn look_at_redis(shared: &Shared<Real>) -> Result<(), String> {
    let looked = examine(shared).await;
    let metrics = &shared.metrics;
    if let Err(error @ ProjectionError::Evicts { .. }) = &looked {
        return Err(chain(error));
    }
    match &looked {
        // No lane tried it: nobody else would say so.
        Ok(()) if shared.outage.answers() => {
            shared.health.up(Dependency::Redis);
            tracing::info!("redis answers again and is given batches again");
        }
        Ok(()) => {}
        Err(_) => drop(shared.outage.failed(Instant::now())),
    }
    metrics.projection_skipping.set(f64::from(u8::from(shared.outage.is_skipping())));
    looked.map_err(|error| chain(&error))
}

async fn examine(shared: &Shared<Real>) -> Result<(), ProjectionError> {
    let real = &shared.servers;
    let kept = real.projection.ensure_noeviction().await;
    let evicts = matches!(kept, Err(ProjectionError::Evicts { .. }));
    shared.metrics.redis_evicts.set(f64::from(u8::from(evicts)));
    if evicts {
        // Whether it could be told changes nothing of what is to be said.
        let _ = timeout(TELL_MAX, real.projection.set_state(State::Stale)).await;
        // Said again with the next look where Postgres is away.
        let _ = timeout(ANSWER_MAX, guard::note_evicting(real)).await;
    }
    kept?;
    real.projection.probe().await?;
    if shared.outage.is_skipping() {
        // Before the first batch that it is given again.
        real.projection.set_state(State::Stale).await?;
    }
    // Redis has answered by now. Of Postgres the other look tells.
    let looked = timeout(ANSWER_MAX, async {
        generation::look(real).await?;
        guard::look(real).await
    });
    match looked.await {
        Ok(Ok(looked)) => mend(shared, looked),
        Ok(Err(SessionError::Projection(error))) => return Err(error),
        Ok(Err(_)) | Err(_) => {}
    }
    Ok(())
}

fn mend(shared: &Shared<Real>, looked: Looked) {
    if looked.needs_mending {
        shared.servers.guard.need.notify_one();
    }
}

/// What the last look found. A lane that holds a batch knows better than a look: only what a look
/// found down is brought up again by one.
struct Seen {
    dependency: Dependency,
    down: bool,
}

impl Seen {
    fn new(dependency: Dependency) -> Self {
        Self { dependency, down: false }
    }

    async fn watch(
        mut self,
        shared: &Shared<Real>,
        woken: impl AsyncFn(),
        look: impl AsyncFn() -> Result<(), String>,
    ) -> Infallible {
        loop {
            tokio::select! {
                () = sleep(if self.down { LOOK_AGAIN } else { LOOK }) => {}
                () = woken() => {}
            }
            self.note(shared, look().await);
        }
    }

    fn note(&mut self, shared: &Shared<Real>, looked: Result<(), String>) {
        let dependency = self.dependency.as_str();
        match looked {
            Ok(()) if self.down => {
                self.down = false;
                shared.health.up(self.dependency);
                tracing::info!(dependency, "answers again");
            }
            Ok(()) => {}
            Err(error) => {
                shared.health.down(self.dependency, &error);
                if !std::mem::replace(&mut self.down, true) {
                    tracing::warn!(dependency, error, "does not answer");
                }
            }
        }
    }
}
