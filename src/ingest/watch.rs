//! Looks after the neighbours while the queue is empty: a worker that has nothing to write would
//! not notice that it could not. Never takes part in writing.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::generation;
use super::servers::Real;
use super::session::SessionError;
use super::supervisor::Shared;
use crate::store;
use crate::telemetry::{Dependency, Label, chain};

/// How often it looks. Readiness follows within this and `ANSWER_MAX`.
const LOOK: Duration = Duration::from_secs(5);
/// The same while a store is away: an idle worker is ready again this much after it is back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Postgres does not answer that has not within this: a look is little work, however patient
/// statements may be. With `LOOK` it stays below the 25 s in which a hung store is noticed.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// For as long as it is polled. A store that hangs does not keep it from looking at the other.
pub async fn run(shared: &Shared<Real>) -> Infallible {
    let (postgres, redis) = (Seen::new(Dependency::Postgres), Seen::new(Dependency::Redis));
    let (never, _) = tokio::join!(
        postgres.watch(shared, async || look_at_postgres(shared).await),
        redis.watch(shared, async || look_at_redis(shared).await),
    );
    never
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

/// That it answers, keeps what it is given, and has not been emptied.
async fn look_at_redis(shared: &Shared<Real>) -> Result<(), String> {
    let kept = shared.servers.projection.ensure_noeviction().await.map(drop);
    kept.map_err(|error| chain(&error))?;
    match generation::look(&shared.servers).await {
        // Redis has answered by then; of Postgres the other look tells.
        Ok(()) | Err(SessionError::Store(_)) => Ok(()),
        Err(error) => Err(chain(&error)),
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
        look: impl AsyncFn() -> Result<(), String>,
    ) -> Infallible {
        loop {
            sleep(if self.down { LOOK_AGAIN } else { LOOK }).await;
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
