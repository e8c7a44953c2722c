//! The events that everything is measured with. The number of an event decides all of it, so that a
//! duplicate is the same bytes again, and the ceilings and the worker meet the same rows.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// What a run of events is like.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Of one event as JSON, about.
    pub bytes: usize,
    /// Each event of a user of its own and in one of 7,500 cities; else 100 users in 50 cities.
    pub high: bool,
    /// One event in five is one of those before it.
    pub duplicates: bool,
}

pub const PLAIN: Shape = Shape { bytes: 200, high: true, duplicates: false };

/// How far behind a duplicate its first is: more than a batch, so that it meets a stored row.
const BEHIND: u64 = 5_001;
/// Between two events. A million of them are 100 s, all in the past.
const STEP_MICROS: u64 = 100;

pub struct Events {
    shape: Shape,
    begin: OffsetDateTime,
    /// Keeps the identities of one run of events from those of another.
    seed: u64,
}

/// One event, taken apart as far as the ceilings need it.
pub struct Event {
    pub at: OffsetDateTime,
    pub id: Uuid,
    pub body: String,
    /// Its member of `cities=state+city`, and of `users=username`.
    pub city: String,
    pub user: String,
}

impl Events {
    pub fn new(shape: Shape) -> Events {
        let now = OffsetDateTime::now_utc();
        let begin = now - time::Duration::minutes(10);
        // Postgres keeps whole microseconds.
        let begin = begin.replace_nanosecond(begin.microsecond() * 1000).unwrap_or(begin);
        Events { shape, begin, seed: scattered(now.unix_timestamp_nanos() as u64) }
    }

    /// How many of the first so many are new.
    pub fn distinct(&self, events: u64) -> u64 {
        if self.shape.duplicates { events - events / 5 } else { events }
    }

    pub fn get(&self, number: u64) -> Event {
        let number = match number % 5 {
            4 if self.shape.duplicates => number - if number > BEHIND { BEHIND } else { 1 },
            _ => number,
        };
        // In order but for some milliseconds, as events of many producers are.
        let chance = scattered(self.seed ^ number);
        let micros = number * STEP_MICROS + chance % 5_000;
        let at = self.begin + time::Duration::microseconds(micros as i64);
        let millis = (at.unix_timestamp_nanos() / 1_000_000) as u64;
        let mut random = [0; 10];
        random[..8].copy_from_slice(&chance.to_be_bytes());
        random[8..].copy_from_slice(&scattered(chance).to_be_bytes()[..2]);
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        let (state, city, user) = if self.shape.high {
            (number % 50, number.wrapping_mul(7919) % 7_500, number)
        } else {
            (number % 5, number % 50, scattered(number) % 100)
        };
        // A year of four digits, which RFC 3339 wants.
        let written = at.format(&Rfc3339).unwrap_or_default();
        let mut body = format!(
            r#"{{"id":"{id}","occurred_at":"{written}","state":"S{state}","city":"City {city}","username":"user{user}","text":""#
        );
        pad(&mut body, self.shape.bytes.saturating_sub(2), chance);
        body.push_str("\"}");
        Event { at, id, body, city: format!("S{state}:City {city}"), user: format!("user{user}") }
    }

    /// The body of a message of so many events.
    pub fn message(&self, number: u64, per_message: u64) -> Vec<u8> {
        let events = number * per_message..(number + 1) * per_message;
        let bodies: Vec<String> = events.map(|event| self.get(event).body).collect();
        bodies.join("\n").into_bytes()
    }
}

pub fn content_type(per_message: u64) -> &'static str {
    if per_message == 1 { "application/json" } else { "application/x-ndjson" }
}

/// Text that does not compress to nothing, up to that length.
fn pad(text: &mut String, length: usize, mut chance: u64) {
    const LETTERS: &[u8; 64] = b"etaoin shrdlu cmfwyp vbgkjq xz ETAOINSHRDLU 0123456789.,-()etaoi";
    while text.len() < length {
        chance = scattered(chance);
        let ten = (0..10).map(|place| char::from(LETTERS[(chance >> (6 * place)) as usize % 64]));
        text.extend(ten);
    }
    text.truncate(length.max(1));
}

/// splitmix64: neighbours far apart.
fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
