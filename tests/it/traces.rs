//! Spans: one a batch, with links to the traces of its messages; in nobody's way, and with nothing
//! of an event in them. The binary is built with the feature `otlp`.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use lapin::types::{AMQPValue, FieldTable};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::harness::{
    Collector, DEFAULT_SETS, LONG, Manner, Message, Oracle, Producer, Rig, Server, Spans, Verb,
    Worker, eventually, names, seed, text,
};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const DELAY: &str = "OTEL_BSP_SCHEDULE_DELAY";
const TRACEPARENT: &str = "traceparent";
const BATCHES: &str = "rollcall_batches_flushed_total";

/// As many messages as a lane is given before it has shown that it needs more.
const WINDOW: usize = 32;

/// As many links as a span may have.
const LINKS_MAX: usize = 128;

fn trace_parent(number: usize, flags: &str) -> String {
    format!("00-{:032x}-{:016x}-{flags}", number + 1, number + 1)
}

fn links(span: &Span) -> Vec<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text = |trace: &[u8], span: &[u8]| format!("00-{}-{}-01", hex(trace), hex(span));
    span.links.iter().map(|link| text(&link.trace_id, &link.span_id)).collect()
}

fn has_failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

/// Rig and collector of a test; only the drain sends, unless the test says otherwise.
async fn observed(sets: &str, manner: Manner) -> (Rig, Collector) {
    let mut rig = Rig::new(sets).await;
    let collector = Collector::start(manner).await;
    rig.set(ENDPOINT, &collector.url());
    rig.set(DELAY, "3600000");
    rig.set(names::LANES, "1");
    (rig, collector)
}

/// Publishes these while another event is being written, so that they become one batch.
async fn write_together(rig: &Rig, worker: &Worker, first: &serde_json::Value, all: &[Message]) {
    let gate = rig.close_gate().await;
    rig.publish(&[Message::object(first)]).await;
    rig.wait_at_gate().await;
    rig.publish(all).await;
    wait_in_flight(worker, all.len() + 1).await;
    gate.open().await;
}

async fn wait_in_flight(worker: &Worker, wanted: usize) {
    eventually(LONG, "all to be with the worker", async || {
        match worker.metrics().await?.sum(names::IN_FLIGHT) {
            n if n >= wanted as f64 => Ok(()),
            n => Err(format!("{n} of {wanted} are")),
        }
    })
    .await;
}

/// A worker that is trusted with a wide window: the narrow one that each begins with was used up.
async fn wide_worker(rig: &Rig, oracle: &mut Oracle, producer: &mut Producer) -> Worker {
    let (worker, events) = (rig.warm_worker(oracle, producer).await, producer.events(100));
    oracle.all_good(&events);
    let gate = rig.close_gate().await;
    rig.publish_events(&events).await;
    wait_in_flight(&worker, WINDOW).await;
    gate.open().await;
    rig.wait_arrived(oracle).await;
    worker.assert_books_balance().await;
    worker
}

