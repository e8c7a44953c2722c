//! The examples, run as a reader of them would: real programs in their languages, against real
//! servers, and with the link cut where it hurts.

mod django;
mod migration;

use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{
    DEFAULT_SETS, LONG, Language, Oracle, Producer, Rig, SHORT, eventually, names, seed,
};

const PRODUCERS: [(Language, &[&str]); 3] = [
    (Language::Python, &["examples/producers/python/publish.py"]),
    (Language::Node, &["examples/producers/node/publish.mjs"]),
    (Language::Rust, &[]),
];

const READERS: [(Language, &[&str]); 3] = [
    (Language::Python, &["examples/readers/python/read.py"]),
    (Language::Node, &["examples/readers/node/read.mjs"]),
    (Language::Shell, &["examples/readers/redis-cli/read.sh"]),
];

/// What a producer is given: a line of fields for each event.
fn lines(fields: &[Value]) -> Vec<u8> {
    fields.iter().flat_map(|fields| format!("{fields}\n").into_bytes()).collect()
}

fn some_fields(producer: &mut Producer, language: Language, count: usize) -> Vec<Value> {
    let one = |n| {
        let mut event = producer.event();
        let event = event.as_object_mut().expect("an object");
        event.remove("id");
        event.remove("occurred_at");
        event.insert("username".to_owned(), json!(format!("{language:?}-{n}-é\"\\")));
        json!(event)
    };
    (0..count).map(one).collect()
}

/// Takes what a producer printed for published, and checks that it is what it was given.
fn note(oracle: &mut Oracle, fields: &[Value], stdout: &str) {
    let events: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("an event a line")).collect();
    assert_eq!(events.len(), fields.len(), "events published");
    for (event, fields) in events.iter().zip(fields) {
        for (name, value) in fields.as_object().expect("an object") {
            assert_eq!(&event[name], value);
        }
        let at = event["occurred_at"].as_str().expect("a time");
        oracle.row(&cut_to_microseconds(at), &event.to_string());
        oracle.adds(at, event);
    }
}

/// What is finer is cut off; Postgres itself would round it.
fn cut_to_microseconds(at: &str) -> String {
    match at.split_once('.') {
        Some((whole, rest)) => {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            format!("{whole}.{}{}", &rest[..digits.min(6)], &rest[digits..])
        }
        None => at.to_owned(),
    }
}

/// The reply to an event is lost with its connection; then the reply to the retry; then another's.
/// The broker has three messages more than there are events, and each event is stored once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_producer_publishes_is_there_once_though_its_link_is_cut_in_a_retry() {
    let mut producer = Producer::new(seed());
    for (language, args) in PRODUCERS {
        let mut rig = Rig::new(DEFAULT_SETS).await;
        let mut oracle = rig.oracle();
        let worker = rig.worker().await;
        let proxy = rig.proxy("AMQP_URL").await;
        let fields = some_fields(&mut producer, language, 12);
        let needle = |n: usize| format!("{language:?}-{n}-");
        proxy.lose_replies_to([needle(4), needle(4), needle(7)]);
        let ran = rig.begin_program(language, args, &lines(&fields)).end().await.expect(0);
        assert_eq!(proxy.replies_lost(), 3, "{language:?}");
        note(&mut oracle, &fields, &ran.stdout);
        rig.wait_arrived(&oracle).await;
        worker.assert_books_balance().await;
        // One of each retry at least came a second time, with the same bytes: no id_conflict.
        let duplicates = worker.metrics().await.unwrap().sum(names::DUPLICATES);
        assert_eq!(duplicates, 3.0, "{language:?}");
        rig.finish(&oracle, vec![worker]).await;
    }
}

/// A queue that was never bound, or is gone: no producer takes its event for published, or tries
/// for long what will fare the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_no_queue_takes_is_an_error_of_its_producer() {
    let rig = Rig::new(DEFAULT_SETS).await;
    rig.amqp().await.delete_queue(rig.queue()).await;
    for (language, args) in PRODUCERS {
        let running = rig.begin_program(language, args, b"{\"username\": \"ann\"}\n");
        let began = Instant::now();
        let ran = running.end().await;
        let took = began.elapsed();
        assert!(took < SHORT, "{language:?} tried again, for {took:?}");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{language:?}: {}", ran.stderr);
    }
}

