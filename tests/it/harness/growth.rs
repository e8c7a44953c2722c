//! Whether ingest goes on: what some workers count as stored, asked all the time, and the longest
//! while in which it did not grow.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::http::{self, Metrics};
use super::names;
use super::process::Worker;

const EVERY: Duration = Duration::from_millis(100);

pub struct Growth {
    seen: Arc<Mutex<Seen>>,
    asking: JoinHandle<()>,
}

struct Seen {
    stored: f64,
    grown_at: Instant,
    longest: Duration,
}

impl Growth {
    pub fn watch<'a>(workers: impl IntoIterator<Item = &'a Worker>) -> Growth {
        let addrs: Vec<_> = workers.into_iter().map(|worker| worker.addr).collect();
        let none = Seen { stored: 0.0, grown_at: Instant::now(), longest: Duration::ZERO };
        let seen = Arc::new(Mutex::new(none));
        let growth = seen.clone();
        let asking = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Ok(stored) = ask(&addrs).await {
                    note(&mut locked(&growth), stored);
                }
            }
        });
        Growth { seen, asking }
    }

    /// Counts from here, and from the next growth.
    pub fn begin(&self) {
        let mut seen = locked(&self.seen);
        (seen.grown_at, seen.longest) = (Instant::now(), Duration::ZERO);
    }

    pub fn stored(&self) -> u64 {
        locked(&self.seen).stored as u64
    }

    /// The one that lasts included.
    pub fn longest_pause(&self) -> Duration {
        let seen = locked(&self.seen);
        seen.longest.max(seen.grown_at.elapsed())
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

fn note(seen: &mut Seen, stored: f64) {
    if stored > seen.stored {
        let now = Instant::now();
        seen.longest = seen.longest.max(now - seen.grown_at);
        (seen.stored, seen.grown_at) = (stored, now);
    }
}

async fn ask(addrs: &[SocketAddr]) -> Result<f64, String> {
    let mut stored = 0.0;
    for addr in addrs {
        let reply = http::get(*addr, "/metrics").await?;
        stored += Metrics::parse(&reply.body).sum(names::EVENTS_STORED);
    }
    Ok(stored)
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
