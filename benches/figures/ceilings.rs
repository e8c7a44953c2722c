//! What the servers can do without a pipeline between them: taking from the queue, inserting and
//! adding members, each alone, and all three at once on the same cores.
//!
//! Nothing here decodes, and no event goes from one of the three to the next. Everything a loop
//! sends is made before the clock starts, so a ceiling is the servers' and their clients' and
//! nobody else's. It is tuned as the worker is: as many lanes, batches of the same size, the same
//! prefetch, the same statement, the same allocator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fred::prelude::*;
use fred::types::Value;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use sqlx::postgres::PgBindIterExt;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Barrier, Notify};
use tokio_util::sync::CancellationToken;

use crate::events::{Event, Events, PLAIN};
use crate::publish::{self, To};
use crate::shared::Servers;
use crate::shared::redis::Redis;

const QUEUE: &str = "rollcall.ceiling";
pub const LANES: usize = 2;
/// What a worker's batch comes to when the queue is full: half of the prefetch.
pub const BATCH: usize = 2_000;
pub const PREFETCH: u16 = 4_000;
/// Members of one SADD.
const COMMAND: usize = 1_000;
/// Batches that one of the three may be ahead of the slowest: what two lanes hold, being written
/// and being filled, twice over.
const AHEAD: u64 = 8;
pub const AHEAD_EVENTS: u64 = AHEAD * BATCH as u64;
const LONGEST: Duration = Duration::from_secs(120);

/// The worker's own statement: `src/store/statements.rs`.
pub const INSERT: &str = "
WITH inserted AS (
    INSERT INTO events (occurred_at, id, payload)
    SELECT t.o, t.i, t.p::jsonb
    FROM unnest($1::timestamptz[], $2::uuid[], $3::text[]) AS t (o, i, p)
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT count(*), coalesce(txid_current_if_assigned(), 0) FROM inserted";

/// One of the three things that a worker has done by servers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Take,
    Insert,
    Add,
}

pub const KINDS: [Kind; 3] = [Kind::Take, Kind::Insert, Kind::Add];

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Each does all events so many times over.
    Times(u64),
    /// Each does all events once, and waits where it is ahead of the slowest: what a pipeline that
    /// costs nothing would come to.
    InStep,
    /// Each goes on, with new rows and members, until the slowest has done all events.
    Flat,
}

/// What the loops send, made beforehand.
pub struct Load {
    events: Events,
    batches: Vec<Batch>,
}

struct Batch {
    /// In order of their keys.
    rows: Vec<Event>,
    /// Distinct, in commands: of cities, and of users.
    members: [Vec<Vec<Value>>; 2],
}

impl Load {
    pub fn new(events: u64) -> Load {
        let source = Events::new(PLAIN);
        let batches = events / BATCH as u64;
        let batch = |batch: u64| {
            let from = batch * BATCH as u64;
            let mut rows: Vec<Event> =
                (from..from + BATCH as u64).map(|number| source.get(number)).collect();
            rows.sort_by_key(|row| (row.at, row.id));
            let members = [
                commands(rows.iter().map(|row| row.city.as_str())),
                commands(rows.iter().map(|row| row.user.as_str())),
            ];
            Batch { rows, members }
        };
        let batches = (0..batches).map(batch).collect();
        Load { events: source, batches }
    }

    pub fn len(&self) -> u64 {
        (self.batches.len() * BATCH) as u64
    }
}

fn commands<'a>(members: impl Iterator<Item = &'a str>) -> Vec<Vec<Value>> {
    let distinct: std::collections::BTreeSet<&str> = members.collect();
    let values: Vec<Value> =
        distinct.into_iter().map(|member| Value::Bytes(member.to_owned().into())).collect();
    values.chunks(COMMAND).map(<[Value]>::to_vec).collect()
}

/// Publishes the load, into a queue that had nothing, and says at what rate.
pub async fn publish(servers: &Servers, load: &Load, count: u64) -> Result<f64> {
    let (connection, channel) = servers.channel().await?;
    publish::fresh_queue(&channel, QUEUE).await?;
    connection.close(200, "done".into()).await?;
    let began = Instant::now();
    let to = To { exchange: "", key: QUEUE };
    publish::fill(servers, to, &load.events, count, 1).await?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Events a second of each of the kinds, at once. `queued`: how many `publish` left.
pub async fn run(
    servers: &Arc<Servers>,
    load: &Arc<Load>,
    kinds: &[Kind],
    way: Way,
    queued: u64,
) -> Result<Vec<f64>> {
    let run = Arc::new(Run {
        load: load.clone(),
        kinds: kinds.to_vec(),
        way,
        queued,
        begun: Default::default(),
        done: Default::default(),
        taken: AtomicU64::new(0),
        moved: Notify::new(),
        over: CancellationToken::new(),
        ready: Barrier::new(kinds.len() * LANES + 1),
    });
    let mut tasks = tokio::task::JoinSet::new();
    for &kind in kinds {
        for _ in 0..LANES {
            let (run, servers) = (run.clone(), servers.clone());
            tasks.spawn(async move {
                match kind {
                    Kind::Take => take(&run, &servers).await,
                    Kind::Insert => insert(&run, &servers).await,
                    Kind::Add => add(&run, &servers).await,
                }
            });
        }
    }
    let ready = tokio::time::timeout(LONGEST, run.ready.wait()).await;
    ready.context("the loops did not connect")?;
    let began = Instant::now();
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LONGEST, all).await.context("the loops did not end")??;
    let seconds = began.elapsed().as_secs_f64();
    Redis::connect(&servers.redis)?.flush_all()?;
    Ok(kinds.iter().map(|&kind| run.events_done(kind) as f64 / seconds).collect())
}