/// All that the header can be and is no place in a trace.
fn odd_values() -> Vec<AMQPValue> {
    let mut table = FieldTable::default();
    table.insert("trace".into(), AMQPValue::LongString("id".into()));
    let parent = trace_parent(9, "01");
    let texts =
        ["", "00", &parent.to_uppercase(), &parent.replace("00-", "ff-"), &"0-".repeat(5_000)];
    let mut values: Vec<_> =
        texts.iter().map(|text| AMQPValue::LongString((*text).into())).collect();
    let zeros = format!("00-{}-{}-01", "0".repeat(32), "0".repeat(16));
    values.extend([
        AMQPValue::LongString(zeros.into()),
        AMQPValue::LongString(format!("{parent}-more").into()),
        AMQPValue::LongString(vec![0xff; 55].into()),
        AMQPValue::ByteArray(parent.as_bytes().into()),
        AMQPValue::FieldTable(table),
        AMQPValue::FieldArray(vec![AMQPValue::LongString(parent.into())].into()),
        AMQPValue::Boolean(true),
        AMQPValue::ShortShortInt(-1),
        AMQPValue::ShortShortUInt(1),
        AMQPValue::ShortInt(-1),
        AMQPValue::ShortUInt(1),
        AMQPValue::LongInt(-1),
        AMQPValue::LongUInt(1),
        AMQPValue::LongLongInt(-1),
        AMQPValue::Float(0.5),
        AMQPValue::Double(0.5),
        AMQPValue::DecimalValue(lapin::types::DecimalValue { scale: 1, value: 5 }),
        AMQPValue::Timestamp(1),
        AMQPValue::Void,
    ]);
    values
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_one_span_with_a_link_to_each_sampled_trace_of_its_messages() {
    let (rig, collector) = observed(DEFAULT_SETS, Manner::Take).await;
    let (mut oracle, mut producer) = (rig.oracle(), Producer::new(seed()));
    let worker = wide_worker(&rig, &mut oracle, &mut producer).await;

    let mut messages = Vec::new();
    let mut add = |oracle: &mut Oracle, dress: &dyn Fn(Message) -> Message| {
        let event = producer.events(1).remove(0);
        oracle.good(&event);
        messages.push(dress(Message::object(&event)));
    };
    let mut linked = BTreeSet::new();
    for number in 0..20 {
        let (own, shared) = (trace_parent(100 + number, "01"), trace_parent(7, "03"));
        add(&mut oracle, &|message| message.header(TRACEPARENT, &own));
        add(&mut oracle, &|message| message.header(TRACEPARENT, &shared));
        add(&mut oracle, &|m| m.header(TRACEPARENT, &trace_parent(200 + number, "00")));
        add(&mut oracle, &|message| message);
        linked.insert(own);
    }
    linked.insert(trace_parent(7, "01"));
    let later = trace_parent(8, "01");
    let newer = format!("{}-more", later.replacen("00-", "01-", 1));
    add(&mut oracle, &|message| message.header(TRACEPARENT, &newer));
    linked.insert(later);
    for value in odd_values() {
        add(&mut oracle, &|message| message.odd_header(TRACEPARENT, value.clone()));
    }
    messages.push(messages[0].clone());
    oracle.bad("json", "{");
    messages.push(Message::raw("{").header(TRACEPARENT, &trace_parent(300, "01")));
    linked.insert(trace_parent(300, "01"));
    let first = producer.events(1).remove(0);
    oracle.good(&first);
    write_together(&rig, &worker, &first, &messages).await;
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    let metrics = worker.metrics().await.unwrap();
    assert_eq!(collector.requests(), 0, "it is the drain that sends");
    rig.finish(&oracle, vec![worker]).await;

    let spans = collector.spans();
    let batch = spans.batch_of(messages.len() as i64);
    let found = links(batch);
    assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), linked);
    assert_eq!(found.len(), linked.len(), "each once");
    assert_is_whole(&spans, batch, rig.queue());
    let is =
        |name: &str, value: usize| assert_eq!(text(&batch.attributes, name), value.to_string());
    is("rollcall.links.left_out", 0);
    is("rollcall.events.stored", messages.len() - 2);
    is("rollcall.events.duplicate", 1);
    is("rollcall.events.dead_lettered", 1);
    // Of the others too there is one each, and no message is in two.
    let batches = spans.batches();
    assert_eq!(batches.len() as f64, metrics.sum(BATCHES));
    let counted = |span: &&Span| {
        text(&span.attributes, "messaging.batch.message_count").parse::<f64>().expect("a number")
    };
    assert_eq!(batches.iter().map(counted).sum::<f64>(), metrics.sum(names::DELIVERIES));
    assert!(batches.iter().all(|span| !has_failed(span)), "{batches:#?}");
    let others = batches.iter().filter(|span| span.span_id != batch.span_id);
    assert_eq!(others.map(|span| span.links.len()).sum::<usize>(), 0);
}

