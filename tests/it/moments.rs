//! The moments at which a repair could lose a member: it is stopped just there, a worker stores and
//! adds, and it goes on.

use serde_json::json;

use crate::harness::{LONG, Oracle, Producer, Rig, eventually, seed};

const SETS: &str = "users=username by_city=username@city about=username~";

/// Stops a command at `point`, has a worker ingest `events` meanwhile, and lets it go on.
async fn meanwhile(
    rig: &mut Rig,
    oracle: &mut Oracle,
    point: &str,
    args: &[&str],
    code: i32,
    events: &[serde_json::Value],
) {
    let file = rig.file("pause", b"");
    rig.set("FAULT_PAUSE", point);
    rig.set("FAULT_PAUSE_FILE", &file);
    let command = rig.begin(args);
    eventually(LONG, "the command to come to its point", async || {
        match std::path::Path::new(&format!("{file}.reached")).exists() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    })
    .await;
    rig.env.remove("FAULT_PAUSE");
    oracle.all_good(events);
    let worker = rig.worker().await;
    rig.publish_events(events).await;
    rig.wait_arrived(oracle).await;
    // In Redis too: the members are there, and it is from there that they must not vanish.
    worker.assert_books_balance().await;
    std::fs::write(format!("{file}.go"), "").unwrap();
    command.end().await.expect(code);
    rig.finish(oracle, vec![worker]).await;
}

async fn begun() -> (Rig, Oracle, Producer) {
    let rig = Rig::new(SETS).await;
    let (mut oracle, mut producer) = (rig.oracle(), Producer::new(seed()));
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    worker.terminate().await;
    (rig, oracle, producer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_between_the_last_pass_and_the_swap_is_kept() {
    let (mut rig, mut oracle, mut producer) = begun().await;
    let events: Vec<_> =
        (0..50).map(|n| producer.event_with(json!({"username": format!("late{n}")}))).collect();
    meanwhile(&mut rig, &mut oracle, "before_swap", &["manage", "rebuild"], 0, &events).await;
}

/// A key that was made after the last but one pass: it is of no event only for who looks too early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_comes_while_stale_ones_are_looked_for_is_kept() {
    let (mut rig, mut oracle, mut producer) = begun().await;
    let mut redis = rig.redis().await;
    redis.int(&["SADD", &format!("{}:by_city:young", rig.prefix()), "ann"]).await;
    let events = [producer.event_with(json!({"username": "ann", "city": "young"}))];
    meanwhile(&mut rig, &mut oracle, "after_stale", &["manage", "rebuild"], 0, &events).await;
}

/// A key that nothing supported, and that an event has just made right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_supported_while_it_is_taken_out_is_back() {
    let (mut rig, mut oracle, mut producer) = begun().await;
    let mut redis = rig.redis().await;
    redis.int(&["SADD", &format!("{}:by_city:ghost", rig.prefix()), "ann"]).await;
    let events = [producer.event_with(json!({"username": "ann", "city": "ghost"}))];
    meanwhile(&mut rig, &mut oracle, "before_removal", &["manage", "rebuild"], 0, &events).await;
}

/// The same of a member: it was a phantom when it was seen, and is none any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phantom_that_is_supported_while_it_is_taken_out_is_back() {
    let (mut rig, mut oracle, mut producer) = begun().await;
    let mut redis = rig.redis().await;
    redis.int(&["SADD", &format!("{}:users", rig.prefix()), "ghost"]).await;
    let events = [producer.event_with(json!({"username": "ghost"}))];
    let args = ["manage", "verify", "--repair"];
    meanwhile(&mut rig, &mut oracle, "before_removal", &args, 1, &events).await;
}

/// A transaction that began long before the mark and ended after it: its rows carry an early time,
/// and are read all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catch_up_reads_what_was_under_way_at_the_mark() {
    let rig = Rig::new(SETS).await;
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    let insert = |username: &str| {
        format!(
            "INSERT INTO events (occurred_at, id, payload)
             VALUES (now(), gen_random_uuid(), '{{\"username\": \"{username}\"}}')"
        )
    };
    let (mut slow, mut quick) = (rig.pg().await, rig.pg().await);
    slow.run("BEGIN").await;
    assert_eq!(slow.int("SELECT count(now())").await, 1);
    quick.run(&insert("quick")).await;
    // What a worker would have noted now.
    quick
        .run(&format!(
            "INSERT INTO rollcall_projection (prefix, version, catch_up_from, reason)
             VALUES ('{0}', 1, txid_snapshot_xmin(txid_current_snapshot()), 'a test')
             ON CONFLICT (prefix) DO UPDATE
             SET version = rollcall_projection.version + 1, catch_up_from = excluded.catch_up_from",
            rig.prefix()
        ))
        .await;
    slow.run(&insert("slow")).await;
    slow.run("COMMIT").await;
    rig.cli(&["manage", "catch-up"]).await.expect(0);
    let mut redis = rig.redis().await;
    let users = format!("{}:users", rig.prefix());
    assert_eq!(redis.int(&["SISMEMBER", &users, "slow"]).await, 1, "it was under way at the mark");
}
