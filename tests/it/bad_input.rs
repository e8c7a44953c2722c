//! Bad input: each ends as a dead letter with its reason, alone. Its neighbours are stored and
//! the worker goes on as if nothing had been.

use serde_json::{Value, json};

use crate::harness::{DEFAULT_SETS, LONG, Message, Producer, Rig, SHORT, eventually, names, seed};

/// `(reason, body)`. `IDENTITY` stands for a fresh id and a good time.
fn bad_events() -> Vec<(&'static str, Vec<u8>)> {
    let texts = [
        ("json", "{"),
        ("json", "}"),
        ("json", "nonsense"),
        ("json", "{\"id\": \"a\" \"b\"}"),
        ("json", "{IDENTITY, \"x\": 01}"),
        ("json", "{IDENTITY, \"x\": NaN}"),
        ("json", "{IDENTITY} trailing"),
        ("json", "{IDENTITY, \"x\": \"raw\u{1}control\"}"),
        ("not_an_object", "17"),
        ("not_an_object", "\"text\""),
        ("not_an_object", "null"),
        ("not_an_object", "true"),
        ("missing_id", "{\"occurred_at\": \"MOMENT\"}"),
        ("missing_id", "{\"id\": null, \"occurred_at\": \"MOMENT\"}"),
        ("id_type", "{\"id\": 17, \"occurred_at\": \"MOMENT\"}"),
        ("id_type", "{\"id\": [\"a\"], \"occurred_at\": \"MOMENT\"}"),
        ("id_type", "{\"id\": {}, \"occurred_at\": \"MOMENT\"}"),
        ("id_type", "{\"id\": true, \"occurred_at\": \"MOMENT\"}"),
        ("id_length", "{\"id\": \"\", \"occurred_at\": \"MOMENT\"}"),
        ("missing_occurred_at", "{\"id\": \"a\"}"),
        ("missing_occurred_at", "{\"id\": \"a\", \"occurred_at\": null}"),
        ("occurred_at_format", "{\"id\": \"a\", \"occurred_at\": \"yesterday\"}"),
        ("occurred_at_format", "{\"id\": \"a\", \"occurred_at\": \"\"}"),
        ("occurred_at_format", "{\"id\": \"a\", \"occurred_at\": 1764000000}"),
        ("occurred_at_format", "{\"id\": \"a\", \"occurred_at\": \"2026-11-23 10:00\"}"),
        ("occurred_at_format", "{\"id\": \"a\", \"occurred_at\": \"2026-11-23T10:00:00\"}"),
        ("occurred_at_format", "{\"id\": \"a\", \"occurred_at\": \"2026-02-30T10:00:00Z\"}"),
        ("too_old", "{\"id\": \"a\", \"occurred_at\": \"1970-01-01T00:00:00Z\"}"),
        ("too_new", "{\"id\": \"a\", \"occurred_at\": \"9999-12-31T23:59:59Z\"}"),
        ("nul_character", "{IDENTITY, \"x\": \"a\\u0000b\"}"),
        ("nul_character", "{IDENTITY, \"a\\u0000\": 1}"),
        ("nul_character", "{IDENTITY, \"x\": [{\"y\": \"\\u0000\"}]}"),
        ("lone_surrogate", "{IDENTITY, \"x\": \"\\ud800\"}"),
        ("lone_surrogate", "{IDENTITY, \"x\": \"\\udc00\\ud800\"}"),
        ("lone_surrogate", "{IDENTITY, \"\\ud83d x\": 1}"),
        ("number_range", "{IDENTITY, \"x\": 1e400000}"),
        ("number_range", "{IDENTITY, \"x\": -1e309}"),
        ("number_range", "{IDENTITY, \"username\": 1e309}"),
        ("field_type", "{IDENTITY, \"username\": {\"a\": 1}}"),
        ("field_type", "{IDENTITY, \"username\": 1.5}"),
        ("field_type", "{IDENTITY, \"username\": 1e3}"),
        ("field_type", "{IDENTITY, \"username\": -0}"),
        ("field_type", "{IDENTITY, \"username\": 18446744073709551616}"),
        ("field_type", "{IDENTITY, \"username\": [\"fine\", {}]}"),
        ("field_type", "{IDENTITY, \"username\": [[\"deeper\"]]}"),
        ("field_type", "{IDENTITY, \"state\": \"CA\", \"city\": [1.0]}"),
    ];
    let mut producer = Producer::new(seed());
    let mut events: Vec<(&str, Vec<u8>)> = texts
        .iter()
        .map(|(reason, text)| (*reason, fill(&mut producer, text).into_bytes()))
        .collect();
    let mut not_utf8 = fill(&mut producer, "{IDENTITY, \"x\": \"").into_bytes();
    not_utf8.extend(b"\xc3\x28\xff\"}");
    events.push(("utf8", not_utf8));
    let wrap = |open: &str, depth: usize, close: &str| {
        format!("{{IDENTITY, \"x\": {}1{}}}", open.repeat(depth), close.repeat(depth))
    };
    for text in [wrap("[", 65, "]"), wrap("[", 10_000, "]"), wrap("{\"a\":", 10_000, "}")] {
        events.push(("nesting", fill(&mut producer, &text).into_bytes()));
    }
    let long = format!("{{\"id\": \"{}\", \"occurred_at\": \"MOMENT\"}}", "x".repeat(129));
    events.push(("id_length", fill(&mut producer, &long).into_bytes()));
    let long = format!("{{IDENTITY, \"username\": \"{}\"}}", "x".repeat(1025));
    events.push(("member_length", fill(&mut producer, &long).into_bytes()));
    // 400 bytes that become 1200 once encoded.
    let long = format!("{{IDENTITY, \"username\": \"{}\"}}", ":".repeat(400));
    events.push(("member_length", fill(&mut producer, &long).into_bytes()));
    let many: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    let many = format!("{{IDENTITY, \"username\": [{}]}}", many.join(","));
    events.push(("too_many_members", fill(&mut producer, &many).into_bytes()));
    let product: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let product = product.join(",");
    let product = format!("{{IDENTITY, \"state\": [{product}], \"city\": [{product}]}}");
    events.push(("too_many_members", fill(&mut producer, &product).into_bytes()));
    events
}

