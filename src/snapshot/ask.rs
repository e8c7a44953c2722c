//! One look at Redis: every count that a snapshot shows, and the generation behind them. Keeps
//! nothing from one look to the next.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::groups::{Busy, Groups};
use super::{BUCKETS_SHOWN_MAX, BucketSeen, GROUPS_SHOWN_MAX, GroupSeen, SetSeen};
use crate::pipeline::Report;
use crate::projection::{Counts, Meta, ProjectionError, Reader};
use crate::retry::Class;
use crate::sets::{Set, Sets};
use crate::telemetry::chain;

/// Busy groups that are counted each time, so that a smaller one can overtake.
const CANDIDATES: usize = 2 * GROUPS_SHOWN_MAX;

/// Cheap to clone.
#[derive(Clone)]
pub struct Asker {
    shared: Arc<Shared>,
}

struct Shared {
    redis: Reader,
    sets: Sets,
    groups: Groups,
}

/// What Redis told.
pub struct Found {
    pub meta: Meta,
    pub(super) sets: Vec<SetSeen>,
    pub(super) reports: Vec<Report>,
}

/// Why nothing was found.
pub struct Trouble {
    pub why: String,
    /// It answers, but not this: not everything need be refused.
    pub refuses: bool,
}

impl Trouble {
    pub fn of(error: &ProjectionError) -> Trouble {
        Trouble { why: chain(error), refuses: error.class() != Class::Transient }
    }

    pub fn silent(waited: Duration) -> Trouble {
        Trouble { why: format!("no answer for {} s", waited.as_secs()), refuses: false }
    }
}

/// What is asked of one set.
enum Plan {
    One,
    Buckets(Vec<String>),
    Groups(Option<Busy>),
}

impl Asker {
    pub fn new(redis: Reader, sets: Sets) -> Asker {
        let groups = Groups::new(sets.iter().count());
        Asker { shared: Arc::new(Shared { redis, sets, groups }) }
    }

    pub fn redis(&self) -> &Reader {
        &self.shared.redis
    }

    pub fn sets(&self) -> &Sets {
        &self.shared.sets
    }

    /// The busiest groups of a set as the last walk found them, most members first; `None` before
    /// the first walk has ended.
    pub fn busy(&self, set: &Set) -> Option<Busy> {
        let number = self.sets().iter().position(|other| other.name == set.name)?;
        self.shared.groups.of(number, set, OffsetDateTime::now_utc())
    }

    /// Walks over the keys again and again, with pauses. Never returns.
    pub async fn walk(&self) -> std::convert::Infallible {
        self.shared.groups.walk(self.redis(), self.sets()).await
    }

    /// One walk without pauses, for a caller that looks once.
    ///
    /// # Errors
    /// Redis did not answer.
    pub async fn walk_once(&self) -> Result<(), ProjectionError> {
        self.shared.groups.walk_once(self.redis(), self.sets(), 0).await
    }

    /// Asks for all of it: one round trip for some five hundred counts, and one for the rest.
    ///
    /// # Errors
    /// Redis did not answer.
    pub async fn ask(&self) -> Result<Found, ProjectionError> {
        let now = OffsetDateTime::now_utc();
        let mut keys = Vec::new();
        let mut plans = Vec::new();
        for (number, set) in self.sets().iter().enumerate() {
            let plan = self.plan(number, set, now);
            match &plan {
                Plan::One => keys.push((set.kind, set.base_key().to_owned())),
                Plan::Buckets(buckets) => keys.extend(
                    buckets
                        .iter()
                        .map(|bucket| (set.kind, set.key_with_suffix(&format!(":{bucket}")))),
                ),
                Plan::Groups(busy) => keys.extend(
                    busy.iter()
                        .flat_map(|busy| busy.keys.iter().take(CANDIDATES))
                        .map(|key| (set.kind, key.clone())),
                ),
            }
            plans.push(plan);
        }
        // The reports first: the generation must be what is read last. Counts do not need them: who
        // may not read them, or finds something else in their place, has none.
        let reports = match self.redis().reports().await {
            Err(error) if error.class() != Class::Transient => Vec::new(),
            told => told?,
        };
        let Counts { counts, meta } = self.redis().counts(&keys).await?;
        let mut counted = keys.into_iter().map(|(_, key)| key).zip(counts);
        let sets = self.sets().iter().zip(plans).map(|(set, plan)| {
            let seen = describe(set, plan, &mut counted);
            if meta.is_whole(set) { seen } else { SetSeen::unknown(set) }
        });
        let sets = sets.collect();
        Ok(Found { meta, sets, reports })
    }

