//! The ledger against a model of Redis that comes back with any prefix of its commands, of Postgres
//! with overlapping transactions, and of a repairer; every step of every process in any order. In
//! the end each acknowledged row's member must be there. One seed is one run.

mod process;
mod redis;

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use self::process::{Batch, Look, Note, Process};
use self::redis::{Command, Redis};
use super::*;
use crate::ingest::simulation::dice::Dice;

const SEEDS: u64 = 3_000;
const STEPS: usize = 400;
const LANES: u16 = 2;

struct World {
    dice: Dice,
    now: Instant,
    secs: u64,
    redis: Redis,
    next_txid: i64,
    running: BTreeSet<i64>,
    stored: BTreeSet<i64>,
    acked: BTreeSet<i64>,
    /// Stored, not acknowledged, and with nobody.
    returned: Vec<Vec<i64>>,
    processes: Vec<Process>,
    names: u64,
    note: Note,
    /// The note that is being worked off, and the rows still to add.
    repair: Option<(Note, Vec<i64>)>,
    counts: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let processes = dice.between(1, 3);
        let mut world = World {
            dice,
            now: Instant::now(),
            secs: 1_000,
            redis: Redis::new(),
            next_txid: 10,
            running: BTreeSet::new(),
            stored: BTreeSet::new(),
            acked: BTreeSet::new(),
            returned: Vec::new(),
            processes: Vec::new(),
            names: 0,
            note: Note::default(),
            repair: None,
            counts: BTreeMap::new(),
        };
        for _ in 0..processes {
            let process = world.process();
            world.processes.push(process);
        }
        world
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn process(&mut self) -> Process {
        self.names += 1;
        let ledger = Ledger::new(format!("p{}", self.names), LANES, self.now);
        let lanes = vec![Batch::Idle; usize::from(LANES)];
        Process { ledger, lanes, look: Look::Idle }
    }

    fn xmin(&self) -> i64 {
        self.running.first().copied().unwrap_or(self.next_txid)
    }

    fn noted(&mut self, bound: Option<i64>) {
        self.note.version += 1;
        match bound {
            Some(bound) => self.note.from = lowest([self.note.from, Some(bound)]),
            None => self.note.rebuild = true,
        }
        self.count(if bound.is_some() { "bounded loss" } else { "unbounded loss" });
    }

    fn step(&mut self) {
        let at = self.dice.below(self.processes.len());
        match self.dice.below(100) {
            0..=64 => {
                let lane = self.dice.below(usize::from(LANES));
                self.step_lane(at, lane);
            }
            65..=84 => self.step_look(at, None),
            85..=92 => self.step_repair(),
            93 if self.dice.permille(100) => {
                self.redis.empty();
                self.repair = None;
                self.count("emptied");
            }
            93 => self.fail_over(),
            94 => self.die(at),
            95 => self.end(at),
            _ => self.give_up(at),
        }
    }

    fn step_lane(&mut self, at: usize, lane: usize) {
        if self.processes[at].ledger.tick(lane).is_none() {
            return self.step_look(at, None);
        }
        let batch = std::mem::replace(&mut self.processes[at].lanes[lane], Batch::Idle);
        let next = match batch {
            Batch::Idle => {
                self.processes[at].ledger.begin(lane);
                let again = !self.returned.is_empty() && self.dice.permille(800);
                let mut rows = if again { self.returned.remove(0) } else { Vec::new() };
                rows.push(self.next_txid);
                self.running.insert(self.next_txid);
                self.next_txid += 1;
                Batch::Inserting(rows)
            }
            Batch::Inserting(rows) => {
                self.running.remove(&rows[rows.len() - 1]);
                self.stored.extend(&rows);
                self.processes[at].ledger.stored(lane, rows.iter().copied().min());
                Batch::Adding(rows, 0)
            }
            Batch::Adding(rows, added) if added < rows.len() && self.dice.permille(950) => {
                self.redis.run(Command::Add(rows[added]));
                Batch::Adding(rows, added + 1)
            }
            // Redis is away for this one.
            Batch::Adding(rows, added) if added < rows.len() => {
                self.note.version += 1;
                self.note.from = lowest([self.note.from, rows.iter().copied().min()]);
                self.count("skipped");
                self.processes[at].ledger.leave(lane, self.now);
                self.acked.extend(rows);
                Batch::Idle
            }
            Batch::Adding(rows, _) => self.finish(at, lane, rows),
        };
        self.processes[at].lanes[lane] = next;
    }

