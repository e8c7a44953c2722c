//! P1 and P5 where a disk is full: what is good is held, and stored when there is room again. Who
//! runs a server that died of it starts it; nobody touches the worker.
//!
//! The disk is a tmpfs: mounting it needs root, or sudo without a password.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{
    DEFAULT_SETS, LONG, Message, Oracle, Producer, Rig, Server, Verb, Worker, eventually, names,
    seed,
};

/// What is free on the small disk to begin with, in MiB.
const SPARE: u32 = 200;

/// Postgres says so (53100), and is well by itself once there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_tables_is_waited_out() {
    let rig = Rig::breakable(DEFAULT_SETS).await;
    let disk = small_disk(&rig, Server::Postgres, "data/base");
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut worker = rig.warm_worker(&mut oracle, &mut producer).await;
    for _ in 0..2 {
        let ballast = Ballast::fill(&disk, 0);
        let events = large_events(&mut producer, 1000);
        oracle.all_good(&events);
        rig.publish_events(&events).await;
        held(&rig, &mut worker, "53100").await;
        ballast.drop();
        resumed(&rig, &mut worker, &oracle).await;
    }
    let metrics = worker.metrics().await.unwrap();
    assert_eq!(metrics.sum(names::REDELIVERIES), 0.0, "held, never returned");
    rig.finish(&oracle, vec![worker]).await;
}

/// Postgres dies of it (PANIC), and again while it recovers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_wal_is_waited_out() {
    let rig = Rig::breakable(DEFAULT_SETS).await;
    let disk = small_disk(&rig, Server::Postgres, "data/pg_wal");
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let ballast = Ballast::fill(&disk, 0);
    // There may be segments that were made ahead: they are used up first.
    let mut pg = rig.pg().await;
    let message = "pg_logical_emit_message(false, 'test', repeat('x', 8000000))";
    let sql = format!("SELECT length({message}::text)::bigint");
    eventually(LONG, "postgres to die of it", async || match pg.try_int(&sql).await {
        Ok(_) => Err("it lives".to_owned()),
        Err(_) => Ok(()),
    })
    .await;
    let log = rig.servers().log(Server::Postgres);
    assert!(log.contains("PANIC"), "it did not die of it:\n{log}");
    let events = large_events(&mut producer, 1000);
    oracle.all_good(&events);
    rig.publish_events(&events).await;
    held(&rig, &mut worker, "postgres").await;
    ballast.drop();
    rig.control(Verb::Start, Server::Postgres);
    resumed(&rig, &mut worker, &oracle).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Nearly full: RabbitMQ blocks publishers. What is queued is stored, what is bad is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nearly_full_disk_under_rabbitmq_is_waited_out() {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    rig.set(names::AMQP_TIMEOUT_SECS, "2");
    let disk = small_disk(&rig, Server::RabbitMq, "mnesia");
    let mut oracle = rig.oracle();
    oracle.dead_may_repeat = true;
    let mut producer = Producer::new(seed());
    let mut worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let gate = rig.close_gate().await;
    let events = producer.events(100);
    oracle.all_good(&events);
    oracle.bad("json", "{");
    let mut messages: Vec<_> = events.iter().map(Message::object).collect();
    messages.push(Message::raw("{"));
    rig.publish(&messages).await;
    rig.wait_at_gate().await;
    // Its limit is 50 MB.
    let ballast = Ballast::fill(&disk, 20);
    eventually(LONG, "the alarm", async || {
        match rig.rabbitmqctl(&["eval", "rabbit_alarm:get_alarms()."]) {
            alarms if alarms.contains("disk") => Ok(()),
            alarms => Err(alarms),
        }
    })
    .await;
    gate.open().await;
    held(&rig, &mut worker, "rabbitmq").await;
    let stored = rig.pg().await.events().await.unwrap();
    assert_eq!(stored as usize, oracle.payloads.len(), "what is good goes on");
    ballast.drop();
    resumed(&rig, &mut worker, &oracle).await;
    let metrics = worker.metrics().await.unwrap();
    assert_eq!(metrics.sum(names::SESSIONS), 1.0, "held, never returned");
    rig.finish(&oracle, vec![worker]).await;
}

