//! The live sets against those that were made from Postgres, both ways, a page at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::RepairError;
use super::pass::Repairer;
use crate::projection::{Build, Found};
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
    fn full(&mut self) -> bool {
        let full = self.missing.len() >= NAMED_MAX || self.phantom.len() >= NAMED_MAX;
        self.truncated |= full;
        full
    }
}

impl Repairer<'_> {
    pub(super) async fn compare(&mut self, build: &mut Build) -> Result<Differences, RepairError> {
        let mut seen = Differences::default();
        let projection = self.projection();
        let mut scan = projection.scan_keys(build.pattern()).await?;
        while let Some(made) = projection.next_keys(&mut scan).await? {
            let live: Vec<String> =
                made.iter().filter_map(|key| build.live(key)).map(str::to_owned).collect();
            let found = projection.look_at(&live).await?;
            for (key, (found, expires_at)) in live.into_iter().zip(found) {
                self.compare_made(build, &key, found, expires_at, &mut seen).await?;
                (self.progress)("comparing", seen.members, None);
            }
        }
        let mut scan = projection.scan_keys(self.live_pattern()).await?;
        while let Some(mut live) = projection.next_keys(&mut scan).await? {
            live.retain(|key| self.sets.of_key(key).is_some());
            let made = projection.exist(live.iter().map(|key| build.key(key)).collect()).await?;
            let without: Vec<String> =
                live.into_iter().zip(made).filter(|(_, made)| !made).map(|(key, _)| key).collect();
            let found = projection.look_at(&without).await?;
            for (key, (found, _)) in without.into_iter().zip(found) {
                self.compare_unmade(build, &key, found, &mut seen).await?;
            }
        }
        Ok(seen)
    }

    /// A key that events support.
    async fn compare_made(
        &mut self,
        build: &mut Build,
        key: &str,
        found: Found,
        expires_at: Option<i64>,
        seen: &mut Differences,
    ) -> Result<(), RepairError> {
        let Some((set, _)) = self.sets.of_key(key) else { return Ok(()) };
        let Some(wanted) = self.expiry(key) else { return Ok(()) };
        let kind = self.sets.get(set).kind;
        if kind == Kind::Estimated {
            seen.estimated.insert(key.to_owned());
        }
        if found != Found::Nothing {
            if !found.is(kind) {
                seen.faults.insert(key.to_owned(), KeyFault::WrongType);
                return Ok(());
            }
            let found = expires_at.map(|at| at / 1_000);
            let right = match (wanted, found) {
                (Some(wanted), Some(found)) => (wanted - found).abs() <= EXPIRY_SLACK_SECS,
                (wanted, found) => wanted == found,
            };
            if !right {
                seen.faults.insert(key.to_owned(), KeyFault::Expiry { wanted, found });
            }
        }
        if kind == Kind::Estimated {
            return Ok(());
        }
        let made = build.key(key);
        let before = seen.missing.len();
        seen.members +=
            self.without(build, (&made, key), key, seen, |seen| &mut seen.missing).await?;
        let projection = self.projection();
        let none_missing = seen.missing.len() == before;
        // All of it is there, and nothing else has room.
        if none_missing && projection.size(key).await? == projection.size(&made).await? {
            return Ok(());
        }
        self.without(build, (key, &made), key, seen, |seen| &mut seen.phantom).await?;
        Ok(())
    }

    /// A key of ours for which nothing was made.
    async fn compare_unmade(
        &mut self,
        build: &mut Build,
        key: &str,
        found: Found,
        seen: &mut Differences,
    ) -> Result<(), RepairError> {
        let Some((set, _)) = self.sets.of_key(key) else { return Ok(()) };
        let kind = self.sets.get(set).kind;
        match found {
            // Expired since, or never was there.
            Found::Nothing => {}
            found if !found.is(kind) => {
                seen.faults.insert(key.to_owned(), KeyFault::WrongType);
            }
            _ if kind == Kind::Estimated => {
                seen.faults.insert(key.to_owned(), KeyFault::Unsupported);
            }
            _ => {
                let made = build.key(key);
                self.without(build, (key, &made), key, seen, |seen| &mut seen.phantom).await?;
            }
        }
        Ok(())
    }

    /// Names the members of `one` that `other` lacks, as members of `live`. How many were looked at.
    async fn without(
        &mut self,
        build: &mut Build,
        (one, other): (&str, &str),
        live: &str,
        seen: &mut Differences,
        into: impl Fn(&mut Differences) -> &mut BTreeSet<Drift>,
    ) -> Result<u64, RepairError> {
        let projection = self.projection();
        let (mut cursor, mut looked) = (None, 0);
        loop {
            if seen.full() {
                return Ok(looked);
            }
            projection.tend(build).await?;
            let (next, members) = projection.next_members(one, cursor.as_deref()).await?;
            let has = projection.has(other, &members).await?;
            looked += members.len() as u64;
            let lacked = members.into_iter().zip(has).filter(|(_, has)| !has);
            into(seen).extend(lacked.map(|(member, _)| (live.to_owned(), member)));
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok(looked),
            }
        }
    }
}