/// A root of its own, with its steps in their order and in its time.
fn assert_is_whole(spans: &Spans, batch: &Span, queue: &str) {
    assert_eq!(batch.name, format!("process {queue}"));
    assert_eq!(batch.kind(), SpanKind::Consumer);
    assert!(batch.parent_span_id.is_empty(), "{batch:#?}");
    for (name, value) in [
        ("messaging.system", "rabbitmq"),
        ("messaging.operation.type", "process"),
        ("messaging.operation.name", "process"),
        ("messaging.destination.name", queue),
    ] {
        assert_eq!(text(&batch.attributes, name), value);
    }
    let steps = spans.below(batch);
    let told = steps.iter().map(|step| (&*step.name, text(&step.attributes, "db.system.name")));
    let expected = [("store", "postgresql".to_owned()), ("projection", "redis".to_owned())];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let mut at = batch.start_time_unix_nano;
    for step in steps {
        assert_eq!(step.kind(), SpanKind::Client);
        assert!(at <= step.start_time_unix_nano, "{step:#?}");
        at = step.end_time_unix_nano;
    }
    assert!(at <= batch.end_time_unix_nano, "{batch:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_bounded_and_what_was_left_out_is_counted() {
    let (rig, collector) = observed(DEFAULT_SETS, Manner::Take).await;
    let (mut oracle, mut producer) = (rig.oracle(), Producer::new(seed()));
    let worker = wide_worker(&rig, &mut oracle, &mut producer).await;
    let events = producer.events(LINKS_MAX + 43);
    oracle.all_good(&events);
    let (first, others) = events.split_first().expect("some");
    // Twice each, which counts once.
    let dressed = others.iter().enumerate().map(|(number, event)| {
        Message::object(event).header(TRACEPARENT, &trace_parent(number / 2 * 2, "01"))
    });
    let few: Vec<Message> = dressed.clone().collect();
    write_together(&rig, &worker, first, &few).await;
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    let many: Vec<Message> = others
        .iter()
        .enumerate()
        .map(|(n, event)| Message::object(event).header(TRACEPARENT, &trace_parent(n, "01")))
        .chain([Message::object(first)])
        .collect();
    write_together(&rig, &worker, first, &many).await;
    rig.finish(&oracle, vec![worker]).await;

    let spans = collector.spans();
    for (messages, linked, left_out) in
        [(few.len(), few.len() / 2, 0), (many.len(), LINKS_MAX, others.len() - LINKS_MAX)]
    {
        let batch = spans.batch_of(messages as i64);
        assert_eq!(batch.links.len(), linked);
        assert_eq!(batch.dropped_links_count, 0, "they were never handed over");
        assert_eq!(text(&batch.attributes, "rollcall.links.left_out"), left_out.to_string());
    }
}

/// Seen by nobody: not by the sampler's choice, and not in the time that a header takes to read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_span_is_sent_that_nobody_asked_for() {
    let (mut rig, collector) = observed(DEFAULT_SETS, Manner::Take).await;
    let (mut oracle, mut producer) = (rig.oracle(), Producer::new(seed()));
    let nowhere = [(ENDPOINT, ""), ("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")];
    for (name, value) in [("OTEL_TRACES_SAMPLER", "always_off")].iter().chain(&nowhere) {
        let before = rig.env.clone();
        rig.set(name, value);
        let worker = rig.worker().await;
        let threads = fs::read_dir(format!("/proc/{}/task", worker.pid())).expect("it runs");
        let names = threads.map(|thread| {
            let file = thread.expect("it runs").path().join("comm");
            fs::read_to_string(file).unwrap_or_default()
        });
        let sends = names.filter(|name| name.starts_with("OpenTelemetry")).count();
        assert_eq!(sends, usize::from(*name == "OTEL_TRACES_SAMPLER"), "{name}");
        let events = producer.events(20);
        oracle.all_good(&events);
        rig.publish_events(&events).await;
        rig.finish(&oracle, vec![worker]).await;
        rig.env = before;
    }
    assert_eq!(collector.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_was_held_says_why_and_holds_nothing_of_an_event_or_a_password() {
    const CANARY: &str = "c4n4ry";
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    let collector = Collector::start(Manner::Take).await;
    rig.set(&ENDPOINT.replace("OTLP", "OTLP_TRACES"), &format!("{}/own/path", collector.url()));
    rig.set("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization={CANARY}-token"));
    rig.set("RUST_LOG", "trace");
    rig.set(names::LANES, "1");
    rig.set(DELAY, "3600000");
    let (mut oracle, mut producer) = (rig.oracle(), Producer::new(seed()));
    let mut secret = |oracle: &mut Oracle, count: usize| {
        let mut events = producer.events(count);
        events.iter_mut().for_each(|event| event["username"] = CANARY.into());
        oracle.all_good(&events);
        events
    };
    let worker = rig.worker().await;
    // None of the others can make a batch as large as the last.
    let (before, during, after) =
        (secret(&mut oracle, 10), secret(&mut oracle, 12), secret(&mut oracle, 17));
    rig.publish_events(&before).await;
    eventually(LONG, "the first to be settled", async || {
        match worker.metrics().await?.sum(names::SETTLEMENTS) {
            10.0 => Ok(()),
            n => Err(format!("{n} are")),
        }
    })
    .await;
    rig.control(Verb::Stop, Server::Postgres);
    worker.wait_not_ready().await;
    rig.publish_events(&during).await;
    worker.wait_in_flight().await;
    rig.control(Verb::Start, Server::Postgres);
    worker.wait_ready().await;
    rig.wait_arrived(&oracle_without(&rig, &before, &during)).await;
    worker.assert_books_balance().await;
    oracle.bad("json", CANARY);
    let bad = Message::raw(CANARY);
    write_together(&rig, &worker, &after[0], &singles_and(&after[1..], bad)).await;
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    let log = worker.log();
    rig.finish(&oracle, vec![worker]).await;

    let spans = collector.spans();
    let held: Vec<&Span> = spans.batches().into_iter().filter(|span| has_failed(span)).collect();
    assert!(!held.is_empty(), "{spans:#?}");
    for batch in held {
        let steps = spans.below(batch);
        let failed: Vec<&str> =
            steps.iter().filter(|step| has_failed(step)).map(|step| &*step.name).collect();
        assert_eq!(failed, ["store"], "{steps:#?}");
        let status = batch.status.as_ref().expect("it has failed");
        assert!(!status.message.is_empty() && !steps[0].events.is_empty(), "{steps:#?}");
    }
    // And then it is over.
    let last = spans.batch_of(after.len() as i64);
    assert!(!has_failed(last) && spans.below(last).iter().all(|step| !has_failed(step)));

    let heads = collector.heads();
    assert!(heads.iter().all(|head| head.starts_with("POST /own/path HTTP/1.1")), "{heads:#?}");
    assert!(heads.iter().all(|head| head.contains(&format!("{CANARY}-token"))), "{heads:#?}");
    let has_canary = |bytes: &[u8]| bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes());
    assert!(!collector.bodies().iter().any(|body| has_canary(body)), "a span holds an event");
    assert!(!has_canary(log.as_bytes()), "the log holds an event or the collector's password");
}

