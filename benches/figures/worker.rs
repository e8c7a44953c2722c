//! A real worker process, and the empty place that it is started in.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sqlx::{Connection, Executor, PgConnection};

use crate::cpu;
use crate::publish::To;
use crate::shared::redis::Redis;
use crate::shared::{self, Servers};

pub const PREFIX: &str = "bench";
pub const TO: To<'static> = To { exchange: "rollcall.bench", key: "bench" };
pub const QUEUE: &str = "rollcall.bench.events";
const DEAD_LETTERS: &str = "rollcall.bench.dead-letters";
const SESSION: Duration = Duration::from_secs(30);

/// The schema and the queues, once for a run, in a place where nothing is lost by it.
pub async fn prepare(servers: &Servers) -> Result<()> {
    manage(servers, &["manage", "migrate"])?;
    let mut database = PgConnection::connect(&servers.database).await?;
    let stored: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM events)").fetch_one(&mut database).await?;
    ensure!(!stored, "these servers hold events: not the place for this");
    // Where no worker makes them.
    let partitions = "SELECT rollcall_ensure_partition(at, 'month') FROM \
                      (VALUES (now() - interval '1 hour'), (now())) AS t (at)";
    database.execute(partitions).await?;
    database.close().await?;
    manage(servers, &["manage", "topology"])
}

/// Empty tables, keys and queues of our own.
pub async fn reset(servers: &Servers) -> Result<()> {
    let (connection, channel) = servers.channel().await?;
    for queue in [QUEUE, DEAD_LETTERS] {
        channel.queue_purge(queue.into(), Default::default()).await?;
    }
    connection.close(200, "done".into()).await?;
    let mut database = PgConnection::connect(&servers.database).await?;
    database.execute("TRUNCATE events").await?;
    database.execute("CHECKPOINT").await?;
    database.close().await?;
    Redis::connect(&servers.redis)?.flush_all()
}

/// Runs one command of our binary to its end, which must be a good one.
pub fn manage(servers: &Servers, arguments: &[&str]) -> Result<()> {
    let output = command(servers, arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "rollcall {arguments:?}: {said}");
    Ok(())
}

fn command(servers: &Servers, arguments: &[&str]) -> Command {
    let mut command = servers.rollcall(arguments);
    command
        .env("ROLLCALL_KEY_PREFIX", PREFIX)
        .env("ROLLCALL_EXCHANGE", TO.exchange)
        .env("ROLLCALL_QUEUE", QUEUE)
        .env("ROLLCALL_DEAD_LETTERS", DEAD_LETTERS)
        .env("ROLLCALL_OPS_ADDR", "127.0.0.1:0");
    command
}

/// Killed when it is dropped.
pub struct Worker {
    child: Child,
    metrics: String,
}

/// What a worker tells of itself.
pub struct Told {
    pub deliveries: u64,
    pub acked: u64,
    pub stored: u64,
    pub duplicates: u64,
}

impl Worker {
    /// Started, and on its way to a session.
    pub fn start(servers: &Servers, lanes: u32) -> Result<Worker> {
        let mut command = command(servers, &["worker"]);
        command.env("ROLLCALL_LANES", lanes.to_string());
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        for line in &mut lines {
            let line: serde_json::Value = serde_json::from_str(&line?)?;
            if line["message"] == "ops endpoint listening" {
                let addr = line["addr"].as_str().context("no addr")?;
                let metrics = format!("http://{addr}/metrics");
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Worker { child, metrics });
            }
        }
        bail!("the worker ended before it listened")
    }

    /// The same, and it consumes: with one lane, until a message has gone well.
    pub async fn consuming(servers: &Servers, lanes: u32) -> Result<Worker> {
        let worker = Worker::start(servers, lanes)?;
        let started = Instant::now();
        while metric(&worker.page()?, "rollcall_lanes")? < 1.0 {
            ensure!(started.elapsed() < SESSION, "no lane within {SESSION:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(worker)
    }

    fn page(&self) -> Result<String> {
        Ok(ureq::get(&self.metrics).call()?.body_mut().read_to_string()?)
    }

    /// Costs the worker some 0.2 ms: not to be asked for too often.
    pub fn told(&self) -> Result<Told> {
        let page = self.page()?;
        let count = |name: &str| Ok::<_, anyhow::Error>(metric(&page, name)? as u64);
        Ok(Told {
            deliveries: count("rollcall_deliveries_total")?,
            acked: count("rollcall_settlements_total{outcome=\"ack\"}")?,
            stored: count("rollcall_events_stored_total")?,
            duplicates: count("rollcall_duplicates_total")?,
        })
    }

    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu::seconds(self.child.id())
    }

    pub fn peak_mib(&self) -> Result<f64> {
        shared::peak_mib(self.child.id())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn metric(page: &str, name: &str) -> Result<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.with_context(|| format!("no metric {name}"))?.trim().parse().context("a number")
}
