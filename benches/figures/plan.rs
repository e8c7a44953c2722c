//! What a run consists of, in what order, and how long it will take.
//!
//! Rounds outside, configurations inside: what the machine does to one round it does to all of its
//! configurations alike.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;

use crate::bare::Bare;
use crate::book::Book;
use crate::ceilings::{self, KINDS, Kind, Load, Way};
use crate::cpu::{self, Pids};
use crate::drain::{self, Setup};
use crate::goals::PEERS;
use crate::latency::Who;
use crate::peers::{self, Peer};
use crate::shared::Servers;
use crate::{latency, readers, steady, worker};

pub const CEILINGS: &str = "ceilings";
pub const DRAINED: &str = "drained";
pub const STEADY: &str = "steady";
pub const LATENCY: &str = "latency";
/// The same with a bare consumer: with nothing stored, and with everything.
pub const UNSTORED: &str = "latency, a bare consumer without Postgres";
pub const STORED: &str = "latency, a bare consumer";
pub const TABLE: &str = "table";

pub const RATE: &str = "events/s";
pub const WORKER: &str = "worker µs";
pub const PEAK: &str = "peak MiB";

pub const PUBLISH: &str = "publish with confirms";
pub const TAKE: &str = "consume, one ack for 2,000";
pub const INSERT: &str = "unnest insert of 2,000 rows";
pub const ADD: &str = "SADD of 1,000 members, two sets";
pub const IN_STEP: &str = "the three at once, in step";
pub const FLAT: &str = "the three at once, each as fast as it can: the slowest";
pub const HIGHEST: &str = "publisher and worker together";

