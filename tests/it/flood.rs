//! A flood of bad events: a producer gone wrong sends every kind of rubbish there is among good
//! ones. Each is condemned for the right reason, the good are stored, it costs at most half of the
//! throughput, and the log stays short.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    DEFAULT_SETS, LONG, Message, Oracle, Producer, Rig, Worker, eventually, names, seed,
};

/// Of each round; all floods together are some 100,000.
const EVENTS: usize = 20_000;
const ROUNDS: usize = 5;
/// One event in five is bad: well below what the breaker stops at.
const BAD_EVERY: usize = 5;
/// What a worker says from its start to its end, whatever it is given.
const LOG_LINES_MAX: usize = 50;
/// Small ones, so that too large and too many cost no more to publish than the rest.
const LIMITS: [(&str, &str); 2] =
    [(names::MESSAGE_BYTES_MAX, "16384"), ("ROLLCALL_MESSAGE_EVENTS_MAX", "100")];

/// Every reason of the contract, each with how a producer brings it about. `ID` is a fresh id,
/// `MOMENT` a good time, `IDENTITY` both.
const CLASSES: [(&str, &str); 20] = [
    ("json", "{IDENTITY, \"x\": "),
    ("utf8", "{IDENTITY, \"x\": \"NOT UTF-8\"}"),
    ("too_large", "{IDENTITY, \"x\": \"LONG LONG LONG\"}"),
    ("too_many_events", "[MANY{IDENTITY}]"),
    ("nesting", "{IDENTITY, \"x\": DEEP}"),
    ("not_an_object", "\"ID\""),
    ("missing_id", "{\"occurred_at\": \"MOMENT\"}"),
    ("id_type", "{\"id\": [\"ID\"], \"occurred_at\": \"MOMENT\"}"),
    ("id_length", "{\"id\": \"ID LONG\", \"occurred_at\": \"MOMENT\"}"),
    ("missing_occurred_at", "{\"id\": \"ID\"}"),
    ("occurred_at_format", "{\"id\": \"ID\", \"occurred_at\": \"yesterday\"}"),
    ("too_old", "{\"id\": \"ID\", \"occurred_at\": \"1970-01-01T00:00:00Z\"}"),
    ("too_new", "{\"id\": \"ID\", \"occurred_at\": \"9999-12-31T23:59:59Z\"}"),
    ("nul_character", "{IDENTITY, \"x\": \"a\\u0000b\"}"),
    ("lone_surrogate", "{IDENTITY, \"x\": \"\\ud800\"}"),
    ("number_range", "{IDENTITY, \"x\": 1e309}"),
    ("field_type", "{IDENTITY, \"username\": {\"first\": \"ann\"}}"),
    ("member_length", "{IDENTITY, \"username\": \"LONG LONG\"}"),
    ("too_many_members", "{IDENTITY, \"username\": [MANY MANY 1]}"),
    ("number_range", "{IDENTITY, \"username\": \"bad\", \"x\": 1e-20000}"),
];

/// A bad message of class `n`, counted on and on.
fn bad(producer: &mut Producer, n: usize, stored: &serde_json::Value) -> (&'static str, Message) {
    let Some((reason, text)) = CLASSES.get(n % (CLASSES.len() + 2)) else {
        return match n % 2 {
            0 => ("id_conflict", conflict(stored)),
            _ => ("cloud_event", old_cloud_event(producer)),
        };
    };
    let (id, moment) = (producer.id(), producer.moment());
    let text = text
        .replace("IDENTITY", &format!("\"id\": \"{id}\", \"occurred_at\": \"{moment}\""))
        .replace("ID", &id)
        .replace("MOMENT", &moment)
        .replace("LONG LONG LONG", &"x".repeat(16_384))
        .replace("LONG LONG", &"x".repeat(1025))
        .replace("LONG", &"x".repeat(129))
        .replace("MANY MANY", &"MANY".repeat(10))
        .replace("DEEP", &format!("{}1{}", "[".repeat(65), "]".repeat(65)));
    // A hundred numbers for each MANY, all of them different.
    let mut numbers = 0;
    let mut parts = text.split("MANY");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        filled.extend((0..100).map(|n| format!("{},", numbers + n)));
        filled += part;
        numbers += 100;
    }
    let mut body = filled.into_bytes();
    if let Some(at) = body.windows(9).position(|window| window == b"NOT UTF-8") {
        body[at] = 0xff;
    }
    (reason, Message::raw(body))
}

