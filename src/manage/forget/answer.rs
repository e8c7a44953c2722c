//! What an erasure did, or would do, told. Names the value, which the operator has given; no
//! payload and no other member.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::json;

use crate::cli::ForgetArgs;
use crate::store::forget::Erased;
use crate::store::walk::Leaf;

#[derive(Debug, Default)]
pub struct Answer {
    pub dry: bool,
    /// A run before this one was killed, and is finished now.
    pub earlier: bool,
    pub events: BTreeMap<String, u64>,
    pub recent: u64,
    pub retired: u64,
    pub checked: u64,
    /// By set.
    pub removed: BTreeMap<String, u64>,
    pub put_back: u64,
    /// Estimated sets that may count what is gone.
    pub estimated: BTreeSet<String>,
    /// Other prefixes of this Postgres.
    pub rebuild_owed: BTreeSet<String>,
    /// A dry run held no more members than this.
    pub at_least: bool,
}

const UNTOUCHED: &str = "events still in RabbitMQ (queued, in a worker's hands or dead-lettered) \
                         are not touched: forget again when they are stored, and see `rollcall \
                         dead-letters list`";

impl Answer {
    pub fn erased(&mut self, leaf: &Leaf, erased: Erased) {
        if erased.events > 0 {
            self.events.insert(leaf.name.clone(), erased.events);
            self.recent += erased.recent;
        }
    }

    pub fn tell(&self, args: &ForgetArgs) -> Result<()> {
        let events: u64 = self.events.values().sum();
        if args.output.json {
            say!(
                "{}",
                json!({
                    "dry_run": self.dry, "field": args.what.field, "value": args.what.value,
                    "finished_an_earlier_run": self.earlier,
                    "events": events, "events_by_partition": self.events,
                    "events_stored_recently": self.recent, "retired_members": self.retired,
                    "members_checked": self.checked, "members_removed": self.removed,
                    "members_put_back": self.put_back, "estimated_sets": self.estimated,
                    "rebuild_owed_to": self.rebuild_owed, "at_least": self.at_least,
                    "note": UNTOUCHED,
                })
            );
            return Ok(());
        }
        if events == 0 && self.checked == 0 {
            say!("nothing holds it; {UNTOUCHED}");
            return Ok(());
        }
        if self.earlier {
            say!("finished what an earlier run had begun");
        }
        let verb = if self.dry { "would delete" } else { "deleted" };
        for (partition, events) in &self.events {
            say!("{verb} {events} event(s) of {partition}");
        }
        say!("{verb} {} retired member(s)", self.retired);
        let verb = if self.dry { "would take" } else { "took" };
        for (set, members) in &self.removed {
            say!("{verb} {members} member(s) out of {set}");
        }
        if self.at_least {
            say!("at least: there are more members than a dry run counts");
        }
        if self.put_back > 0 {
            say!("put {} member(s) back, for events that came meanwhile", self.put_back);
        }
        if !self.estimated.is_empty() {
            let names: Vec<_> = self.estimated.iter().map(String::as_str).collect();
            say!("estimated sets cannot forget, a rebuild is owed: {}", names.join(" "));
        }
        for prefix in &self.rebuild_owed {
            say!("a rebuild is owed to the sets of prefix {prefix}, kept from the same events");
        }
        if self.recent > 0 {
            say!(
                "{} of the events were stored only now: a worker may still be adding their \
                 members; `rollcall manage verify` shows it when the queue is idle",
                self.recent
            );
        }
        say!("{UNTOUCHED}");
        Ok(())
    }
}