/// One measurement.
#[derive(Clone, Copy)]
pub enum Step {
    Ceilings,
    Drain(&'static str, &'static Setup),
    Peer(&'static Peer),
    Steady,
    Latency { part: &'static str, who: Who, per_second: u64, seconds: u64 },
    Readers,
}

/// Parts that a word on the command line can name. All but the last make a whole run.
const PARTS: [&str; 7] = [CEILINGS, DRAINED, PEERS, STEADY, LATENCY, readers::PART, TABLE];

impl Step {
    /// All of a run; of one part where it is named.
    pub fn all(only: Option<&str>, rounds: u32, table: &'static [Setup]) -> Result<Vec<Step>> {
        if let Some(only) = only {
            anyhow::ensure!(PARTS.contains(&only), "{only}: a part is one of {PARTS:?}");
        }
        let wanted = |part: &str| only.map_or(part != TABLE, |only| only == part);
        let mut steps = Vec::new();
        for _ in 0..rounds {
            if wanted(CEILINGS) {
                steps.push(Step::Ceilings);
            }
            if wanted(DRAINED) {
                steps.extend(drain::SETUPS.iter().map(|setup| Step::Drain(DRAINED, setup)));
            }
            if wanted(PEERS) {
                // What they are compared with.
                if only.is_some() {
                    steps.push(Step::Drain(DRAINED, &drain::DEFAULT));
                }
                steps.extend(peers::PEERS.iter().map(Step::Peer));
            }
            if wanted(TABLE) {
                steps.extend(table.iter().map(|setup| Step::Drain(TABLE, setup)));
            }
            if wanted(STEADY) {
                steps.push(Step::Steady);
            }
            if wanted(LATENCY) {
                for &(per_second, seconds) in &latency::RATES {
                    let step = |part, who| Step::Latency { part, who, per_second, seconds };
                    steps.push(step(LATENCY, Who::Rollcall));
                    steps.push(step(UNSTORED, Who::Bare(Bare::Unstored)));
                    steps.push(step(STORED, Who::Bare(Bare::Stored)));
                }
            }
        }
        if wanted(readers::PART) {
            steps.push(Step::Readers);
        }
        Ok(steps)
    }

    /// Seconds on two cores, about: for telling how much is left.
    fn weight(self) -> f64 {
        match self {
            Step::Ceilings => 45.0,
            // 40,000 messages a second are published, 70,000 drained.
            Step::Drain(_, setup) => {
                let messages = setup.events / setup.per_message;
                let bytes = messages as f64 * setup.shape.bytes as f64 * setup.per_message as f64;
                2.0 + messages as f64 / 25_000.0 + bytes / 30e6 + setup.rows as f64 / 80_000.0
            }
            Step::Peer(peer) => 14.0 + peer.events as f64 / 40_000.0,
            Step::Steady => 50.0,
            Step::Latency { seconds, .. } => 4.0 + seconds as f64,
            Step::Readers => 60.0,
        }
    }

    pub fn name(self) -> String {
        match self {
            Step::Ceilings => "ceilings".to_owned(),
            Step::Drain(part, setup) => format!("{part}, {}", setup.name),
            Step::Peer(peer) => format!("{PEERS}, {}", peer.name),
            Step::Steady => "steady state".to_owned(),
            Step::Latency { part, per_second, .. } => format!("{part}, at {per_second} events/s"),
            Step::Readers => "readers".to_owned(),
        }
    }
}

/// What the steps measure.
pub struct Bench {
    pub servers: Arc<Servers>,
    pub pids: Pids,
    pub load: Option<Arc<Load>>,
    pub book: Book,
}

impl Bench {
    /// Runs the steps in order, saying on standard error how far it is.
    pub async fn run(&mut self, steps: &[Step]) -> Result<()> {
        let total: f64 = steps.iter().map(|step| step.weight()).sum();
        if steps.iter().any(|step| matches!(step, Step::Peer(_))) {
            peers::install(&self.servers)?;
        }
        let (began, mut done) = (Instant::now(), 0.0);
        for (number, &step) in steps.iter().enumerate() {
            let spent = began.elapsed().as_secs_f64();
            // By the weights alone until they have been seen to fit this machine.
            let pace = if done > 30.0 { spent / done } else { 1.0 };
            let minutes = (total - done) * pace / 60.0;
            let (at, of) = (number + 1, steps.len());
            eprintln!("bench: {at} of {of}, {}; {minutes:.0} min left", step.name());
            let said = self.step(step).await?;
            eprintln!("bench:     {said}");
            done += step.weight();
        }
        Ok(())
    }

    async fn step(&mut self, step: Step) -> Result<String> {
        match step {
            Step::Ceilings => self.ceilings().await,
            Step::Drain(part, setup) => {
                let drained = drain::drain(&self.servers, &self.pids, setup).await?;
                let book = &mut self.book;
                book.note(part, setup.name, RATE, drained.events_per_second);
                book.note(part, setup.name, WORKER, drained.worker_micros);
                book.note(part, setup.name, PEAK, drained.peak_mib);
                for (server, micros) in cpu::SERVERS.into_iter().zip(drained.server_micros) {
                    book.note(part, setup.name, server, micros);
                }
                Ok(format!(
                    "{:.0} events/s, {:.2} µs of worker an event, {:.0} MiB",
                    drained.events_per_second, drained.worker_micros, drained.peak_mib
                ))
            }
            Step::Peer(peer) => {
                let drained = peers::drain(&self.servers, peer).await?;
                let peers::Drained { events_per_second, micros, peak_mib } = drained;
                for (what, value) in [(RATE, events_per_second), (WORKER, micros), (PEAK, peak_mib)]
                {
                    self.book.note(PEERS, peer.name, what, value);
                }
                Ok(format!("{events_per_second:.0} events/s, {micros:.1} µs an event"))
            }
            Step::Steady => {
                let near = self.book.median(STEADY, HIGHEST, RATE);
                let rate = steady::highest(&self.servers, near).await?;
                self.book.note(STEADY, HIGHEST, RATE, rate);
                Ok(format!("{rate:.0} events/s"))
            }
            Step::Latency { part, who, per_second, seconds } => {
                let took = latency::measure(&self.servers, who, per_second, seconds).await?;
                let row = per_second.to_string();
                let of = [("p50", took.p50), ("p99", took.p99), ("p99.9", took.p999)];
                for (what, took) in of {
                    self.book.note(part, &row, what, took);
                }
                Ok(of.map(|(what, took)| format!("{what} {:.2} ms", took * 1e3)).join(", "))
            }
            Step::Readers => {
                readers::measure(&self.servers, &mut self.book).await?;
                Ok("done".to_owned())
            }
        }
    }

    async fn ceilings(&mut self) -> Result<String> {
        let load = match &self.load {
            Some(load) => load.clone(),
            None => self.load.insert(Arc::new(Load::new(drain::DEFAULT.events))).clone(),
        };
        let (servers, all) = (&self.servers, load.len());
        let mut rates = Vec::new();
        worker::reset(servers).await?;
        rates.push((PUBLISH, ceilings::publish(servers, &load, all).await?));
        for (name, kind, times) in
            [(TAKE, Kind::Take, 1), (INSERT, Kind::Insert, 2), (ADD, Kind::Add, 8)]
        {
            let way = Way::Times(times);
            // `take` ends with the queue.
            let rate = ceilings::run(servers, &load, &[kind], way, all).await?[0];
            rates.push((name, rate));
        }
        for (name, way, queued) in [(IN_STEP, Way::InStep, all), (FLAT, Way::Flat, all * 3 / 2)] {
            worker::reset(servers).await?;
            ceilings::publish(servers, &load, queued).await?;
            let three = ceilings::run(servers, &load, &KINDS, way, queued).await?;
            rates.push((name, three.into_iter().fold(f64::MAX, f64::min)));
        }
        for &(name, rate) in &rates {
            self.book.note(CEILINGS, name, RATE, rate);
        }
        let said: Vec<String> =
            rates.iter().map(|(name, rate)| format!("{name} {rate:.0}")).collect();
        Ok(said.join("; "))
    }
}
