//! Every set against Postgres, both ways, with ingest running; and mending what differs without
//! a swap.
//!
//! The sets are made from Postgres beside the live ones, as a rebuild does, and compared. What
//! differs at first is only a candidate. A phantom is one that a snapshot of the primary taken
//! after it was seen does not support either: workers add after their COMMIT. A member is missing
//! if its worker had time to add it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use super::compare::{Differences, Drift, KEYS_AT_ONCE, KeyFault};
use super::pass::{Repairer, Target};
use super::{RepairError, marks};
use crate::projection::{Build, KeyAdditions};
use crate::sets::Kind;
use crate::store::Mark;

/// Between two looks at a member that its worker may be about to add.
const LOOK_AGAIN: Duration = Duration::from_millis(700);
const LOOKS_MAX: u32 = 5;
/// Five times the standard error: an estimate that is further off is no accident.
const ESTIMATE_OFF_MAX: f64 = 5.0 * 0.0081;

/// What an estimated key says, and what is true.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    pub key: String,
    pub estimate: u64,
    pub exact: u64,
    /// It lacks members, or counts what is not there, beyond what estimates do.
    pub drifted: bool,
}

impl Estimate {
    pub fn error_percent(&self) -> f64 {
        let exact = self.exact.max(1) as f64;
        (self.estimate as f64 - self.exact as f64) / exact * 100.0
    }
}

/// What a verify found.
#[derive(Debug, Default)]
pub struct Verified {
    pub events: u64,
    pub members: u64,
    pub missing: Vec<Drift>,
    pub phantom: Vec<Drift>,
    pub faults: BTreeMap<String, KeyFault>,
    pub estimates: Vec<Estimate>,
    /// There is more of it than is named.
    pub truncated: bool,
    pub repaired: bool,
}

impl Verified {
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty()
            && self.phantom.is_empty()
            && self.faults.is_empty()
            && !self.estimates.iter().any(|estimate| estimate.drifted)
    }
}

