//! Sample events, for trying Rollcall out and for its tests: real US places, invented people.
//!
//! Pure: the same seed and the same last moment give the same bytes, and the shares of duplicates
//! and bad events are exact. It must never hold more than a window of what it made.

use std::sync::LazyLock;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `STATE<tab>City` lines; data/README.md says where they come from.
static PLACES: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    let lines = include_str!("../data/us-places.tsv").lines();
    lines.filter_map(|line| line.split_once('\t')).collect()
});

const NAMES: [&str; 50] = [
    "ada", "amir", "ana", "ann", "ben", "bob", "carl", "chen", "cora", "dan", "dora", "eli",
    "emma", "eva", "finn", "gus", "hana", "hugo", "ida", "iris", "ivan", "jack", "jane", "joe",
    "june", "kai", "kim", "lea", "leo", "lin", "lola", "lucy", "max", "maya", "mia", "milo",
    "nell", "nina", "noah", "omar", "otto", "pia", "ravi", "rosa", "ruth", "sam", "tara", "theo",
    "vera", "zoe",
];

const PHRASES: [&str; 8] = [
    "Good morning from",
    "Anybody up for lunch in",
    "The bus is late again, stuck in",
    "First snow of the year in",
    "Best coffee I ever had: here in",
    "Traffic is moving once more around",
    "Looking for a flat, ideally close to",
    "Nothing beats a quiet evening in",
];

/// Different users there can be. The draw is skewed, so a few are heard often and many once.
const USERS: usize = NAMES.len() * 1000;

/// Good events that a duplicate may repeat: about 2 MiB, and far enough back to fall into another
/// batch, and mostly another lane, than the first delivery did.
const WINDOW_EVENTS: usize = 8192;

/// How many, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Events in all: good ones, duplicates and bad ones.
    pub count: u64,
    /// When the last event occurred; the others lie before it.
    pub ending_at: OffsetDateTime,
    /// From the first event to the last.
    pub spread: time::Duration,
    /// Of `count`, rounded to whole events. A duplicate needs a good one before it, so where the
    /// shares leave no good event one duplicate becomes good.
    pub duplicates_pct: f64,
    /// Of `count`, rounded to whole events. Goes before duplicates where both exceed it.
    pub bad_pct: f64,
}

/// One event as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// One line: no line break in it, whatever else is wrong with it.
    pub bytes: Bytes,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Good,
    /// The same bytes as an earlier good one.
    Duplicate,
    Bad(Fault),
}

/// What is wrong with a bad event. Each is dead-lettered under the default configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    JsonCut,
    NotAnObject,
    IdMissing,
    IdNumber,
    OccurredAtGarbled,
    OccurredAtFuture,
    OccurredAtAncient,
    /// An object where a set looks for its member.
    MemberObject,
    NulInText,
    LoneSurrogate,
    /// 1e400000: valid JSON, beyond any float.
    NumberHuge,
    NestedDeep,
}

impl Fault {
    pub const ALL: [Fault; 12] = [
        Fault::JsonCut,
        Fault::NotAnObject,
        Fault::IdMissing,
        Fault::IdNumber,
        Fault::OccurredAtGarbled,
        Fault::OccurredAtFuture,
        Fault::OccurredAtAncient,
        Fault::MemberObject,
        Fault::NulInText,
        Fault::LoneSurrogate,
        Fault::NumberHuge,
        Fault::NestedDeep,
    ];
}

#[derive(Serialize)]
struct Event {
    id: String,
    occurred_at: String,
    state: &'static str,
    city: &'static str,
    username: String,
    text: String,
}

/// The events of a plan, in order.
pub struct Samples {
    plan: Plan,
    rng: StdRng,
    issued: u64,
    good_left: u64,
    duplicates_left: u64,
    bad_left: u64,
    bad_made: usize,
    /// A ring of the last good ones.
    window: Vec<Bytes>,
    good_made: usize,
}

impl Samples {
    pub fn new(plan: Plan) -> Samples {
        let share = |pct: f64| ((plan.count as f64 * pct / 100.0).round() as u64).min(plan.count);
        let bad = share(plan.bad_pct);
        // At least one good event where anything is to be repeated.
        let duplicates = share(plan.duplicates_pct).min((plan.count - bad).saturating_sub(1));
        Samples {
            plan,
            rng: StdRng::seed_from_u64(plan.seed),
            issued: 0,
            good_left: plan.count - bad - duplicates,
            duplicates_left: duplicates,
            bad_left: bad,
            bad_made: 0,
            window: Vec::new(),
            good_made: 0,
        }
    }

