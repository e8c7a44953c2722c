//! P1, P2 and P4 when a worker dies at the worst moments.

use std::time::Duration;

use serde_json::json;

use crate::harness::{DEFAULT_SETS, LONG, Message, Producer, Rig, eventually, names, seed};

const TWO_MINUTES: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_point_with_batches_of_one_loses_nothing_and_doubles_nothing() {
    die_at_each_point("1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_point_with_large_batches_loses_nothing_and_doubles_nothing() {
    die_at_each_point("500").await;
}

/// A worker dies at each point of the order of effects; the next one makes up for all of it.
async fn die_at_each_point(batch: &str) {
    let mut producer = Producer::new(seed());
    for point in rollcall::fault::POINTS {
        let mut rig = Rig::new(DEFAULT_SETS).await;
        rig.set("ROLLCALL_BATCH_EVENTS_MAX", batch);
        let mut oracle = rig.oracle();
        oracle.dead_may_repeat = true;
        let events = producer.events(300);
        oracle.all_good(&events);
        let mut messages: Vec<_> = events.iter().map(Message::object).collect();
        for bad in ["{", "["] {
            oracle.bad("json", bad);
            messages.insert(0, Message::raw(bad));
        }
        rig.publish(&messages).await;
        // Past the first message, when a window of them is unsettled. However large the batches
        // turn out, there is a second.
        let pass = 2;
        rig.set("FAULT_POINT", &format!("{point}:{pass}"));
        let mut worker = rig.worker_unready().await;
        let status = worker.wait_exit(LONG).await;
        assert!(!status.success(), "{point}: the fault did not fire");
        rig.env.remove("FAULT_POINT");
        let worker = rig.worker().await;
        rig.finish(&oracle, vec![worker]).await;
    }
}

/// One message that kills whoever decodes it, three workers that are started again and again: the
/// broker's delivery limit takes it out, and it alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_kills_its_worker_is_dead_lettered_alone() {
    let mut rig = Rig::bare(DEFAULT_SETS).await;
    rig.set("ROLLCALL_DELIVERY_LIMIT", "20");
    rig.cli(&["manage", "migrate"]).await.expect(0);
    rig.cli(&["manage", "topology"]).await.expect(0);
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events = producer.events(10_000);
    oracle.all_good(&events);
    let poison = producer.event_with(json!({"text": "kills whoever reads it"}));
    let mut messages: Vec<_> = events.iter().map(Message::object).collect();
    messages.insert(5_000, Message::object(&poison));
    // The broker says why in headers of its own.
    oracle.bad("(none)", poison.to_string());
    rig.publish(&messages).await;
    rig.set("FAULT_POISON", "kills whoever reads it");
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(rig.worker_unready().await);
    }
    let mut deaths = 0;
    let dead_letters = rig.dead_letters_queue().to_owned();
    let amqp = rig.amqp().await;
    // Each death is seen and made up for, as a service manager would.
    eventually(TWO_MINUTES, "the poison to be given up and all else stored", async || {
        for worker in &mut workers {
            if worker.has_exited() {
                deaths += 1;
                *worker = rig.worker_unready().await;
            }
        }
        let stored = rig.pg().await.events().await?;
        let letters = amqp.ready(&dead_letters).await?;
        match (stored, letters) {
            (10_000, 1..) => Ok(()),
            _ => Err(format!("{stored} stored, {letters} dead letters, {deaths} deaths")),
        }
    })
    .await;
    assert!(deaths >= 10, "{deaths} workers died: the poison did not work");
    rig.env.remove("FAULT_POISON");
    workers.retain_mut(|worker| !worker.has_exited());
    workers.push(rig.worker().await);
    rig.finish(&oracle, workers).await;
}

/// A panic of a lane ends its session and is told; the worker lives, and the next session does what
/// was left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_at_any_point_ends_the_session_and_not_the_worker() {
    let mut producer = Producer::new(seed());
    for point in rollcall::fault::POINTS {
        let mut rig = Rig::new(DEFAULT_SETS).await;
        rig.set("ROLLCALL_BATCH_EVENTS_MAX", "50");
        let mut oracle = rig.oracle();
        oracle.dead_may_repeat = true;
        let events = producer.events(300);
        oracle.all_good(&events);
        let mut messages: Vec<_> = events.iter().map(Message::object).collect();
        for bad in ["{", "["] {
            oracle.bad("json", bad);
            messages.insert(0, Message::raw(bad));
        }
        rig.publish(&messages).await;
        rig.set("FAULT_PANIC", &format!("{point}:2"));
        let mut worker = rig.worker_unready().await;
        rig.wait_arrived(&oracle).await;
        worker.assert_books_balance().await;
        worker.assert_alive();
        assert_eq!(worker.complaints(&["a lane panicked"]).len(), 1, "{point}: {}", worker.log());
        let metrics = worker.metrics().await.unwrap();
        assert_eq!(metrics.sum(names::SESSIONS), 2.0, "{point}: sessions");
        assert_eq!(metrics.sum(names::SESSION_ERRORS), 1.0, "{point}: session errors");
        worker.wait_ready().await;
        rig.finish(&oracle, vec![worker]).await;
    }
}
