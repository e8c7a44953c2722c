//! The whole line under load and under crashes, against the oracle.

use serde_json::{Value, json};

use crate::harness::{DEFAULT_SETS, LONG, Message, Oracle, Producer, Rig, eventually, names, seed};

/// 20,000 unless `ROLLCALL_TEST_EVENTS` says otherwise.
fn events_wanted() -> usize {
    match std::env::var("ROLLCALL_TEST_EVENTS") {
        Ok(text) => text.parse().expect("ROLLCALL_TEST_EVENTS is a number"),
        Err(_) => 20_000,
    }
}

const SETS: &str = "cities=state+city users=username users_by_city=username@state+city \
                    users_daily=username/day texts=text~";

/// A bad event of some kind, with its reason.
fn bad(producer: &mut Producer) -> (&'static str, String) {
    let event = producer.event();
    let with = |name: &str, value: Value| {
        let mut event = event.clone();
        event[name] = value;
        event.to_string()
    };
    match producer.rng.below(6) {
        0 => ("not_an_object", producer.rng.next().to_string()),
        1 => ("id_type", with("id", json!(17))),
        2 => ("too_old", with("occurred_at", json!("1970-01-01T00:00:00Z"))),
        3 => ("field_type", with("username", json!({"first": "ann"}))),
        4 => ("nul_character", with("text", json!("\0"))),
        _ => ("occurred_at_format", with("occurred_at", json!("noon"))),
    }
}