/// The identity of a stored event with another payload.
fn conflict(stored: &serde_json::Value) -> Message {
    let mut other = stored.clone();
    other["text"] = json!("another payload");
    Message::object(&other)
}

/// A CloudEvent of a version that nobody promised to read.
fn old_cloud_event(producer: &mut Producer) -> Message {
    let event = json!({"specversion": "0.3", "id": producer.id(), "source": "/shop", "type": "t"});
    Message::object(&event).content_type("application/cloudevents+json")
}

/// Fills the queue, starts a worker, and gives what it drained in a second.
async fn drained(rig: &Rig, messages: &[Message]) -> (Worker, f64) {
    rig.publish(messages).await;
    let worker = rig.worker_unready().await;
    let mut first: Option<Instant> = None;
    let ack = "outcome=\"ack\"";
    let per_second = eventually(2 * LONG, "the queue to be drained", async || {
        let settled = worker.metrics().await?.sum_where(names::SETTLEMENTS, ack);
        if settled > 0.0 {
            first.get_or_insert_with(Instant::now);
        }
        match first {
            Some(first) if settled >= messages.len() as f64 => {
                Ok(settled / first.elapsed().max(Duration::from_millis(1)).as_secs_f64())
            }
            _ => Err(format!("{settled} of {} are settled", messages.len())),
        }
    })
    .await;
    (worker, per_second)
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_every_kind_of_bad_event_costs_at_most_half_of_the_throughput() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    for (name, value) in LIMITS {
        rig.set(name, value);
    }
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let (mut clean, mut flooded) = (Vec::new(), Vec::new());
    let mut condemned = 0;
    let shares = |flooded: &[f64], clean: &[f64]| -> Vec<f64> {
        // Each flood is held against the clean run just before it: the machine has others to serve.
        flooded.iter().zip(clean).map(|(flooded, clean)| flooded / clean).collect()
    };
    // As many rounds again where the first leave a doubt.
    for round in 0..2 * ROUNDS {
        if round == ROUNDS && median(&mut shares(&flooded, &clean)) >= 0.5 {
            break;
        }
        let stored = producer.events(EVENTS);
        oracle.all_good(&stored);
        let messages: Vec<Message> = stored.iter().map(Message::object).collect();
        let (worker, per_second) = drained(&rig, &messages).await;
        clean.push(per_second);
        worker.terminate().await;

        let messages = flood(&mut producer, &mut oracle, &mut condemned, &stored);
        let (worker, per_second) = drained(&rig, &messages).await;
        flooded.push(per_second);
        let metrics = worker.metrics().await.unwrap();
        assert_eq!(metrics.sum(names::BREAKER_TRIPS), 0.0, "one in five is no reason to stop");
        let lines = worker.log().lines().count();
        assert!(lines < LOG_LINES_MAX, "{lines} lines of log: {}", worker.log());
        worker.terminate().await;
    }
    let mut shares = shares(&flooded, &clean);
    println!("flooded, as a share of clean: {shares:.2?}");
    let (clean, flooded) = (median(&mut clean), median(&mut flooded));
    println!("medians: {clean:.0} events/s clean, {flooded:.0} flooded");
    rig.finish(&oracle, Vec::new()).await;
    rig.assert_sets_are_the_distinct_values().await;
    let share = median(&mut shares);
    assert!(share >= 0.5, "a flood leaves {share:.2} of the throughput");
}

/// Each fifth event is bad, the classes by turns.
fn flood(
    producer: &mut Producer,
    oracle: &mut Oracle,
    condemned: &mut usize,
    stored: &[serde_json::Value],
) -> Vec<Message> {
    let one = |n: usize| {
        if n.is_multiple_of(BAD_EVERY) {
            let (reason, message) = bad(producer, *condemned, &stored[n]);
            *condemned += 1;
            oracle.bad(reason, message.body.clone());
            return message;
        }
        let event = producer.event();
        oracle.good(&event);
        Message::object(&event)
    };
    (0..EVENTS).map(one).collect()
}
