//! What this process has on its way to Redis, and how it tells that Redis lost some of it. Pure.
//!
//! The floor is a txid that stands in Redis, among the commands: every batch whose members this
//! process sends later has rows with at least that txid. So whatever prefix of its commands a Redis
//! comes back with, the floors in it bound what it lacks. Two rules keep that true:
//!
//! - A floor is moved by a look alone, and only where the last look's move is still there. It is
//!   moved to what was true at the *last* look: what was sent before that is in the same prefix.
//! - What was stored and not added (a lane that gave up, a process that died) holds the floor down
//!   until whoever gets it next had time to add it. So does what Postgres has noted as missing: the
//!   repair adds old rows late, and what it added can be lost as well.

#[cfg(test)]
mod laws;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::projection::{SERVER, Sighting, Tick, joined};

/// How long a batch that was given up, and a process that went without a word, count. Its messages
/// go to the head of the queue and are taken within seconds; who looks must have been up as long.
pub const LEFT_MAX: Duration = Duration::from_secs(15 * 60);

/// Before any txid: a catch-up from here reads everything.
const BEGINNING: i64 = 0;

pub struct Ledger {
    process: String,
    began: Instant,
    registered: Option<Registered>,
    /// Grows with each registration: what was seen in an earlier one says nothing in this.
    era: u64,
    /// A txid that every transaction begun from now on is above.
    xmin: Option<i64>,
    lanes: Vec<Lane>,
    left: Left,
}

/// What this process wrote into the watermark.
#[derive(Debug)]
struct Registered {
    servers: BTreeSet<String>,
    /// The floor that it began with.
    first: i64,
    floor: i64,
    /// What the next look moves the floor to.
    ahead: i64,
    seen: u64,
    /// A move whose answer was lost.
    trying: Option<u64>,
}

#[derive(Clone, Default)]
struct Lane {
    era: u64,
    ticks: u64,
    /// The lowest txid of the batch that is under way.
    bound: Option<i64>,
}

/// The lowest txid of what was stored and not added, each for one to two `LEFT_MAX`.
#[derive(Default)]
struct Left {
    turned: Option<Instant>,
    now: Option<i64>,
    before: Option<i64>,
}

/// What the watermark must at least show, taken before it is read.
#[derive(Clone, Debug)]
pub struct Expected {
    pub era: u64,
    /// Field, and where its lane left it.
    lanes: Vec<(String, u64)>,
}

/// Redis lost something, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Rows with a lower txid are not concerned; `None`: nothing bounds it.
    pub bound: Option<i64>,
    pub reason: &'static str,
}

/// What a look came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Whole,
    /// It holds nothing of this process, and was registered with since: to be registered with anew.
    Forgotten,
    Lost(Loss),
}

/// A move of the floor.
#[derive(Debug)]
pub struct Advance {
    pub tick: Tick,
    pub field: String,
    pub floor: i64,
    era: u64,
    ahead: i64,
}

/// What is written when a process, or what it has to do with Redis, begins anew.
#[derive(Debug)]
pub struct Registration {
    pub fields: Vec<(String, String)>,
    registered: Registered,
}

impl Ledger {
    pub fn new(process: String, lanes: u16, now: Instant) -> Ledger {
        Ledger {
            process,
            began: now,
            registered: None,
            era: 0,
            xmin: None,
            lanes: vec![Lane::default(); usize::from(lanes)],
            left: Left::default(),
        }
    }

    /// What this process is called in Redis.
    pub fn process(&self) -> &str {
        &self.process
    }

    pub fn era(&self) -> u64 {
        self.era
    }

    /// A batch is about to be stored: it will have a txid above any that is known now.
    pub fn begin(&mut self, lane: usize) {
        self.lanes[lane].bound = Some(self.xmin.unwrap_or(BEGINNING));
    }

    /// It is stored, the oldest of its rows by this transaction.
    pub fn stored(&mut self, lane: usize, txid_min: Option<i64>) {
        self.lanes[lane].bound = txid_min;
    }

    /// Its members are in Redis, or noted as missing.
    pub fn done(&mut self, lane: usize) {
        self.lanes[lane].bound = None;
    }

    /// Given up on the way: another lane, or another process, will get its messages.
    pub fn leave(&mut self, lane: usize, now: Instant) {
        if let Some(bound) = self.lanes[lane].bound.take() {
            self.left.turn(now);
            self.left.now = lowest([self.left.now, Some(bound)]);
        }
    }

