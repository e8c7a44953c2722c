//! SIGTERM and SIGINT drain: what was prefetched is finished, nothing else is begun.

use std::time::{Duration, Instant};

use crate::harness::{
    DEFAULT_SETS, LONG, Message, Producer, Rig, SHORT, Server, Verb, eventually, names, seed,
};

/// In the middle of a flood. Each message is then either stored and settled, or back in the queue
/// untouched: none is both, none is neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_leaves_no_message_half_done() {
    for signal in ["TERM", "INT"] {
        let mut rig = Rig::new(DEFAULT_SETS).await;
        rig.set(names::BATCH_EVENTS_MAX, "50");
        let mut oracle = rig.oracle();
        let events = Producer::new(seed()).events(4000);
        oracle.all_good(&events);
        let messages: Vec<Message> = events.iter().map(Message::object).collect();
        rig.publish(&messages).await;
        let mut worker = rig.worker_unready().await;
        let mut pg = rig.pg().await;
        eventually(SHORT, "the flood to begin", async || match pg.events().await? {
            0 => Err("nothing is stored".to_owned()),
            n => Ok(n),
        })
        .await;
        worker.signal(signal);
        let status = worker.wait_exit(LONG).await;
        assert_eq!(status.code(), Some(0), "after SIG{signal}: {status}");

        let stored = pg.events().await.unwrap();
        waiting(&rig, 4000 - stored).await;
        let worker = rig.worker().await;
        rig.finish(&oracle, vec![worker]).await;
    }
}

/// Nobody consumes: so many are ready in the end. What a connection held is back a moment after it.
async fn waiting(rig: &Rig, wanted: i64) {
    let amqp = rig.amqp().await;
    eventually(SHORT, "what is not stored to wait", async || {
        match i64::from(amqp.ready(rig.queue()).await?) {
            n if n == wanted => Ok(()),
            n => Err(format!("{n} wait, {wanted} are not stored")),
        }
    })
    .await;
}

/// A batch that cannot be written yet is waited for, within the drain time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_a_held_batch() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let (mut worker, gate) = rig.worker_at_gate(&mut oracle, 200).await;
    worker.wait_in_flight().await;
    worker.signal("TERM");
    // Not ready from here on, so that nobody sends it more; still alive, at work.
    eventually(SHORT, "/readyz to answer 503", async || match worker.status("/readyz").await? {
        503 => Ok(()),
        other => Err(format!("it answers {other}")),
    })
    .await;
    let held = worker.metrics().await.unwrap().sum(names::IN_FLIGHT) as i64;
    assert!(held > 0, "nothing is held");
    worker.assert_alive();
    gate.open().await;
    let status = worker.wait_exit(LONG).await;
    assert_eq!(status.code(), Some(0), "{status}");

    let stored = rig.pg().await.events().await.unwrap();
    assert!(stored >= 100 + held, "{stored} stored, {held} were held");
    waiting(&rig, 300 - stored).await;
    let worker = rig.worker().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A second signal ends the worker at once; what it held goes to the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once_and_loses_nothing() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let (mut worker, gate) = rig.worker_at_gate(&mut oracle, 200).await;
    worker.signal("TERM");
    eventually(SHORT, "the drain to begin", async || match worker.status("/readyz").await {
        Ok(503) | Err(_) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    worker.signal("TERM");
    // Far below the drain time of 25 s, which the gate would make it use up.
    let status = worker.wait_exit(Duration::from_secs(5)).await;
    assert_ne!(status.code(), Some(0), "work was left behind: {status}");
    gate.open().await;
    let worker = rig.worker().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A drain is bounded: past its time the worker ends, and what it held goes to the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_bounded() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set(names::DRAIN_SECS, "1");
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events = producer.events(20);
    let mut worker = rig.warm_worker(&mut oracle, &mut producer).await;
    oracle.all_good(&events);
    let gate = rig.close_gate().await;
    rig.publish(&[Message::array(&events)]).await;
    rig.wait_at_gate().await;
    worker.signal("TERM");
    let status = worker.wait_exit(Duration::from_secs(8)).await;
    assert_ne!(status.code(), Some(0), "work was left behind: {status}");
    gate.open().await;
    let worker = rig.worker().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// An idle worker has nothing to wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_drains_at_once() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut worker = rig.worker().await;
    worker.signal("TERM");
    // The goodbyes alone have four seconds.
    let status = worker.wait_exit(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{status}");
}

/// A worker that cannot reach any server can still be told to stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_servers_drains_too() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set("AMQP_URL", "amqp://127.0.0.1:9/%2f");
    let mut worker = rig.worker_unready().await;
    worker.wait_not_ready().await;
    worker.signal("TERM");
    let status = worker.wait_exit(Duration::from_secs(8)).await;
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_bounded_while_postgres_hangs() {
    drain_while_hung(&[Server::Postgres]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_bounded_while_redis_hangs() {
    drain_while_hung(&[Server::Redis]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_bounded_while_rabbitmq_hangs() {
    drain_while_hung(&[Server::RabbitMq]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_bounded_while_everything_hangs() {
    drain_while_hung(&Server::ALL).await;
}

/// In the middle of the work, with timeouts that are longer than the drain: the worker ends in its
/// time, says that work was left, and the next one does it.
async fn drain_while_hung(hung: &[Server]) {
    // Of it 5 % are to spare where everything hangs: the rest is given to the work and to goodbyes.
    const DRAIN: Duration = Duration::from_secs(14);
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    rig.set(names::DRAIN_SECS, &DRAIN.as_secs().to_string());
    rig.set(names::REDIS_TIMEOUT_MS, "20000");
    let mut oracle = rig.oracle();
    let (mut worker, gate) = rig.worker_at_gate(&mut oracle, 200).await;
    worker.wait_in_flight().await;
    for server in hung {
        rig.control(Verb::Pause, *server);
    }
    // Whatever does not hang goes on.
    drop(gate);
    worker.signal("TERM");
    let told = Instant::now();
    let status = worker.wait_exit(LONG).await;
    let took = told.elapsed();
    assert_eq!(status.code(), Some(75), "work was left behind: {status}");
    assert!(took <= DRAIN, "it took {took:?} to end");
    for server in hung {
        rig.control(Verb::Resume, *server);
    }
    rig.clear_gate().await;
    let worker = rig.worker().await;
    rig.finish(&oracle, vec![worker]).await;
}