fn fill(producer: &mut Producer, text: &str) -> String {
    let (id, moment) = (producer.id(), producer.moment());
    text.replace("IDENTITY", &format!("\"id\": \"{id}\", \"occurred_at\": \"{moment}\""))
        .replace("MOMENT", &moment)
}

/// Each as a message of its own, between good messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_messages_are_dead_lettered_alone() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut messages = Vec::new();
    let mut condemned = bad_events();
    condemned.push(("json", Vec::new()));
    condemned.push(("json", b"   \n".to_vec()));
    condemned.push(("json", b"[1, 2".to_vec()));
    condemned.push(("json", "[".repeat(10_000).into_bytes()));
    condemned.push(("too_large", vec![b'x'; 2 << 20]));
    condemned.push(("too_large", just_too_large(&mut producer)));
    condemned.push(("too_many_events", format!("[{}1]", "1,".repeat(10_000)).into_bytes()));
    for (reason, body) in condemned {
        oracle.bad(reason, body.clone());
        let good = producer.event();
        oracle.good(&good);
        messages.push(Message::object(&good));
        messages.push(Message::raw(body));
    }
    let mut worker = rig.worker().await;
    rig.publish(&messages).await;
    rig.wait_arrived(&oracle).await;
    worker.assert_alive();
    worker.wait_ready().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Each as an element among good ones: in an array where it is JSON enough, in NDJSON otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_element_leaves_its_neighbours_alone() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let (mut lines, mut elements) = (Vec::new(), Vec::new());
    for (reason, body) in bad_events() {
        let good = producer.events(2);
        oracle.all_good(&good);
        lines.push(good[0].to_string().into_bytes());
        elements.push(good[1].to_string().into_bytes());
        oracle.bad(reason, body.clone());
        if reason != "json" {
            oracle.bad(reason, body.clone());
            elements.push(body.clone());
        }
        lines.push(body);
    }
    let worker = rig.worker().await;
    let ndjson = Message::raw(lines.join(&b'\n')).content_type("application/x-ndjson");
    let array = [b"[".to_vec(), elements.join(&b','), b"]".to_vec()].concat();
    rig.publish(&[ndjson, Message::raw(array)]).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Nothing is wrong with it that could be told without Postgres: a rule of the table itself, in the
