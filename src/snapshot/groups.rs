//! Which groups are the busiest: found by walking over all keys, slowly and beside everything else.
//! Never on the way of a request. What it keeps is bounded, whatever Redis holds.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use crate::projection::{ProjectionError, Reader, escape_glob};
use crate::sets::{Set, Sets};

/// Groups of one set that are kept.
pub const GROUPS_KEPT_MAX: usize = 100;
/// Groups of one set that are looked at in one walk.
const GROUPS_MAX: usize = 10_000;
/// Steps of one walk, each of about a thousand keys of the server, ours or not.
const STEPS_MAX: usize = 1_000;
/// From one walk to the next, at least.
const EVERY: Duration = Duration::from_secs(5);
/// A walk waits this many times as long as it works: so it takes a fifth of the server at most, and
/// a twentieth on the whole.
const STEP_PAUSE: u32 = 4;
const WALK_PAUSE: u32 = 4;

/// The busiest groups of one set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Of the present bucket, where there are buckets. Most members first.
    pub keys: Vec<String>,
    /// There are more groups than were looked at.
    pub truncated: bool,
    bucket: Option<String>,
}

/// What the last walk found, by the number of the set.
pub struct Groups(Mutex<Vec<Option<Busy>>>);

/// A walk under way.
struct Found {
    bucket: Option<String>,
    busiest: Vec<(u64, String)>,
    looked_at: usize,
    truncated: bool,
}

impl Groups {
    pub fn new(sets: usize) -> Groups {
        Groups(Mutex::new(vec![None; sets]))
    }

    /// Of the bucket that is present now: of another one nothing is known.
    pub fn of(&self, number: usize, set: &Set, now: OffsetDateTime) -> Option<Busy> {
        // Whole after each assignment.
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = found.get(number)?.as_ref()?;
        (busy.bucket == set.present_bucket(now)).then(|| busy.clone())
    }

    pub async fn walk(&self, redis: &Reader, sets: &Sets) -> Infallible {
        loop {
            let began = Instant::now();
            if let Err(error) = self.walk_once(redis, sets, STEP_PAUSE).await {
                tracing::debug!(error = crate::telemetry::chain(&error), "no walk over the groups");
            }
            sleep(EVERY.max(began.elapsed() * WALK_PAUSE)).await;
        }
    }

    /// Waits after each step so many times as long as it took.
    pub async fn walk_once(
        &self,
        redis: &Reader,
        sets: &Sets,
        pause: u32,
    ) -> Result<(), ProjectionError> {
        if sets.iter().all(|set| set.group_fields == 0) {
            return Ok(());
        }
        let now = OffsetDateTime::now_utc();
        let mut found: Vec<Found> =
            sets.iter().map(|set| Found::new(set.present_bucket(now))).collect();
        let pattern = format!("{}:*", escape_glob(sets.prefix()));
        let mut scan = redis.scan_keys(pattern).await?;
        for step in 0..=STEPS_MAX {
            let began = Instant::now();
            let Some(keys) = redis.next_keys(&mut scan).await? else { break };
            if step == STEPS_MAX {
                found.iter_mut().for_each(|found| found.truncated = true);
                break;
            }
            let keys = wanted(sets, keys, &mut found);
            let asked: Vec<_> =
                keys.iter().map(|(number, key)| (sets.get(*number).kind, key.clone())).collect();
            if !asked.is_empty() {
                let counts = redis.counts(&asked).await?.counts;
                for ((number, key), count) in keys.into_iter().zip(counts) {
                    found[usize::from(number)].note(key, count.unwrap_or(0));
                }
            }
            sleep(began.elapsed() * pause).await;
        }
        let busy = found.into_iter().zip(sets.iter()).map(|(found, set)| {
            (set.group_fields > 0).then(|| Busy {
                keys: found.busiest.into_iter().map(|(_, key)| key).collect(),
                truncated: found.truncated,
                bucket: found.bucket,
            })
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = busy.collect();
        Ok(())
    }
}

/// The keys among these that are groups, of the present bucket where there are buckets.
fn wanted(sets: &Sets, keys: Vec<String>, found: &mut [Found]) -> Vec<(u16, String)> {
    let mut wanted = Vec::new();
    for key in keys {
        let Some((number, _)) = sets.of_key(&key) else { continue };
        let found = &mut found[usize::from(number)];
        let set = sets.get(number);
        if set.group_fields == 0 || set.group_of(&key).is_none() {
            continue;
        }
        if set.bucket_of(&key).map(str::to_owned) != found.bucket {
            continue;
        }
        if found.looked_at == GROUPS_MAX {
            found.truncated = true;
            continue;
        }
        found.looked_at += 1;
        wanted.push((number, key));
    }
    wanted
}

impl Found {
    fn new(bucket: Option<String>) -> Found {
        Found { bucket, busiest: Vec::new(), looked_at: 0, truncated: false }
    }

    fn note(&mut self, key: String, count: u64) {
        let full = self.busiest.len() == GROUPS_KEPT_MAX;
        let least = self.busiest.last().map_or(0, |(count, _)| *count);
        // A walk may give a key twice.
        if (full && count <= least) || self.busiest.iter().any(|(_, other)| *other == key) {
            return;
        }
        let at = self.busiest.partition_point(|(other, _)| *other >= count);
        self.busiest.insert(at, (count, key));
        self.busiest.truncate(GROUPS_KEPT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_are_kept_each_once() {
        let mut found = Found::new(None);
        for n in (0..1_000u64).chain(0..1_000) {
            // In no order.
            let n = n * 7919 % 1_000;
            found.note(format!("k{n}"), n);
        }
        let kept: Vec<u64> = found.busiest.iter().map(|(count, _)| *count).collect();
        assert_eq!(kept, (900..1_000).rev().collect::<Vec<_>>());
    }

    #[test]
    fn only_groups_of_the_present_bucket_are_looked_at() {
        let day = Duration::from_secs(86_400);
        let ttl = crate::sets::WindowTtl { hour: day, day, month: day };
        let sets = "users=u by=u@s+c byd=u@s/day daily=u/day";
        let sets = Sets::parse("r", sets, ttl).unwrap();
        let bucket = |name| match name {
            "byd" | "daily" => Some("2026-11-23".to_owned()),
            _ => None,
        };
        let mut found: Vec<_> =
            sets.iter().map(|set| Found::new(bucket(set.name.as_str()))).collect();
        let keys = [
            "r:users",
            "r:meta",
            "r:pipeline",
            "r:by:CA:Fresno",
            "r:by:CA",
            "r:byd:2026-11-23:CA",
            "r:byd:2026-11-22:CA",
            "r:byd:2026-11-23",
            "r:daily:2026-11-23",
            "r:other:CA",
        ];
        let keys = keys.map(str::to_owned).to_vec();
        let wanted: Vec<String> =
            wanted(&sets, keys, &mut found).into_iter().map(|(_, key)| key).collect();
        assert_eq!(wanted, ["r:by:CA:Fresno", "r:byd:2026-11-23:CA"]);
    }

    #[test]
    fn no_more_groups_are_looked_at_than_there_is_room_for() {
        let day = Duration::from_secs(86_400);
        let ttl = crate::sets::WindowTtl { hour: day, day, month: day };
        let sets = Sets::parse("r", "by=u@s", ttl).unwrap();
        let mut found = vec![Found::new(None)];
        let keys = (0..GROUPS_MAX + 1).map(|n| format!("r:by:{n}")).collect();
        assert_eq!(wanted(&sets, keys, &mut found).len(), GROUPS_MAX);
        assert!(found[0].truncated);
    }
}
