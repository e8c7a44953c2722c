//! What a long run publishes, as a function of its seed: message `n` has the same bytes whenever it
//! is asked for, so nothing need be kept to send it again, and whatever differs was corrupted.

use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::message::Message;
use super::oracle::Oracle;
use super::producer::{Producer, Rng};

#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    now: OffsetDateTime,
    /// Per cent of the messages that carry several events.
    pub many_percent: u64,
    /// Per cent of the events that must become dead letters.
    pub bad_percent: u64,
}

/// The most events in one message.
const MANY_MAX: u64 = 10;

/// A message, and what must become of each event in it.
pub struct Made {
    pub message: Message,
    pub good: Vec<Value>,
    /// (reason, element)
    pub bad: Vec<(&'static str, String)>,
}

impl Made {
    pub fn events(&self) -> u64 {
        (self.good.len() + self.bad.len()) as u64
    }

    pub fn tell(&self, oracle: &mut Oracle) {
        oracle.all_good(&self.good);
        for (reason, body) in &self.bad {
            oracle.bad(reason, body.clone());
        }
    }
}

impl Stream {
    pub fn new(seed: u64) -> Stream {
        Stream { seed, now: OffsetDateTime::now_utc(), many_percent: 20, bad_percent: 1 }
    }

    pub fn message(&self, number: u64) -> Made {
        let mut rng = Rng(self.seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let count = match rng.percent(self.many_percent) {
            true => 2 + rng.below(MANY_MAX - 1),
            false => 1,
        };
        let (mut good, mut bad, mut elements) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let event = self.event(rng.uuid());
            if rng.percent(self.bad_percent) {
                let (reason, event) = spoil(&mut rng, event);
                elements.push(event.to_string());
                bad.push((reason, event.to_string()));
            } else {
                elements.push(event.to_string());
                good.push(event);
            }
        }
        let message = match (count, elements.pop()) {
            (1, Some(element)) => Message::raw(element),
            (_, last) => Message::array_of(elements.into_iter().chain(last)),
        };
        Made { message, good, bad }
    }

    /// The one event that may have this id: all of it follows from the id and the seed.
    fn event(&self, id: Uuid) -> Value {
        let (high, low) = id.as_u64_pair();
        let mut producer = Producer::at(self.seed ^ high ^ low.rotate_left(32), self.now);
        let mut event = producer.event();
        event["id"] = json!(id.to_string());
        // Many members, most of them once: a single SADD that is lost leaves a hole.
        event["session"] = json!(format!("s{}", producer.rng.below(1 << 40)));
        event
    }
}

fn spoil(rng: &mut Rng, mut event: Value) -> (&'static str, Value) {
    let reason = *rng.pick(&["field_type", "occurred_at_format", "id_type"]);
    match reason {
        "field_type" => event["username"] = json!({"first": event["username"]}),
        "occurred_at_format" => event["occurred_at"] = json!("yesterday"),
        _ => event["id"] = json!([event["id"]]),
    }
    (reason, event)
}