    /// Draws without putting back, so that each share comes out exact, wherever its events fall.
    fn draw(&mut self) -> Sample {
        let left = self.good_left + self.duplicates_left + self.bad_left;
        let ticket = self.rng.random_range(0..left);
        if ticket < self.bad_left {
            self.bad_left -= 1;
            let fault = Fault::ALL[self.bad_made % Fault::ALL.len()];
            self.bad_made += 1;
            return Sample { bytes: self.bad(fault), kind: Kind::Bad(fault) };
        }
        if ticket < self.bad_left + self.duplicates_left && !self.window.is_empty() {
            self.duplicates_left -= 1;
            let index = self.rng.random_range(0..self.window.len());
            return Sample { bytes: self.window[index].clone(), kind: Kind::Duplicate };
        }
        // Also where a duplicate was drawn with none to repeat yet: `new` left a good one for it.
        self.good_left -= 1;
        // A struct of strings always has a JSON form.
        let bytes = Bytes::from(serde_json::to_vec(&self.event()).unwrap_or_default());
        if self.window.len() < WINDOW_EVENTS {
            self.window.push(bytes.clone());
        } else {
            self.window[self.good_made % WINDOW_EVENTS] = bytes.clone();
        }
        self.good_made += 1;
        Sample { bytes, kind: Kind::Good }
    }

    /// Events occur at even steps through the spread; whole microseconds, as Postgres keeps them.
    fn occurred_at(&self) -> OffsetDateTime {
        let spread_us = self.plan.spread.whole_microseconds().max(0);
        let before_last = i128::from(self.plan.count - 1 - self.issued);
        let back_us = spread_us * before_last / i128::from(self.plan.count.max(2) - 1);
        let back = time::Duration::microseconds(i64::try_from(back_us).unwrap_or(i64::MAX));
        let at = self.plan.ending_at.checked_sub(back).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        at.replace_nanosecond(at.nanosecond() / 1000 * 1000).unwrap_or(at)
    }

    fn event(&mut self) -> Event {
        let at = self.occurred_at();
        let id = self.id(at);
        let (state, city) = self.place();
        let username = self.username();
        let phrase = PHRASES[self.rng.random_range(0..PHRASES.len())];
        // A year beyond 9999 has no RFC 3339 form: then a bare number, to be dead-lettered.
        let occurred_at = at.format(&Rfc3339).unwrap_or_else(|_| at.year().to_string());
        let text = format!("{phrase} {city}, {state}");
        Event { id, occurred_at, state, city, username, text }
    }

    /// UUIDv7 of the event's own time, random bits from the seed.
    fn id(&mut self, at: OffsetDateTime) -> String {
        let millis = u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        let random: [u8; 10] = self.rng.random();
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string()
    }

    fn place(&mut self) -> (&'static str, &'static str) {
        let index = self.rng.random_range(0..PLACES.len().max(1));
        PLACES.get(index).copied().unwrap_or(("CA", "Fresno"))
    }

    fn username(&mut self) -> String {
        let u: f64 = self.rng.random();
        // Squared: the density of rank r falls as 1/sqrt(r).
        let rank = ((u * u) * USERS as f64) as usize;
        let number = rank / NAMES.len();
        format!("{}{number}", NAMES[rank % NAMES.len()])
    }

    /// A good event with one thing wrong.
    fn bad(&mut self, fault: Fault) -> Bytes {
        let event = self.event();
        let with = |name: &str, value: &str| event.to_json_with(name, Some(value));
        Bytes::from(match fault {
            Fault::JsonCut => {
                with("text", r#""the rest was lost"#).trim_end_matches('}').to_owned()
            }
            Fault::NotAnObject => "42".to_owned(),
            Fault::IdMissing => event.to_json_with("id", None),
            Fault::IdNumber => with("id", "17"),
            Fault::OccurredAtGarbled => with("occurred_at", r#""yesterday, about noon""#),
            Fault::OccurredAtFuture => with("occurred_at", r#""9999-12-31T23:59:59Z""#),
            Fault::OccurredAtAncient => with("occurred_at", r#""1970-01-01T00:00:00Z""#),
            Fault::MemberObject => with("city", r#"{"name":"Fresno"}"#),
            Fault::NulInText => with("text", r#""a\u0000b""#),
            Fault::LoneSurrogate => with("text", r#""a\ud800b""#),
            Fault::NumberHuge => with("temperature", "1e400000"),
            Fault::NestedDeep => {
                with("replies", &format!("{}{}", "[".repeat(200), "]".repeat(200)))
            }
        })
    }
}

impl Event {
    /// As JSON with one field given another JSON text, left out, or added.
    fn to_json_with(&self, name: &str, value: Option<&str>) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut fields = vec![
            ("id", quoted(&self.id)),
            ("occurred_at", quoted(&self.occurred_at)),
            ("state", quoted(self.state)),
            ("city", quoted(self.city)),
            ("username", quoted(&self.username)),
            ("text", quoted(&self.text)),
        ];
        let place = fields.iter().position(|(field, _)| *field == name);
        match (place, value) {
            (Some(index), Some(value)) => fields[index].1 = value.to_owned(),
            (Some(index), None) => drop(fields.remove(index)),
            (None, Some(value)) => fields.push((name, value.to_owned())),
            (None, None) => {}
        }
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    }
}

impl Iterator for Samples {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        if self.issued == self.plan.count {
            return None;
        }
        let sample = self.draw();
        self.issued += 1;
        Some(sample)
    }
}

#[cfg(test)]
mod tests;