    /// Postgres has noted this as missing, or all is to be made anew.
    pub fn hold_down(&mut self, missing: Option<i64>, rebuild: bool, now: Instant) {
        let bound = if rebuild { Some(BEGINNING) } else { missing };
        self.left.turn(now);
        self.left.now = lowest([self.left.now, bound]);
    }

    /// The step that this lane's next batch ends with; `None` before a registration.
    pub fn tick(&self, lane: usize) -> Option<Tick> {
        self.registered.as_ref()?;
        let Lane { era, ticks, .. } = self.lanes[lane];
        let from = (era == self.era).then_some(ticks);
        Some(Tick { field: self.lane_field(lane), from, to: ticks + 1 })
    }

    pub fn ticked(&mut self, lane: usize, era: u64) {
        if era == self.era {
            self.lanes[lane].era = era;
            self.lanes[lane].ticks += 1;
        }
    }

    pub fn expected(&self) -> Expected {
        let lanes = self.lanes.iter().enumerate().filter(|(_, lane)| lane.era == self.era);
        let lanes = lanes.map(|(at, lane)| (self.lane_field(at), lane.ticks));
        // Era 0 is none: no lane has ticked in it.
        let lanes = if self.registered.is_some() { lanes.collect() } else { Vec::new() };
        Expected { era: self.era, lanes }
    }

    /// What a look shows, by what was expected before it.
    pub fn judge(&self, expected: &Expected, sight: &Sighting) -> Verdict {
        let lost = |reason| Verdict::Lost(Loss { bound: self.bound(sight), reason });
        let Some(registered) = &self.registered else {
            return self.unknown(sight).map_or(Verdict::Whole, lost);
        };
        let seen = self.number(sight, "seen");
        if !registered.servers.is_subset(&sight.servers) {
            return lost("another run or another server");
        }
        if seen.is_none() && self.handled(sight) {
            return Verdict::Forgotten;
        }
        let went_back = expected.era == self.era && self.went_back(expected, sight);
        match went_back || !registered.holds(seen) {
            true => lost("the watermark went back"),
            false => Verdict::Whole,
        }
    }

    /// The same run was emptied, or somebody took us for dead. Whoever registered first after that
    /// noted it for all before, or the generation is missing, which says as much.
    fn handled(&self, sight: &Sighting) -> bool {
        let names = sight.watermark.get(SERVER);
        names.is_some_and(|names| *names == joined(&sight.servers)) && !sight.servers.is_empty()
    }

    fn went_back(&self, expected: &Expected, sight: &Sighting) -> bool {
        expected.lanes.iter().any(|(field, ticks)| {
            let found = sight.watermark.get(field).and_then(|text| text.parse::<u64>().ok());
            found.is_none_or(|found| found < *ticks)
        })
    }

