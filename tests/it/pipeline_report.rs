//! What workers say of themselves in `<prefix>:pipeline`, for those who watch.

use serde_json::json;
use time::OffsetDateTime;

use crate::harness::{LONG, Message, Producer, Rig, eventually, seed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_tell_how_they_do_and_take_it_back_when_they_end() {
    let rig = Rig::new("users=username").await;
    let mut redis = rig.redis().await;
    let key = format!("{}:pipeline", rig.prefix());
    // One that died long ago, one that did so lately, and something that is no report.
    let now = OffsetDateTime::now_utc().unix_timestamp() * 1_000;
    let died = |ms: i64| json!({"at_ms": now - ms, "received_per_second": 99.0}).to_string();
    let (long, late) = (died(16 * 60 * 1_000), died(2 * 60 * 1_000));
    redis.int(&["HSET", &key, "long-dead", &long, "dead", &late, "odd", "none"]).await;
    let (one, other) = (rig.worker().await, rig.worker().await);
    let site = rig.site().await;
    let mut oracle = rig.oracle();
    oracle.bad("json", "{");
    let mut producer = Producer::new(seed());
    rig.publish(&[Message::raw("{")]).await;
    let events = producer.events(500);
    oracle.all_good(&events);
    rig.publish_events(&events).await;
    let rates = ["received_per_second", "stored_per_second", "applied_per_second"];
    let mut seen_rates = [false; 3];
    eventually(LONG, "the pipeline to be told", async || {
        let seen = site.json("/api/snapshot").await["pipeline"].clone();
        for (rate, seen_rate) in rates.iter().zip(&mut seen_rates) {
            *seen_rate |= seen[rate].as_f64().is_some_and(|rate| rate > 0.0);
        }
        let all = seen["workers"] == json!(2)
            && seen["dead_letters"] == json!({"json": 1})
            && seen["queue_ready"] == json!(0)
            && seen["unacked"] == json!(0)
            && seen["time_to_empty_seconds"] == json!(0.0);
        match all && seen_rates == [true; 3] {
            true => Ok(()),
            false => Err(format!("{seen_rates:?} {seen}")),
        }
    })
    .await;
    let fields = redis.texts(&["HKEYS", &key]).await.unwrap();
    assert!(!fields.contains(&"long-dead".to_owned()), "{fields:?}");
    assert!(fields.contains(&"dead".to_owned()), "it may come again: {fields:?}");
    site.process.terminate().await;
    rig.finish(&oracle, vec![one, other]).await;
    assert_eq!(redis.texts(&["HKEYS", &key]).await.unwrap(), ["dead", "odd"]);
}

/// It is no set's, whatever looks over the keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_mends_the_sets_leaves_it_alone() {
    let rig = Rig::new("users=username").await;
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut Producer::new(seed())).await;
    worker.terminate().await;
    let mut redis = rig.redis().await;
    let key = format!("{}:pipeline", rig.prefix());
    let report = json!({"at_ms": 1}).to_string();
    redis.int(&["HSET", &key, "someone", &report]).await;
    let pruned = rig.cli(&["manage", "prune", "--json"]).await.expect(0);
    assert!(!pruned.stdout.contains("pipeline"), "{}", pruned.stdout);
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    rig.cli(&["manage", "verify", "--repair"]).await.expect(0);
    assert_eq!(redis.texts(&["HVALS", &key]).await.unwrap(), [report]);
    let refused = rig.cli_with_env(&["check"], &[("ROLLCALL_SETS", "pipeline=username")]).await;
    refused.expect(64);
    rig.assert_sets(&oracle).await;
}
