//! The live sets against those that were made from Postgres, both ways, a page at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;

use super::RepairError;
use super::pass::Repairer;
use crate::projection::{Build, Found, Projection};
use crate::sets::Kind;

/// Members that one comparison names, each way: bounds memory. Where there are more, it says so.
const NAMED_MAX: usize = 100_000;
/// How far an expiry may be off: the clocks of two machines.
const EXPIRY_SLACK_SECS: i64 = 60;

/// A key and a member of it.
pub type Drift = (String, String);

/// What is wrong with a key as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// It holds something else than a set of its kind.
    WrongType,
    /// It expires and should not, or at another time (Unix seconds).
    Expiry { wanted: Option<i64>, found: Option<i64> },
    /// An estimated set that no event supports.
    Unsupported,
}

/// What differs as far as seen: some of it may be on its way.
#[derive(Debug, Default)]
pub(super) struct Differences {
    pub missing: BTreeSet<Drift>,
    pub phantom: BTreeSet<Drift>,
    pub faults: BTreeMap<String, KeyFault>,
    /// Estimated keys that were made, to be judged.
    pub estimated: BTreeSet<String>,
    pub members: u64,
    pub truncated: bool,
}

impl Differences {
    fn add(&mut self, other: Differences) {
        self.missing.extend(other.missing);
        self.phantom.extend(other.phantom);
        self.faults.extend(other.faults);
        self.estimated.extend(other.estimated);
        self.members += other.members;
        self.truncated |= other.truncated;
    }
}

/// Keys that are compared at once: most are small, and each takes some round trips.
pub(super) const KEYS_AT_ONCE: usize = 64;

impl Repairer<'_> {
    pub(super) async fn compare(&mut self, build: &mut Build) -> Result<Differences, RepairError> {
        let mut seen = Differences::default();
        let projection = self.projection();
        let mut scan = projection.scan_keys(build.pattern()).await?;
        while let Some(made) = projection.next_keys(&mut scan).await? {
            let live: Vec<String> =
                made.iter().filter_map(|key| build.live(key)).map(str::to_owned).collect();
            self.compare_keys(build, live, true, &mut seen).await?;
        }
        let mut scan = projection.scan_keys(self.live_pattern()).await?;
        while let Some(mut live) = projection.next_keys(&mut scan).await? {
            live.retain(|key| self.sets.of_key(key).is_some());
            let made = projection.exist(live.iter().map(|key| build.key(key)).collect()).await?;
            let without: Vec<String> =
                live.into_iter().zip(made).filter(|(_, made)| !made).map(|(key, _)| key).collect();
            self.compare_keys(build, without, false, &mut seen).await?;
        }
        Ok(seen)
    }

    /// Live keys; `made`: those that events support.
    async fn compare_keys(
        &mut self,
        build: &mut Build,
        keys: Vec<String>,
        made: bool,
        seen: &mut Differences,
    ) -> Result<(), RepairError> {
        let projection = self.projection();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            projection.tend(build).await?;
            let named = AtomicUsize::new(seen.missing.len().max(seen.phantom.len()));
            let found = projection.look_at(keys).await?;
            let pairs = keys.iter().zip(found).map(|(key, (found, expires_at))| {
                let pair =
                    Pair { projection: &projection, named: &named, made: build.key(key), key };
                self.compare_key(pair, made, found, expires_at)
            });
            for one in join_all(pairs).await {
                seen.add(one?);
            }
            (self.progress)("comparing", seen.members, None);
        }
        Ok(())
    }

    async fn compare_key(
        &self,
        pair: Pair<'_>,
        made: bool,
        found: Found,
        expires_at: Option<i64>,
    ) -> Result<Differences, RepairError> {
        let mut seen = Differences::default();
        let key = pair.key;
        let Some((set, _)) = self.sets.of_key(key) else { return Ok(seen) };
        let kind = self.sets.get(set).kind;
        if found != Found::Nothing && !found.is(kind) {
            seen.faults.insert(key.to_owned(), KeyFault::WrongType);
            return Ok(seen);
        }
        if !made {
            match (found, kind) {
                // Expired since.
                (Found::Nothing, _) => {}
                (_, Kind::Estimated) => {
                    seen.faults.insert(key.to_owned(), KeyFault::Unsupported);
                }
                (_, Kind::Exact) => pair.phantom(&mut seen).await?,
            }
            return Ok(seen);
        }
        if found != Found::Nothing
            && let Some(wanted) = self.expiry(key)
            && let Some(fault) = expiry_fault(wanted, expires_at)
        {
            seen.faults.insert(key.to_owned(), fault);
        }
        match kind {
            Kind::Estimated => {
                seen.estimated.insert(key.to_owned());
            }
            Kind::Exact => pair.compare(&mut seen).await?,
        }
        Ok(seen)
    }
}

fn expiry_fault(wanted: Option<i64>, found: Option<i64>) -> Option<KeyFault> {
    let found = found.map(|at| at / 1_000);
    let right = match (wanted, found) {
        (Some(wanted), Some(found)) => (wanted - found).abs() <= EXPIRY_SLACK_SECS,
        (wanted, found) => wanted == found,
    };
    (!right).then_some(KeyFault::Expiry { wanted, found })
}

/// A live key and what was made for it.
struct Pair<'a> {
    projection: &'a Projection,
    key: &'a str,
    made: String,
    /// Members named so far, by all pairs.
    named: &'a AtomicUsize,
}

impl Pair<'_> {
    async fn compare(&self, seen: &mut Differences) -> Result<(), RepairError> {
        let (missing, looked) = self.without(&self.made, self.key, seen).await?;
        seen.members = looked;
        let complete = missing.is_empty();
        seen.missing.extend(missing);
        // All of it is there: is there room for anything else?
        if complete
            && self.projection.members_of(self.key).await?
                == self.projection.members_of(&self.made).await?
        {
            return Ok(());
        }
        self.phantom(seen).await
    }

    async fn phantom(&self, seen: &mut Differences) -> Result<(), RepairError> {
        let (phantom, _) = self.without(self.key, &self.made, seen).await?;
        seen.phantom.extend(phantom);
        Ok(())
    }

    /// The members of `one` that `other` lacks, and how many were looked at.
    async fn without(
        &self,
        one: &str,
        other: &str,
        seen: &mut Differences,
    ) -> Result<(Vec<Drift>, u64), RepairError> {
        let (mut lacked, mut looked, mut cursor) = (Vec::new(), 0, None);
        loop {
            let (next, members) = self.projection.next_members(one, cursor.as_deref()).await?;
            let has = self.projection.has(other, &members).await?;
            looked += members.len() as u64;
            let members = members.into_iter().zip(has).filter(|(_, has)| !has);
            let before = lacked.len();
            lacked.extend(members.map(|(member, _)| (self.key.to_owned(), member)));
            let found = lacked.len() - before;
            if self.named.fetch_add(found, Ordering::Relaxed) + found >= NAMED_MAX {
                seen.truncated = true;
                return Ok((lacked, looked));
            }
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok((lacked, looked)),
            }
        }
    }
}