impl Repairer<'_> {
    pub async fn verify(&mut self, repair: bool) -> Result<Verified, RepairError> {
        let projection = self.projection();
        let mut build = self.begin_build().await?;
        let outcome = self.verify_with(&mut build, repair).await;
        let cleaned = projection.end_build(build).await;
        let verified = outcome?;
        cleaned?;
        if self.whole {
            let drifted = verified.estimates.iter().filter(|estimate| estimate.drifted).count();
            let missing = verified.missing.len() + verified.faults.len() + drifted;
            let (missing, phantom) = (missing as u64, verified.phantom.len() as u64);
            let prefix = self.prefix();
            marks::verified(self.lock.link(), &prefix, missing, phantom).await?;
        }
        Ok(verified)
    }

    async fn verify_with(
        &mut self,
        build: &mut Build,
        repair: bool,
    ) -> Result<Verified, RepairError> {
        let (mut mark, events) = self.fill(build, true).await?;
        let mut verified = Verified { events, ..Verified::default() };
        loop {
            let seen = self.compare(build).await?;
            let (now, seen, estimates) = self.confirm(build, mark, seen).await?;
            mark = now;
            let more = seen.truncated;
            verified.members = seen.members;
            if repair {
                mark = self.mend_drift(build, mark, &seen, &estimates).await?;
                verified.repaired = true;
            }
            verified.missing.extend(seen.missing);
            verified.phantom.extend(seen.phantom);
            verified.faults.extend(seen.faults);
            if verified.estimates.is_empty() {
                verified.estimates = estimates;
            }
            verified.truncated = more && !repair;
            // What was named is mended: the next look finds others, or none.
            if !(more && repair) {
                break;
            }
        }
        // What was compared is what was made, if Redis kept it.
        self.projection().count_up(build).await?;
        Ok(verified)
    }

    /// Looks again at what differs, with newer snapshots.
    async fn confirm(
        &mut self,
        build: &mut Build,
        mut mark: Mark,
        mut seen: Differences,
    ) -> Result<(Mark, Differences, Vec<Estimate>), RepairError> {
        let projection = self.projection();
        // What they would say if nothing were missing, as of now: later looks ask for no more.
        let doubted: Vec<&String> =
            seen.estimated.iter().filter(|key| !seen.faults.contains_key(*key)).collect();
        for keys in doubted.chunks(KEYS_AT_ONCE) {
            join_all(keys.iter().map(|key| self.make_estimate(build, key)))
                .await
                .into_iter()
                .collect::<Result<Vec<()>, _>>()?;
        }
        let mut estimates = Vec::new();
        for look in 1.. {
            let drifts = !seen.missing.is_empty() || !seen.phantom.is_empty();
            if drifts || look > 1 {
                let mut target = Target::Build { build, exact: true };
                (mark, _) = self.catch_up_from(mark.xmin, &mut target).await?;
            }
            seen.missing = self.lacking(seen.missing, |key| key.to_owned(), false).await?;
            seen.phantom = self.lacking(seen.phantom, |key| build.key(key), false).await?;
            seen.phantom = self.lacking(seen.phantom, |key| key.to_owned(), true).await?;
            estimates = self.estimates(build, &seen).await?;
            let doubtful = !seen.missing.is_empty() || estimates.iter().any(|one| one.drifted);
            if !doubtful || look == LOOKS_MAX {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        // Deleted since, or expired.
        let faults = std::mem::take(&mut seen.faults);
        let keys: Vec<String> = faults.keys().cloned().collect();
        let there = projection.exist(keys).await?;
        seen.faults =
            faults.into_iter().zip(there).filter(|(_, there)| *there).map(|(f, _)| f).collect();
        Ok((mark, seen, estimates))
    }

    /// Of the members, those that the sets named by `place` lack; or with `has`, have.
    pub(super) async fn lacking(
        &self,
        drifts: std::collections::BTreeSet<Drift>,
        place: impl Fn(&str) -> String,
        has: bool,
    ) -> Result<std::collections::BTreeSet<Drift>, RepairError> {
        let projection = self.projection();
        let mut left = std::collections::BTreeSet::new();
        for (key, members) in by_key(&drifts) {
            let there = projection.has(&place(key), &members).await?;
            let wanted = members.into_iter().zip(there).filter(|(_, there)| *there == has);
            left.extend(wanted.map(|(member, _)| (key.to_owned(), member)));
        }
        Ok(left)
    }

    /// Every estimated key beside its exact number of members.
    async fn estimates(
        &self,
        build: &Build,
        seen: &Differences,
    ) -> Result<Vec<Estimate>, RepairError> {
        let mut estimates = Vec::new();
        let keys: Vec<&String> =
            seen.estimated.iter().filter(|key| !seen.faults.contains_key(*key)).collect();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            for one in join_all(keys.iter().map(|key| self.estimate(build, key))).await {
                estimates.push(one?);
            }
        }
        Ok(estimates)
    }

    async fn estimate(&self, build: &Build, key: &str) -> Result<Estimate, RepairError> {
        let projection = self.projection();
        // In this order: a member that a worker adds in between is not one that was missing.
        let with = projection.estimate(&[key, &build.estimate_key(key)]).await?;
        let estimate = projection.estimate(&[key]).await?;
        let exact = projection.members_of(&build.key(key)).await?;
        let mut one = Estimate { key: key.to_owned(), estimate, exact, drifted: false };
        one.drifted = with > estimate || one.error_percent() > ESTIMATE_OFF_MAX * 100.0;
        Ok(one)
    }

    /// A HyperLogLog of the members that were made for the key.
    async fn make_estimate(&self, build: &Build, key: &str) -> Result<(), RepairError> {
        let (made, into) = (build.key(key), build.estimate_key(key));
        let projection = self.projection();
        let mut cursor = None;
        loop {
            let (next, members) = projection.next_members(&made, cursor.as_deref()).await?;
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            let expires_at = Some(build.expires_at());
            let kind = Kind::Estimated;
            let addition = KeyAdditions { key: &into, kind, expires_at, members };
            projection.add_members(&[addition]).await?;
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Adds what is missing, takes out phantoms and looks once more, puts keys right.
    async fn mend_drift(
        &mut self,
        build: &mut Build,
        mark: Mark,
        seen: &Differences,
        estimates: &[Estimate],
    ) -> Result<Mark, RepairError> {
        let projection = self.projection();
        for (key, members) in by_key(&seen.missing) {
            let Some(expires_at) = self.expiry(key) else { continue };
            let members = members.iter().map(String::as_str).collect();
            let addition = KeyAdditions { key, kind: Kind::Exact, expires_at, members };
            projection.add_members(&[addition]).await?;
        }
        let anew = seen.faults.iter().filter(|(_, fault)| **fault == KeyFault::WrongType);
        let anew = anew.map(|(key, _)| key.as_str());
        let drifted = estimates.iter().filter(|one| one.drifted).map(|one| one.key.as_str());
        let anew: Vec<String> = anew.chain(drifted).map(str::to_owned).collect();
        let unsupported: Vec<String> = seen
            .faults
            .iter()
            .filter(|(_, fault)| **fault == KeyFault::Unsupported)
            .map(|(key, _)| key.clone())
            .collect();
        let mut own = None;
        if !(seen.phantom.is_empty() && anew.is_empty() && unsupported.is_empty()) {
            own = self.note_own(mark.xmin, "a repair").await?;
            projection.hold_floor(mark.xmin).await?;
            self.lock.held().await?;
        }
        crate::fault::pause("before_removal").await;
        for (key, members) in by_key(&seen.phantom) {
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            projection.remove(key, &members).await?;
        }
        for key in &anew {
            self.make_key_anew(build, key).await?;
        }
        projection.unlink(unsupported).await?;
        for (key, fault) in &seen.faults {
            if let KeyFault::Expiry { wanted, .. } = fault {
                projection.set_expiry(key, *wanted).await?;
            }
        }
        // Once more: an event stored after the snapshot that did not support a phantom, whose
        // member was added before it was taken out, is added again. Of all sets, as the note is of
        // all.
        let sets = std::mem::replace(&mut self.sets, self.context.sets.clone());
        let caught_up = self.catch_up_but_for(own).await;
        self.sets = sets;
        match caught_up {
            // Readers are told nothing anyway.
            Ok(_) | Err(RepairError::NeedsRebuild) => {}
            Err(error) => return Err(error),
        }
        let mut target = Target::Build { build, exact: true };
        Ok(self.catch_up_from(mark.xmin, &mut target).await?.0)
    }

    /// Puts what was made in the place of a key that cannot be mended.
    async fn make_key_anew(&mut self, build: &mut Build, key: &str) -> Result<(), RepairError> {
        let projection = self.projection();
        let (Some((set, _)), Some(expires_at)) = (self.sets.of_key(key), self.expiry(key)) else {
            return Ok(());
        };
        let made = match self.sets.get(set).kind {
            Kind::Estimated => {
                self.make_estimate(build, key).await?;
                build.estimate_key(key)
            }
            Kind::Exact => build.key(key),
        };
        if !projection.exist(vec![made.clone()]).await?.contains(&true) {
            // No event supports it: something else sits in its place.
            return Ok(projection.unlink(vec![key.to_owned()]).await?);
        }
        Ok(projection.copy_over(&made, key, expires_at).await?)
    }
}

fn by_key<'d>(
    drifts: impl IntoIterator<Item = &'d Drift>,
) -> impl Iterator<Item = (&'d str, Vec<String>)> {
    let mut keys: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, member) in drifts {
        keys.entry(key).or_default().push(member.clone());
    }
    keys.into_iter()
}
