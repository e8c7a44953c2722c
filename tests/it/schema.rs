//! The shipped schemas against the running worker: what the one takes the other takes, and what the
//! one refuses the other refuses; and a list of what a schema cannot say, kept true as well.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{DEFAULT_SETS, LONG, Language, Message, Producer, Rig, Rng, eventually, seed};

/// References into the schema.
const EVENT: &str = "#";
const MESSAGE: &str = "#/$defs/message";
const CLOUD_EVENT: &str = "#/$defs/cloudEvent";

/// Messages of each kind that are made at random.
const RANDOM: usize = 700;

/// Bodies as text, to be judged both ways. No two are the same text.
struct Cases {
    reference: &'static str,
    content_type: &'static str,
    bodies: Vec<String>,
}

/// What each event, good or bad, must be for the schema and for the worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_takes_what_a_worker_takes() {
    let mut producer = Producer::new(seed());
    let plain = Cases {
        reference: EVENT,
        content_type: "application/json",
        bodies: (0..RANDOM).map(|n| random_event(n, &mut producer)).collect(),
    };
    let cloud = Cases {
        reference: CLOUD_EVENT,
        content_type: "application/cloudevents+json",
        bodies: (0..RANDOM).map(|n| random_cloud_event(n, &mut producer)).collect(),
    };
    let rig = rig().await;
    for cases in [plain, cloud] {
        let taken = verdicts(&rig, cases.reference, &cases.bodies).await;
        let refused = refused(&rig, &cases).await;
        let mut counts = [0, 0];
        for (body, taken) in cases.bodies.iter().zip(taken) {
            assert_eq!(taken, !refused.contains(body), "taken by the schema: {taken}: {body}");
            counts[usize::from(taken)] += 1;
        }
        println!("{}: {} refused, {} taken", cases.reference, counts[0], counts[1]);
        assert!(counts.iter().all(|n| *n > RANDOM / 10), "too much of one kind: {counts:?}");
    }
}

/// A message is judged by its elements: a bad one is dead-lettered alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_array_is_judged_by_its_elements() {
    let mut producer = Producer::new(seed());
    let elements: Vec<String> = (0..300).map(|n| random_event(n, &mut producer)).collect();
    let arrays: Vec<String> =
        elements.chunks(3).map(|some| format!("[{}]", some.join(","))).collect();
    let rig = rig().await;
    let taken = verdicts(&rig, MESSAGE, &arrays).await;
    let worker = rig.worker().await;
    rig.publish(&arrays.iter().map(|body| Message::raw(body.as_str())).collect::<Vec<_>>()).await;
    let refused = settled(&rig, elements.len()).await;
    worker.terminate().await;
    for (some, taken) in elements.chunks(3).zip(&taken) {
        assert_eq!(*taken, some.iter().all(|one| !refused.contains(one)), "{some:#?}");
    }
    assert!(taken.contains(&true) && taken.contains(&false), "all of one kind");
    let at = producer.moment();
    let event = |n| format!(r#"{{"id":"{n}","occurred_at":"{at}"}}"#);
    let events: Vec<String> = (0..10_001).map(event).collect();
    for (count, fits) in [(0, true), (10_000, true), (10_001, false)] {
        let array = format!("[{}]", events[..count].join(","));
        assert_eq!(verdicts(&rig, MESSAGE, &[array]).await, [fits], "{count} events");
    }
}

