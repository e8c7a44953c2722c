//! A rolling deploy: workers are told to go and replaced one by one, under load, and nobody
//! notices.

use std::time::Duration;

use crate::harness::{
    DEFAULT_SETS, Fleet, LONG, Producer, Publisher, Rig, SHORT, Stream, eventually, names, seed,
};

const WORKERS: usize = 3;
/// The default of `ROLLCALL_LANES`.
const LANES: usize = 2;
/// Unacknowledged deliveries of one lane.
const WINDOW: usize = 32;
const ROUNDS: usize = 5;
/// Between one replacement and the next.
const STEP: u64 = 1000;
const AHEAD: u64 = 2000;
/// The default of `ROLLCALL_DRAIN_SECS`.
const DRAIN: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_deploy_under_load_is_not_noticed() {
    let seed = seed();
    let mut rig = Rig::new("cities=state+city users=username sessions=session").await;
    rig.set(names::BATCH_EVENTS_MAX, "20");
    rig.set(names::PREFETCH_MAX, &WINDOW.to_string());
    rig.pg().await.slow_down(0.02).await;
    let mut oracle = rig.oracle();
    let mut fleet = Fleet::start(&rig, WORKERS).await;
    let mut stream = Stream::new(seed);
    stream.bad_percent = 0;
    let publisher = Publisher::start(&rig, stream, seed, 0);
    fleet.witness.arm(WORKERS * ROUNDS);
    let (mut at, mut longest) = (0, Duration::ZERO);
    for _ in 0..ROUNDS {
        for slot in 0..WORKERS {
            at += STEP;
            fleet.wait_at_work(&publisher, at, AHEAD, slot).await;
            let (status, took) = fleet.replace(slot).await;
            assert_eq!(status.code(), Some(0), "a drained worker ends with 0: {status}");
            assert!(took < DRAIN, "the drain took {took:?}");
            longest = longest.max(took);
        }
    }
    let events = (WORKERS * ROUNDS + 1) as u64 * STEP + AHEAD;
    let published = publisher.finish(events, &mut oracle).await;
    assert_eq!(published.failures, 0, "nothing happened to the broker");
    let witness = fleet.finish(&oracle).await;
    let of = |name: &str| witness.sum(name, "");
    println!(
        "{} events, longest drain {longest:?}, {} deliveries, {} redeliveries, {} duplicates",
        published.events,
        of(names::DELIVERIES),
        of(names::REDELIVERIES),
        of(names::DUPLICATES)
    );
    // A duplicate would be no fault: nobody confirms an ack, and the last one can be lost.
    let returned = witness.sum(names::SETTLEMENTS, "outcome=\"returned\"");
    assert_eq!(returned, 0.0, "nothing that a worker had read was given back");
    // What the broker is just sending when a consumer is cancelled goes back to the queue and
    // counts as returned: one window of each lane at the very most.
    let on_the_way = (WORKERS * ROUNDS * LANES * WINDOW) as f64;
    assert!(of(names::REDELIVERIES) <= on_the_way, "more than {on_the_way} were given back");
}

/// With nothing on its way when the consumer is cancelled, no delivery count grows: whatever was
/// handed to the worker it finishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_returns_nothing_that_was_handed_out() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set(names::BATCH_EVENTS_MAX, "10");
    rig.set(names::PREFETCH_MAX, &WINDOW.to_string());
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let events = producer.events(500);
    oracle.all_good(&events);
    let gate = rig.close_gate().await;
    rig.publish_events(&events).await;
    let amqp = rig.amqp().await;
    let held = (WINDOW * LANES) as u32;
    eventually(SHORT, "both windows to be used up", async || {
        match amqp.ready(rig.queue()).await? {
            ready if ready == 500 - held => Ok(()),
            ready => Err(format!("{ready} of 500 are ready")),
        }
    })
    .await;
    worker.signal("TERM");
    // Not ready: it has heard, and takes no more.
    worker.wait_not_ready().await;
    gate.open().await;
    let status = worker.wait_exit(LONG).await;
    assert_eq!(status.code(), Some(0), "{status}");
    let stored = rig.pg().await.events().await.unwrap();
    assert_eq!(stored, 100 + i64::from(held), "all that was handed out, and nothing else");

    let worker = rig.worker().await;
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    let metrics = worker.metrics().await.unwrap();
    assert_eq!(metrics.sum(names::DELIVERIES), f64::from(500 - held));
    assert_eq!(metrics.sum(names::REDELIVERIES), 0.0, "delivery counts have grown");
    rig.finish(&oracle, vec![worker]).await;
}
