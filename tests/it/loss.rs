//! P3 where Redis loses what it was given: a worker notices it by itself, has it noted in Postgres
//! before it goes on, and it is made good, with nobody's hand and ingest never stopping.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    DEFAULT_SETS, LONG, Oracle, Pg, Producer, Rig, Server, Verb, Worker, eventually, names, seed,
};

/// Within this `<prefix>:meta`, or Postgres, says that something is missing.
const NOTICED: Duration = Duration::from_secs(10);

/// Every note that is made, and what it says at that moment: a repair clears the row.
pub async fn record_notes(rig: &Rig) -> Pg {
    let mut pg = rig.pg().await;
    pg.run(
        "CREATE TABLE noted (version bigint, bound bigint, rebuild boolean, reason text);
         CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO noted VALUES (NEW.version, NEW.catch_up_from, NEW.rebuild, NEW.reason);
           RETURN NULL; END $$;
         CREATE TRIGGER inserted AFTER INSERT ON rollcall_projection
           FOR EACH ROW WHEN (NEW.version > 0) EXECUTE FUNCTION record();
         CREATE TRIGGER updated AFTER UPDATE ON rollcall_projection
           FOR EACH ROW WHEN (NEW.version > OLD.version) EXECUTE FUNCTION record()",
    )
    .await;
    pg
}

async fn notes(pg: &mut Pg) -> i64 {
    pg.int("SELECT count(*) FROM noted").await
}

async fn noticed(pg: &mut Pg, before: i64, within: Duration) {
    eventually(within, "the loss to be noted", async || {
        match pg.try_int("SELECT count(*) FROM noted").await? {
            n if n > before => Ok(()),
            n => Err(format!("{n} notes, as before")),
        }
    })
    .await;
}

/// The sets are what Postgres says, and readers are told so.
pub async fn mended(rig: &Rig, oracle: &Oracle) {
    let (mut redis, mut pg) = (rig.redis().await, rig.pg().await);
    let meta = format!("{}:meta", rig.prefix());
    let lacks =
        "SELECT count(*) FROM rollcall_projection WHERE catch_up_from IS NOT NULL OR rebuild";
    eventually(LONG, "redis to be mended", async || {
        let state = redis.in_order(&["HMGET", &meta, "state"]).await;
        match (pg.try_int(lacks).await?, state.as_deref().map(<[_]>::first)) {
            (0, Ok(Some(state))) if state == "fresh" => Ok(()),
            (left, state) => Err(format!("{left} notes are left, the state is {state:?}")),
        }
    })
    .await;
    rig.assert_sets(oracle).await;
}

/// Each with a member that no other has: what is lost is not made up for by a later event.
pub fn unique(producer: &mut Producer, count: usize) -> Vec<Value> {
    let mut events = producer.events(count);
    for event in &mut events {
        event["username"] = event["id"].clone();
    }
    events
}

pub async fn arrives(rig: &Rig, oracle: &mut Oracle, worker: &Worker, events: &[Value]) {
    oracle.all_good(events);
    rig.publish_events(events).await;
    rig.wait_arrived(oracle).await;
    worker.assert_books_balance().await;
}

/// An idle worker, and a busy one, whose own words in Redis are not what they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watermark_that_went_back_is_noticed_and_bounds_the_loss() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut pg = record_notes(&rig).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let (mut redis, wm) = (rig.redis().await, format!("{}:wm", rig.prefix()));
    let users = format!("{}:users", rig.prefix());
    for busy in [false, true] {
        let events = unique(&mut producer, 50);
        arrives(&rig, &mut oracle, &worker, &events).await;
        let first = pg
            .int("SELECT min(txid) FROM (SELECT txid FROM events ORDER BY txid DESC LIMIT 50) e")
            .await;
        let before = notes(&mut pg).await;
        // As a Redis has it that came back without the last of its commands.
        for event in &events {
            redis.int(&["SREM", &users, event["id"].as_str().unwrap()]).await;
        }
        let fields = redis.in_order(&["HKEYS", &wm]).await.unwrap();
        let lanes = fields.iter().filter(|field| field.ends_with(|c: char| c.is_ascii_digit()));
        for lane in lanes {
            redis.int(&["HINCRBY", &wm, lane, "-1"]).await;
        }
        if busy {
            let more = unique(&mut producer, 10);
            arrives(&rig, &mut oracle, &worker, &more).await;
        }
        noticed(&mut pg, before, NOTICED).await;
        let bound = pg.int("SELECT min(coalesce(bound, 0)) FROM noted WHERE NOT rebuild").await;
        assert!(bound > 0 && bound <= first, "noted from {bound}, lost from {first}");
        mended(&rig, &oracle).await;
    }
    assert!(worker.metrics().await.unwrap().sum(names::REDIS_LOSSES) >= 2.0);
    assert_eq!(pg.int("SELECT count(*) FROM noted WHERE rebuild").await, 0, "bounded, each");
    rig.finish(&oracle, vec![worker]).await;
}

