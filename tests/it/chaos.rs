//! Chaos: three workers under load with duplicates, and everything is killed, by turns and in an
//! order that follows from the seed. Nothing is lost, nothing is there twice, no hand is needed.
//!
//! A kill is SIGKILL of the processes, never a power cut: Postgres runs with fsync off, and Redis
//! with an append-only file that is written before each answer and never synced. (With `appendfsync
//! everysec` a Redis that is killed while a sync is on its way can lose what it has answered: the
//! file is then written up to two seconds later. That would be a loss of Redis, not of a worker.)

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Fleet, LONG, Producer, Publisher, Rig, Rng, Server, Stream, Verb, eventually, names, seed,
};

const WORKERS: usize = 3;
/// Every kind of set: a lost member shows wherever it is counted.
const SETS: &str = "cities=state+city users=username by_city=username@state+city \
                    daily=username/day sessions=session about=session~";
/// Events that wait or are on their way at any time: some 300 ms of work for the workers.
const AHEAD: u64 = 2000;
/// P5: after the last fault a new event is visible in this time.
const VISIBLE: Duration = Duration::from_secs(30);
/// RabbitMQ 3.10 that is killed within a second of declaring a quorum queue never gets it back.
const DECLARED: Duration = Duration::from_secs(5);

/// How much of it: `make test` has the short one, `make chaos` the long one.
struct Size {
    events: u64,
    worker_kills: usize,
    /// Of each of the three.
    server_kills: usize,
}

impl Size {
    fn of_this_run() -> Size {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number")),
            Err(_) => default,
        };
        Size {
            events: number("ROLLCALL_TEST_CHAOS_EVENTS", 20_000),
            worker_kills: number("ROLLCALL_TEST_CHAOS_WORKER_KILLS", 5) as usize,
            server_kills: number("ROLLCALL_TEST_CHAOS_SERVER_KILLS", 1) as usize,
        }
    }
}

enum Fault {
    Worker(usize),
    /// While it is away, this worker is killed too.
    Server(Server, Option<usize>),
}

/// Each fault with how many events are stored when it strikes. Follows from the seed: one fault in
/// each of as many equal parts of the run, at any point of its part.
fn plan(seed: u64, size: &Size) -> Vec<(u64, Fault)> {
    let mut rng = Rng(seed);
    let mut worker_kills = size.worker_kills;
    let mut faults = Vec::new();
    for server in Server::ALL {
        for _ in 0..size.server_kills {
            // Some workers start while a server is away; at least one dies at work.
            let along = worker_kills > 1 && rng.percent(30);
            worker_kills -= usize::from(along);
            faults.push(Fault::Server(server, along.then(|| rng.below(WORKERS as u64) as usize)));
        }
    }
    let alone = (0..worker_kills).map(|_| rng.below(WORKERS as u64) as usize);
    faults.extend(alone.map(Fault::Worker).collect::<Vec<_>>());
    rng.shuffle(&mut faults);
    // The last tenth is left for the load to go on after the last fault.
    let part = size.events * 9 / 10 / faults.len() as u64;
    let at = |n: usize, rng: &mut Rng| n as u64 * part + rng.below(part);
    faults.into_iter().enumerate().map(|(n, fault)| (at(n, &mut rng), fault)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_however_often_anything_is_killed() {
    let (seed, size) = (seed(), Size::of_this_run());
    let mut rig = Rig::breakable(SETS).await;
    let declared = Instant::now();
    // Small batches and windows: many of them are half done at any moment, in each worker.
    rig.set(names::BATCH_EVENTS_MAX, "20");
    rig.set(names::PREFETCH_MAX, "100");
    rig.pg().await.slow_down(0.02).await;
    let mut oracle = rig.oracle();
    // It dies after its dead letters are out and before its ack.
    oracle.dead_may_repeat = true;

    let mut fleet = Fleet::start(&rig, WORKERS).await;
    let publisher = Publisher::start(&rig, Stream::new(seed), seed, 5);
    let plan = plan(seed, &size);
    fleet.witness.arm(size.worker_kills + 3 * size.server_kills);
    for (at, fault) in plan {
        match fault {
            Fault::Worker(slot) => {
                fleet.wait_at_work(&publisher, at, AHEAD, slot).await;
                fleet.kill(slot).await;
            }
            Fault::Server(server, along) => {
                fleet.wait_at_work(&publisher, at, AHEAD, 0).await;
                outage(&rig, &mut fleet, &publisher, server, along, declared).await;
            }
        }
    }
    let over = Instant::now();
    let fresh = Producer::new(seed).event_with(json!({"username": "fresh"}));
    oracle.good(&fresh);
    rig.publish_events(&[fresh]).await;
    let key = format!("{}:users", rig.prefix());
    let mut redis = rig.redis().await;
    eventually(VISIBLE.saturating_sub(over.elapsed()), "a new event to be counted", async || {
        match redis.int(&["SISMEMBER", &key, "fresh"]).await {
            0 => Err("it is not".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    println!("a new event was visible {:?} after the last fault", over.elapsed());
    let published = publisher.finish(size.events, &mut oracle).await;
    println!(
        "{} events in {} messages, {} publishes had to be repeated",
        published.events, published.messages, published.failures
    );
    fleet.finish(&oracle).await.assert_conclusive();
}

/// Kills a server, and starts it when a worker has missed it.
async fn outage(
    rig: &Rig,
    fleet: &mut Fleet<'_>,
    publisher: &Publisher,
    server: Server,
    along: Option<usize>,
    declared: Instant,
) {
    let label = match server {
        Server::RabbitMq => "dependency=\"rabbitmq\"",
        Server::Postgres => "dependency=\"postgres\"",
        Server::Redis => "dependency=\"redis\"",
        added => panic!("{added:?} is in no plan"),
    };
    if matches!(server, Server::RabbitMq) {
        eventually(LONG, "the queue to be old enough", async || {
            let age = declared.elapsed();
            (age >= DECLARED).then_some(()).ok_or_else(|| format!("it is {age:?} old"))
        })
        .await;
    }
    let before = fleet.witness.sum(names::RETRIES, label);
    rig.control(Verb::Kill, server);
    fleet.witness.fired(format!("{server:?} killed"));
    // Killing takes a moment, in which a fast worker finishes what there was.
    publisher.allow(publisher.confirmed() + AHEAD);
    if let Some(slot) = along {
        fleet.kill(slot).await;
    }
    eventually(LONG, "a worker to miss the server", async || {
        match fleet.witness.sum(names::RETRIES, label) > before {
            true => Ok(()),
            false => Err(format!("none of them tried {server:?} again")),
        }
    })
    .await;
    rig.control(Verb::Start, server);
}
