//! The figures of the README, measured in one run against the servers in the environment
//! (`AMQP_URL`, `DATABASE_URL`, `REDIS_URL`): `make bench` starts private ones.
//!
//! First what the servers can do with nothing of ours in the way, then a worker against the same
//! servers: drained from a filled queue, idle latency, memory. Ratios within a run hold; the
//! numbers themselves belong to the machine.

mod ceilings;
mod load;
#[path = "../shared/mod.rs"]
mod shared;
mod worker;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Events of one drained queue.
const EVENTS: u64 = 300_000;
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    // `cargo test --all-targets` runs benches with `--test`: measuring is not testing.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> Result<()> {
    let only = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| name.starts_with(only));
    let events: u64 = match std::env::var("BENCH_EVENTS") {
        Ok(text) => text.parse().context("BENCH_EVENTS")?,
        Err(_) => EVENTS,
    };
    let servers = shared::Servers::from_env()?;
    println!("{:<46} {:>12} {:>12} {:>12}", "", "median", "least", "most");
    if wanted("ceilings") {
        let mut rates = [(); 4].map(|()| Vec::new());
        for _ in 0..ROUNDS {
            rates[0].push(ceilings::publish(&servers, events).await?);
            rates[1].push(ceilings::consume(&servers, events).await?);
            rates[2].push(ceilings::insert(&servers, events).await?);
            rates[3].push(ceilings::add(&servers, events).await?);
        }
        let names = [
            "publish with confirms, messages/s",
            "consume only, multiple acks, messages/s",
            "unnest insert only, 2 connections, events/s",
            "SADD only, 2 sets, events/s",
        ];
        for (name, rates) in names.iter().zip(&mut rates) {
            row(name, rates);
        }
    }
    for (name, per_message) in [("single", 1), ("hundred", 100)] {
        if !wanted(name) {
            continue;
        }
        let (mut rates, mut cpu, mut peak) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let drained = worker::drain(&servers, events, per_message).await?;
            rates.push(drained.events_per_second);
            cpu.push(drained.cpu_us_per_event);
            peak.push(drained.peak_mib);
        }
        row(&format!("drained, {per_message} a message, events/s"), &mut rates);
        row("  worker CPU, µs an event", &mut cpu);
        row("  worker peak memory, MiB", &mut peak);
    }
    if wanted("latency") {
        let mut seconds = worker::latency(&servers, 100, Duration::from_secs(20)).await?;
        seconds.sort_by(f64::total_cmp);
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let at = ((seconds.len() - 1) as f64 * share).round() as usize;
            println!(
                "{:<46} {:>12.2}",
                format!("confirmed -> SCARD, 100/s, {name}, ms"),
                seconds[at] * 1e3
            );
        }
    }
    if wanted("memory") {
        let peak = worker::memory_of_large_messages(&servers, 500, 900 << 10).await?;
        println!("{:<46} {peak:>12.1}", "peak memory, 500 messages of 900 KiB, MiB");
        let drained = worker::drain(&servers, 1_000_000, 1).await?;
        println!("{:<46} {:>12.1}", "peak memory, 1 M single events, MiB", drained.peak_mib);
        println!("{:<46} {:>12.0}", "  drained at, events/s", drained.events_per_second);
    }
    Ok(())
}

fn row(name: &str, values: &mut [f64]) {
    values.sort_by(f64::total_cmp);
    let (least, median, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    let digits = if median < 1000.0 { 2 } else { 0 };
    println!("{name:<46} {median:>12.digits$} {least:>12.digits$} {most:>12.digits$}");
}

/// Events a second over a timed piece of work.
async fn rate<T>(events: u64, work: impl Future<Output = Result<T>>) -> Result<f64> {
    let started = Instant::now();
    work.await?;
    Ok(events as f64 / started.elapsed().as_secs_f64())
}