    fn finish(&mut self, at: usize, lane: usize, rows: Vec<i64>) -> Batch {
        let (era, tick) = {
            let ledger = &self.processes[at].ledger;
            (ledger.era(), ledger.tick(lane).expect("registered"))
        };
        if !self.redis.moves(&tick, None) {
            self.count("seen by a lane");
            if !matches!(self.processes[at].look, Look::Registering { .. }) {
                self.step_look(at, Some("moved"));
            }
            return Batch::Adding(rows, 0);
        }
        let ledger = &mut self.processes[at].ledger;
        ledger.ticked(lane, era);
        ledger.done(lane);
        self.acked.extend(rows);
        Batch::Idle
    }

    /// One step of a look, or where a lane saw a loss the first of its registration.
    fn step_look(&mut self, at: usize, seen: Option<&'static str>) {
        let (now, secs, note) = (self.now, self.secs, self.note);
        let (servers, xmin) = (self.redis.servers(), self.xmin());
        self.secs += 1;
        let look = std::mem::replace(&mut self.processes[at].look, Look::Idle);
        let look = if seen.is_some() { Look::Idle } else { look };
        self.processes[at].look = match look {
            Look::Idle if seen.is_some() || self.processes[at].ledger.era() == 0 => {
                self.examine(at, xmin, servers, seen)
            }
            Look::Idle => {
                Look::Asked { xmin, note, expected: self.processes[at].ledger.expected() }
            }
            Look::Asked { xmin, note, expected } => Look::Named { xmin, note, expected, servers },
            Look::Named { xmin, note, expected, servers } => {
                let sight = self.redis.sight(servers);
                let rebuild = note.rebuild || sight.meta.generation.is_none();
                let ledger = &mut self.processes[at].ledger;
                ledger.hold_down(note.from, rebuild, now);
                let verdict = ledger.judge(&expected, &sight);
                match (ledger.advance(xmin, now, secs), verdict) {
                    (Some(advance), Verdict::Whole) => Look::Advancing(advance),
                    (_, Verdict::Lost(loss)) => {
                        self.count("seen by a look");
                        let servers = self.redis.servers();
                        self.examine(at, xmin, servers, Some(loss.reason))
                    }
                    (_, Verdict::Whole | Verdict::Forgotten) => {
                        self.count("forgotten");
                        let servers = self.redis.servers();
                        self.examine(at, xmin, servers, None)
                    }
                }
            }
            Look::Advancing(advance) => {
                let floor = (advance.field.clone(), advance.floor.to_string());
                if self.redis.moves(&advance.tick, Some(floor)) {
                    // Now and then the answer is lost.
                    if self.dice.permille(900) {
                        self.processes[at].ledger.advanced(&advance);
                    }
                    Look::Idle
                } else {
                    let servers = self.redis.servers();
                    self.examine(at, xmin, servers, Some("moved"))
                }
            }
            Look::Registering { loss, sight, xmin } => {
                let rebuild = note.rebuild || sight.meta.generation.is_none();
                let ledger = &mut self.processes[at].ledger;
                ledger.hold_down(note.from, rebuild && !self.stored.is_empty(), now);
                let registration =
                    ledger.registration(xmin, loss.as_ref(), &sight.servers, now, secs);
                self.redis.run(Command::Set(registration.fields.clone()));
                self.processes[at].ledger.registered(registration);
                if self.stored.is_empty() && !self.redis.has_generation() {
                    self.redis.run(Command::Generation);
                }
                Look::Idle
            }
        };
    }

    /// Up to the commit of the note.
    fn examine(
        &mut self,
        at: usize,
        xmin: i64,
        servers: BTreeSet<String>,
        seen: Option<&'static str>,
    ) -> Look {
        let sight = self.redis.sight(servers);
        let ledger = &self.processes[at].ledger;
        let loss = match ledger.judge(&ledger.expected(), &sight) {
            Verdict::Lost(loss) => Some(loss),
            Verdict::Forgotten => None,
            Verdict::Whole => seen.map(|reason| Loss { bound: ledger.bound(&sight), reason }),
        };
        if let Some(loss) = &loss
            && !self.stored.is_empty()
        {
            self.noted(loss.bound);
        }
        Look::Registering { loss, sight, xmin }
    }

