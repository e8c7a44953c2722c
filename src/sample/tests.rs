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
