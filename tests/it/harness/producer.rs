//! Sample events that follow from a seed alone, and a small generator of random numbers.

use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use uuid::{Builder, Uuid};

/// The seed of this run: `TEST_SEED`, or the clock. Printed, so that a failure can be had again.
pub fn seed() -> u64 {
    let seed = match std::env::var("TEST_SEED") {
        Ok(text) => text.parse().expect("TEST_SEED is a number"),
        Err(_) => OffsetDateTime::now_utc().unix_timestamp_nanos() as u64 % 1_000_000_007,
    };
    println!("TEST_SEED={seed}");
    seed
}

/// splitmix64: the same numbers for the same seed, whatever version of whatever crate.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn uuid(&mut self) -> Uuid {
        let bits = (u128::from(self.next()) << 64) | u128::from(self.next());
        Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

const STATES: [&str; 6] = ["CA", "NY", "TX", "WA", "São Paulo", "a:b"];
const CITIES: [&str; 9] =
    ["Fresno", "Albany", "Austin", "Sea:ttle", "100%", "{tag}", "New\nYork", "Åre", "  spaced  "];

/// Makes events, each new.
pub struct Producer {
    pub rng: Rng,
    now: OffsetDateTime,
}

impl Producer {
    pub fn new(seed: u64) -> Producer {
        Producer::at(seed, OffsetDateTime::now_utc())
    }

    /// The same events for the same seed and time.
    pub fn at(seed: u64, now: OffsetDateTime) -> Producer {
        // Whole microseconds, which is what Postgres holds: the oracle compares times exactly.
        let now = now.replace_microsecond(now.microsecond()).expect("its own is valid");
        Producer { rng: Rng(seed), now }
    }

    /// A fresh UUID.
    pub fn id(&mut self) -> String {
        self.rng.uuid().to_string()
    }

    /// A moment of the last two hours, to the microsecond.
    pub fn moment(&mut self) -> String {
        let back = self.rng.below(2 * 3600 * 1_000_000) as i64;
        rfc3339(self.now - Duration::microseconds(back))
    }

    /// So many seconds from now; negative is the past.
    pub fn moment_at(&self, seconds: i64) -> String {
        rfc3339(self.now + Duration::seconds(seconds))
    }

    /// What the demo's table holds: state, city, username, text.
    pub fn event(&mut self) -> Value {
        let user = self.rng.below(500);
        json!({
            "id": self.id(),
            "occurred_at": self.moment(),
            "state": self.rng.pick(&STATES),
            "city": self.rng.pick(&CITIES),
            "username": format!("user{user}"),
            "text": format!("message {}", self.rng.below(1000)),
        })
    }

    pub fn events(&mut self, count: usize) -> Vec<Value> {
        (0..count).map(|_| self.event()).collect()
    }

    /// An event with these fields beside its identity.
    pub fn event_with(&mut self, fields: Value) -> Value {
        let mut event = json!({"id": self.id(), "occurred_at": self.moment()});
        let Value::Object(fields) = fields else { panic!("fields are an object") };
        event.as_object_mut().expect("made above").extend(fields);
        event
    }
}

fn rfc3339(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).expect("a moment of our days can be written")
}
