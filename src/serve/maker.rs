//! Makes one snapshot a second, once for all who want it, and tells health whether Redis answers.
//! One that does not answer is told after the time that a request may take; the look goes on, as
//! the Redis client mends its connection only for who waits.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::answer::{Answer, etag};
use crate::health::Health;
use crate::projection::ProjectionError;
use crate::snapshot::{Found, Looker, Snapshot};
use crate::telemetry::{Dependency, chain};

const EVERY: Duration = Duration::from_secs(1);

/// A snapshot in the forms that it travels in.
#[derive(Default)]
pub struct Made {
    /// `None` before the first.
    pub snapshot: Option<Snapshot>,
    json: Bytes,
    /// As an event of a stream.
    pub event: Bytes,
    etag: Option<axum::http::HeaderValue>,
}

impl Made {
    fn of(snapshot: Snapshot) -> Made {
        // Texts, numbers and lists of them: it can always be written.
        let mut value = serde_json::to_value(&snapshot).unwrap_or_default();
        let json = value.to_string();
        for passing in ["at", "age_seconds"] {
            value[passing] = Value::Null;
        }
        Made {
            snapshot: Some(snapshot),
            event: format!("event: snapshot\ndata: {json}\n\n").into(),
            json: (json + "\n").into(),
            etag: Some(etag("W/", value.to_string().as_bytes())),
        }
    }

    pub fn answer(&self) -> Answer {
        let etag = self.etag.clone().unwrap_or_else(|| etag("W/", &[]));
        Answer::made(self.json.clone(), etag)
    }
}

pub struct Maker {
    looker: Looker,
    patience: Duration,
    made: watch::Sender<Arc<Made>>,
    /// Whether Redis answered the last time; said once when it changes.
    was_ok: Option<bool>,
}

/// Redis is told to be away after `patience`.
pub fn new(looker: Looker, patience: Duration) -> (Maker, watch::Receiver<Arc<Made>>) {
    let (made, receiver) = watch::channel(Arc::default());
    (Maker { looker, patience, made, was_ok: None }, receiver)
}

impl Maker {
    /// For as long as it is polled.
    pub async fn run(mut self, health: &Health) -> Infallible {
        let asker = self.looker.asker().clone();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let began = Instant::now();
            let asking = asker.ask();
            tokio::pin!(asking);
            let found = loop {
                // Cancel-safe: the look is pinned and goes on, a tick has changed nothing.
                tokio::select! {
                    found = &mut asking => break found,
                    _ = ticks.tick() => {
                        let waited = began.elapsed();
                        if waited >= self.patience {
                            let waited = waited.as_secs();
                            self.make(health, Err(format!("no answer for {waited} s")));
                        }
                    }
                }
            };
            self.make(health, found.map_err(|error: ProjectionError| chain(&error)));
        }
    }

    fn make(&mut self, health: &Health, found: Result<Found, String>) {
        let ok = found.is_ok();
        match &found {
            Ok(_) => drop(health.up(Dependency::Redis)),
            Err(error) => drop(health.down(Dependency::Redis, error)),
        }
        if self.was_ok.replace(ok) != Some(ok) {
            match &found {
                Ok(_) => tracing::info!("redis answers"),
                Err(error) => tracing::warn!(error, "redis does not answer: readers are told so"),
            }
        }
        let snapshot = self.looker.tell(found, OffsetDateTime::now_utc());
        self.made.send_replace(Arc::new(Made::of(snapshot)));
    }
}
