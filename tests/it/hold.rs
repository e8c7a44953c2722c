//! Outages: the worker holds what it has, says that it is not ready, condemns nothing, and goes on
//! by itself. Each test has the servers to itself, to break them.

use serde_json::Value;

use crate::harness::{
    DEFAULT_SETS, LONG, Message, Oracle, Producer, Rig, Server, Verb, Worker, eventually, names,
    seed,
};

fn singles(events: &[Value]) -> Vec<Message> {
    events.iter().map(Message::object).collect()
}

/// Publishes while a store is away, and sees that it is held.
async fn held(rig: &Rig, worker: &mut Worker, events: &[Value]) {
    // Told by an idle worker too, which has nothing to write.
    worker.wait_not_ready().await;
    rig.publish(&singles(events)).await;
    worker.wait_in_flight().await;
    assert_eq!(worker.status("/livez").await, Ok(200));
    worker.assert_alive();
    assert_eq!(rig.dead_letters().await.len(), 0, "nothing is condemned for an outage");
}

async fn resumed(rig: &Rig, worker: &mut Worker, oracle: &Oracle) {
    worker.wait_ready().await;
    rig.wait_arrived(oracle).await;
    worker.assert_books_balance().await;
    worker.assert_alive();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_away_is_waited_for() {
    let rig = Rig::breakable(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut worker = rig.worker().await;
    for verb in [Verb::Stop, Verb::Kill] {
        let (before, during) = (producer.events(100), producer.events(300));
        oracle.all_good(&before);
        rig.publish(&singles(&before)).await;
        rig.wait_arrived(&oracle).await;
        rig.control(verb, Server::Postgres);
        held(&rig, &mut worker, &during).await;
        oracle.all_good(&during);
        rig.control(Verb::Start, Server::Postgres);
        resumed(&rig, &mut worker, &oracle).await;
    }
    rig.finish(&oracle, vec![worker]).await;
}

/// Gone, and hung: a server that takes a command and never answers is away as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_away_is_waited_for() {
    let mut rig = Rig::breakable("cities=state+city users=username~ daily=username/day").await;
    rig.set(names::REDIS_TIMEOUT_MS, "500");
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut worker = rig.worker().await;
    for (away, back) in [(Verb::Stop, Verb::Start), (Verb::Pause, Verb::Resume)] {
        let (before, during) = (producer.events(100), producer.events(300));
        oracle.all_good(&before);
        rig.publish(&singles(&before)).await;
        rig.wait_arrived(&oracle).await;
        worker.assert_books_balance().await;
        rig.control(away, Server::Redis);
        held(&rig, &mut worker, &during).await;
        oracle.all_good(&during);
        rig.control(back, Server::Redis);
        resumed(&rig, &mut worker, &oracle).await;
    }
    rig.finish(&oracle, vec![worker]).await;
}

/// Restarted, and every connection cut, in the middle of the work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_away_is_waited_for() {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    rig.set(names::BATCH_EVENTS_MAX, "20");
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut worker = rig.worker().await;

    let events = producer.events(2000);
    oracle.all_good(&events);
    let gate = rig.close_gate().await;
    rig.publish(&singles(&events)).await;
    rig.wait_at_gate().await;
    rig.control(Verb::Stop, Server::RabbitMq);
    worker.wait_not_ready().await;
    assert_eq!(worker.status("/livez").await, Ok(200));
    gate.open().await;
    rig.control(Verb::Start, Server::RabbitMq);
    resumed(&rig, &mut worker, &oracle).await;

    let events = producer.events(2000);
    oracle.all_good(&events);
    let gate = rig.close_gate().await;
    rig.publish(&singles(&events)).await;
    rig.wait_at_gate().await;
    rig.rabbitmqctl(&["eval", "rabbit_networking:close_all_connections(<<\"bye\">>)."]);
    gate.open().await;
    resumed(&rig, &mut worker, &oracle).await;
    let log = worker.log();
    assert!(!log.contains("panicked"), "{log}");
    rig.finish(&oracle, vec![worker]).await;
}

/// A hold is bounded: past its time what is held goes back to the broker, which would otherwise end
/// the channel, and comes again when the store takes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_is_bounded() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    for (name, seconds) in [
        (names::STORE_TIMEOUT_SECS, "1"),
        (names::REDIS_HOLD_SECS, "1"),
        (names::DRAIN_SECS, "1"),
        (names::HOLD_MAX_SECS, "2"),
    ] {
        rig.set(name, seconds);
    }
    let mut oracle = rig.oracle();
    let events = Producer::new(seed()).events(50);
    oracle.all_good(&events);
    let mut worker = rig.worker().await;
    let gate = rig.close_gate().await;
    rig.publish(&singles(&events)).await;
    rig.wait_at_gate().await;
    let amqp = rig.amqp().await;
    eventually(LONG, "all to be back in the queue", async || {
        match amqp.ready(rig.queue()).await? {
            50 => Ok(()),
            n => Err(format!("{n} are")),
        }
    })
    .await;
    worker.wait_not_ready().await;
    assert_eq!(worker.status("/livez").await, Ok(200));
    assert_eq!(rig.dead_letters().await.len(), 0, "nothing is condemned for an outage");
    gate.open().await;
    resumed(&rig, &mut worker, &oracle).await;
    rig.finish(&oracle, vec![worker]).await;
}
