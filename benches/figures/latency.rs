//! From when an event was due to be published until Redis counts it.
//!
//! Open loop: the publisher keeps its times whatever becomes of earlier events, and a time is taken
//! from when the event was due, so neither a slow publisher nor a slow watcher can flatter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bare::Bare;
use crate::events::{Events, PLAIN};
use crate::publish::{Pace, Paced};
use crate::shared::Servers;
use crate::shared::redis::Redis;
use crate::worker::{self, PREFIX, TO, Worker};

/// Events a second, and for how many seconds they are measured.
pub const RATES: [(u64, u64); 3] = [(100, 20), (1_000, 15), (10_000, 10)];
/// At each rate before that: connections and statements are made, prefetch and buffers widen.
const WARM_SECS: u64 = 2;
/// Members asked for at once.
const ASKED_MAX: usize = 1_000;
/// Between two looks: what a time may be too long by, with the look itself. One look for so many
/// events, and no more often: looking takes from the same cores.
const LOOK_MIN: Duration = Duration::from_micros(200);
const LOOK_EVENTS: u32 = 20;
const SEEN: Duration = Duration::from_secs(30);

/// In seconds.
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// Who consumes. A bare one shows what the servers alone take of the time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Rollcall,
    Bare(Bare),
}

pub async fn measure(
    servers: &Arc<Servers>,
    who: Who,
    per_second: u64,
    seconds: u64,
) -> Result<Latency> {
    worker::reset(servers).await?;
    let (mut worker, mut bare) = (None, None);
    match who {
        Who::Rollcall => worker = Some(Worker::consuming(servers, 2).await?),
        Who::Bare(kind) => bare = Some(kind.consuming(servers).await?),
    }
    let pace = Pace { begin: Instant::now() + Duration::from_millis(200), per_second };
    let count = per_second * (WARM_SECS + seconds);
    let redis = Redis::connect(&servers.redis)?;
    let watching = tokio::task::spawn_blocking(move || watch(redis, pace, count, look(per_second)));
    let publisher = Paced::start(servers, TO, Events::new(PLAIN), pace, count).await?;
    publisher.end().await?;
    let took = watching.await?;
    if let Some(bare) = bare {
        bare.end().await?;
    }
    drop(worker);
    let mut took = took?.split_off((per_second * WARM_SECS) as usize);
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize].as_secs_f64();
    Ok(Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999) })
}

fn look(per_second: u64) -> Duration {
    (Duration::from_secs(1) / per_second as u32 * LOOK_EVENTS).clamp(LOOK_MIN, LOOK_MIN * 10)
}

/// How long each event took. Each has a user of its own: SCARD counts it from when it is a member,
/// and the members that are still missing are asked for by name, as lanes overtake each other.
fn watch(mut redis: Redis, pace: Pace, count: u64, look: Duration) -> Result<Vec<Duration>> {
    let key = format!("{PREFIX}:users");
    let mut took = vec![Duration::ZERO; count as usize];
    let mut missing: VecDeque<(u64, String)> = VecDeque::new();
    let mut next = 0;
    let mut last_seen = Instant::now();
    while next < count || !missing.is_empty() {
        let due = pace.due_by(Instant::now()).min(count);
        missing.extend((next..due).map(|number| (number, format!("user{number}"))));
        next = next.max(due);
        if missing.is_empty() {
            // Never later than the next one is due.
            std::thread::sleep(look);
            last_seen = Instant::now();
            continue;
        }
        let asked: Vec<String> =
            missing.iter().take(ASKED_MAX).map(|(_, member)| member.clone()).collect();
        let there = redis.are_members(&key, &asked)?;
        let now = Instant::now();
        let rest = missing.split_off(asked.len());
        for ((number, member), there) in std::mem::take(&mut missing).into_iter().zip(there) {
            if there {
                took[number as usize] = now.saturating_duration_since(pace.due(number));
                last_seen = now;
            } else {
                missing.push_back((number, member));
            }
        }
        missing.extend(rest);
        ensure!(last_seen.elapsed() < SEEN, "an event was not counted within {SEEN:?}");
        std::thread::sleep(look);
    }
    ensure!(redis.scard(&key)? == count, "SCARD counts other members as well");
    Ok(took)
}
