//! The figures of docs/performance.md and the README, measured in one run against the servers in
//! the environment (`AMQP_URL`, `DATABASE_URL`, `REDIS_URL`, and `BENCH_SERVERS`, the folder of
//! their set): `make bench` starts private ones. It must never be pointed at servers that hold
//! anything: it empties them.
//!
//! What the servers can do with nothing of ours in the way; a worker drained from a filled queue,
//! one factor at a time; what people do instead; publisher and worker together; readers. Ratios
//! within a run hold; the numbers themselves belong to the machine. One part by name prints its
//! tables and writes nothing.

mod bare;
mod book;
mod ceilings;
mod chart;
mod cpu;
mod drain;
mod events;
mod goals;
mod latency;
mod peers;
mod plan;
mod publish;
mod readers;
mod report;
mod rows;
#[allow(dead_code, reason = "each bench takes what it needs")]
#[path = "../shared/mod.rs"]
mod shared;
mod steady;
mod worker;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};

use drain::{DEFAULT, Setup};
use plan::{Bench, Step};
use report::Setting;
use shared::Servers;
use shared::machine::Machine;
use shared::redis::Redis;

/// The worker's: what a client costs is its allocator as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: u32 = 3;
/// Of `BENCH=table`.
const TABLE_ROWS: u64 = 20_000_000;
/// Between these two the README has what a whole run wrote.
const BEGIN: &str = "<!-- make bench: begin -->";
const END: &str = "<!-- make bench: end -->";

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
    let rounds = setting("BENCH_ROUNDS", u64::from(ROUNDS))? as u32;
    let steps = Step::all(only.as_deref(), rounds, table()?)?;
    let set = std::env::var("BENCH_SERVERS").context("BENCH_SERVERS is not set")?;
    let servers = Arc::new(Servers::from_env()?);
    worker::prepare(&servers).await?;
    let mut database = PgConnection::connect(&servers.database).await?;
    let machine = Machine::look(&mut database, &mut Redis::connect(&servers.redis)?).await?;
    database.close().await?;
    let setting = Setting { machine, rabbitmq: rabbitmq(&set)?, rounds };
    let pids = cpu::Pids::find(&set)?;
    let mut bench = Bench { servers, pids, load: None, book: Default::default() };
    bench.run(&steps).await?;
    worker::reset(&bench.servers).await?;
    // What is published is a whole run of this build.
    let whole = only.is_none() && std::env::var_os("BENCH_BINARY").is_none();
    if whole {
        write(&setting, &bench)?;
    }
    println!("{}", report::page(&setting, &bench.book));
    Ok(())
}

/// The same on an empty table and on a large one.
fn table() -> Result<&'static [Setup]> {
    let rows = setting("BENCH_ROWS", TABLE_ROWS)?;
    let name = format!("{} rows in the table", shared::words::grouped(rows));
    let full = Setup { name: name.leak(), rows, ..DEFAULT };
    let empty = Setup { name: "an empty table", ..DEFAULT };
    Ok(Vec::from([empty, full]).leak())
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}: {text}")),
        Err(_) => Ok(default),
    }
}

fn rabbitmq(set: &str) -> Result<String> {
    let output = Command::new("scripts/servers").args(["rabbitmqctl", set, "version"]).output()?;
    ensure!(output.status.success(), "rabbitmqctl version");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn write(setting: &Setting, bench: &Bench) -> Result<()> {
    let docs = Path::new("docs");
    std::fs::create_dir_all(docs)?;
    std::fs::write(docs.join("performance.svg"), chart::svg(&bench.book))?;
    std::fs::write(docs.join("performance.md"), report::page(setting, &bench.book))?;
    let readme = std::fs::read_to_string("README.md")?;
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.context("README.md has no place for the figures")?;
    let summary = report::summary(setting, &bench.book);
    std::fs::write("README.md", format!("{before}{BEGIN}\n{summary}{END}{after}"))?;
    Ok(())
}
