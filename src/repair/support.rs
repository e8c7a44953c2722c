//! Which members nothing supports, as far as has been looked. Pure.

use std::collections::{BTreeMap, HashSet};

use time::OffsetDateTime;

use crate::event::{self, Rules};
use crate::sets::{Addition, Source};
use crate::store::Member;
use crate::store::forget;
use crate::store::walk::Filter;

/// The members for which no support has been found yet, without their expiry: that follows from a
/// setting, which may have changed.
pub struct Support(HashSet<Member>);

fn bare(member: &Member) -> Member {
    Member { expires_at: None, ..member.clone() }
}

/// What a stored event adds, as it is kept when the event goes. Two sets of one source are one
/// here.
pub fn members(rules: Rules<'_>, at: OffsetDateTime, payload: &str) -> HashSet<Member> {
    let added = event::stored_additions(payload, at, rules);
    let member = |one: Addition<'_>| {
        let set = rules.sets.get(one.set);
        Member {
            source: set.source().to_owned(),
            suffix: one.suffix.to_owned(),
            member: one.member.to_owned(),
            expires_at: set.expires_at(at),
        }
    };
    added.iter().map(member).collect()
}

impl Support {
    pub fn new(members: &[Member]) -> Support {
        Support(members.iter().map(bare).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These have support.
    pub fn supported(&mut self, members: &[Member]) {
        for member in members {
            self.0.remove(&bare(member));
        }
    }

    /// An event adds these. Returns those of them that had no support so far.
    pub fn seen(&mut self, members: HashSet<Member>) -> Vec<Member> {
        members.into_iter().filter(|member| self.0.remove(&bare(member))).collect()
    }

    /// In order.
    pub fn unsupported(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self.0.iter().cloned().collect();
        members.sort_unstable();
        members
    }

    /// Every event that supports one of them, and few others.
    pub fn filter(&self) -> Filter {
        let mut sources: BTreeMap<&str, BTreeMap<String, HashSet<String>>> = BTreeMap::new();
        for member in &self.0 {
            let source = Source::read(&member.source);
            let fields = sources.entry(&member.source).or_default();
            let paths = source.group.iter().chain(&source.member);
            for (path, value) in paths.zip(source.values(&member.suffix, &member.member)) {
                fields.entry((*path).to_owned()).or_default().insert(value);
            }
        }
        let sources: Vec<_> = sources.into_values().collect();
        forget::supporting(&sources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_support_once_it_was_seen_whatever_its_expiry() {
        let member = |text: &str, expires_at| Member {
            source: "user/day".to_owned(),
            suffix: ":2026-11-23".to_owned(),
            member: text.to_owned(),
            expires_at,
        };
        let mut support = Support::new(&[member("a", Some(1)), member("b", None)]);
        let seen = support.seen(HashSet::from([member("a", Some(2)), member("c", None)]));
        assert_eq!(seen, [member("a", Some(2))]);
        assert_eq!(support.unsupported(), [member("b", None)]);
        support.supported(&[member("b", Some(9))]);
        assert_eq!(support.len(), 0);
    }
}
