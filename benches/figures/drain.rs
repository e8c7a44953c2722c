//! A filled queue, drained by workers: how fast, at what cost, how large.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::{Connection, PgConnection};

use crate::cpu::Pids;
use crate::events::{Events, PLAIN, Shape};
use crate::publish;
use crate::rows;
use crate::shared::Servers;
use crate::worker::{self, TO, Told, Worker};

const LONGEST: Duration = Duration::from_secs(300);
/// Between two looks at a worker. A look costs it some 0.2 ms.
const LOOK_MIN: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(200);

/// One way to drain: all but one or two of these are those of `DEFAULT`.
pub struct Setup {
    pub name: &'static str,
    pub events: u64,
    pub per_message: u64,
    pub lanes: u32,
    pub processes: usize,
    pub shape: Shape,
    /// In the table beforehand.
    pub rows: u64,
}

pub const DEFAULT: Setup = Setup {
    name: "1 a message, 2 lanes, 200 B",
    events: 200_000,
    per_message: 1,
    lanes: 2,
    processes: 1,
    shape: PLAIN,
    rows: 0,
};

/// Those of the goals are named there as well.
pub const TEN: &str = "10 events a message";
pub const HUNDRED: &str = "100 events a message";
pub const FOUR_LANES: &str = "4 lanes";
pub const TWO_PROCESSES: &str = "2 processes of 2 lanes";
pub const MILLION: &str = "1 M rows in the table";

pub const SETUPS: [Setup; 11] = [
    DEFAULT,
    Setup { name: TEN, per_message: 10, events: 600_000, ..DEFAULT },
    Setup { name: HUNDRED, per_message: 100, events: 800_000, ..DEFAULT },
    Setup { name: "1 lane", lanes: 1, ..DEFAULT },
    Setup { name: FOUR_LANES, lanes: 4, ..DEFAULT },
    Setup { name: TWO_PROCESSES, processes: 2, ..DEFAULT },
    Setup {
        name: "2 KiB an event",
        events: 60_000,
        shape: Shape { bytes: 2_048, ..PLAIN },
        ..DEFAULT
    },
    Setup { name: "100 users, 50 cities", shape: Shape { high: false, ..PLAIN }, ..DEFAULT },
    Setup { name: "20 % duplicates", shape: Shape { duplicates: true, ..PLAIN }, ..DEFAULT },
    Setup { name: MILLION, rows: 1_000_000, ..DEFAULT },
    Setup {
        name: "900 KiB an event",
        events: 300,
        shape: Shape { bytes: 900 << 10, ..PLAIN },
        ..DEFAULT
    },
];

pub struct Drained {
    pub events_per_second: f64,
    /// Of all workers, from their start.
    pub worker_micros: f64,
    /// Of each server with all its processes, while the queue was drained; in the order of
    /// `cpu::SERVERS`.
    pub server_micros: [f64; 3],
    /// Of the largest worker.
    pub peak_mib: f64,
}

/// Fills the queue, then starts the workers: from when each has had a delivery until all is
/// settled.
pub async fn drain(servers: &Servers, pids: &Pids, setup: &Setup) -> Result<Drained> {
    worker::reset(servers).await?;
    if setup.rows > 0 {
        let mut database = PgConnection::connect(&servers.database).await?;
        rows::fill(servers, setup.rows).await?;
        crate::shared::settle(&mut database).await?;
        // Redis was emptied, and a worker must not begin by mending that.
        worker::manage(servers, &["manage", "rebuild"])?;
    }
    let events = Events::new(setup.shape);
    publish::fill(servers, TO, &events, setup.events, setup.per_message).await?;
    let starting = (0..setup.processes).map(|_| Worker::start(servers, setup.lanes));
    let workers: Vec<Worker> = starting.collect::<Result<_>>()?;

    let started = Instant::now();
    let first = loop {
        let told = all(&workers)?;
        if told.iter().all(|told| told.deliveries > 0) {
            break sum(&told);
        }
        ensure!(started.elapsed() < LONGEST, "nothing delivered within {LONGEST:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let (began, before) = (Instant::now(), pids.cpu_seconds()?);
    let messages = setup.events / setup.per_message;
    let last = loop {
        let told = sum(&all(&workers)?);
        if told.acked >= messages {
            break told;
        }
        ensure!(started.elapsed() < LONGEST, "not drained within {LONGEST:?}");
        // A quarter of the time that is left at this rate: few looks, and the last ones close.
        let rate = (told.acked - first.acked) as f64 / began.elapsed().as_secs_f64();
        let left = (messages - told.acked) as f64 / rate.max(1.0) / 4.0;
        let pause = Duration::from_secs_f64(left.min(1.0)).clamp(LOOK_MIN, LOOK_MAX);
        tokio::time::sleep(pause).await;
    };
    let seconds = began.elapsed().as_secs_f64();
    let after = pids.cpu_seconds()?;
    let stored = events.distinct(setup.events);
    ensure!(last.stored == stored, "{} of {stored} events were stored", last.stored);
    ensure!(last.stored + last.duplicates == setup.events, "{} duplicates", last.duplicates);

    let measured = ((messages - first.acked) * setup.per_message) as f64;
    let cpu: f64 = workers.iter().map(Worker::cpu_seconds).sum::<Result<f64>>()?;
    let peaks: Vec<f64> = workers.iter().map(Worker::peak_mib).collect::<Result<_>>()?;
    let micros = |server: usize| (after[server] - before[server]) * 1e6 / measured;
    Ok(Drained {
        events_per_second: measured / seconds,
        worker_micros: cpu * 1e6 / setup.events as f64,
        server_micros: [micros(0), micros(1), micros(2)],
        peak_mib: peaks.into_iter().fold(0.0, f64::max),
    })
}

fn all(workers: &[Worker]) -> Result<Vec<Told>> {
    workers.iter().map(Worker::told).collect()
}

fn sum(told: &[Told]) -> Told {
    let sum = |count: fn(&Told) -> u64| told.iter().map(count).sum();
    Told {
        deliveries: sum(|told| told.deliveries),
        acked: sum(|told| told.acked),
        stored: sum(|told| told.stored),
        duplicates: sum(|told| told.duplicates),
    }
}