/// So many events, 5 % of them published again later and 1 % bad, in messages of every size.
fn traffic(producer: &mut Producer, oracle: &mut Oracle, count: usize) -> Vec<Message> {
    let (mut messages, mut sent): (Vec<Message>, Vec<String>) = (Vec::new(), Vec::new());
    let mut made = 0;
    while made < count {
        let size = match producer.rng.below(10) {
            0 => 1 + producer.rng.below(50),
            1 => 1 + producer.rng.below(5),
            _ => 1,
        };
        let mut elements = Vec::new();
        for _ in 0..size.min((count - made) as u64) {
            made += 1;
            if producer.rng.percent(1) {
                let (reason, text) = bad(producer);
                oracle.bad(reason, text.clone());
                elements.push(text);
            } else if producer.rng.percent(5) && !sent.is_empty() {
                elements.push(producer.rng.pick(&sent).clone());
            } else {
                let event = producer.event();
                oracle.good(&event);
                sent.push(event.to_string());
                elements.push(event.to_string());
            }
        }
        messages.push(match elements.len() {
            1 => Message::raw(elements.remove(0)),
            _ if producer.rng.percent(50) => Message::ndjson(elements),
            _ => Message::array_of(elements),
        });
    }
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_agree_with_the_oracle() {
    let rig = Rig::with_roles(SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let messages = traffic(&mut producer, &mut oracle, events_wanted());
    // Half of it waits when the workers come, half arrives while they work.
    let (waiting, coming) = messages.split_at(messages.len() / 2);
    rig.publish(waiting).await;
    let workers = vec![rig.worker().await, rig.worker().await];
    rig.publish(coming).await;
    rig.wait_arrived(&oracle).await;

    // Other payloads for identities that are stored by now.
    let mut conflicts = Vec::new();
    for text in oracle.payloads.iter().step_by(oracle.payloads.len() / 50) {
        let mut event: Value = serde_json::from_str(text).unwrap();
        event["username"] = json!("impostor");
        conflicts.push(event);
    }
    conflicts.iter().for_each(|event| oracle.bad("id_conflict", event.to_string()));
    rig.publish_events(&conflicts).await;
    rig.wait_arrived(&oracle).await;
    for worker in &workers {
        let deliveries = worker.metrics().await.unwrap().sum(names::DELIVERIES);
        assert!(deliveries > 0.0, "a worker had nothing to do");
    }
    rig.finish(&oracle, workers).await;
}

/// The same events in one order and in the other, to many lanes at once. Rows in the order of
/// their keys cannot deadlock; a deadlock would be survived, and cost a second each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opposite_orders_do_not_deadlock() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set(names::LANES, "4");
    let mut oracle = rig.oracle();
    let mut events = Producer::new(seed()).events(8000);
    oracle.all_good(&events);
    let mut messages = Vec::new();
    for some in events.chunks_mut(1000) {
        for _ in 0..4 {
            messages.push(Message::array(some));
            some.reverse();
        }
    }
    let workers = vec![rig.worker().await, rig.worker().await];
    // They wait together, and start together.
    let gate = rig.close_gate().await;
    rig.publish(&messages).await;
    rig.wait_at_gate().await;
    gate.open().await;
    rig.finish(&oracle, workers).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(rig.pg().await.int(deadlocks).await, 0);
}

/// Workers are killed in the middle of it, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_workers_lose_nothing() {
    let mut rig = Rig::with_roles(SETS).await;
    rig.set(names::BATCH_EVENTS_MAX, "100");
    let mut oracle = rig.oracle();
    oracle.dead_may_repeat = true;
    let mut producer = Producer::new(seed());
    let messages = traffic(&mut producer, &mut oracle, 6000);
    rig.publish(&messages).await;
    let mut pg = rig.pg().await;
    let mut stored = 0;
    for _ in 0..3 {
        let worker = rig.worker_unready().await;
        stored = eventually(LONG, "some progress", async || match pg.events().await? {
            n if n > stored || n == oracle.payloads.len() as i64 => Ok(n),
            n => Err(format!("{n} are stored")),
        })
        .await;
        worker.kill().await;
    }
    let worker = rig.worker().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A worker that dies with a batch in its hands, before COMMIT, has acknowledged none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_before_commit_has_acknowledged_nothing() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    oracle.dead_may_repeat = true;
    let mut producer = Producer::new(seed());
    let mut worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let messages = traffic(&mut producer, &mut oracle, 300);
    let gate = rig.close_gate().await;
    rig.publish(&messages).await;
    // Three times: from the second on the broker tells how often each was delivered, and the
    // worker goes carefully.
    for _ in 0..3 {
        rig.wait_at_gate().await;
        worker.kill().await;
        rig.clear_gate().await;
        worker = rig.worker_unready().await;
    }
    gate.open().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A worker that dies after COMMIT and before its SADD: to Postgres the redelivery brings nothing
/// new, and yet it must add what Redis misses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_between_commit_and_sadd_is_made_up_for() {
    let mut rig = Rig::new(SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events = producer.events(100);
    let redis_url = rig.env["REDIS_URL"].clone();
    let redis = rig.proxy("REDIS_URL").await;
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    oracle.all_good(&events);
    redis.swallow();
    rig.publish_events(&events).await;
    let mut pg = rig.pg().await;
    // Each lane has its first batch in hand, and no other before that is settled.
    eventually(LONG, "some to be stored", async || match pg.events().await? {
        100 => Err("none is".to_owned()),
        n => Ok(n),
    })
    .await;
    worker.kill().await;
    rig.set("REDIS_URL", &redis_url);
    let users = rig.redis().await.int(&["SCARD", &format!("{}:users", rig.prefix())]).await;
    assert!(users < oracle.members("users").len() as i64, "Redis was reached: nothing was tried");
    let worker = rig.worker().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A worker that dies after all is done, before its ack arrives: everything comes again, and
/// changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_before_its_ack_changes_nothing_twice() {
    let mut rig = Rig::new(SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events = producer.events(100);
    let amqp_url = rig.env["AMQP_URL"].clone();
    let amqp = rig.proxy("AMQP_URL").await;
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    oracle.all_good(&events);
    amqp.swallow();
    rig.set("AMQP_URL", &amqp_url);
    rig.publish_events(&events).await;
    let mut pg = rig.pg().await;
    eventually(LONG, "some to be stored", async || match pg.events().await? {
        100 => Err("none is".to_owned()),
        n => Ok(n),
    })
    .await;
    worker.kill().await;
    let worker = rig.worker().await;
    rig.wait_arrived(&oracle).await;
    eventually(LONG, "all hundred to come again", async || {
        match worker.metrics().await?.sum(names::DELIVERIES) {
            100.0.. => Ok(()),
            n => Err(format!("{n} did: an ack got through")),
        }
    })
    .await;
    rig.finish(&oracle, vec![worker]).await;
}
