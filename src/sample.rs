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
mod tests {
    use std::collections::HashSet;

    use time::macros::datetime;

    use super::*;

    const PLAN: Plan = Plan {
        seed: 7,
        count: 20_000,
        ending_at: datetime!(2026-11-23 10:00:00.123456789 UTC),
        spread: time::Duration::hours(24),
        duplicates_pct: 5.0,
        bad_pct: 1.0,
    };

    fn of(plan: Plan) -> Vec<Sample> {
        Samples::new(plan).collect()
    }

    fn counts(samples: &[Sample]) -> (usize, usize, usize) {
        let count = |f: fn(&Kind) -> bool| samples.iter().filter(|s| f(&s.kind)).count();
        (
            count(|k| *k == Kind::Good),
            count(|k| *k == Kind::Duplicate),
            count(|k| matches!(k, Kind::Bad(_))),
        )
    }

    #[test]
    fn a_seed_reproduces_every_byte_and_another_seed_does_not() {
        assert_eq!(of(PLAN), of(PLAN));
        assert_ne!(of(PLAN)[..10], of(Plan { seed: 8, ..PLAN })[..10]);
    }

    #[test]
    fn the_shares_are_exact() {
        assert_eq!(counts(&of(PLAN)), (18_800, 1000, 200));
        for (count, duplicates_pct, bad_pct, expected) in [
            (0, 50.0, 50.0, (0, 0, 0)),
            (1, 100.0, 0.0, (1, 0, 0)),
            (1, 0.0, 100.0, (0, 0, 1)),
            (3, 100.0, 0.0, (1, 2, 0)),
            (10, 60.0, 60.0, (1, 3, 6)),
            (10, 100.0, 100.0, (0, 0, 10)),
            (7, 0.0, 0.0, (7, 0, 0)),
        ] {
            for seed in 0..50 {
                let plan = Plan { seed, count, duplicates_pct, bad_pct, ..PLAN };
                assert_eq!(counts(&of(plan)), expected, "{plan:?}");
            }
        }
    }

    #[test]
    fn a_duplicate_repeats_an_earlier_good_event_and_good_ones_are_all_different() {
        let mut seen = HashSet::new();
        for sample in of(PLAN) {
            match sample.kind {
                Kind::Good => assert!(seen.insert(sample.bytes), "two good events are the same"),
                Kind::Duplicate => assert!(seen.contains(&sample.bytes)),
                Kind::Bad(_) => assert!(!seen.contains(&sample.bytes)),
            }
        }
    }

    #[test]
    fn every_fault_is_made_in_turn_and_none_holds_a_line_break() {
        let faults: Vec<Fault> = of(PLAN)
            .iter()
            .filter_map(|s| match s.kind {
                Kind::Bad(fault) => Some(fault),
                _ => None,
            })
            .collect();
        assert_eq!(faults[..12], Fault::ALL);
        assert_eq!(faults[12..24], Fault::ALL);
        assert!(of(PLAN).iter().all(|s| !s.bytes.contains(&b'\n')));
    }

    #[test]
    fn a_good_event_is_what_the_contract_asks_for() {
        let good: Vec<_> = of(PLAN).into_iter().filter(|s| s.kind == Kind::Good).collect();
        let mut users = HashSet::new();
        let mut last = OffsetDateTime::UNIX_EPOCH;
        for sample in &good {
            let event: serde_json::Value = serde_json::from_slice(&sample.bytes).unwrap();
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            assert_eq!(text("state").len(), 2);
            assert!(!text("city").is_empty());
            assert_eq!(text("id").parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
            let at = OffsetDateTime::parse(&text("occurred_at"), &Rfc3339).unwrap();
            assert_eq!(at.nanosecond() % 1000, 0);
            assert!(at >= last && at <= PLAN.ending_at);
            assert!(PLAN.ending_at - at <= PLAN.spread + time::Duration::microseconds(1));
            last = at;
            users.insert(text("username"));
            assert!((150..300).contains(&sample.bytes.len()), "{}", sample.bytes.len());
        }
        assert!(users.len() < good.len() * 9 / 10 && users.len() > good.len() / 3);
    }

    #[test]
    fn a_bad_event_is_bad_json_or_has_the_one_fault() {
        for sample in of(Plan { bad_pct: 100.0, duplicates_pct: 0.0, count: 12, ..PLAN }) {
            let Kind::Bad(fault) = sample.kind else { panic!("{sample:?}") };
            let parsed = serde_json::from_slice::<serde_json::Value>(&sample.bytes);
            let unreadable =
                [Fault::JsonCut, Fault::LoneSurrogate, Fault::NumberHuge, Fault::NestedDeep];
            assert_eq!(parsed.is_err(), unreadable.contains(&fault), "{fault:?} {sample:?}");
            let Ok(event) = parsed else { continue };
            match fault {
                Fault::NotAnObject => assert!(!event.is_object()),
                Fault::IdMissing => assert!(event.get("id").is_none()),
                Fault::IdNumber => assert!(event["id"].is_number()),
                Fault::MemberObject => assert!(event["city"].is_object()),
                Fault::NulInText => assert!(event["text"].as_str().unwrap().contains('\0')),
                Fault::OccurredAtGarbled | Fault::OccurredAtFuture | Fault::OccurredAtAncient => {
                    assert!(event["occurred_at"].is_string())
                }
                Fault::JsonCut | Fault::LoneSurrogate | Fault::NumberHuge | Fault::NestedDeep => {
                    panic!("{fault:?} was read")
                }
            }
        }
    }
}