/// Without a watermark nothing bounds what else is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watermark_that_is_gone_has_everything_made_anew() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut pg = record_notes(&rig).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let mut redis = rig.redis().await;
    let before = notes(&mut pg).await;
    // In this order: nobody notices the one, and a repair follows the other.
    redis.int(&["SREM", &format!("{}:users", rig.prefix()), &oracle.members("users")[0]]).await;
    redis.int(&["DEL", &format!("{}:wm", rig.prefix())]).await;
    noticed(&mut pg, before, NOTICED).await;
    // The rebuild makes a note of its own, which has a bound.
    let unbounded = "SELECT count(*) FROM noted WHERE rebuild AND bound IS NULL";
    assert_eq!(pg.int(unbounded).await, 1);
    mended(&rig, &oracle).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Restarted from a copy of before the last events: by who saw it happen, and by a worker that was
/// not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_restored_from_an_older_copy_is_caught_up() {
    for witnessed in [true, false] {
        let rig = Rig::breakable(DEFAULT_SETS).await;
        let mut pg = record_notes(&rig).await;
        let mut oracle = rig.oracle();
        let mut producer = Producer::new(seed());
        let worker = rig.warm_worker(&mut oracle, &mut producer).await;
        let events = unique(&mut producer, 100);
        arrives(&rig, &mut oracle, &worker, &events).await;
        // Past a look, so that something stands for the floor.
        let folder = rig.servers().folder(Server::Redis);
        let copy = folder.with_file_name("redis-copy");
        copy_folder(&folder.join("appendonlydir"), &copy);
        let lost = unique(&mut producer, 200);
        arrives(&rig, &mut oracle, &worker, &lost).await;
        let witness = if witnessed {
            Some(worker)
        } else {
            worker.kill().await;
            None
        };
        rig.control(Verb::Kill, Server::Redis);
        fs::remove_dir_all(folder.join("appendonlydir")).unwrap();
        copy_folder(&copy, &folder.join("appendonlydir"));
        let _ = fs::remove_dir_all(&copy);
        let before = notes(&mut pg).await;
        rig.control(Verb::Start, Server::Redis);
        let worker = match witness {
            Some(worker) => worker,
            None => rig.worker().await,
        };
        noticed(&mut pg, before, NOTICED).await;
        mended(&rig, &oracle).await;
        rig.finish(&oracle, vec![worker]).await;
    }
}

pub fn copy_folder(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.expect("cp runs").success(), "cp {from:?} {to:?}");
}

/// Another program's value in the place of a set: all else is added, nobody takes it away unasked,
/// and a repair puts the set there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_is_set_aside_until_it_is_repaired() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let (mut redis, users) = (rig.redis().await, format!("{}:users", rig.prefix()));
    redis.int(&["DEL", &users]).await;
    redis.ask(&["SET", &users, "of another program"]).await.unwrap();
    let events = unique(&mut producer, 100);
    arrives(&rig, &mut oracle, &worker, &events).await;
    let kept = redis.ask(&["GET", &users]).await.unwrap().into_text();
    assert_eq!(kept, "of another program");
    assert_eq!(
        worker.complaints(&["another type"]).len(),
        1,
        "told once, by two lanes and batches"
    );
    rig.cli(&["manage", "verify", "--repair"]).await.expect(1);
    rig.finish(&oracle, vec![worker]).await;
}

/// A Redis that may evict is said to be stale, and no worker is ready with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicting_policy_is_noticed() {
    let rig = Rig::breakable(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut Producer::new(seed())).await;
    let (mut redis, meta) = (rig.redis().await, format!("{}:meta", rig.prefix()));
    let policy = async |redis: &mut crate::harness::Redis, policy: &str| {
        redis.ask(&["CONFIG", "SET", "maxmemory-policy", policy]).await.unwrap();
    };
    policy(&mut redis, "allkeys-lru").await;
    eventually(NOTICED, "the policy to be noticed", async || {
        let state = redis.in_order(&["HMGET", &meta, "state"]).await?;
        let evicts = worker.metrics().await?.sum(names::REDIS_EVICTS);
        let ready = worker.status("/readyz").await?;
        match (state[0].as_str(), evicts, ready) {
            ("stale", 1.0, 503) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    policy(&mut redis, "noeviction").await;
    worker.wait_ready().await;
    mended(&rig, &oracle).await;
    rig.finish(&oracle, vec![worker]).await;
}
