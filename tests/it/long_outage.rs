//! P5 where a store is away for longer than the broker lets a delivery wait: the worker gives up
//! its session first, and takes nothing again until a store takes a write.

use std::time::{Duration, Instant};

use crate::harness::{
    Amqp, DEFAULT_SETS, LONG, Message, Producer, Rig, Server, Verb, Worker, eventually, names, seed,
};

/// How long the broker of these tests lets a delivery wait; 30 minutes unless set.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(10);
/// Several of them.
const OUTAGE: Duration = Duration::from_secs(45);
const EVENTS: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_outage_of_postgres_returns_a_message_once() {
    long_outage(Server::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_outage_of_redis_returns_a_message_once() {
    long_outage(Server::Redis).await;
}

async fn long_outage(away: Server) {
    let mut rig = rig_with_short_patience().await;
    for (name, value) in [
        // What one lane returns must not be taken by another, to be returned again.
        (names::LANES, "4"),
        (names::HOLD_MAX_SECS, "4"),
        (names::DRAIN_SECS, "3"),
        (names::STORE_TIMEOUT_SECS, "2"),
        (names::REDIS_TIMEOUT_MS, "1000"),
        // Longer than the outage: nothing is stored without Redis.
        (names::REDIS_HOLD_SECS, "600"),
        (names::RETRY_MAX_SECS, "1"),
    ] {
        rig.set(name, value);
    }
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let amqp = rig.amqp().await;
    let log_before = rig.servers().log(Server::RabbitMq).len();

    rig.control(Verb::Stop, away);
    let began = Instant::now();
    let events = producer.events(EVENTS);
    oracle.all_good(&events);
    rig.publish_events(&events).await;
    given_up(&rig, &worker, &amqp).await;
    // A delivery that waits longer than the broker has patience for: proof that it has little.
    let idle = format!("{}.idle", rig.prefix());
    amqp.declare_queue(&idle, &[]).await;
    amqp.publish_to_queue(&idle, &Message::raw("{}")).await;
    let sitting = amqp.sit_on(&idle).await;
    wait_out(&rig, &mut worker, &amqp, began).await;
    assert!(sitting.is_closed(), "the broker's patience was never tried");

    rig.control(Verb::Start, away);
    let back = Instant::now();
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    assert!(back.elapsed() < Duration::from_secs(60), "drained only after {:?}", back.elapsed());

    let metrics = worker.metrics().await.unwrap();
    assert_eq!(metrics.sum(names::SESSIONS), 2.0, "one session before, one after");
    assert_eq!(metrics.sum(names::SUSPECTS), 0.0);
    let log = rig.servers().log(Server::RabbitMq).split_off(log_before);
    let timed_out = log.lines().filter(|line| line.contains("has timed out waiting"));
    assert_eq!(timed_out.count(), 1, "that of this test, and none of the worker's:\n{log}");
    // A connection that just goes away is told as a warning.
    let mut closed = log.lines().filter(|line| line.contains("closing AMQP connection"));
    let clean = closed.any(|line| line.contains("[info]") && line.contains("worker consume"));
    assert!(clean, "the session was not closed cleanly:\n{log}");
    amqp.delete_queue(&idle).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// The session is given up: everything lies in the queue again.
async fn given_up(rig: &Rig, worker: &Worker, amqp: &Amqp) {
    eventually(CONSUMER_TIMEOUT, "all to be back in the queue", async || {
        let returned = worker.metrics().await?.sum_where(names::SETTLEMENTS, "returned");
        match (amqp.ready(rig.queue()).await?, returned) {
            (n, 1.0..) if n as usize == EVENTS => Ok(()),
            (n, returned) => Err(format!("{n} are, {returned} were returned")),
        }
    })
    .await;
}

/// For the rest of the outage nothing is taken, nothing condemned, and the worker lives.
async fn wait_out(rig: &Rig, worker: &mut Worker, amqp: &Amqp, began: Instant) {
    eventually(OUTAGE + LONG, "the outage to have lasted", async || {
        let metrics = worker.metrics().await?;
        assert_eq!(metrics.sum(names::SESSIONS), 1.0, "a session with a store away");
        assert_eq!(amqp.surely_ready(rig.queue()).await, EVENTS as u32, "ready in the queue");
        assert_eq!(worker.status("/livez").await, Ok(200));
        assert_eq!(worker.status("/readyz").await, Ok(503));
        match began.elapsed() > OUTAGE {
            true => Ok(()),
            false => Err(format!("it has lasted {:?}", began.elapsed())),
        }
    })
    .await;
    worker.assert_alive();
    assert_eq!(rig.dead_letters().await.len(), 0, "nothing is condemned for an outage");
    // A look takes longer than the broker has patience for.
    restore_patience(rig);
    let waiting = amqp.peek(rig.queue()).await;
    assert_eq!(waiting.len(), EVENTS);
    let counts = waiting.iter().filter_map(|message| message.header("x-delivery-count"));
    let most: u64 = counts.map(|count| count.parse().expect("a number")).max().unwrap_or(0);
    assert!(most <= 1, "a message was returned {most} times in one outage");
}

/// The broker loses patience before the worker would: its channel is closed under it, again and
/// again while the store is away, and still nothing is lost or condemned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_the_broker_closes_is_survived() {
    let mut rig = rig_with_short_patience().await;
    rig.set(names::STORE_TIMEOUT_SECS, "30");
    let mut oracle = rig.oracle();
    let (mut worker, gate) = rig.worker_at_gate(&mut oracle, EVENTS).await;
    eventually(LONG, "the broker to close a channel", async || {
        match worker.complaints(&["timed out"]).len() {
            0 => Err(worker.log()),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(worker.status("/livez").await, Ok(200));
    gate.open().await;
    worker.wait_ready().await;
    worker.assert_alive();
    rig.finish(&oracle, vec![worker]).await;
    restore_patience(&rig);
}

/// On a broker that times a delivery out early, with a queue that allows few deliveries.
async fn rig_with_short_patience() -> Rig {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    rig.rabbitmqctl(&["eval", &set_patience(CONSUMER_TIMEOUT, Duration::from_secs(1))]);
    rig.set(names::DELIVERY_LIMIT, "5");
    rig.amqp().await.delete_queue(rig.queue()).await;
    rig.cli(&["manage", "topology"]).await.expect(0);
    rig
}

fn restore_patience(rig: &Rig) {
    let (default, tick) = (Duration::from_secs(1800), Duration::from_secs(60));
    rig.rabbitmqctl(&["eval", &set_patience(default, tick)]);
}

/// Channels read both when they open.
fn set_patience(timeout: Duration, tick: Duration) -> String {
    format!(
        "application:set_env(rabbit, consumer_timeout, {}), \
         application:set_env(rabbit, channel_tick_interval, {}).",
        timeout.as_millis(),
        tick.as_millis()
    )
}
