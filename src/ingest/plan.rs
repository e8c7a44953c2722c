//! What a batch adds to Redis: grouped by key, each member once. Pure.

use std::collections::{HashMap, HashSet};

use super::batch::Taken;
use crate::event::Event;
use crate::projection::KeyAdditions;
use crate::sets::{Kind, Sets};

/// What a batch adds to one key; owns the key, borrows the members from the events.
pub struct Planned<'a> {
    key: String,
    kind: Kind,
    expires_at: Option<i64>,
    members: HashSet<&'a str>,
}

impl<'a> Planned<'a> {
    pub fn borrow(&self) -> KeyAdditions<'_> {
        KeyAdditions {
            key: &self.key,
            kind: self.kind,
            expires_at: self.expires_at,
            members: self.members.iter().copied().collect(),
        }
    }
}

/// Groups what the events add by key, each member once.
pub fn plan<'a>(sets: &Sets, events: &'a [Taken<Event>]) -> Vec<Planned<'a>> {
    let mut by_key: HashMap<(u16, &str), Planned<'a>> = HashMap::new();
    for Taken { decoded: event, .. } in events {
        for add in event.additions.iter() {
            let planned = by_key.entry((add.set, add.suffix)).or_insert_with(|| {
                let set = sets.get(add.set);
                Planned {
                    key: set.key_with_suffix(add.suffix),
                    kind: set.kind,
                    // The suffix holds the bucket: all events of this key share it.
                    expires_at: set.expires_at(event.occurred_at),
                    members: HashSet::new(),
                }
            });
            planned.members.insert(add.member);
        }
    }
    by_key.into_values().collect()
}
