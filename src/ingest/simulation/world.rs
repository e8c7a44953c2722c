//! What is true in a simulated run, what may go wrong in it, and the laws.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::dice::Dice;
use super::load::{Element, Fate, Key, Load, Message};
use super::queue::Queue;

/// How often things go wrong in this run, per thousand of each step. Many runs are calm in most
/// respects: faults hide each other.
pub struct Faults {
    pub store: u32,
    pub projection: u32,
    pub broker: u32,
    pub duplicates: u32,
    pub store_away: Outage,
    pub projection_away: Outage,
    /// Connections cut and processes killed, each at a random moment.
    pub cuts: u64,
    pub crashes: u64,
    pub drains: u64,
    /// Until the last of those.
    pub span: Duration,
    /// Longest wait between two publishes, milliseconds.
    pub pace: u64,
    pub wrong_type: bool,
    /// Longest time that a store takes, milliseconds.
    pub slow: u64,
}

impl Faults {
    fn new(dice: &mut Dice) -> Faults {
        let mut rate = |some: &[u32]| dice.pick(some);
        let (store, projection) = (rate(&[0, 0, 20, 200]), rate(&[0, 0, 20, 200]));
        let (broker, duplicates) = (rate(&[0, 0, 20, 100]), rate(&[0, 50, 400]));
        let span = dice.millis(100, 20_000);
        let (store_away, projection_away) = (Outage::new(dice), Outage::new(dice));
        Faults {
            store,
            projection,
            broker,
            duplicates,
            store_away,
            projection_away,
            cuts: dice.pick(&[0, 0, 1, 4]),
            crashes: dice.pick(&[0, 0, 1, 4]),
            drains: dice.pick(&[0, 0, 3]),
            span,
            pace: dice.pick(&[0, 20, 400]),
            wrong_type: dice.permille(100),
            slow: dice.pick(&[2, 20, 300]),
        }
    }
}

/// Steps on a store fail from one moment of the run to another.
#[derive(Clone, Copy, Default)]
pub struct Outage {
    from: Duration,
    to: Duration,
    /// But for a second after each so many: long enough for a batch, not for all that waits.
    blinks: Option<Duration>,
}

impl Outage {
    fn new(dice: &mut Dice) -> Outage {
        if !dice.permille(200) {
            return Outage::default();
        }
        let from = dice.millis(0, 10_000);
        let to = from + dice.millis(100, 200_000);
        let blinks = dice.permille(500).then(|| dice.millis(3_000, 38_000));
        Outage { from, to, blinks }
    }

    fn holds(self, at: Duration) -> bool {
        let blink = self.blinks.is_some_and(|every| {
            let since = at.saturating_sub(self.from).as_millis();
            since % (every.as_millis() + 1000) >= every.as_millis()
        });
        (self.from..self.to).contains(&at) && !blink
    }
}

pub struct World {
    pub dice: Dice,
    pub faults: Faults,
    pub load: Load,
    began: Instant,
    /// No more faults from here on.
    pub calm: bool,
    pub broker: Queue,
    pub rows: BTreeMap<Key, String>,
    pub sets: BTreeMap<String, BTreeSet<String>>,
    /// Members that some stored row adds, by key.
    pub supported: BTreeSet<(String, String)>,
    /// Who waits to be told to die, one for each worker.
    pub killed: Vec<Arc<Notify>>,
    pub told_to_drain: Vec<Arc<Notify>>,
    pub violations: Vec<String>,
    pub trace: Vec<String>,
    pub counts: BTreeMap<&'static str, u64>,
}

/// The key that holds another type, in runs that have one.
pub const WRONG_TYPE: &str = "s:users:c1";

