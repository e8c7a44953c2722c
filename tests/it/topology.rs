//! Exchanges and queues: declared idempotently, never fought over, never a way to lose an event.

use lapin::types::AMQPValue;

use crate::harness::{DEFAULT_SETS, LONG, Message, Producer, Rig, eventually, names, seed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declaring_twice_changes_nothing() {
    let rig = Rig::new(DEFAULT_SETS).await;
    rig.publish(&[Message::raw("{")]).await;
    rig.cli(&["manage", "topology"]).await.expect(0);
    rig.cli(&["manage", "topology", "--json"]).await.expect(0).json();
    let amqp = rig.amqp().await;
    assert_eq!(amqp.ready(rig.queue()).await, Ok(1), "what waits stays");
    assert!(amqp.exchange_exists(rig.exchange()).await);
}

/// A quorum queue with a delivery limit and a dead-letter exchange, at least once; both durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_loses_nothing_by_its_own_arguments() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let listed = rig.rabbitmqctl(&["-q", "list_queues", "name", "type", "durable", "arguments"]);
    let line = |queue: &str| -> String {
        let line = listed.lines().find(|line| line.split('\t').next() == Some(queue));
        line.unwrap_or_else(|| panic!("{queue} is not in {listed}")).to_owned()
    };
    let events = line(rig.queue());
    for wanted in [
        "\tquorum\ttrue\t",
        "x-delivery-limit",
        "x-dead-letter-exchange",
        "at-least-once",
        "reject-publish",
    ] {
        assert!(events.contains(wanted), "no {wanted} in {events}");
    }
    assert!(line(rig.dead_letters_queue()).contains("\ttrue\t"));
}

/// A worker alone is enough, where it may declare.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_declares_what_is_missing() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    rig.cli(&["manage", "migrate"]).await.expect(0);
    let mut oracle = rig.oracle();
    let event = Producer::new(seed()).event();
    oracle.good(&event);
    oracle.bad("json", "{");
    let worker = rig.worker().await;
    rig.publish(&[Message::object(&event), Message::raw("{")]).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A queue that exists with other arguments: said clearly, no loop, no crash; work begins by
/// itself once it is put right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_arguments_is_told_and_survived() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    rig.cli(&["manage", "migrate"]).await.expect(0);
    let amqp = rig.amqp().await;
    let classic = [("x-max-length", AMQPValue::LongInt(10))];
    amqp.declare_queue(rig.queue(), &classic).await;

    let run = rig.cli(&["manage", "topology"]).await.expect(64);
    assert!(run.stderr.contains(rig.queue()), "which queue: {}", run.stderr);
    let mut worker = rig.worker_unready().await;
    eventually(LONG, "the worker to say which queue", async || {
        let log = worker.log();
        let mut lines = log.lines().filter(|l| l.contains("WARN") || l.contains("ERROR"));
        match lines.any(|line| line.contains(rig.queue())) {
            true => Ok(()),
            false => Err(format!("its log is {log}")),
        }
    })
    .await;
    assert_eq!(worker.status("/livez").await, Ok(200));
    assert_eq!(worker.status("/readyz").await, Ok(503));
    worker.assert_alive();
    let lines = worker.log().lines().count();
    assert!(lines < 200, "{lines} lines of log for one wrong queue");

    amqp.delete_queue(rig.queue()).await;
    worker.wait_ready().await;
    let mut oracle = rig.oracle();
    let event = Producer::new(seed()).event();
    oracle.good(&event);
    rig.publish(&[Message::object(&event)]).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A dead letter that finds no queue is not lost: its message is not acknowledged before it is
/// parked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_without_a_queue_is_not_lost() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set(names::DECLARE_TOPOLOGY, "false");
    let mut oracle = rig.oracle();
    let event = Producer::new(seed()).event();
    oracle.good(&event);
    oracle.bad("json", "{");
    let mut worker = rig.worker().await;
    rig.amqp().await.delete_queue(rig.dead_letters_queue()).await;
    rig.publish(&[Message::raw("{"), Message::object(&event)]).await;
    eventually(LONG, "the worker to say so", async || {
        let log = worker.log();
        match log
            .lines()
            .any(|line| line.contains("ERROR") && line.contains(rig.dead_letters_queue()))
        {
            true => Ok(()),
            false => Err(format!("its log is {log}")),
        }
    })
    .await;
    worker.assert_alive();
    rig.set(names::DECLARE_TOPOLOGY, "true");
    rig.cli(&["manage", "topology"]).await.expect(0);
    rig.finish(&oracle, vec![worker]).await;
}

/// The place for dead letters, deleted under a running worker, is there again when it is needed,
/// with no hand and no new session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_place_for_dead_letters_is_declared_again() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let amqp = rig.amqp().await;
    let place = rig.dead_letters_queue();
    for (n, exchange_too) in [false, true].into_iter().enumerate() {
        amqp.delete_queue(place).await;
        if exchange_too {
            amqp.delete_exchange(place).await;
        }
        // What was in it is gone with it.
        oracle.dead.clear();
        let bad = format!("{{ {n}");
        oracle.bad("json", bad.as_str());
        let mut messages = vec![Message::raw(bad)];
        let events = producer.events(20);
        oracle.all_good(&events);
        messages.extend(events.iter().map(Message::object));
        rig.publish(&messages).await;
        eventually(LONG, "the letter to arrive", async || match amqp.ready(place).await? {
            1 => Ok(()),
            n => Err(format!("{n} there")),
        })
        .await;
        rig.wait_arrived(&oracle).await;
        worker.assert_books_balance().await;
    }
    let metrics = worker.metrics().await.unwrap();
    assert_eq!(metrics.sum(names::SESSIONS), 1.0, "sessions");
    rig.finish(&oracle, vec![worker]).await;
}
