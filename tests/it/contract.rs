//! The event contract: every shape of a message ends in Postgres and Redis; a duplicate changes
//! nothing; one identity has one payload.

use serde_json::json;

use crate::harness::{DEFAULT_SETS, Message, Producer, Rig, seed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_each_shape_lands() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let (object, array, lines) = (producer.event(), producer.events(7), producer.events(5));
    let (untyped, spaced, blank_lines) = (producer.event(), producer.event(), producer.events(2));
    for events in [&array, &lines, &blank_lines] {
        oracle.all_good(events);
    }
    oracle.all_good(&[object.clone(), untyped.clone(), spaced.clone()]);

    let worker = rig.worker().await;
    let text = |event: &serde_json::Value| event.to_string();
    rig.publish(&[
        Message::object(&object),
        Message::array(&array),
        Message::ndjson(lines.iter().map(text)),
        Message { content_type: None, ..Message::object(&untyped) },
        Message::raw(format!("\r\n\t {spaced} \n")).content_type("application/json; charset=utf-8"),
        Message::raw(format!("\n{}\r\n\n  \n{}", blank_lines[0], blank_lines[1]))
            .content_type("application/x-ndjson"),
        // An array of no events says nothing, and is no fault.
        Message::raw("[]"),
    ])
    .await;
    rig.finish(&oracle, vec![worker]).await;
}

/// In one batch, in a later one, and for another worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_changes_nothing() {
    let rig = Rig::new("cities=state+city users=username seen=username~").await;
    let mut oracle = rig.oracle();
    let events = Producer::new(seed()).events(40);
    oracle.all_good(&events);

    let each_twice: Vec<Message> =
        events.iter().flat_map(|e| [Message::object(e), Message::object(e)]).collect();
    let worker = rig.worker().await;
    rig.publish(&each_twice).await;
    rig.wait_arrived(&oracle).await;
    rig.publish(&[Message::array(&events), Message::array(&events)]).await;
    rig.finish(&oracle, vec![worker]).await;

    let worker = rig.worker().await;
    rig.publish(&each_twice).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// The same value written otherwise is the same payload to jsonb: a duplicate, no conflict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_may_be_spelled_otherwise() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let event = json!({
        "id": "0199aaaa-0000-7000-8000-00000000abcd", "occurred_at": now_rounded(),
        "state": "CA", "city": "Fresno", "username": "ann",
    });
    oracle.good(&event);
    let respelled = format!(
        "{{\"username\":\"\\u0061nn\", \"city\": \"Fresno\",\"state\":\"NV\",\"state\":\"CA\",\
         \"occurred_at\":{},\n\"id\":{}}}",
        event["occurred_at"], event["id"]
    );
    let worker = rig.worker().await;
    rig.publish(&[Message::object(&event), Message::raw(respelled.clone())]).await;
    rig.wait_arrived(&oracle).await;
    rig.publish(&[Message::raw(respelled)]).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A crash between COMMIT and SADD leaves members missing; the redelivery must add them, though
/// to Postgres it brings nothing new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redelivery_adds_the_members_that_redis_missed() {
    let rig = Rig::new("cities=state+city users=username@state seen=username~").await;
    let mut oracle = rig.oracle();
    let events = Producer::new(seed()).events(30);
    oracle.all_good(&events);
    let worker = rig.worker().await;
    rig.publish(&[Message::array(&events)]).await;
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;

    let mut redis = rig.redis().await;
    for key in oracle.exact.keys().chain(oracle.estimated.keys()) {
        assert_eq!(redis.int(&["DEL", key]).await, 1, "{key} was there");
    }
    rig.publish(&[Message::array(&events)]).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// The first payload of an identity stays; another is dead-lettered and adds no member, whether
/// the first one came in the same batch or long before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_identity_has_one_payload() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    // One lane, so that what is published first is first.
    rig.set(crate::harness::names::LANES, "1");
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events = producer.events(20);
    let mut others = events.clone();
    for (n, other) in others.iter_mut().enumerate() {
        other["username"] = json!(format!("impostor{n}"));
        other["city"] = json!("Nowhere");
    }
    oracle.all_good(&events);
    others.iter().for_each(|other| oracle.bad("id_conflict", other.to_string()));

    let worker = rig.worker().await;
    let (early, late) = others.split_at(10);
    let in_one_message = [&events[..], early].concat();
    rig.publish(&[Message::array(&in_one_message)]).await;
    rig.wait_arrived(&stored_only(&oracle, 10)).await;
    // Among good ones, old and new.
    let company = producer.events(10);
    oracle.all_good(&company);
    let mixed: Vec<_> =
        late.iter().zip(&company).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    rig.publish(&[Message::array(&mixed), Message::array(&events)]).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Identity is (occurred_at, id): the same id at another time is another event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_id_at_another_time_is_another_event() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut events = producer.events(20);
    let id = events[0]["id"].clone();
    events.iter_mut().for_each(|event| event["id"] = id.clone());
    oracle.all_good(&events);
    let worker = rig.worker().await;
    rig.publish(&[Message::array(&events)]).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Any string of 1 to 128 bytes is an id. Equal strings are one event, others are others: also
