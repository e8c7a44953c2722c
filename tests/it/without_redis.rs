//! P1 to P5 where Redis is away for longer than a batch waits for it: ingest goes on into Postgres,
//! what Redis lacks is noted there before each ack, and it is caught up when it is back.

use serde_json::Value;

use crate::harness::{
    DEFAULT_SETS, LONG, Oracle, Pg, Producer, Rig, Server, Verb, Worker, eventually, names, seed,
};
use crate::loss::{mended, record_notes, unique};

/// A world whose workers wait this many seconds for Redis.
async fn rig_with_hold(seconds: &str) -> Rig {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    for (name, value) in [
        (names::REDIS_HOLD_SECS, seconds),
        (names::REDIS_TIMEOUT_MS, "500"),
        (names::RETRY_MAX_SECS, "1"),
        (names::BATCH_EVENTS_MAX, "20"),
    ] {
        rig.set(name, value);
    }
    rig
}

async fn publish(rig: &Rig, oracle: &mut Oracle, events: &[Value]) {
    oracle.all_good(events);
    rig.publish_events(events).await;
}

/// All is stored and settled, Redis being away.
async fn settled_without_redis(rig: &Rig, oracle: &Oracle, worker: &Worker) {
    rig.wait_arrived(oracle).await;
    worker.assert_books_balance().await;
    assert_eq!(worker.status("/readyz").await, Ok(503), "Redis is away, and readiness says so");
    assert_eq!(worker.status("/livez").await, Ok(200));
}

/// Of the rows that Redis was never given, each is covered by a note.
async fn assert_noted(pg: &mut Pg, events: usize) {
    let uncovered = format!(
        "SELECT count(*) FROM (SELECT txid FROM events ORDER BY txid DESC LIMIT {events}) e \
         WHERE txid < (SELECT coalesce(min(bound), 9e18) FROM noted)"
    );
    assert_eq!(pg.int(&uncovered).await, 0, "stored, settled and not noted");
}

/// Gone, and hung.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingest_goes_on_without_redis_and_catches_it_up() {
    let rig = rig_with_hold("2").await;
    let mut pg = record_notes(&rig).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let meta = format!("{}:meta", rig.prefix());
    for (away, back) in [(Verb::Stop, Verb::Start), (Verb::Pause, Verb::Resume)] {
        pg.run("TRUNCATE noted").await;
        let skipped = worker.metrics().await.unwrap().sum(names::SKIPPED);
        rig.control(away, Server::Redis);
        let events = unique(&mut producer, 300);
        publish(&rig, &mut oracle, &events).await;
        settled_without_redis(&rig, &oracle, &worker).await;
        assert_noted(&mut pg, 300).await;
        let metrics = worker.metrics().await.unwrap();
        assert_eq!(metrics.sum(names::SKIPPED) - skipped, 300.0, "skipped, each once");
        assert_eq!(metrics.sum(names::SESSIONS), 1.0, "nothing was given back");
        // Nobody mends it while this is held: what readers are told meanwhile can be seen.
        pg.run("SELECT pg_advisory_lock(x'726f6c6c'::int, 3)").await;
        rig.control(back, Server::Redis);
        let mut redis = rig.redis().await;
        eventually(LONG, "readers to be told", async || {
            match redis.in_order(&["HMGET", &meta, "state"]).await?.remove(0) {
                state if state == "stale" => Ok(()),
                state => Err(format!("the state is {state}")),
            }
        })
        .await;
        worker.wait_ready().await;
        pg.run("SELECT pg_advisory_unlock_all()").await;
        mended(&rig, &oracle).await;
        let events = unique(&mut producer, 100);
        publish(&rig, &mut oracle, &events).await;
        rig.wait_arrived(&oracle).await;
        worker.assert_books_balance().await;
        rig.assert_sets(&oracle).await;
    }
    rig.finish(&oracle, vec![worker]).await;
}

/// Started, and started again, while there is no Redis at all; the wait may be none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_starts_without_redis_goes_on_without_it() {
    for hold in ["0", "2"] {
        let rig = rig_with_hold(hold).await;
        let mut pg = record_notes(&rig).await;
        let mut oracle = rig.oracle();
        let mut producer = Producer::new(seed());
        rig.warm_worker(&mut oracle, &mut producer).await.terminate().await;
        rig.control(Verb::Kill, Server::Redis);
        for _ in 0..2 {
            let events = unique(&mut producer, 100);
            publish(&rig, &mut oracle, &events).await;
            let worker = rig.worker_unready().await;
            settled_without_redis(&rig, &oracle, &worker).await;
            worker.terminate().await;
        }
        assert_noted(&mut pg, 200).await;
        rig.control(Verb::Start, Server::Redis);
        let worker = rig.worker().await;
        mended(&rig, &oracle).await;
        rig.finish(&oracle, vec![worker]).await;
    }
}

/// It dies between the COMMIT and the note, and between the note and the ack: the message comes
/// again, and its note with it. Nothing is settled that is not noted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_without_redis_loses_nothing() {
    let mut rig = rig_with_hold("1").await;
    let mut pg = record_notes(&rig).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    rig.warm_worker(&mut oracle, &mut producer).await.terminate().await;
    rig.control(Verb::Stop, Server::Redis);
    let mut events = 0;
    for point in ["after_commit", rollcall::fault::POINT_WITHOUT_REDIS, "after_ack"] {
        let more = unique(&mut producer, 100);
        events += more.len();
        publish(&rig, &mut oracle, &more).await;
        // Past the first message, in the middle of the second batch.
        rig.set("FAULT_POINT", &format!("{point}:3"));
        let mut worker = rig.worker_unready().await;
        let status = worker.wait_exit(LONG).await;
        assert!(!status.success(), "{point}: the fault did not fire");
        rig.env.remove("FAULT_POINT");
        if point == rollcall::fault::POINT_WITHOUT_REDIS {
            // Two batches of it are settled, the third is not: all three are noted.
            assert!(pg.int("SELECT count(*) FROM noted").await >= 3, "{point}");
        }
    }
    let worker = rig.worker_unready().await;
    settled_without_redis(&rig, &oracle, &worker).await;
    assert_noted(&mut pg, events).await;
    rig.control(Verb::Start, Server::Redis);
    mended(&rig, &oracle).await;
    rig.finish(&oracle, vec![worker]).await;
}
