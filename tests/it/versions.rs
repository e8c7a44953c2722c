//! What the worker takes for granted of RabbitMQ, and what has changed from one version to another:
//! how returns are counted, the default of the delivery limit, the size of a message.

use crate::harness::{DEFAULT_SETS, LONG, Message, Producer, Rig, eventually, names, seed};

/// More than the 20 that RabbitMQ 4 allows a quorum queue without a limit of its own.
const RETURNS: usize = 25;

/// Takes the one message of a queue and returns it by closing the channel; its count of returns.
async fn take_and_return(rig: &Rig, queue: &str) -> u64 {
    let amqp = rig.amqp().await;
    let letter = eventually(LONG, "the message to be there", async || {
        amqp.peek(queue).await.pop().ok_or("it is not".to_owned())
    });
    let count = letter.await.header("x-delivery-count").map(str::parse);
    count.unwrap_or(Ok(0)).expect("a count is a number")
}

/// Probation stands on it: without a count a message that kills workers would never be suspected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_return_counts_once_and_our_own_limit_is_the_one_that_holds() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let event = Producer::new(seed()).event();
    oracle.good(&event);
    rig.publish_events(&[event]).await;
    for returned in 0..RETURNS {
        assert_eq!(take_and_return(&rig, rig.queue()).await, returned as u64);
    }
    let worker = rig.worker().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// People look at dead letters, and each look is a return.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_may_be_looked_at_more_often_than_any_default_allows() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    oracle.bad("json", "{");
    let worker = rig.worker().await;
    rig.publish(&[Message::raw("{")]).await;
    rig.wait_arrived(&oracle).await;
    for returned in 0..RETURNS {
        assert_eq!(take_and_return(&rig, rig.dead_letters_queue()).await, returned as u64);
    }
    rig.finish(&oracle, vec![worker]).await;
}

/// RabbitMQ 4 takes bodies up to 16 MiB, 3.x up to 128: the largest that both take can be stored,
/// refused, and refused without a look into it, and nothing is stuck behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_message_of_any_version_passes_whatever_it_is() {
    const MAX: usize = 16 << 20;
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let (max, half) = (MAX.to_string(), (MAX / 2).to_string());
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let fill = |text: &str| text.to_owned() + &" ".repeat(MAX - text.len());

    rig.set("ROLLCALL_BATCH_BYTES_MAX", &max);
    rig.set(names::MESSAGE_BYTES_MAX, &half);
    let worker = rig.worker().await;
    let unseen = fill("[]");
    oracle.bad("too_large", unseen.as_str());
    rig.publish(&[Message::raw(unseen)]).await;
    rig.wait_arrived(&oracle).await;
    worker.terminate().await;

    rig.set(names::MESSAGE_BYTES_MAX, &max);
    let worker = rig.worker().await;
    let (good, bad) = (producer.event(), fill("{"));
    oracle.good(&good);
    oracle.bad("json", bad.as_str());
    let good = fill(&good.to_string());
    rig.publish(&[Message::raw(good), Message::raw(bad)]).await;
    let next = producer.event();
    oracle.good(&next);
    rig.publish_events(&[next]).await;
    rig.finish(&oracle, vec![worker]).await;
}