impl World {
    pub fn new(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let faults = Faults::new(&mut dice);
        let load = Load::new(&mut dice);
        let workers = dice.between(1, 3) as usize;
        World {
            faults,
            load,
            began: Instant::now(),
            calm: false,
            broker: Queue::default(),
            rows: BTreeMap::new(),
            sets: BTreeMap::new(),
            supported: BTreeSet::new(),
            killed: (0..workers).map(|_| Arc::default()).collect(),
            told_to_drain: (0..workers).map(|_| Arc::default()).collect(),
            violations: Vec::new(),
            trace: Vec::new(),
            counts: BTreeMap::new(),
            dice,
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn violate(&mut self, what: String) {
        self.violations.push(format!("{:?}: {what}", self.began.elapsed()));
    }

    /// Whether a step fails that does so many times in a thousand.
    pub fn fails(&mut self, permille: u32) -> bool {
        !self.calm && self.dice.permille(permille)
    }

    pub fn is_away(&self, outage: Outage) -> bool {
        !self.calm && outage.holds(self.began.elapsed())
    }

    /// An element's fate is sealed: it is where it must be. Judged with each ack.
    fn is_safe(&self, element: &Element) -> Result<(), String> {
        let condemned = |reason: &str| {
            let found = self
                .broker
                .letters
                .iter()
                .any(|letter| letter.body == element.text && letter.reason == reason);
            found.then_some(()).ok_or(format!("no dead letter {reason} of {}", element.text))
        };
        match &element.fate {
            Fate::Condemned(reason) => condemned(reason),
            Fate::Stored { key, adds } => match self.rows.get(key) {
                None => Err(format!("not stored: {}", element.text)),
                Some(stored) if *stored != element.text => condemned("id_conflict"),
                Some(_) => adds.iter().try_for_each(|(key, member)| {
                    let there = self.sets.get(key).is_some_and(|set| set.contains(member));
                    match there || self.has_wrong_type(key) {
                        true => Ok(()),
                        false => Err(format!("{member} is not in {key}")),
                    }
                }),
            },
        }
    }

    pub fn has_wrong_type(&self, key: &str) -> bool {
        self.faults.wrong_type && key == WRONG_TYPE
    }

    /// A message is acknowledged: nobody will hand it out again.
    pub fn judge_ack(&mut self, message: &Message) {
        let unsafe_one = message.elements.iter().find_map(|element| self.is_safe(element).err());
        if let Some(why) = unsafe_one {
            self.violate(format!("message {} was acknowledged, and {why}", message.number));
        }
    }

    pub fn judge_emptiness(&mut self, within: Duration) {
        if !self.broker.is_empty() {
            let left = self.broker.describe();
            self.violate(format!("{within:?} after the last fault: {left}"));
        }
    }

    /// In the end, and with no worker running.
    pub fn judge(&mut self) {
        let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (key, member) in self.supported.clone() {
            if !self.has_wrong_type(&key) {
                wanted.entry(key).or_default().insert(member);
            }
        }
        if self.sets != wanted {
            let (found, wanted) = (format!("{:?}", self.sets), format!("{wanted:?}"));
            self.violate(format!("sets are {found}, not {wanted}"));
        }
        for message in self.load.messages.clone() {
            if message.poison {
                continue;
            }
            for element in &message.elements {
                if let Err(why) = self.is_safe(element) {
                    self.violate(format!("in the end {why}"));
                }
            }
        }
        self.judge_letters();
    }

    /// Of the bad, each; of the good, none. Twice is allowed, but not without a fault.
    fn judge_letters(&mut self) {
        let mut fates: BTreeMap<&str, &Fate> = BTreeMap::new();
        let mut poison = "";
        for message in &self.load.messages {
            for element in &message.elements {
                fates.insert(&element.text, &element.fate);
                if message.poison {
                    poison = &element.text;
                }
            }
        }
        let mut wrong = Vec::new();
        let mut seen = BTreeSet::new();
        let mut twice = 0;
        for letter in &self.broker.letters {
            let right = match (letter.reason, fates.get(letter.body.as_str())) {
                ("broker", _) => letter.body == poison,
                ("id_conflict", Some(Fate::Stored { key, .. })) => {
                    self.rows.get(key).is_some_and(|stored| *stored != letter.body)
                }
                (reason, Some(Fate::Condemned(wanted))) => reason == *wanted,
                _ => false,
            };
            if !right {
                wrong.push(format!("a dead letter {}: {}", letter.reason, letter.body));
            }
            twice += u64::from(!seen.insert(letter.body.clone()));
        }
        if !poison.is_empty() && !seen.contains(poison) {
            wrong.push("the poison was not given up".to_owned());
        }
        wrong.into_iter().for_each(|what| self.violate(what));
        *self.counts.entry("condemned twice").or_default() += twice;
        self.counts.retain(|_, count| *count > 0);
    }
}

/// The world, shared by all who act in it. One thread: the lock is never waited for.
#[derive(Clone)]
pub struct Sim {
    world: Arc<Mutex<World>>,
    changed: Arc<Notify>,
}

impl Sim {
    pub fn new(world: World) -> Sim {
        Sim { world: Arc::new(Mutex::new(world)), changed: Arc::default() }
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no step panics with the lock held")
    }

    /// Wakes consumers that wait for something to read.
    pub fn changed(&self) {
        self.changed.notify_waiters();
    }

    pub fn change(&self) -> &Notify {
        &self.changed
    }

    pub fn say(&self, what: String) {
        let mut world = self.lock();
        let at = world.began.elapsed();
        world.trace.push(format!("{at:?} {what}"));
    }

    pub async fn take_time(&self, longest: u64) {
        let wait = self.lock().dice.millis(1, longest.max(1));
        tokio::time::sleep(wait).await;
    }
}

/// Cuts, kills and drains, each at its moment.
pub async fn faults(sim: Sim) {
    let mut moments = Vec::new();
    {
        let World { dice, faults, .. } = &mut *sim.lock();
        let span = faults.span.as_millis() as u64;
        for (what, count) in
            [("cut", faults.cuts), ("kill", faults.crashes), ("drain", faults.drains)]
        {
            for _ in 0..count {
                moments.push((dice.millis(0, span), what));
            }
        }
    }
    moments.sort();
    let began = Instant::now();
    for (moment, what) in moments {
        tokio::time::sleep_until(began + moment).await;
        sim.say(what.to_owned());
        let mut world = sim.lock();
        let worker = {
            let workers = world.killed.len();
            world.dice.below(workers)
        };
        match what {
            "kill" => world.killed[worker].notify_one(),
            "drain" => world.told_to_drain[worker].notify_one(),
            _ => {
                let World { broker, dice, .. } = &mut *world;
                if broker.cut_one(dice) {
                    world.count("connection cut");
                }
            }
        }
        drop(world);
        sim.changed();
    }
    let end = {
        let world = sim.lock();
        world.faults.store_away.to.max(world.faults.projection_away.to)
    };
    tokio::time::sleep_until(began + end).await;
}