    /// Of a Redis that this process never wrote to.
    fn unknown(&self, sight: &Sighting) -> Option<&'static str> {
        if sight.watermark.is_empty() {
            return sight.meta.generation.is_some().then_some("no watermark beside the sets");
        }
        let then = sight.watermark.get(SERVER).map_or("", String::as_str);
        let known = then.split(',').all(|id| sight.servers.contains(id));
        let silent = sight.servers.is_empty();
        (!known && !silent).then_some("another run or another server")
    }

    /// The lowest that anything lost can be. `None` where it cannot be told.
    pub fn bound(&self, sight: &Sighting) -> Option<i64> {
        // Somebody's floor is always there, but where all was emptied.
        if sight.clustered || floors(sight).next().is_none() {
            return None;
        }
        let own = self.registered.as_ref().map(|registered| match self.number(sight, "floor") {
            Some(_) => registered.floor,
            // It went back behind our registration, or somebody took us for dead.
            None => registered.first,
        });
        // From the beginning on, a rebuild is what helps: it takes out phantoms as well.
        lowest(floors(sight).map(Some).chain([own])).filter(|bound| *bound > BEGINNING)
    }

    /// Moves the floor, with an `xmin` just asked for; `None` before a registration.
    pub fn advance(&mut self, xmin: i64, now: Instant, unix_secs: u64) -> Option<Advance> {
        self.xmin = Some(xmin);
        let ahead = self.low(xmin, now);
        let field = self.field("floor");
        let seen_field = self.field("seen");
        let registered = self.registered.as_mut()?;
        let next = (registered.seen + 1).max(unix_secs);
        let to = *registered.trying.get_or_insert(next);
        let tick = Tick { field: seen_field, from: Some(registered.seen), to };
        let floor = registered.ahead.min(ahead);
        Some(Advance { tick, field, floor, era: self.era, ahead })
    }

    pub fn advanced(&mut self, advance: &Advance) {
        if advance.era != self.era {
            return;
        }
        if let Some(registered) = &mut self.registered {
            registered.seen = advance.tick.to;
            registered.trying = None;
            registered.floor = advance.floor;
            registered.ahead = advance.ahead;
        }
    }

    /// What to write once the loss, if there is one, is noted and held down. The floor stays below
    /// it: until the next look nobody knows that the note and this stand on the same server.
    pub fn registration(
        &mut self,
        xmin: i64,
        loss: Option<&Loss>,
        servers: &BTreeSet<String>,
        now: Instant,
        unix_secs: u64,
    ) -> Registration {
        self.xmin = Some(xmin);
        let ahead = self.low(xmin, now);
        let floor = loss.and_then(|loss| loss.bound).map_or(ahead, |bound| bound.min(ahead));
        let seen = self.registered.as_ref().map_or(0, |last| last.seen + 1).max(unix_secs);
        let fields = vec![
            (self.field("seen"), seen.to_string()),
            (self.field("floor"), floor.to_string()),
            (SERVER.to_owned(), joined(servers)),
        ];
        let servers = servers.clone();
        let registered = Registered { servers, first: floor, floor, ahead, seen, trying: None };
        Registration { fields, registered }
    }

    pub fn registered(&mut self, registration: Registration) {
        self.registered = Some(registration.registered);
        self.era += 1;
    }

    /// Fields to take out at a clean end; none where something was left on its way. The floor stays
    /// in any case, until the next process has one: it bounds what comes after this process, too.
    pub fn last_words(&mut self, now: Instant) -> Vec<String> {
        if self.registered.is_none() || self.in_flight(now).is_some() {
            return Vec::new();
        }
        let lanes = (0..self.lanes.len()).map(|lane| self.lane_field(lane));
        lanes.chain([self.field("seen")]).collect()
    }

    /// Fields of processes that have not looked for `LEFT_MAX`.
    pub fn forgotten(&self, sight: &Sighting, now: Instant, unix_secs: u64) -> Vec<String> {
        if now.saturating_duration_since(self.began) < LEFT_MAX {
            return Vec::new();
        }
        let process = |field: &str| field.split_once('/').map(|(process, _)| process.to_owned());
        let lately = |process: &str| {
            let seen = sight.watermark.get(&format!("{process}/seen"));
            let seen = seen.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            seen + LEFT_MAX.as_secs() >= unix_secs
        };
        let gone = |field: &&String| {
            process(field).is_some_and(|name| name != self.process && !lately(&name))
        };
        sight.watermark.keys().filter(gone).cloned().collect()
    }

    /// Below everything that is on its way or yet to come.
    fn low(&mut self, xmin: i64, now: Instant) -> i64 {
        self.in_flight(now).map_or(xmin, |bound| bound.min(xmin))
    }

    fn in_flight(&mut self, now: Instant) -> Option<i64> {
        self.left.turn(now);
        let lanes = self.lanes.iter().map(|lane| lane.bound);
        lowest(lanes.chain([self.left.now, self.left.before]))
    }

    fn field(&self, name: &str) -> String {
        format!("{}/{name}", self.process)
    }

    fn lane_field(&self, lane: usize) -> String {
        self.field(&lane.to_string())
    }

    fn number(&self, sight: &Sighting, name: &str) -> Option<u64> {
        sight.watermark.get(&self.field(name))?.parse().ok()
    }
}

impl Registered {
    fn holds(&self, seen: Option<u64>) -> bool {
        seen.is_some() && (seen == Some(self.seen) || seen == self.trying)
    }
}

impl Left {
    fn turn(&mut self, now: Instant) {
        let turned = *self.turned.get_or_insert(now);
        let since = now.saturating_duration_since(turned);
        // What came just before the turn stays for a whole `LEFT_MAX` after it.
        if since >= LEFT_MAX {
            self.before = if since >= 2 * LEFT_MAX { None } else { self.now };
            self.now = None;
            self.turned = Some(now);
        }
    }
}

fn floors(sight: &Sighting) -> impl Iterator<Item = i64> {
    let floor = |(field, text): (&String, &String)| {
        field.ends_with("/floor").then(|| text.parse().unwrap_or(BEGINNING))
    };
    sight.watermark.iter().filter_map(floor)
}

fn lowest(bounds: impl IntoIterator<Item = Option<i64>>) -> Option<i64> {
    bounds.into_iter().flatten().min()
}
