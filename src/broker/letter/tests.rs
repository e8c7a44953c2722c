//! Letters there and back again, without a broker.

use time::macros::datetime;

use super::*;
use crate::broker::{Incoming, Properties};

fn table(headers: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn incoming(properties: BasicProperties) -> Incoming {
    Incoming {
        body: Bytes::from_static(b"{"),
        content_type: None,
        cloud_event: Vec::new(),
        redelivered: false,
        delivery_count: 3,
        exchange: "rollcall".into(),
        routing_key: "a.b".into(),
        properties: Properties(Box::new(properties)),
    }
}

fn condemned(incoming: &Incoming, detail: &str) -> BasicProperties {
    let letter = DeadLetter {
        incoming,
        body: incoming.body.clone(),
        reason: "json",
        detail,
        stage: "decode",
        sqlstate: Some("22P02"),
        first_seen: datetime!(2026-11-23 10:00:00.5 UTC),
    };
    properties_of(&letter, 128 * 1024)
}

/// What a producer may fill a whole frame with leaves no room for what a letter adds.
#[test]
fn of_headers_that_do_not_fit_the_largest_are_left_out_and_named() {
    let text = |bytes: usize| AMQPValue::LongString("x".repeat(bytes).into());
    let array = AMQPValue::FieldArray(vec![text(20_000); 2].into());
    let headers =
        [("small", text(100)), ("large", text(90_000)), ("array", array), ("reason", text(9))];
    let incoming = incoming(BasicProperties::default().with_headers(table(&headers)));
    let letter = condemned(&incoming, "d");
    let names: Vec<&str> =
        letter.headers().iter().flatten().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"array") && names.contains(&"small"), "{names:?}");
    assert!(names.contains(&"original_header:reason") && !names.contains(&"large"), "{names:?}");
    assert_eq!(find_text(&letter, "dropped_headers").as_deref(), Some("large"));
    assert!(find(&properties_for_replay(&letter), "dropped_headers").is_none());
}

#[test]
fn a_letter_reads_back_as_it_was_written() {
    let incoming = incoming(BasicProperties::default().with_content_type("text/x".into()));
    let properties = condemned(&incoming, &"ü".repeat(600));
    let letter = read(&properties, incoming.body.clone());
    assert_eq!(letter.reason, "json");
    assert_eq!(letter.detail, "ü".repeat(500));
    assert_eq!(letter.stage, "decode");
    assert_eq!(letter.sqlstate.as_deref(), Some("22P02"));
    assert_eq!(letter.first_seen, Some(datetime!(2026-11-23 10:00:00.5 UTC)));
    assert_eq!(letter.delivery_count, 3);
    assert_eq!(letter.original_exchange.as_deref(), Some("rollcall"));
    assert_eq!(letter.original_routing_key, "a.b");
    assert_eq!(letter.content_type.as_deref(), Some("text/x"));
    assert_eq!(*properties.delivery_mode(), Some(PERSISTENT));
}

#[test]
fn a_replay_has_the_original_headers_and_none_of_ours() {
    let headers = table(&[
        ("cloudEvents:id", string("a1")),
        ("reason", string("the producer's own")),
        ("CC", AMQPValue::FieldArray(vec![string("elsewhere")].into())),
        ("x-delivery-count", AMQPValue::LongLongInt(3)),
    ]);
    let original = BasicProperties::default()
        .with_headers(headers)
        .with_expiration("1000".into())
        .with_user_id("ann".into())
        .with_priority(3)
        .with_message_id("m1".into());
    let incoming = incoming(original);
    let letter = condemned(&incoming, "");
    assert!(find(&letter, "CC").is_none());
    assert!(find(&letter, "original_header:CC").is_some());
    assert!(find(&letter, "x-delivery-count").is_none());
    assert_eq!(find_text(&letter, "reason").as_deref(), Some("json"));
    let replay = properties_for_replay(&letter);
    let expected =
        table(&[("cloudEvents:id", string("a1")), ("reason", string("the producer's own"))]);
    assert_eq!(replay.headers().as_ref(), Some(&expected));
    for properties in [&letter, &replay] {
        assert_eq!(*properties.expiration(), None);
        assert_eq!(*properties.user_id(), None);
        assert_eq!(*properties.priority(), Some(3));
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "m1");
    }
}

#[test]
fn a_letter_of_the_broker_says_where_it_came_from() {
    let death = table(&[
        ("reason", string("delivery_limit")),
        ("queue", string("rollcall.events")),
        ("exchange", string("rollcall")),
        ("routing-keys", AMQPValue::FieldArray(vec![string("x.y")].into())),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
    ]);
    let deaths = vec![AMQPValue::FieldTable(death)];
    let properties = BasicProperties::default().with_headers(table(&[
        ("x-death", AMQPValue::FieldArray(deaths.into())),
        ("x-first-death-reason", string("delivery_limit")),
        ("detail", string("the producer's own")),
    ]));
    let letter = read(&properties, Bytes::from_static(b"x"));
    assert_eq!(letter.reason, "delivery_limit");
    assert_eq!(letter.stage, "broker");
    assert_eq!(letter.original_exchange.as_deref(), Some("rollcall"));
    assert_eq!(letter.original_routing_key, "x.y");
    assert!(letter.detail.contains("rollcall.events"), "{}", letter.detail);
    let replay = properties_for_replay(&properties);
    let expected = table(&[("detail", string("the producer's own"))]);
    assert_eq!(replay.headers().as_ref(), Some(&expected));
}

#[test]
fn the_id_is_stable_and_differs_with_reason_body_and_first_sight() {
    let incoming = incoming(BasicProperties::default());
    let properties = condemned(&incoming, "");
    let letter = read(&properties, Bytes::from_static(b"a"));
    assert_eq!(letter.id, read(&properties, Bytes::from_static(b"a")).id);
    assert_ne!(letter.id, read(&properties, Bytes::from_static(b"b")).id);
    let other = Letter { reason: "id".into(), ..letter.clone() };
    assert_ne!(letter.id, letter_id(&other));
    let other = Letter { first_seen: None, ..letter.clone() };
    assert_ne!(letter.id, letter_id(&other));
}

#[test]
fn a_filter_with_both_parts_wants_both() {
    let incoming = incoming(BasicProperties::default());
    let letter = read(&condemned(&incoming, ""), incoming.body.clone());
    let filter = |reasons: &[&str], ids: &[Uuid]| Filter {
        reasons: reasons.iter().map(|r| (*r).to_owned()).collect(),
        ids: ids.to_vec(),
        id_prefix: String::new(),
    };
    assert!(filter(&[], &[]).matches(&letter));
    assert!(filter(&["id", "json"], &[letter.id]).matches(&letter));
    assert!(!filter(&["id"], &[letter.id]).matches(&letter));
    assert!(!filter(&["json"], &[Uuid::nil()]).matches(&letter));
    let digits = letter.id.simple().to_string();
    let id_prefix = |text: &str| Filter { id_prefix: text.to_owned(), ..Filter::default() };
    assert!(id_prefix(&digits[..7]).matches(&letter) && id_prefix(&digits).matches(&letter));
    assert!(!id_prefix(&digits[1..]).matches(&letter));
}