/// Really full: what RabbitMQ cannot write down it has not taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_rabbitmq_is_waited_out() {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    rig.set(names::BATCH_EVENTS_MAX, "1");
    rig.set(names::AMQP_TIMEOUT_SECS, "3");
    let disk = small_disk(&rig, Server::RabbitMq, "mnesia");
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let gate = rig.close_gate().await;
    let events = producer.events(2000);
    oracle.all_good(&events);
    rig.publish_events(&events).await;
    rig.wait_at_gate().await;
    let ballast = Ballast::fill(&disk, 0);
    // Each batch is one acknowledgement that the broker writes down.
    gate.open().await;
    eventually(LONG, "rabbitmq to fail", async || {
        match rig.servers().log(Server::RabbitMq).contains("enospc") {
            true => Ok(()),
            false => Err("it goes on".to_owned()),
        }
    })
    .await;
    assert_eq!(worker.status("/livez").await, Ok(200));
    worker.assert_alive();
    ballast.drop();
    // A node that lost its log needs a start, by whoever runs it.
    rig.control(Verb::Stop, Server::RabbitMq);
    rig.control(Verb::Start, Server::RabbitMq);
    resumed(&rig, &mut worker, &oracle).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Moves data of a server onto a disk of its own, which goes with the set of servers.
fn small_disk(rig: &Rig, server: Server, folder: &str) -> PathBuf {
    rig.spoil();
    rig.control(Verb::Stop, server);
    let disk = tokio::task::block_in_place(|| rig.servers().small_disk(server, folder, SPARE));
    rig.control(Verb::Start, server);
    disk
}

/// A file that takes up a disk.
struct Ballast(PathBuf);

impl Ballast {
    /// All of it but so many MiB.
    fn fill(disk: &Path, leave: u64) -> Ballast {
        const MIB: usize = 1 << 20;
        let path = disk.join("ballast");
        let mut file = File::create(&path).expect("the disk can be written");
        let mut size = 0;
        for chunk in [MIB, 4096] {
            let zeros = vec![0; chunk];
            while let Ok(written @ 1..) = file.write(&zeros) {
                size += written as u64;
            }
        }
        file.set_len(size - leave * MIB as u64).expect("a file can be made shorter");
        Ballast(path)
    }

    fn drop(self) {
        fs::remove_file(&self.0).expect("made by fill");
    }
}

/// Of some 2 KB each, which cannot be compressed.
fn large_events(producer: &mut Producer, count: usize) -> Vec<Value> {
    let mut event = || {
        let text: String = (0..120).map(|_| format!("{:016x}", producer.rng.next())).collect();
        producer.event_with(json!({"state": "CA", "city": "Fresno", "text": text}))
    };
    (0..count).map(|_| event()).collect()
}

/// Held, told, alive, and nothing condemned.
async fn held(rig: &Rig, worker: &mut Worker, says: &str) {
    eventually(LONG, "/readyz to say why", async || {
        let reply = worker.get("/readyz").await?;
        match reply.status == 503 && is_down(&reply.body, says) {
            true => Ok(()),
            false => Err(format!("it says {}: {}", reply.status, reply.body)),
        }
    })
    .await;
    worker.wait_in_flight().await;
    assert_eq!(worker.status("/livez").await, Ok(200));
    worker.assert_alive();
    assert_eq!(rig.dead_letters().await.len(), 0, "nothing is condemned for a full disk");
}

fn is_down(body: &str, says: &str) -> bool {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let all = body["dependencies"].as_array().cloned().unwrap_or_default();
    let down = all.iter().filter(|one| one["status"] == "down");
    down.map(Value::to_string).any(|one| one.contains(says))
}

async fn resumed(rig: &Rig, worker: &mut Worker, oracle: &Oracle) {
    worker.wait_ready().await;
    rig.wait_arrived(oracle).await;
    worker.assert_books_balance().await;
    worker.assert_alive();
}
