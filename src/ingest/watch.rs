//! Looks after the neighbours while the queue is empty: a worker that has nothing to write would
//! not notice that it could not. Never takes part in writing.

use std::convert::Infallible;
use std::time::Duration;

use super::generation;
use super::servers::Real;
use super::session::SessionError;
use super::supervisor::Shared;
use crate::store;
use crate::telemetry::{Dependency, Label, chain};

/// How often it looks. Readiness follows within this and one timeout.
const LOOK: Duration = Duration::from_secs(5);

/// For as long as it is polled.
pub async fn run(shared: &Shared<Real>) -> Infallible {
    let mut postgres = Seen::new(Dependency::Postgres);
    let mut redis = Seen::new(Dependency::Redis);
    loop {
        tokio::time::sleep(LOOK).await;
        let (stored, projected) =
            tokio::join!(store::ping(&shared.servers.store), look_at_redis(&shared.servers));
        postgres.note(shared, stored.map(drop).map_err(|error| chain(&error)));
        match projected {
            // Told by the other look.
            Err(SessionError::Store(_)) => {}
            projected => redis.note(shared, projected.map_err(|error| chain(&error))),
        }
    }
}

/// That it answers, keeps what it is given, and has not been emptied.
async fn look_at_redis(servers: &Real) -> Result<(), SessionError> {
    servers.projection.ensure_noeviction().await?;
    generation::look(servers).await
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
