//! A real worker process against filled queues: how fast, how soon, how large.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fred::prelude::*;

use crate::load;
use crate::shared::{self, Servers};

const PREFIX: &str = "bench";
const EXCHANGE: &str = "rollcall.bench";
const LONGEST: Duration = Duration::from_secs(300);

pub struct Drained {
    pub events_per_second: f64,
    pub cpu_us_per_event: f64,
    pub peak_mib: f64,
}

/// Fills the queue, then lets one worker drain it: from its first delivery to its last ack.
pub async fn drain(servers: &Servers, events: u64, per_message: u64) -> Result<Drained> {
    reset(servers).await?;
    let bodies = (0..events / per_message).map(|message| {
        let all = (0..per_message).map(|n| load::event(message * per_message + n));
        all.collect::<Vec<_>>().join("\n").into_bytes()
    });
    let content_type = if per_message == 1 { "application/json" } else { "application/x-ndjson" };
    load::publish(servers, EXCHANGE, "bench", content_type, bodies).await?;
    let worker = Worker::start(servers)?;
    let messages = events / per_message;
    let (mut first, started) = (None, Instant::now());
    loop {
        let delivered = worker.metric("rollcall_deliveries_total")?;
        if delivered > 0.0 && first.is_none() {
            first = Some((Instant::now(), delivered));
        }
        if worker.metric("rollcall_settlements_total{outcome=\"ack\"}")? >= messages as f64 {
            break;
        }
        ensure!(started.elapsed() < LONGEST, "not drained within {LONGEST:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (first, head) = first.context("nothing was delivered")?;
    let seconds = first.elapsed().as_secs_f64();
    let stored = worker.metric("rollcall_events_stored_total")?;
    ensure!(stored == events as f64, "{stored} of {events} events were stored");
    Ok(Drained {
        events_per_second: (events as f64 - head * per_message as f64) / seconds,
        cpu_us_per_event: worker.cpu_seconds()? * 1e6 / events as f64,
        peak_mib: worker.peak_mib()?,
    })
}

/// Seconds from a publish's confirm until SCARD counts its member.
pub async fn latency(servers: &Servers, per_second: u32, for_: Duration) -> Result<Vec<f64>> {
    reset(servers).await?;
    let _worker = Worker::start(servers)?;
    let redis = Builder::from_config(Config::from_url(&servers.redis)?).build()?;
    redis.init().await?;
    let (connection, channel) = servers.channel().await?;
    channel.confirm_select(Default::default()).await?;
    let properties = lapin::BasicProperties::default().with_delivery_mode(2);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    let mut seconds = Vec::new();
    for number in 0..u64::from(per_second) * for_.as_secs() {
        ticks.tick().await;
        let body = format!(
            r#"{{"id":"{}","occurred_at":"{}","state":"S","city":"C","username":"u{number}"}}"#,
            uuid::Uuid::now_v7(),
            time::OffsetDateTime::now_utc()
                .format(&time::format_description::well_known::Rfc3339)?,
        );
        let confirm = channel
            .basic_publish(
                EXCHANGE.into(),
                "bench".into(),
                Default::default(),
                body.as_bytes(),
                properties.clone(),
            )
            .await?;
        ensure!(confirm.await?.is_ack(), "a publish was refused");
        let confirmed = Instant::now();
        while redis.scard::<u64, _>(format!("{PREFIX}:users")).await? <= number {
            ensure!(confirmed.elapsed() < Duration::from_secs(30), "not visible within 30 s");
        }
        seconds.push(confirmed.elapsed().as_secs_f64());
    }
    connection.close(200, "done".into()).await?;
    // The first second holds connections being made and statements being prepared.
    Ok(seconds.split_off(per_second as usize))
}

pub async fn memory_of_large_messages(servers: &Servers, count: u64, bytes: usize) -> Result<f64> {
    reset(servers).await?;
    let padding = "x".repeat(bytes);
    let bodies = (0..count).map(|number| {
        let event = load::event(number);
        format!(r#"{},"padding":"{padding}"}}"#, &event[..event.len() - 1]).into_bytes()
    });
    load::publish(servers, EXCHANGE, "bench", "application/json", bodies).await?;
    let worker = Worker::start(servers)?;
    let started = Instant::now();
    while worker.metric("rollcall_settlements_total{outcome=\"ack\"}")? < count as f64 {
        ensure!(started.elapsed() < LONGEST, "not drained within {LONGEST:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    worker.peak_mib()
}

/// Empty tables, keys and queues of our own.
async fn reset(servers: &Servers) -> Result<()> {
    rollcall(servers, &["manage", "migrate"])?;
    rollcall(servers, &["manage", "topology"])?;
    let (connection, channel) = servers.channel().await?;
    for queue in ["rollcall.bench.events", "rollcall.bench.dead-letters"] {
        channel.queue_purge(queue.into(), Default::default()).await?;
    }
    connection.close(200, "done".into()).await?;
    use sqlx::{Connection, Executor};
    let mut database = sqlx::PgConnection::connect(&servers.database).await?;
    database.execute("TRUNCATE events").await?;
    database.execute("CHECKPOINT").await?;
    let redis = Builder::from_config(Config::from_url(&servers.redis)?).build()?;
    redis.init().await?;
    redis.flushall::<()>(false).await?;
    redis.quit().await?;
    Ok(())
}

fn command(servers: &Servers, arguments: &[&str]) -> Command {
    let mut command = servers.rollcall(arguments);
    command
        .env("ROLLCALL_KEY_PREFIX", PREFIX)
        .env("ROLLCALL_EXCHANGE", EXCHANGE)
        .env("ROLLCALL_QUEUE", "rollcall.bench.events")
        .env("ROLLCALL_DEAD_LETTERS", "rollcall.bench.dead-letters")
        .env("ROLLCALL_OPS_ADDR", "127.0.0.1:0");
    command
}

fn rollcall(servers: &Servers, arguments: &[&str]) -> Result<()> {
    let output = command(servers, arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "rollcall {arguments:?}: {said}");
    Ok(())
}

struct Worker {
    child: Child,
    metrics: String,
}

impl Worker {
    fn start(servers: &Servers) -> Result<Self> {
        let mut child = command(servers, &["worker"]).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        for line in &mut lines {
            let line: serde_json::Value = serde_json::from_str(&line?)?;
            let fields = &line;
            if fields["message"] == "ops endpoint listening" {
                let addr = fields["addr"].as_str().context("no addr")?;
                let metrics = format!("http://{addr}/metrics");
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Self { child, metrics });
            }
        }
        bail!("the worker ended before it listened")
    }

    fn metric(&self, name: &str) -> Result<f64> {
        let text = ureq::get(&self.metrics).call()?.body_mut().read_to_string()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.with_context(|| format!("no metric {name}"))?.trim().parse().context("a number")
    }

    fn proc(&self, file: &str) -> Result<String> {
        Ok(std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }

    /// User and system time so far.
    fn cpu_seconds(&self) -> Result<f64> {
        let stat = self.proc("stat")?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        // utime and stime are fields 14 and 15 of the whole line, in ticks of 10 ms.
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }

    fn peak_mib(&self) -> Result<f64> {
        shared::peak_mib(self.child.id())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
