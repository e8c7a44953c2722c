//! Makes one snapshot a second, once for all who want it, and tells health whether Redis answers.
//! One that does not answer is told after the time that a request may take.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::HeaderValue;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::{Answer, etag};
use crate::health::Health;
use crate::snapshot::{Looker, Snapshot};
use crate::telemetry::Dependency;

const EVERY: Duration = Duration::from_secs(1);

/// Of an update: points of a history from so long ago on. Above [`WHOLE_AFTER`] by more than the
/// step of a history, so that a listener that missed some lacks no point.
const UPDATE_SPAN: Duration = Duration::from_secs(20);
/// A listener that was given nothing for so long is given all of it again.
const WHOLE_AFTER: Duration = Duration::from_secs(8);

/// A snapshot in the forms that it travels in, each made when somebody first wants it.
pub struct Made {
    /// `None` before the first.
    pub snapshot: Option<Snapshot>,
    at: Instant,
    whole: OnceLock<Whole>,
    update: OnceLock<Bytes>,
}

#[derive(Clone)]
struct Whole {
    json: Bytes,
    event: Bytes,
    etag: HeaderValue,
}

impl Made {
    fn of(snapshot: Option<Snapshot>) -> Made {
        Made { snapshot, at: Instant::now(), whole: OnceLock::new(), update: OnceLock::new() }
    }

    pub fn answer(&self) -> Answer {
        let whole = self.whole();
        Answer::made(whole.json.clone(), whole.etag.clone())
    }

    /// For a listener that was last given one that was made then: the newest points of the
    /// histories alone, where it can have the others. With when this one was made; `None` before
    /// the first.
    pub fn event(&self, given: Option<Instant>) -> Option<(Instant, Bytes)> {
        self.snapshot.as_ref()?;
        let has = given.is_some_and(|given| self.at.duration_since(given) <= WHOLE_AFTER);
        Some((self.at, if has { self.update() } else { self.whole().event.clone() }))
    }

    fn whole(&self) -> &Whole {
        self.whole.get_or_init(|| {
            // Texts, numbers and lists of them: it can always be written.
            let mut value = serde_json::to_value(&self.snapshot).unwrap_or_default();
            let json = value.to_string();
            if let Some(all) = value.as_object_mut() {
                all.extend(["at", "age_seconds"].map(|passing| (passing.to_owned(), Value::Null)));
            }
            Whole {
                event: event("snapshot", &json),
                json: (json + "\n").into(),
                etag: etag("W/", value.to_string().as_bytes()),
            }
        })
    }

    fn update(&self) -> Bytes {
        let made = || {
            let mut snapshot = self.snapshot.clone();
            if let Some(snapshot) = &mut snapshot {
                snapshot.forget_before(UPDATE_SPAN);
            }
            event("update", &serde_json::to_string(&snapshot).unwrap_or_default())
        };
        self.update.get_or_init(made).clone()
    }
}

fn event(name: &str, json: &str) -> Bytes {
    format!("event: {name}\ndata: {json}\n\n").into()
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
    let (made, receiver) = watch::channel(Arc::new(Made::of(None)));
    (Maker { looker, patience, made, was_ok: None }, receiver)
}

impl Maker {
    /// For as long as it is polled.
    pub async fn run(self, health: &Health) -> Infallible {
        let Maker { looker, patience, made, mut was_ok } = self;
        let told = |snapshot: Snapshot| {
            let error = snapshot.redis.error.as_deref();
            match error {
                None => drop(health.up(Dependency::Redis)),
                Some(error) => drop(health.down(Dependency::Redis, error)),
            }
            if was_ok.replace(error.is_none()) != Some(error.is_none()) {
                match error {
                    None => tracing::info!("redis answers"),
                    Some(error) => {
                        tracing::warn!(error, "redis does not answer: readers are told so");
                    }
                }
            }
            made.send_replace(Arc::new(Made::of(Some(snapshot))));
        };
        looker.follow(EVERY, patience, told).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::RedisSeen;

    const NOW: i64 = 1_795_428_000;

    /// Of a set with an hour of points.
    fn made() -> Made {
        let ttl = Duration::from_secs(86_400);
        let ttl = crate::sets::WindowTtl { hour: ttl, day: ttl, month: ttl };
        let sets = crate::sets::Sets::parse("r", "users=u", ttl).unwrap();
        let mut set = crate::snapshot::SetSeen::unknown(sets.get(0));
        set.history = (0..360).map(|n| (NOW - (359 - n) * 10, n as u64)).collect();
        Made::of(Some(Snapshot {
            at: "2026-11-23T10:00:00Z".to_owned(),
            redis: RedisSeen::well(),
            known: true,
            generation: Some("g".to_owned()),
            state: Some("fresh"),
            last_event_at: None,
            last_applied_at: None,
            age_seconds: None,
            sets: vec![set],
            pipeline: None,
        }))
    }

    /// Name, and the points of the set.
    fn read(event: &[u8]) -> (String, usize) {
        let text = std::str::from_utf8(event).unwrap();
        let (name, data) = text.split_once('\n').unwrap();
        let json: Value = serde_json::from_str(data.trim().trim_start_matches("data: ")).unwrap();
        (name.to_owned(), json["sets"][0]["history"].as_array().unwrap().len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_is_given_the_hour_once_and_then_what_is_new() {
        assert!(Made::of(None).event(None).is_none());
        let (first, event) = made().event(None).unwrap();
        assert_eq!(read(&event), ("event: snapshot".to_owned(), 360));
        tokio::time::advance(Duration::from_secs(1)).await;
        let (second, event) = made().event(Some(first)).unwrap();
        assert_eq!(read(&event), ("event: update".to_owned(), 3));
        assert!(event.len() < 600, "{}", event.len());
        // One that was slow for so long may lack a point.
        tokio::time::advance(WHOLE_AFTER + Duration::from_secs(1)).await;
        let (_, event) = made().event(Some(second)).unwrap();
        assert_eq!(read(&event), ("event: snapshot".to_owned(), 360));
    }
}
