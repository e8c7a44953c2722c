//! The core of ingest (supervisor, session, lane, batch, flush, hold, the search for bad rows) run
//! against models of the three servers that fail, hang, reorder, repeat and lose answers, on a
//! clock that is simulated as well. One seed is one run: `SIMULATION_SEED=n cargo test --lib
//! simulation` runs it again and prints what happened.
//!
//! The models judge each step when it is taken (an ack before both stores have the events, a member
//! that no stored row supports); what must be true in the end is judged there.

mod broker;
pub mod dice;
mod load;
mod projection;
mod queue;
mod store;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use world::{Sim, World};

/// Runs of `cargo test`; the environment's `SIMULATION_SEEDS` says another number.
const SEEDS: u64 = 2_000;
/// After the last fault everything must be settled in this time. Most of it is for the poison,
/// which kills its worker until the broker gives it up, and for a breaker that waits.
const CALM_MAX: Duration = Duration::from_secs(1800);

/// What one run came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    violations: Vec<String>,
    trace: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

fn simulate(seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can always be made");
    runtime.block_on(async {
        let sim = Sim::new(World::new(seed));
        let faults = tokio::spawn(world::faults(sim.clone()));
        let workers = worker::start(&sim);
        load::publish(&sim).await;
        faults.await.expect("faults do not panic");
        sim.lock().calm = true;
        sim.say("calm".to_owned());
        let since = Instant::now();
        while !sim.lock().broker.is_empty() && since.elapsed() < CALM_MAX {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        sim.lock().judge_emptiness(CALM_MAX);
        worker::stop(&sim, workers).await;
        let mut world = sim.lock();
        world.judge();
        Outcome {
            violations: std::mem::take(&mut world.violations),
            trace: std::mem::take(&mut world.trace),
            counts: std::mem::take(&mut world.counts),
        }
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a seed is a number"))
}

/// Every cause that a run can have must have had its effect in some run.
const MUST_HAPPEN: &[&str] = &[
    "ack lost",
    "broken half way through redis",
    "cancelled by the broker",
    "commit without a reply",
    "condemned twice",
    "connection cut",
    "consumer cancelled with messages on the way",
    "crash",
    "deadlock",
    "drained",
    "duplicate stored again",
    "given up by the broker",
    "held too long",
    "id conflict",
    "no partition",
    "one row refused by a constraint",
    "payload refused",
    "redelivery",
    "suspect",
    "timed out",
    "wrong type",
];

#[test]
fn whatever_fails_nothing_is_lost_and_nothing_invented() {
    if let Some(seed) = number("SIMULATION_SEED") {
        let outcome = simulate(seed);
        println!("{}\n{:#?}", outcome.trace.join("\n"), outcome.counts);
        assert_eq!(outcome.violations, Vec::<String>::new(), "SIMULATION_SEED={seed}");
        return;
    }
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let next = Mutex::new(0..seeds);
    let failed = Mutex::new(Vec::new());
    let counts: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = next.lock().unwrap().next() else { return };
                    let outcome = simulate(seed);
                    for (what, count) in outcome.counts {
                        *counts.lock().unwrap().entry(what).or_default() += count;
                    }
                    if !outcome.violations.is_empty() {
                        failed.lock().unwrap().push((seed, outcome.violations));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    let counts = counts.into_inner().unwrap();
    println!("{seeds} seeds: {counts:#?}");
    assert!(
        failed.is_empty(),
        "{} of {seeds} seeds failed; replay one with SIMULATION_SEED={}\n{:#?}",
        failed.len(),
        failed[0].0,
        &failed[..failed.len().min(5)]
    );
    let missing: Vec<_> = MUST_HAPPEN.iter().filter(|what| !counts.contains_key(*what)).collect();
    assert!(missing.is_empty() || seeds < 500, "inconclusive, these never happened: {missing:?}");
}

/// Else a seed that failed once would say nothing.
#[test]
fn the_same_seed_takes_the_same_course() {
    for seed in 0..20 {
        assert_eq!(simulate(seed), simulate(seed), "seed {seed}");
    }
}