/// A broker that cannot be reached is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_outlives_a_broker_that_is_away() {
    let mut producer = Producer::new(seed());
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let worker = rig.worker().await;
    let proxy = rig.proxy("AMQP_URL").await;
    for (language, args) in PRODUCERS {
        let fields = some_fields(&mut producer, language, 3);
        proxy.refuse(true);
        let refused = proxy.refused();
        let running = rig.begin_program(language, args, &lines(&fields));
        eventually(LONG, "two tries", async || match proxy.refused() - refused {
            2.. => Ok(()),
            n => Err(format!("{n} were made; {language:?} says {:?}", running.said())),
        })
        .await;
        proxy.refuse(false);
        note(&mut oracle, &fields, &running.end().await.expect(0).stdout);
    }
    rig.finish(&oracle, vec![worker]).await;
}

async fn ask(rig: &Rig, (language, program): (Language, &[&str]), question: &[&str]) -> Answer {
    let args = [program, question].concat();
    let ran = rig.begin_program(language, &args, b"").end().await;
    (ran.code, ran.stdout.trim_end().to_owned())
}

type Answer = (Option<i32>, String);

fn answer(code: i32, text: &str) -> Answer {
    (Some(code), text.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_says_what_is_there_and_unknown_where_redis_was_emptied() {
    let mut rig = Rig::new(&format!("{DEFAULT_SETS} users_by_city=username@state+city")).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.worker().await;
    for reader in READERS {
        assert_eq!(ask(&rig, reader, &["count", "users"]).await, answer(0, "0"), "{reader:?}");
    }
    let mut events = producer.events(50);
    let odd = r#"a "quoted" \ name, ünd mehr"#;
    events.push(producer.event_with(json!({"username": odd, "state": "CA", "city": "San José"})));
    let encoded = "50%: a:b {c}\n\u{1}\u{7f}";
    events.push(producer.event_with(json!({"username": encoded, "state": "C:A", "city": "{x}"})));
    // An option of somebody's `echo`; a part that is empty and has its place all the same.
    for (state, user) in [("", "-n"), ("CA", "-e"), ("CA", "-E")] {
        let fields = json!({"username": user, "state": state, "city": "Greenfield"});
        events.push(producer.event_with(fields));
    }
    oracle.all_good(&events);
    rig.publish_events(&events).await;
    rig.finish(&oracle, vec![worker]).await;
    let users = oracle.members("users").len().to_string();
    // Text of a stranger's: a member that is not there, and never a command.
    let smuggled = format!("x\nDEL {0}:users\n\rDEL {0}:users\n", rig.prefix());
    for reader in READERS {
        for (question, wanted) in [
            (&["count", "users"][..], users.as_str()),
            (&["contains", "users", odd], "yes"),
            (&["contains", "users", encoded], "yes"),
            (&["contains", "users", "nobody"], "no"),
            (&["contains", "users", &smuggled], "no"),
            (&["contains", "cities", "CA", "San José"], "yes"),
            (&["contains", "cities", "C:A", "{x}"], "yes"),
            (&["contains", "cities", "CA:San José"], "no"),
            (&["contains", "cities", "San José"], "no"),
            (&["contains", "users", "-n"], "yes"),
            (&["contains", "users", "-e"], "yes"),
            (&["contains", "users", ""], "no"),
            (&["contains", "cities", "", "Greenfield"], "yes"),
            (&["contains", "cities", "Greenfield"], "no"),
            (&["contains", "cities", "Greenfield", ""], "no"),
            (&["count", "users_by_city:CA:Greenfield"], "2"),
            (&["contains", "users_by_city:CA:Greenfield", "-E"], "yes"),
            (&["contains", "users_by_city:CA:Greenfield", "-n"], "no"),
            (&["count", "users_by_city:C%3AA:%7Bx%7D"], "1"),
            (&["count", &smuggled], "0"),
        ] {
            assert_eq!(
                ask(&rig, reader, question).await,
                answer(0, wanted),
                "{reader:?} {question:?}"
            );
        }
    }
    let mut redis = rig.redis().await;
    for key in redis.texts(&["KEYS", &format!("{}:*", rig.prefix())]).await.unwrap() {
        redis.int(&["DEL", &key]).await;
    }
    for reader in READERS {
        for question in [&["count", "users"][..], &["contains", "users", odd]] {
            let said = ask(&rig, reader, question).await;
            assert_eq!(said, answer(75, "unknown"), "{reader:?} {question:?}");
        }
    }
    let proxy = rig.proxy("REDIS_URL").await;
    proxy.refuse(true);
    for reader in READERS {
        let (code, said) = ask(&rig, reader, &["count", "users"]).await;
        assert!(code != Some(0) && said.is_empty(), "{reader:?} says {said:?} with {code:?}");
    }
}