    fn step_repair(&mut self) {
        let Some((note, mut rows)) = self.repair.take() else {
            let note = self.note;
            let from = match note.rebuild || !self.redis.has_generation() {
                true => (!self.stored.is_empty()).then_some(0),
                false => note.from,
            };
            if let Some(from) = from {
                self.repair = Some((note, self.stored.range(from..).copied().collect()));
            }
            return;
        };
        for _ in 0..3 {
            if let Some(row) = rows.pop() {
                self.redis.run(Command::Add(row));
            }
        }
        if !rows.is_empty() {
            self.repair = Some((note, rows));
            return;
        }
        if !self.redis.has_generation() {
            self.redis.run(Command::Generation);
        }
        if self.note.version == note.version {
            (self.note.from, self.note.rebuild) = (None, false);
            self.count("repaired");
        }
    }

    /// Another server takes over, with a prefix of the commands; never without the first.
    fn fail_over(&mut self) {
        if self.redis.is_empty() || self.dice.permille(700) {
            return;
        }
        let back = self.dice.between(0, 60) as usize;
        self.redis.fail_over(back);
        if !self.redis.has_generation() {
            // It looks at the end whether it is on the server that it began on.
            self.repair = None;
        }
        self.count("failover");
    }

    fn die(&mut self, at: usize) {
        let fresh = self.process();
        let died = std::mem::replace(&mut self.processes[at], fresh);
        died.lanes.into_iter().for_each(|batch| self.return_rows(batch));
        self.count("death");
    }

    fn end(&mut self, at: usize) {
        let idle = |batch: &Batch| matches!(batch, Batch::Idle);
        if self.processes[at].lanes.iter().all(idle) {
            let fields = self.processes[at].ledger.last_words(self.now);
            if !fields.is_empty() {
                self.redis.run(Command::Unset(fields));
                self.count("clean end");
            }
            self.processes[at] = self.process();
        }
    }

    fn give_up(&mut self, at: usize) {
        let lane = self.dice.below(usize::from(LANES));
        self.processes[at].ledger.leave(lane, self.now);
        let batch = std::mem::replace(&mut self.processes[at].lanes[lane], Batch::Idle);
        self.return_rows(batch);
    }

    fn return_rows(&mut self, batch: Batch) {
        match batch {
            Batch::Idle => {}
            Batch::Inserting(mut rows) => {
                // Its commit came through, and nobody heard of it.
                let new = rows[rows.len() - 1];
                self.running.remove(&new);
                if self.dice.permille(500) {
                    self.stored.insert(new);
                } else {
                    rows.pop();
                }
                if !rows.is_empty() {
                    self.returned.push(rows);
                }
            }
            Batch::Adding(rows, _) => self.returned.push(rows),
        }
    }

    /// No more faults: lanes finish, looks look, the repair repairs.
    fn settle(&mut self) {
        for _ in 0..40 {
            for at in 0..self.processes.len() {
                for lane in 0..usize::from(LANES) {
                    while !matches!(self.processes[at].lanes[lane], Batch::Idle) {
                        self.step_lane(at, lane);
                    }
                }
                (0..4).for_each(|_| self.step_look(at, None));
            }
            (0..100).for_each(|_| self.step_repair());
        }
    }

    fn missing(&self) -> Vec<i64> {
        let added = self.redis.added();
        self.acked.difference(&added).copied().collect()
    }
}

#[test]
fn whatever_redis_forgets_is_noticed_and_bounded() {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        world.settle();
        assert_eq!(world.missing(), Vec::<i64>::new(), "seed {seed}: {:#?}", world.counts);
        for (what, count) in world.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{SEEDS} seeds: {counts:#?}");
    for what in [
        "bounded loss",
        "unbounded loss",
        "emptied",
        "forgotten",
        "skipped",
        "seen by a lane",
        "seen by a look",
        "repaired",
        "clean end",
    ] {
        assert!(counts.contains_key(what), "inconclusive: {what} never happened: {counts:#?}");
    }
}
