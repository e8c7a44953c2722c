//! Holding a batch while a store is away: the one retry loop's waiting part.
//!
//! Withheld acks are the back-pressure: nothing is requeued, no delivery count grows. Past
//! `hold_max` the session is given up, well before the broker's consumer timeout would do it.

use std::error::Error;

use tokio::time::Instant;

use super::servers::Servers;
use super::session::SessionError;
use super::supervisor::Shared;
use crate::retry::{Backoff, Class};
use crate::telemetry::{Dependency, Label, chain, spans};

/// A store has been away for `hold_max`: the session ends and a new one begins when it is back.
#[derive(Debug, thiserror::Error)]
#[error("{} has been away for {seconds} s", dependency.as_str())]
pub struct HeldTooLong {
    pub dependency: Dependency,
    seconds: u64,
}

pub struct Hold<'a, S: Servers> {
    shared: &'a Shared<S>,
    dependency: Dependency,
    /// Since when the batch has been with us: the broker's patience counts from the delivery.
    since: Instant,
    /// When the try that is under way began.
    trying: Instant,
    /// Made with the first failure: most batches never need it.
    waiting: Option<(Instant, Backoff)>,
    /// What has been logged of it.
    said: Vec<String>,
}

/// Kinds of failure that one hold logs. A cut connection is followed by why there is no other, and
/// that may change; nothing that hangs on a server may fill the log.
const SAID_MAX: usize = 4;

impl<'a, S: Servers> Hold<'a, S> {
    pub fn new(shared: &'a Shared<S>, dependency: Dependency, since: Option<Instant>) -> Self {
        let trying = Instant::now();
        let since = since.unwrap_or(trying);
        Self { shared, dependency, since, trying, waiting: None, said: Vec::new() }
    }

    /// The same for Redis, without which ingest can go on: not once it has been away for its hold,
    /// nor where this batch alone has waited that long.
    pub async fn for_redis(&mut self, error: &SessionError) -> Result<(), HeldTooLong> {
        let outage = &self.shared.outage;
        let now = Instant::now();
        if matches!(error, SessionError::Projection(_)) {
            let waited = self.waiting.as_ref().map(|(began, _)| now - *began);
            if waited.is_some_and(|waited| waited >= outage.hold()) {
                outage.skip(now);
            }
            if outage.failed(now) {
                spans::held(&chain(error));
                self.shared.health.down(self.dependency, &chain(error));
                return Ok(());
            }
        }
        self.wait(error, error.class()).await
    }

    /// Waits before the next try. Logs each failure once; the gauge tells the rest.
    pub async fn wait(
        &mut self,
        error: &(dyn Error + Sync),
        class: Class,
    ) -> Result<(), HeldTooLong> {
        let Shared { config, metrics, health, .. } = self.shared;
        let dependency = self.dependency;
        metrics.retries.of(dependency).increment(1);
        let error = chain(error);
        spans::held(&error);
        health.down(dependency, &error);
        if self.waiting.is_none() {
            metrics.holding.of(dependency).increment(1);
        }
        self.say(error, class);
        let ingest = &config.ingest;
        let (began, backoff) = self.waiting.get_or_insert_with(|| {
            (Instant::now(), Backoff::new(ingest.retry_min, ingest.retry_max))
        });
        if self.since.elapsed() >= ingest.hold_max {
            let seconds = began.elapsed().as_secs();
            return Err(HeldTooLong { dependency, seconds });
        }
        tokio::time::sleep(backoff.next_after(self.trying.elapsed())).await;
        self.trying = Instant::now();
        Ok(())
    }

    fn say(&mut self, error: String, class: Class) {
        if self.said.len() == SAID_MAX || self.said.contains(&error) {
            return;
        }
        let dependency = self.dependency.as_str();
        match class {
            Class::Transient => {
                tracing::warn!(dependency, error, "holding a batch until it is back");
            }
            Class::Config | Class::Data => {
                tracing::error!(dependency, error, "holding a batch: a hand is needed");
            }
        }
        self.said.push(error);
    }

    /// The step succeeded.
    pub fn over(self) {
        self.shared.health.up(self.dependency);
        if let Some((since, _)) = &self.waiting {
            let held = since.elapsed();
            tracing::info!(dependency = self.dependency.as_str(), ?held, "back again");
        }
    }
}

impl<S: Servers> Drop for Hold<'_, S> {
    fn drop(&mut self) {
        if self.waiting.is_some() {
            self.shared.metrics.holding.of(self.dependency).decrement(1);
        }
    }
}