/// middle of a batch of good ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_postgres_refuses_is_dead_lettered_alone() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let rule = "ALTER TABLE events ADD CHECK (payload->>'text' IS DISTINCT FROM 'against a rule')";
    rig.pg().await.run(rule).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events = producer.events(300);
    oracle.all_good(&events);
    let mut elements: Vec<String> = events.iter().map(Value::to_string).collect();
    for at in [0, 150, 151, 303] {
        let bad = producer.event_with(json!({"username": "bad", "text": "against a rule"}));
        oracle.bad("store_refused", bad.to_string());
        elements.insert(at, bad.to_string());
    }
    let worker = rig.worker().await;
    rig.publish(&[Message::array_of(elements)]).await;
    rig.wait_arrived(&oracle).await;
    for letter in rig.dead_letters().await {
        assert_eq!(letter.header("sqlstate"), Some("23514"), "{letter:?}");
        assert_eq!(letter.header("stage"), Some("store"));
    }
    rig.finish(&oracle, vec![worker]).await;
}

/// The last resort, as no JSON is known that the decoder lets through and `jsonb` will not have:
/// which of the payloads is bad is told by their places, and the good ones are not named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_tells_which_payloads_are_bad() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let found = "SELECT place || ' ' || code FROM rollcall_bad_payloads(ARRAY[
                 '{\"a\": 1}', '{\"a\": \"\\u0000\"}', '[]', '1e-20000', '{'])";
    assert_eq!(rig.pg().await.texts(found).await, ["2 22P05", "4 22003", "5 22P02"]);
}

