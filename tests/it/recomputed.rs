//! P3 rests on this: what a rebuild will compute from Postgres is what live ingest added.

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rollcall::event::{self, Limits, Message, Rules};
use rollcall::sets::{Sets, WindowTtl};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::harness::{DEFAULT_SETS, Rig, seed};

const EVENTS: usize = 3000;

/// Anything JSON can say, leaning to what the sets look at and to what text and numbers can hide.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z%:{}\"\\\\\n ]{0,6}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map("a|b|user|[a-c]{2}", inner, 0..4)
                .prop_map(|map| Value::from(Map::from_iter(map))),
        ]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_computed_from_what_postgres_returns_are_those_of_live_ingest() {
    let day = Duration::from_secs(86_400);
    let ttl = WindowTtl { hour: day, day, month: day };
    let grammar = "a=a pairs=a+b deep=user.a@b daily=user.a+user.b/day about=b~";
    let sets = Sets::parse("p", grammar, ttl).unwrap();
    let limits = Limits {
        message_bytes_max: 1 << 20,
        message_events_max: 1,
        nesting_max: 64,
        id_bytes_max: 128,
        member_bytes_max: 1024,
        event_members_max: 1000,
        event_age_max: time::Duration::days(1),
        clock_skew_max: time::Duration::hours(1),
    };
    let now = OffsetDateTime::now_utc();
    let rules = Rules { sets: &sets, limits: &limits, now };
    let at = now.format(&time::format_description::well_known::Rfc3339).unwrap();

    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed().to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let fields = (any_json(), any_json(), any_json());
    let mut live = Vec::new();
    for number in 0..EVENTS {
        let (a, b, user) = fields.new_tree(&mut runner).unwrap().current();
        let text =
            json!({"id": number.to_string(), "occurred_at": at, "a": a, "b": b, "user": user});
        let body = text.to_string().into();
        let message = Message { body, content_type: None, cloud_event: &[] };
        event::decode(&message, rules, |_, decoded| live.extend(decoded));
    }
    let adding = live.iter().filter(|event| !event.additions.is_empty()).count();
    assert!(adding > EVENTS / 20, "{adding} of {EVENTS} events add anything: nothing was tried");

    let rig = Rig::bare(DEFAULT_SETS).await;
    let payloads: Vec<String> = live.iter().map(|event| event.payload.to_string()).collect();
    let stored = rig.pg().await.through_jsonb(&payloads).await;
    assert_eq!(stored.len(), live.len());
    for (event, stored) in live.iter().zip(&stored) {
        let again = event::stored_additions(stored, event.occurred_at, rules);
        assert_eq!(again, event.additions, "live {}\nstored {stored}", event.payload);
    }
}