    fn plan(&self, number: usize, set: &Set, now: OffsetDateTime) -> Plan {
        if set.group_fields > 0 {
            Plan::Groups(self.shared.groups.of(number, set, now))
        } else if set.window.is_some() {
            Plan::Buckets(set.buckets_until(now, BUCKETS_SHOWN_MAX))
        } else {
            Plan::One
        }
    }
}

fn describe(
    set: &Set,
    plan: Plan,
    counted: &mut impl Iterator<Item = (String, Option<u64>)>,
) -> SetSeen {
    let mut seen = SetSeen::unknown(set);
    match plan {
        Plan::One => seen.cardinality = counted.next().and_then(|(_, count)| count),
        Plan::Buckets(buckets) => {
            let buckets: Vec<_> = buckets
                .into_iter()
                .zip(counted)
                .map(|(bucket, (_, count))| (bucket, count))
                .collect();
            seen.cardinality = buckets.first().and_then(|(_, count)| *count);
            seen.buckets = Some(from_first_that_holds(buckets));
        }
        Plan::Groups(None) => {}
        Plan::Groups(Some(busy)) => {
            let asked = busy.keys.len().min(CANDIDATES);
            let mut groups: Vec<GroupSeen> = counted
                .take(asked)
                .filter_map(|(key, count)| {
                    let group = set.group_of(&key)?.join(", ");
                    // A group without members has no key: it has gone since the walk.
                    let cardinality = count.filter(|count| *count > 0)?;
                    Some(GroupSeen { group, cardinality })
                })
                .collect();
            groups.sort_by(|a, b| {
                b.cardinality.cmp(&a.cardinality).then_with(|| a.group.cmp(&b.group))
            });
            groups.truncate(GROUPS_SHOWN_MAX);
            seen.groups = Some(groups);
            seen.groups_truncated = busy.truncated;
        }
    }
    seen
}

/// Newest first: without those before the first that holds something, and without one whose key
/// holds something else than a set.
pub fn from_first_that_holds(buckets: Vec<(String, Option<u64>)>) -> Vec<BucketSeen> {
    let holds = |(_, count): &(String, Option<u64>)| count.is_some_and(|count| count > 0);
    let last = buckets.iter().rposition(holds).unwrap_or(0);
    let told = buckets.into_iter().take(last + 1);
    told.filter_map(|(bucket, count)| Some(BucketSeen { bucket, cardinality: count? })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_told_from_the_first_that_holds_something() {
        let bucket = |name: &str, count| (name.to_owned(), count);
        let told = from_first_that_holds(vec![
            bucket("4", Some(0)),
            bucket("3", Some(7)),
            bucket("2", Some(0)),
            bucket("1", Some(1)),
            bucket("0", Some(0)),
        ]);
        let told: Vec<_> = told.iter().map(|one| (one.bucket.as_str(), one.cardinality)).collect();
        assert_eq!(told, [("4", 0), ("3", 7), ("2", 0), ("1", 1)]);
        let empty = from_first_that_holds(vec![bucket("4", Some(0)), bucket("3", Some(0))]);
        assert_eq!(empty.len(), 1, "the present one is told, whatever it holds");
        assert!(from_first_that_holds(vec![bucket("4", None)]).is_empty());
    }
}