/// Numbers that are floats to most readers and that jsonb will not have: known before they could
/// fail a whole batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_jsonb_cannot_hold_fails_no_batch() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events = producer.events(20);
    oracle.all_good(&events);
    let mut elements: Vec<String> = events.iter().map(Value::to_string).collect();
    let (fine, just_fits) =
        (format!("0.{}1", "0".repeat(20_000)), format!("0.{}", "0".repeat(16_383)));
    for number in [fine.as_str(), "1e-20000", "-1e-400000", "1e-17000", "0e99999"] {
        let bad = fill(&mut producer, &format!("{{IDENTITY, \"x\": {number}}}"));
        oracle.bad("number_range", bad.clone());
        elements.push(bad);
    }
    let (id, moment) = (producer.id(), producer.moment());
    let fits = format!(
        "{{\"id\": \"{id}\", \"occurred_at\": \"{moment}\", \"x\": [{just_fits}, 1e-16383]}}"
    );
    oracle.row(&moment, &fits);
    elements.push(fits);
    let worker = rig.worker().await;
    rig.publish(&[Message::array_of(elements)]).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// What looks dangerous and is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_odd_is_stored_exactly() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let nested = format!("{}1{}", "[".repeat(62), "]".repeat(62));
    let odd = [
        json!({"username": "a:b{c}%d\r\n\t", "state": "{}", "city": ":"}),
        json!({"username": "", "state": "", "city": ""}),
        json!({"username": "😀", "state": "\u{7f}", "city": "\u{1}\u{1f}"}),
        json!({"username": "\\u0000 only looks like it"}),
        json!({"username": "x".repeat(1024)}),
        json!({"username": (0..1000).collect::<Vec<_>>()}),
        json!({"username": i64::MIN, "state": u64::MAX, "city": false}),
        json!({"username": null, "state": "CA", "city": null}),
        json!({"username": [], "state": ["CA", "CA"], "city": [null, "Fresno", 1, true]}),
        json!({"nested": serde_json::from_str::<serde_json::Value>(&nested).unwrap()}),
        json!({"x": f64::MAX, "y": 5e-324, "z": "'); DROP TABLE events; --"}),
    ];
    let events: Vec<_> = odd.into_iter().map(|fields| producer.event_with(fields)).collect();
    oracle.all_good(&events);
    let mut long = producer.event();
    long["id"] = json!("x".repeat(128));
    oracle.good(&long);
    // Just as large as a message may be.
    let mut large = producer.event();
    large["pad"] = json!("");
    large["pad"] = json!("p".repeat((1 << 20) - large.to_string().len()));
    assert_eq!(large.to_string().len(), 1 << 20);
    oracle.good(&large);
    let worker = rig.worker().await;
    rig.publish(&[Message::array(&events), Message::object(&long), Message::object(&large)]).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// The accepted range of times is a setting, and its two ends are sharp.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accepted_range_of_times_has_sharp_ends() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set(names::EVENT_AGE_MAX_DAYS, "10");
    rig.set(names::CLOCK_SKEW_MAX_SECS, "600");
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let minute = 60;
    let day = 24 * 60 * minute;
    let mut messages = Vec::new();
    // Five minutes on either side of each end: more than a test takes.
    for (seconds, verdict) in [
        (-10 * day + 5 * minute, None),
        (-10 * day - 5 * minute, Some("too_old")),
        (5 * minute, None),
        (15 * minute, Some("too_new")),
    ] {
        let mut event = producer.event();
        event["occurred_at"] = json!(producer.moment_at(seconds));
        match verdict {
            None => oracle.good(&event),
            Some(reason) => oracle.bad(reason, event.to_string()),
        }
        messages.push(Message::object(&event));
    }
    let worker = rig.worker().await;
    rig.publish(&messages).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A dead letter tells a machine and a human why, and where it came from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_tells_its_story() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let event = Producer::new(seed()).event();
    let mut other = event.clone();
    other["text"] = json!("another payload");
    oracle.good(&event);
    oracle.bad("json", "{\"secret\": oops");
    oracle.bad("id_conflict", other.to_string());
    let worker = rig.worker().await;
    rig.publish(&[Message::object(&event)]).await;
    rig.wait_arrived(&{
        let mut first = oracle.clone();
        first.dead.clear();
        first
    })
    .await;
    rig.publish(&[Message::raw("{\"secret\": oops"), Message::object(&other)]).await;
    rig.wait_arrived(&oracle).await;

    let letters = rig.dead_letters().await;
    let by_reason = |reason: &str| {
        let letter = letters.iter().find(|l| l.header(names::HEADER_REASON) == Some(reason));
        letter.unwrap_or_else(|| panic!("no letter with reason {reason} in {letters:?}"))
    };
    for (reason, stage) in [("json", "decode"), ("id_conflict", "store")] {
        let letter = by_reason(reason);
        assert_eq!(letter.header("stage"), Some(stage));
        let detail = letter.header("detail").expect("a detail");
        assert!(!detail.is_empty() && !detail.contains("oops"), "{detail:?}");
        for header in ["first_seen", "delivery_count"] {
            assert!(letter.header(header).is_some(), "no {header}: {letter:?}");
        }
        let told: Vec<&str> = letter.headers.iter().map(|(_, value)| value.as_str()).collect();
        assert!(told.contains(&rig.exchange()), "the original exchange: {letter:?}");
        assert!(told.contains(&"test"), "the original routing key: {letter:?}");
        assert_eq!(letter.content_type.as_deref(), Some("application/json"));
    }
    rig.finish(&oracle, vec![worker]).await;
}

