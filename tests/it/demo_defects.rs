//! What the demo before Rollcall got wrong, each a test: it cannot come back. (The gap between
//! INSERT and SADD is `crash`, a replay that adds a row `contract`, deletes that reach the sets
//! `forget`.)

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{LONG, Producer, Rig, eventually, seed};

/// Its lock was a key with a random value that anybody could delete: the second rebuilder freed the
/// lock of the first. Ours goes with the connection that has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_can_free_the_lock_of_another() {
    let rig = Rig::new("users=username").await;
    let mut holder = rig.pg().await;
    holder.run("SELECT pg_advisory_lock(1919904876, 3)").await;
    for command in ["rebuild", "verify", "catch-up", "prune"] {
        let busy = rig.cli(&["manage", command, "--wait", "0"]).await;
        assert_eq!(busy.code, Some(75), "{command}: {}", busy.said());
    }
    let mut other = rig.pg().await;
    let freed = other.int("SELECT pg_advisory_unlock(1919904876, 3)::int::bigint").await;
    assert_eq!(freed, 0, "it is not theirs");
    rig.cli(&["manage", "rebuild", "--wait", "0"]).await.expect(75);
    // Killed, it frees its own.
    drop(holder);
    rig.cli(&["manage", "rebuild", "--wait", "30"]).await.expect(0);
}

/// Its rebuild read the table, and put that over what had been written meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_written_during_a_rebuild_is_kept() {
    let rig = Rig::new("users=username").await;
    let mut producer = Producer::new(seed());
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    for round in 0..5 {
        let rebuild = rig.begin(&["manage", "rebuild"]);
        let events: Vec<_> = (0..100)
            .map(|n| producer.event_with(json!({"username": format!("during-{round}-{n}")})))
            .collect();
        oracle.all_good(&events);
        rig.publish_events(&events).await;
        rebuild.end().await.expect(0);
    }
    rig.finish(&oracle, vec![worker]).await;
}

/// Its reader asked the database again on each request while the set was empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_table_is_not_asked_about_for_ever() {
    let rig = Rig::new("users=username").await;
    let worker = rig.worker().await;
    let mut pg = rig.pg().await;
    let generation = rig.cli(&["read", "list", "--json"]).await.expect(0).json();
    rig.cli(&["read", "count", "users"]).await.expect(0);
    // Two looks of the worker: neither of them makes anything anew.
    let began = Instant::now();
    eventually(LONG, "two looks to pass", async || match began.elapsed() {
        passed if passed > Duration::from_secs(11) => Ok(()),
        passed => Err(format!("{passed:?}")),
    })
    .await;
    let after = rig.cli(&["read", "list", "--json"]).await.expect(0).json();
    assert_eq!(generation["generation"], after["generation"], "it was made anew");
    let rebuilt = pg.int("SELECT count(rebuilt_at) FROM rollcall_projection").await;
    assert_eq!(rebuilt, 0);
    worker.terminate().await;
}

/// It joined state and city by a colon, so that two cities were one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn composites_that_share_a_text_stay_apart_through_a_rebuild() {
    let rig = Rig::new("cities=state+city").await;
    let mut producer = Producer::new(seed());
    let events = [
        producer.event_with(json!({"state": "a:b", "city": "c"})),
        producer.event_with(json!({"state": "a", "city": "b:c"})),
    ];
    let mut oracle = rig.oracle();
    oracle.all_good(&events);
    let worker = rig.worker().await;
    rig.publish_events(&events).await;
    rig.finish(&oracle, vec![worker]).await;
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    rig.assert_sets(&oracle).await;
    let mut redis = rig.redis().await;
    assert_eq!(redis.int(&["SCARD", &format!("{}:cities", rig.prefix())]).await, 2);
}