/// those that only look like one UUID in two spellings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_string_is_an_id_too() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let ids = [
        "1".to_owned(),
        "order-17".to_owned(),
        "order-17 ".to_owned(),
        "ORDER-17".to_owned(),
        "é".to_owned(),
        "x".repeat(128),
        "0199aaaa00007000800000000000abcd".to_owned(),
        "{0199aaaa-0000-7000-8000-00000000abcd}".to_owned(),
        "0199aaaa-0000-7000-8000-00000000abcd".to_owned(),
    ];
    let moment = producer.moment();
    let events: Vec<_> = ids
        .iter()
        .map(|id| json!({"id": id, "occurred_at": moment, "username": "ann", "n": id.len()}))
        .collect();
    oracle.all_good(&events);
    // A UUID is one in capitals as well. The text differs, so it must be told from a conflict by
    // sending it at a time of its own.
    let capitals = json!({
        "id": "0199AAAA-0000-7000-8000-00000000ABCD", "occurred_at": producer.moment(),
    });
    oracle.good(&capitals);

    let worker = rig.worker().await;
    rig.publish(&[Message::array(&events), Message::object(&capitals)]).await;
    rig.wait_arrived(&oracle).await;
    rig.publish_events(&events).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// The payload is kept whole, whatever else the producer put in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_object_is_kept() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let extra = [
        json!({"deep": {"a": [1, 2.5, -0.0, 1e300, {"b": null}], "": "empty name"}}),
        json!({"text": "quotes \" back \\ slash / \u{1} \u{1f600} \u{ffff}"}),
        json!({"big": u64::MAX, "small": i64::MIN, "specversion": "no CloudEvent without its type"}),
        json!({"occurred_at ": 1, "Id": 2, "username": "ann"}),
    ];
    let events: Vec<_> = extra.into_iter().map(|fields| producer.event_with(fields)).collect();
    oracle.all_good(&events);
    // A decimal that no f64 holds is kept to its last digit.
    let precise = format!(
        "{{\"id\":\"{}\",\"occurred_at\":\"{}\",\"price\":0.1000000000000000000000000000001}}",
        producer.id(),
        producer.moment()
    );
    let fields: serde_json::Value = serde_json::from_str(&precise).unwrap();
    oracle.row(fields["occurred_at"].as_str().unwrap(), &precise);
    let worker = rig.worker().await;
    rig.publish(&[Message::array(&events), Message::raw(precise)]).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// RFC 3339 in its forms; what is finer than a microsecond is cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_may_be_written_in_every_form_of_rfc_3339() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let day = &producer.moment()[..10];
    let day = day.to_owned();
    let written_and_meant = [
        (format!("{day}T00:00:00Z"), format!("{day}T00:00:00Z")),
        (format!("{day}T00:00:00+00:00"), format!("{day}T00:00:00Z")),
        (format!("{day}T00:00:00.123456Z"), format!("{day}T00:00:00.123456Z")),
        (format!("{day}T00:00:00.123456999Z"), format!("{day}T00:00:00.123456Z")),
        (format!("{day}T05:30:00+05:30"), format!("{day}T00:00:00Z")),
        (format!("{day}t00:00:01z"), format!("{day}T00:00:01Z")),
    ];
    let mut messages = Vec::new();
    for (written, meant) in &written_and_meant {
        let mut event = producer.event();
        event["occurred_at"] = json!(written);
        oracle.row(meant, &event.to_string());
        oracle.adds(meant, &event);
        messages.push(Message::object(&event));
    }
    let worker = rig.worker().await;
    rig.publish(&messages).await;
    rig.finish(&oracle, vec![worker]).await;
}

fn now_rounded() -> String {
    Producer::new(1).moment()
}

/// What is to arrive first: all rows told so far and only so many dead letters.
fn stored_only(oracle: &crate::harness::Oracle, dead: usize) -> crate::harness::Oracle {
    let mut oracle = oracle.clone();
    oracle.dead.truncate(dead);
    oracle
}
