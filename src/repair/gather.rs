//! Stored events -> what they add, each member once, until there is enough for a write. Pure.

use std::collections::{HashMap, HashSet};

use time::OffsetDateTime;

use crate::event::{self, Limits, Rules};
use crate::projection::KeyAdditions;
use crate::sets::{Kind, Sets};
use crate::store::{RetiredMember, StoredEvent};

/// Members and bytes that are written at once: bounds what a repairer has in memory, some 100 bytes
/// a member. The more at once, the fewer are sent again, and the fewer commands: of a grouped set
/// most of what few events add goes to keys of its own, a command each.
const MEMBERS_MAX: usize = 50_000;
const BYTES_MAX: usize = 8 * 1024 * 1024;

pub struct Gather<'a> {
    sets: &'a Sets,
    limits: &'a Limits,
    /// Every set is gathered as an exact one.
    exact: bool,
    keys: HashMap<String, Gathered>,
    members: usize,
    bytes: usize,
}

struct Gathered {
    kind: Kind,
    expires_at: Option<i64>,
    members: HashSet<Box<str>>,
}

impl<'a> Gather<'a> {
    pub fn new(sets: &'a Sets, limits: &'a Limits, exact: bool) -> Self {
        Self { sets, limits, exact, keys: HashMap::new(), members: 0, bytes: 0 }
    }

    pub fn sets(&self) -> &Sets {
        self.sets
    }

    pub fn event(&mut self, event: &StoredEvent, now: OffsetDateTime) {
        let rules = Rules { sets: self.sets, limits: self.limits, now };
        let added = event::stored_additions(&event.payload, event.occurred_at, rules);
        for addition in added.iter() {
            self.add(addition.set, addition.suffix, addition.member, now);
        }
    }

    /// It may belong to several sets, or to one that is not gathered.
    pub fn retired(&mut self, retired: &RetiredMember, now: OffsetDateTime) {
        let sets = self.sets;
        for (index, set) in sets.iter().enumerate() {
            if set.source() == retired.source {
                // At most 256 sets are kept.
                self.add(index as u16, &retired.suffix, &retired.member, now);
            }
        }
    }

    fn add(&mut self, set: u16, suffix: &str, member: &str, now: OffsetDateTime) {
        let set = self.sets.get(set);
        let key = set.key_with_suffix(suffix);
        let gathered = match self.keys.get_mut(&key) {
            Some(gathered) => gathered,
            None => {
                // What no event makes, or has expired, is no key.
                let Some(expires_at) = set.suffix_expires_at(suffix) else { return };
                if expires_at.is_some_and(|at| at <= now.unix_timestamp()) {
                    return;
                }
                let kind = if self.exact { Kind::Exact } else { set.kind };
                self.bytes += key.len();
                let members = HashSet::new();
                self.keys.entry(key).or_insert(Gathered { kind, expires_at, members })
            }
        };
        if !gathered.members.contains(member) {
            gathered.members.insert(member.into());
            self.members += 1;
            self.bytes += member.len();
        }
    }

    /// Time to write.
    pub fn is_full(&self) -> bool {
        self.members >= MEMBERS_MAX || self.bytes >= BYTES_MAX
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    pub fn additions(&self) -> Vec<KeyAdditions<'_>> {
        let additions = self.keys.iter().map(|(key, gathered)| KeyAdditions {
            key,
            kind: gathered.kind,
            expires_at: gathered.expires_at,
            members: gathered.members.iter().map(|member| &**member).collect(),
        });
        additions.collect()
    }

    pub fn clear(&mut self) {
        self.keys.clear();
        (self.members, self.bytes) = (0, 0);
    }
}