/// When most of what arrives is bad, a producer or this configuration is broken: the worker stops
/// instead of emptying the queue into the dead letters, until somebody says to go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bad_events_stops_the_worker() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set(names::BREAKER_EVENTS, "100");
    // Judged after each batch, so a lane goes on by one at most.
    rig.set(names::BATCH_EVENTS_MAX, "20");
    let mut oracle = rig.oracle();
    // The lane beside the one that says stop may have published and not settled.
    oracle.dead_may_repeat = true;
    let mut producer = Producer::new(seed());
    let mut worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let mut messages = Vec::new();
    for n in 0..300 {
        let body = format!("{{ {n}");
        oracle.bad("json", body.clone());
        messages.push(Message::raw(body));
    }
    rig.publish(&messages).await;
    worker.wait_not_ready().await;
    assert_eq!(worker.status("/livez").await, Ok(200));
    let dead = rig.dead_letters().await.len();
    assert!(dead < 200, "{dead} of 300 were dead-lettered all the same");
    let amqp = rig.amqp().await;
    eventually(SHORT, "the others to be back in the queue", async || {
        match amqp.ready(rig.queue()).await? as usize {
            waiting if waiting + dead >= 300 => Ok(()),
            waiting => Err(format!("{waiting} wait and {dead} are dead: some are lost")),
        }
    })
    .await;

    let good = producer.events(20);
    oracle.all_good(&good);
    rig.publish_events(&good).await;
    let (amqp, mut pg) = (rig.amqp().await, rig.pg().await);
    eventually(LONG, "the rest to be condemned and the good to be stored", async || {
        worker.resume().await;
        let dead = amqp.ready(rig.dead_letters_queue()).await?;
        let stored = pg.events().await?;
        // A letter may be there twice, so that the last ones are still to be settled.
        let unsettled = worker.metrics().await?.sum(names::IN_FLIGHT);
        match (dead, stored, amqp.ready(rig.queue()).await?) {
            (300.., 120.., 0) if unsettled == 0.0 => Ok(()),
            (.., waiting) => Err(format!(
                "{dead} are dead-lettered, {stored} stored, {unsettled} unsettled, {waiting} wait"
            )),
        }
    })
    .await;
    worker.assert_alive();
    rig.finish(&oracle, vec![worker]).await;
}

/// A message's headers are one frame, as large as its producer's connection allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_may_fill_a_frame() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let (events, mut messages) = (producer.events(3), Vec::new());
    oracle.all_good(&events);
    for (event, bytes) in events.iter().zip([40_000, 90_000, 130_000]) {
        let headers = "h".repeat(bytes);
        messages.push(Message::object(event).header("x-large", &headers));
        let bad = format!("{{ {bytes}");
        oracle.bad("json", bad.clone());
        messages.push(Message::raw(bad).header("x-large", &headers).header("x-small", "s"));
    }
    rig.publish(&messages).await;
    rig.wait_arrived(&oracle).await;
    let metrics = worker.metrics().await.unwrap();
    assert_eq!(metrics.sum(names::SESSION_ERRORS), 0.0, "no session ended by it");
    let listed = rig.cli(&["dead-letters", "list", "--json"]).await.expect(0);
    assert_eq!(listed.stdout.lines().count(), 3, "{}", listed.said());
    let kept = rig.dead_letters().await;
    assert!(kept.iter().all(|letter| letter.header("x-small") == Some("s")));
    let large = kept.iter().filter(|letter| letter.header("x-large").is_some()).count();
    let dropped = kept.iter().filter_map(|letter| letter.header("dropped_headers"));
    assert_eq!((large, dropped.collect::<Vec<_>>()), (2, vec!["x-large"]));
    rig.finish(&oracle, vec![worker]).await;
}

/// Nor is what a producer or a shovel wrote there a sign of anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_of_the_producer_s_own_makes_no_suspect() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let events = producer.events(20);
    oracle.all_good(&events);
    let count = lapin::types::AMQPValue::LongLongInt(9);
    let counted =
        |event: &Value| Message::object(event).odd_header("x-delivery-count", count.clone());
    let messages: Vec<Message> = events.iter().map(counted).collect();
    rig.publish(&messages).await;
    rig.wait_arrived(&oracle).await;
    let metrics = worker.metrics().await.unwrap();
    let told = (metrics.sum(names::SUSPECTS), metrics.sum(names::SESSION_ERRORS));
    assert_eq!(told, (0.0, 0.0));
    rig.finish(&oracle, vec![worker]).await;
}

/// One byte over the limit.
fn just_too_large(producer: &mut Producer) -> Vec<u8> {
    let mut event = producer.event();
    event["pad"] = json!("");
    event["pad"] = json!("p".repeat((1 << 20) + 1 - event.to_string().len()));
    event.to_string().into_bytes()
}
