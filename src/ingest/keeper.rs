//! Has Redis mended where a look says that it lacks something. One task beside ingest: it never
//! holds up a lane or a look. Who of the fleet mends, and how, is for `repair` to say.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::servers::Real;
use super::supervisor::Shared;
use crate::repair::{self, Context, Mended};
use crate::retry::Backoff;
use crate::telemetry::chain;

/// Another look is not far: a repair that fails at once is not tried with each.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// For as long as it is polled; a repair that is under way is dropped with it.
pub async fn run(shared: &Shared<Real>) -> Infallible {
    let real = &shared.servers;
    let context = Context {
        store: real.store.clone(),
        projection: real.projection.clone(),
        sets: shared.config.sets.clone(),
        limits: shared.config.limits.clone(),
    };
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    let mut said = String::new();
    loop {
        real.guard.need.notified().await;
        let began = Instant::now();
        match Box::pin(repair::mend(&context)).await {
            Ok(mended) => {
                backoff.reset();
                said.clear();
                tell(mended, began.elapsed());
                if matches!(mended, Mended::CaughtUp | Mended::Rebuilt) {
                    // The gauges follow, and whatever was noted meanwhile is seen.
                    real.guard.look.notify_one();
                }
            }
            Err(error) => {
                shared.metrics.repair_errors.increment(1);
                let (class, error) = (error.class(), chain(&error));
                if error != said {
                    tracing::warn!(?class, error, "redis was not mended; trying again");
                    said = error;
                }
                sleep(backoff.next_after(began.elapsed())).await;
                // Nobody says a second time that it is needed while everything stays as it is.
                real.guard.need.notify_one();
            }
        }
    }
}

fn tell(mended: Mended, took: Duration) {
    match mended {
        Mended::Busy => tracing::debug!("another process mends redis"),
        Mended::Nothing => tracing::debug!("redis lacks nothing"),
        Mended::CaughtUp => tracing::info!(?took, "redis was caught up from postgres"),
        Mended::Rebuilt => tracing::info!(?took, "redis was rebuilt from postgres"),
    }
}