/// What a schema cannot say: it takes these, the worker does not, and gives the reason. Who adds
/// one to the list has tried to put it into the schema.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_schema_cannot_say_is_known() {
    let mut producer = Producer::new(seed());
    let at = producer.moment();
    let with = |fields: &str| format!(r#"{{"id":"x","occurred_at":"{at}",{fields}}}"#);
    let timed = |at: &str| format!(r#"{{"id":"x","occurred_at":"{at}"}}"#);
    let deep =
        |levels: usize| with(&format!(r#""deep":{}{}"#, "[".repeat(levels), "]".repeat(levels)));
    let cases = [
        // Lengths are in characters there, in bytes of UTF-8 and after encoding here.
        ("id_length", format!(r#"{{"id":"{}","occurred_at":"{at}"}}"#, "é".repeat(65))),
        ("member_length", with(&format!(r#""username":"{}""#, "é".repeat(600)))),
        ("member_length", with(&format!(r#""username":"{}""#, ":".repeat(400)))),
        ("member_length", with(&format!(r#""state":"{0}","city":"{0}""#, "x".repeat(600)))),
        // The number of combinations of two arrays.
        (
            "too_many_members",
            with(&format!(r#""state":{0:?},"city":{0:?}"#, (0..40).collect::<Vec<i32>>())),
        ),
        // A calendar, and a clock.
        ("occurred_at_format", timed("2026-02-30T10:00:00Z")),
        ("too_old", timed("2001-01-01T00:00:00Z")),
        ("too_new", timed("2999-01-01T00:00:00Z")),
        ("nesting", deep(64)),
        // An integer is one by its value there, by how it is written here.
        ("field_type", with(r#""username":1.0"#)),
        ("field_type", with(r#""username":1e2"#)),
        ("field_type", with(r#""username":-0"#)),
        // What a parser has dealt with before the schema is asked.
        ("lone_surrogate", with(r#""text":"\ud800""#)),
        ("number_range", with(&format!(r#""n":0.{}"#, "1".repeat(16_384)))),
        ("too_large", with(&format!(r#""text":"{}""#, "x".repeat(1 << 20)))),
    ];
    let rig = rig().await;
    let bodies: Vec<String> = cases.iter().map(|(_, body)| body.clone()).collect();
    let taken = verdicts(&rig, EVENT, &bodies).await;
    let mut oracle = rig.oracle();
    for ((reason, body), taken) in cases.iter().zip(taken) {
        assert!(taken, "{reason}: the schema can say it after all: {body:.200}");
        oracle.bad(reason, body.as_str());
    }
    // The other way round: any separator between date and time is taken, as RFC 3339 has it for
    // people; a second more at the end of a June or December is, too.
    let space = timed(&producer.moment().replace('T', " "));
    assert_eq!(verdicts(&rig, EVENT, std::slice::from_ref(&space)).await, [false]);
    oracle.row(&at_of(&space).replace(' ', "T"), &space);
    let worker = rig.worker().await;
    let all: Vec<Message> =
        bodies.iter().chain([&space]).map(|b| Message::raw(b.as_str())).collect();
    rig.publish(&all).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Every reference of the AsyncAPI document leads somewhere, and what it says of dead letters is
/// what they are. ROLLCALL_TEST_ASYNCAPI names the schema of AsyncAPI 3 itself: see `make
/// asyncapi`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_asyncapi_document_says_what_is_there() {
    let rig = rig().await;
    let checked_by = std::env::var("ROLLCALL_TEST_ASYNCAPI").unwrap_or_default();
    let args = ["tests/it/schema.py", "asyncapi", &checked_by];
    let args = if checked_by.is_empty() { &args[..2] } else { &args[..] };
    let document = rig.begin_program(Language::Python, args, b"").end().await.expect(0).json();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let schema: Value = serde_json::from_str(include_str!("../../schema/event.schema.json"))
        .expect("the schema is JSON");
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    for reference in &references {
        let (file, pointer) = reference.split_once('#').unwrap_or((reference, ""));
        let whole = match file {
            "" => &document,
            "event.schema.json" => &schema,
            other => panic!("{reference} leads to {other}"),
        };
        assert!(whole.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let payloads = references.iter().filter(|r| r.starts_with("event.schema.json"));
    assert!(payloads.count() >= 5, "the payloads: {references:?}");
    for place in ["/channels/exchange/bindings/amqp/exchange/name", "/channels/deadLetters/address"]
    {
        let name = document.pointer(place).and_then(Value::as_str).expect(place);
        let settings = rig.cli_without_env(&["settings"]).await.expect(0).stdout;
        assert!(settings.contains(&format!("default {name}\n")), "{name} is the default of none");
    }

    let worker = rig.worker().await;
    rig.publish(&[Message::raw("{").header("reason", "mine"), Message::raw("17")]).await;
    settled(&rig, 2).await;
    worker.terminate().await;
    let said = document.pointer("/components/messages/deadLetter/headers").expect("its headers");
    let known = said["properties"].as_object().expect("properties");
    for letter in rig.dead_letters().await {
        for name in said["required"].as_array().expect("a list").iter().filter_map(Value::as_str) {
            assert!(letter.header(name).is_some(), "no header {name}: {:?}", letter.headers);
        }
        for (name, value) in &letter.headers {
            if name.starts_with("original_header:") || name.starts_with("x-") {
                continue;
            }
            let rule = known.get(name).unwrap_or_else(|| panic!("{name} is not in the document"));
            if let Some(allowed) = rule["enum"].as_array() {
                assert!(allowed.contains(&json!(value)), "{name} is {value}: {allowed:?}");
            }
        }
    }
    // One that the broker itself moves there: nobody took it in time.
    rig.amqp().await.publish_that_expires(rig.exchange(), b"{}").await;
    let moved = eventually(LONG, "the broker's letter", async || {
        let letters = rig.dead_letters().await;
        letters.into_iter().find(|l| l.header("reason").is_none()).ok_or("none".to_owned())
    })
    .await;
    let said = document.pointer("/components/messages/movedByBroker/headers").expect("its headers");
    for name in said["required"].as_array().expect("a list").iter().filter_map(Value::as_str) {
        assert!(moved.header(name).is_some(), "no header {name}: {:?}", moved.headers);
    }
    for (name, value) in &moved.headers {
        assert!(!said["properties"][name].is_null(), "{name} is not in the document: {value}");
    }
    let entry = &said["properties"]["x-death"]["items"];
    for name in entry["required"].as_array().expect("a list").iter().filter_map(Value::as_str) {
        assert!(moved.header("x-death").unwrap().contains(name), "{name}: {:?}", moved.headers);
        assert!(!entry["properties"][name].is_null(), "{name} is required and not described");
    }

    let reasons: Vec<_> = rollcall::event::Reason::ALL.iter().map(|r| json!(r.as_str())).collect();
    assert_eq!(known["reason"]["enum"], json!(reasons));
}

fn collect_references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(all) => {
            into.extend(all.get("$ref").and_then(Value::as_str).map(str::to_owned));
            all.values().for_each(|one| collect_references(one, into));
        }
        Value::Array(all) => all.iter().for_each(|one| collect_references(one, into)),
        _ => {}
    }
}

/// Most of what comes is bad here, and that is no reason to stop.
async fn rig() -> Rig {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set("ROLLCALL_BREAKER_PERCENT", "0");
    rig
}

/// What the schema says of each.
async fn verdicts(rig: &Rig, reference: &str, bodies: &[String]) -> Vec<bool> {
    let asked: Vec<String> =
        bodies.iter().map(|body| json!([reference, body]).to_string()).collect();
    let args = ["tests/it/schema.py", "verdicts"];
    let running = rig.begin_program(Language::Python, &args, asked.join("\n").as_bytes());
    let said = running.end().await.expect(0).stdout;
    let said: Vec<bool> = said.lines().map(|line| line == "true").collect();
    assert_eq!(said.len(), bodies.len());
    said
}

/// The bodies that a worker dead-letters.
async fn refused(rig: &Rig, cases: &Cases) -> BTreeSet<String> {
    let message = |body: &String| Message::raw(body.as_str()).content_type(cases.content_type);
    let (worker, before) = (rig.worker().await, judged(rig).await.0);
    rig.publish(&cases.bodies.iter().map(message).collect::<Vec<_>>()).await;
    let refused = settled(rig, before + cases.bodies.len()).await;
    worker.terminate().await;
    refused
}

/// Waits until so many are stored or dead-lettered; the dead letters' bodies. A letter may be there
/// twice, after a stall: so they count when nothing waits or is held any more, and by what they
/// say.
async fn settled(rig: &Rig, count: usize) -> BTreeSet<String> {
    eventually(LONG, "every message to be judged", async || match seen(rig).await {
        n if n >= count => Ok(()),
        n => Err(format!("{n} of {count} are")),
    })
    .await;
    rig.wait_idle().await;
    let (judged, refused) = judged(rig).await;
    assert_eq!(judged, count, "{} of them are refused", refused.len());
    refused
}

/// How many are stored or dead-lettered, and the dead letters' bodies.
async fn judged(rig: &Rig) -> (usize, BTreeSet<String>) {
    let stored = rig.pg().await.events().await.unwrap() as usize;
    let letters = rig.dead_letters().await.into_iter();
    let refused: BTreeSet<String> =
        letters.map(|letter| String::from_utf8(letter.body).expect("as it was sent")).collect();
    (stored + refused.len(), refused)
}

async fn seen(rig: &Rig) -> usize {
    let stored = rig.pg().await.events().await.unwrap();
    stored as usize + rig.amqp().await.ready(rig.dead_letters_queue()).await.unwrap() as usize
}

fn at_of(body: &str) -> String {
    let event: Value = serde_json::from_str(body).expect("JSON");
    event["occurred_at"].as_str().expect("text").to_owned()
}

/// An event with up to three of its fields put right or wrong at random; no other has its identity.
fn random_event(n: usize, producer: &mut Producer) -> String {
    let mut event = producer.event();
    event["case"] = json!(n);
    for _ in 0..producer.rng.below(4) {
        let name = *producer.rng.pick(&["id", "occurred_at", "state", "city", "username", "text"]);
        put(&mut event, name, n, producer);
    }
    match producer.rng.below(40) {
        0 => json!([n]).to_string().replace('[', "\"").replace(']', " alone\""),
        1 => json!(n).to_string(),
        2 => json!(n.to_string()).to_string(),
        _ => event.to_string(),
    }
}

fn random_cloud_event(n: usize, producer: &mut Producer) -> String {
    let at = producer.moment();
    let data = json!({"state": "CA", "city": "Fresno", "username": "ann"});
    let mut event = json!({
        "specversion": "1.0", "type": "t", "source": "/s", "id": producer.id(), "time": at,
        "subject": format!("case {n}"), "data": data,
    });
    for _ in 0..producer.rng.below(3) {
        let attributes = ["specversion", "type", "source", "id", "time", "extra", "data"];
        let fields = ["state", "city", "username", "cloudevent"];
        match producer.rng.below(10) {
            0 => event["data_base64"] = value(&mut producer.rng, n, 10),
            1..=4 if event["data"].is_object() => {
                let name = *producer.rng.pick(&fields);
                put(&mut event["data"], name, n, producer);
            }
            _ => {
                let name = *producer.rng.pick(&attributes);
                put(&mut event, name, n, producer);
            }
        }
    }
    event.to_string()
}

/// Takes a field out, or puts a value there that is good or bad for it.
fn put(object: &mut Value, name: &str, n: usize, producer: &mut Producer) {
    let good = producer.moment();
    let rng = &mut producer.rng;
    if rng.percent(10) {
        object.as_object_mut().expect("an object").remove(name);
        return;
    }
    object[name] = match name {
        "id" | "occurred_at" | "time" if rng.percent(70) => match name {
            "id" => id(rng, n),
            _ => time(rng, &good),
        },
        // Of a composite it is the whole that must not be too long.
        "state" | "city" => value(rng, n, 100),
        _ => value(rng, n, 1025),
    };
}

fn id(rng: &mut Rng, n: usize) -> Value {
    let id = format!("case {n} {}", rng.next());
    json!(match rng.below(5) {
        0 => String::new(),
        1 => format!("{id:-<128}"),
        2 => format!("{id:-<129}"),
        3 => format!("{id}\0"),
        _ => id,
    })
}

/// `good` in one of its forms, or something near it that is no time.
fn time(rng: &mut Rng, good: &str) -> Value {
    let (date, clock) = good.trim_end_matches('Z').split_once('T').expect("a time");
    json!(match rng.below(16) {
        0 => format!("{date}t{clock}z"),
        1 => format!("{date}T{clock}+00:00"),
        2 => format!("{date}T{clock}-00:00"),
        3 => format!("{date}T{clock}123Z"),
        4 => date.to_owned(),
        5 => clock.to_owned(),
        6 => format!("{date}T{clock}"),
        7 => format!("{date}T{clock}+24:00"),
        8 => format!("{date}T{clock}+0000"),
        9 => format!("{date}T25:00:00Z"),
        10 => format!("{date}T10:60:00Z"),
        11 => format!("{}-13-01T10:00:00Z", &date[..4]),
        12 => format!(" {good}"),
        13 => format!("{good} "),
        14 => format!("{date}T10:00Z"),
        _ => good.to_owned(),
    })
}

/// Any JSON, but for what a schema cannot say; texts of so many characters at most.
fn value(rng: &mut Rng, n: usize, longest: usize) -> Value {
    let scalars = [
        json!(null),
        json!(true),
        json!(n),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.5),
        json!(1e300),
        json!(18_446_744_073_709_551_616_f64),
        json!(""),
        json!(format!("value {n}")),
        json!("nul \0 inside"),
        json!("x".repeat(longest - 1)),
        json!("x".repeat(longest)),
        json!("S\u{e3}o Paulo"),
    ];
    let one = rng.pick(&scalars).clone();
    let other = rng.pick(&scalars).clone();
    match rng.below(9) {
        0 => json!([]),
        1 => json!({}),
        2 => json!([one, other]),
        3 => json!({"a": one}),
        4 => json!([[one]]),
        5 => json!({"nul \0 in a name": other}),
        6 => json!({"deep": [{"er": one}]}),
        _ => one,
    }
}
