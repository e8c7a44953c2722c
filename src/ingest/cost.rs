//! What our own code costs an event: decoding it into a batch, and planning what the batch adds to
//! Redis. Run as tests these see that all of it is done; `make bench-check` runs them under
//! callgrind and holds the instructions of what is marked `counted` against
//! benches/instructions.txt.

use bytes::Bytes;
use time::OffsetDateTime;
use time::macros::datetime;
use tokio::time::Instant;

use super::batch::Batch;
use super::plan::plan;
use crate::broker::{Delivery, Incoming, Token};
use crate::event::Rules;
use crate::event::tests::limits;
use crate::sets::{Sets, WindowTtl};

/// Events of each measurement: what is done once weighs little.
const EVENTS: usize = 4_000;
const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const SETS: &str = "cities=state+city users=username users_by_city=username@state+city \
                    users_by_day=username/day";

#[test]
fn decode_single() {
    let batch = decoded(1, 0);
    assert_eq!((batch.deliveries.len(), batch.events.len()), (EVENTS, EVENTS));
}

#[test]
fn decode_hundred() {
    let batch = decoded(100, 0);
    assert_eq!((batch.deliveries.len(), batch.events.len()), (EVENTS / 100, EVENTS));
}

#[test]
fn decode_2_kib() {
    let batch = decoded(1, 1_800);
    assert_eq!(batch.events.len(), EVENTS);
    assert!(batch.largest > 1_900 && batch.largest < 2_200, "{}", batch.largest);
}

#[test]
fn plan_of_a_batch() {
    let (batch, sets) = (decoded(100, 0), sets());
    // A city and its state, a user, a user of a city, a user of a day.
    assert_eq!(counted_plan(&sets, &batch), [500, 1_000, 2_000, 1_000].iter().sum::<usize>());
}

fn sets() -> Sets {
    let day = std::time::Duration::from_secs(86_400);
    Sets::parse("r", SETS, WindowTtl { hour: day, day, month: day }).unwrap()
}

fn event(number: usize, padding: usize) -> String {
    // 500 cities, 1,000 users, and 2,000 pairs of the two.
    let (city, user) = (number % 500, number * 7 % 2_000 / 2);
    format!(
        r#"{{"id":"018f3c5e-7a10-7000-8000-{number:012x}","occurred_at":"2026-11-23T11:22:33.{:06}Z","state":"S{}","city":"City {city}","username":"user{user}","text":"{:0>width$}"}}"#,
        number,
        city % 50,
        number,
        width = 40 + padding,
    )
}

fn decoded(per_message: usize, padding: usize) -> Batch {
    let bodies = (0..EVENTS / per_message).map(|message| {
        let lines = (0..per_message).map(|line| event(message * per_message + line, padding));
        Bytes::from(lines.collect::<Vec<_>>().join("\n"))
    });
    let deliveries = (1..).zip(bodies).map(|(tag, body)| {
        let mut message = Incoming::bare(body, 0);
        let lines = "application/x-ndjson";
        message.content_type = (per_message > 1).then(|| lines.to_owned());
        Delivery { message, token: Token::new(0, tag) }
    });
    let deliveries: Vec<Delivery> = deliveries.collect();
    let limits = limits();
    let mut batch = Batch::default();
    let sets = sets();
    counted_decode(&mut batch, deliveries, Rules { sets: &sets, limits: &limits, now: NOW });
    batch
}

#[inline(never)]
fn counted_decode(batch: &mut Batch, deliveries: Vec<Delivery>, rules: Rules<'_>) {
    let now = Instant::now();
    for delivery in deliveries {
        batch.push(delivery, rules, now, now);
    }
}

/// How many members it adds.
#[inline(never)]
fn counted_plan(sets: &Sets, batch: &Batch) -> usize {
    let plan = plan(sets, &batch.events);
    plan.iter().map(|planned| planned.borrow().members.len()).sum()
}