struct Run {
    load: Arc<Load>,
    kinds: Vec<Kind>,
    way: Way,
    queued: u64,
    /// Batches, by kind.
    begun: [AtomicU64; 3],
    /// Events, by kind.
    done: [AtomicU64; 3],
    taken: AtomicU64,
    moved: Notify,
    /// Nothing more is to be taken.
    over: CancellationToken,
    ready: Barrier,
}

impl Run {
    /// The next batch of a kind, once its time has come. `None`: enough.
    async fn next(&self, kind: Kind) -> Option<u64> {
        let number = self.begun[kind as usize].fetch_add(1, Ordering::Relaxed);
        let once = self.load.batches.len() as u64;
        let enough = match self.way {
            // One lane has deliveries that the other waits for: it is the queue that ends.
            _ if kind == Kind::Take => u64::MAX,
            Way::Times(times) => once * times,
            Way::InStep => once,
            Way::Flat => u64::MAX,
        };
        if number >= enough {
            return None;
        }
        loop {
            let moved = self.moved.notified();
            let slowest = self.slowest();
            match self.way {
                Way::InStep if number >= slowest / BATCH as u64 + AHEAD => moved.await,
                Way::Flat if slowest >= self.load.len() => return None,
                _ => return Some(number),
            }
        }
    }

    fn slowest(&self) -> u64 {
        self.kinds.iter().map(|&kind| self.events_done(kind)).min().unwrap_or(0)
    }

    fn events_done(&self, kind: Kind) -> u64 {
        self.done[kind as usize].load(Ordering::Relaxed)
    }

    fn done(&self, kind: Kind, events: u64) {
        self.done[kind as usize].fetch_add(events, Ordering::Relaxed);
        if self.way == Way::Flat && self.slowest() >= self.load.len() {
            self.over.cancel();
        }
        self.moved.notify_waiters();
    }
}

/// Takes deliveries and acknowledges a batch of them with one ack, as a lane does.
async fn take(run: &Run, servers: &Servers) -> Result<()> {
    let (connection, channel) = servers.channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    run.ready.wait().await;
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume(QUEUE.into(), "".into(), options, Default::default()).await?;
    let over = run.over.cancelled();
    tokio::pin!(over);
    // What is left of the queue may be with the other lane: a batch can end short.
    while !run.over.is_cancelled() && run.next(Kind::Take).await.is_some() {
        let (mut count, mut tag) = (0, 0);
        while count < BATCH as u64 {
            let delivery = tokio::select! {
                biased;
                delivery = consumer.next() => delivery.context("the consumer ended")??,
                () = &mut over => break,
            };
            tag = delivery.delivery_tag;
            count += 1;
            if run.taken.fetch_add(1, Ordering::Relaxed) + 1 == run.queued {
                run.over.cancel();
            }
        }
        if count > 0 {
            let multiple = BasicAckOptions { multiple: true };
            channel.basic_ack(tag, multiple).await?;
        }
        run.done(Kind::Take, count);
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}

async fn insert(run: &Run, servers: &Servers) -> Result<()> {
    let mut connection = PgConnection::connect(&servers.database).await?;
    run.ready.wait().await;
    let batches = run.load.batches.len() as u64;
    while let Some(number) = run.next(Kind::Insert).await {
        let rows = &run.load.batches[(number % batches) as usize].rows;
        // Another identity each time over.
        let id =
            |row: &Event| uuid::Uuid::from_u128(row.id.as_u128() ^ u128::from(number / batches));
        let (inserted, _): (i64, i64) = sqlx::query_as(INSERT)
            .bind(rows.iter().map(|row| row.at).bind_iter())
            .bind(rows.iter().map(id).bind_iter())
            .bind(rows.iter().map(|row| row.body.as_str()).bind_iter())
            .fetch_one(&mut connection)
            .await?;
        ensure!(inserted == rows.len() as i64, "{inserted} of {} rows were new", rows.len());
        run.done(Kind::Insert, rows.len() as u64);
    }
    connection.close().await?;
    Ok(())
}

/// All commands of a batch at once, then all answers.
async fn add(run: &Run, servers: &Servers) -> Result<()> {
    let client = Builder::from_config(Config::from_url(&servers.redis)?).build()?;
    client.init().await?;
    run.ready.wait().await;
    let batches = run.load.batches.len() as u64;
    while let Some(number) = run.next(Kind::Add).await {
        let batch = &run.load.batches[(number % batches) as usize];
        // Another set each time over: a member that is there already costs less.
        let time = number / batches;
        let keys = [format!("ceiling:cities:{time}"), format!("ceiling:users:{time}")];
        let commands = keys.iter().zip(&batch.members).flat_map(|(key, commands)| {
            let send = |members: &Vec<Value>| {
                client.sadd::<i64, _, _>(key.as_str(), Value::Array(members.clone()))
            };
            commands.iter().map(send).collect::<Vec<_>>()
        });
        futures_util::future::try_join_all(commands).await?;
        run.done(Kind::Add, batch.rows.len() as u64);
    }
    client.quit().await?;
    Ok(())
}