fn singles_and(events: &[serde_json::Value], bad: Message) -> Vec<Message> {
    events.iter().map(Message::object).chain([bad]).collect()
}

/// What there must be before the rest is published.
fn oracle_without(rig: &Rig, before: &[serde_json::Value], during: &[serde_json::Value]) -> Oracle {
    let mut oracle = rig.oracle();
    oracle.all_good(before);
    oracle.all_good(during);
    oracle
}

/// Silent, refusing, or not there at all: ingest goes on as if there were none, the log has one
/// line about it, and the drain waits no longer than its two seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_takes_nothing_is_in_nobodys_way() {
    const ROUNDS: usize = 12;
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let (mut oracle, mut producer) = (rig.oracle(), Producer::new(seed()));
    let gone = Collector::start(Manner::Take).await.url();
    let silent = Collector::start(Manner::Hang).await;
    let refusing = Collector::start(Manner::Answer(400)).await;
    rig.set(DELAY, "20");
    rig.set("OTEL_EXPORTER_OTLP_TIMEOUT", "60000");
    for url in [silent.url(), refusing.url(), gone] {
        rig.set(ENDPOINT, &url);
        let worker = rig.worker().await;
        let began = Instant::now();
        for _ in 0..ROUNDS {
            let events = producer.events(50);
            oracle.all_good(&events);
            rig.publish_events(&events).await;
            rig.wait_arrived(&oracle).await;
            worker.assert_books_balance().await;
        }
        // One request to a silent collector takes a minute until it is given up.
        assert!(began.elapsed() < Duration::from_secs(50), "{:?} at {url}", began.elapsed());
        if url == refusing.url() {
            eventually(LONG, "it to have been asked often", async || match refusing.requests() {
                0..10 => Err(format!("{} times", refusing.requests())),
                _ => Ok(()),
            })
            .await;
        }
        let said = worker.complaints(&["collector", "span", "panicked", "OpenTelemetry"]);
        assert!(said.len() <= 1, "{said:#?}");
        let began = Instant::now();
        worker.terminate().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?} at {url}", began.elapsed());
        rig.assert_laws(&oracle).await;
    }
    assert!(silent.requests() > 0, "the silent one was never asked");
}

/// What a shell, a scheduler or a test runner hands down, as programs that it starts expect it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_goes_on_with_the_trace_that_its_environment_names() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let parent = trace_parent(1, "01");
    let publish = async |given: &str| {
        let run = rig.cli_with_env(&["publish", "--count", "3"], &[("TRACEPARENT", given)]).await;
        run.expect(0);
        rig.amqp().await.peek(rig.queue()).await
    };
    let traced = publish(&parent).await;
    assert!(!traced.is_empty(), "nothing was published");
    assert!(traced.iter().all(|letter| letter.header(TRACEPARENT) == Some(&parent)), "{traced:?}");
    // Of none, or of what is none, nothing is made.
    publish("").await;
    let all = publish("00-x").await;
    assert_eq!(all.len(), 3 * traced.len());
    let with = all.iter().filter(|letter| letter.header(TRACEPARENT).is_some()).count();
    assert_eq!(with, traced.len());
}
