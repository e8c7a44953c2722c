//! Dead letters from the operator's side: list, show, count, replay, purge.

use serde_json::{Value, json};

use crate::harness::{DEFAULT_SETS, LONG, Message, Producer, Rig, eventually, names, seed};

/// The JSON lines of `dead-letters list`.
async fn list(rig: &Rig, more: &[&str]) -> Vec<Value> {
    let args = [&["dead-letters", "list", "--json"], more].concat();
    let run = rig.cli(&args).await.expect(0);
    run.stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

async fn count(rig: &Rig) -> usize {
    rig.dead_letters().await.len()
}

/// Three letters for three reasons, and a worker that goes on.
async fn condemn_three(rig: &Rig) {
    let mut oracle = rig.oracle();
    let messages = ["{", "17", "{\"occurred_at\": \"2026-11-23T10:00:00Z\"}"];
    for (reason, body) in ["json", "not_an_object", "missing_id"].iter().zip(messages) {
        oracle.bad(reason, body);
    }
    let worker = rig.worker().await;
    rig.publish(&messages.map(Message::raw)).await;
    rig.finish(&oracle, vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_changes_nothing() {
    let rig = Rig::new(DEFAULT_SETS).await;
    condemn_three(&rig).await;

    let all = list(&rig, &[]).await;
    assert_eq!(all.len(), 3, "{all:#?}");
    let only = list(&rig, &["--reason", "missing_id"]).await;
    assert_eq!(only.len(), 1, "{only:#?}");
    assert_eq!(only[0]["reason"], "missing_id");
    assert_eq!(list(&rig, &["--limit", "2"]).await.len(), 2);

    let id = only[0]["id"].as_str().expect("an id").to_owned();
    let shown = rig.cli(&["dead-letters", "show", &id, "--json"]).await.expect(0).json();
    assert_eq!(shown["reason"], "missing_id");
    assert!(shown.to_string().contains("2026-11-23T10:00:00Z"), "its body: {shown}");
    let human = rig.cli(&["dead-letters", "show", &id[..8]]).await.expect(0);
    assert!(human.stdout.contains("missing_id"), "{}", human.stdout);
    rig.cli(&["dead-letters", "show", "no-such-id"]).await.expect(64);
    let absent = "00000000-0000-0000-0000-000000000000";
    rig.cli(&["dead-letters", "show", absent]).await.expect(1);

    let counted = rig.cli(&["dead-letters", "count", "--json"]).await.expect(0).json();
    assert_eq!(counted["total"], 3, "{counted}");
    for reason in ["json", "not_an_object", "missing_id"] {
        assert_eq!(counted["by_reason"][reason], 1, "{counted}");
    }
    let human = rig.cli(&["dead-letters", "list"]).await.expect(0);
    assert!(human.stdout.contains("not_an_object"), "{}", human.stdout);
    assert_eq!(count(&rig).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purge_takes_only_what_was_chosen() {
    let rig = Rig::new(DEFAULT_SETS).await;
    condemn_three(&rig).await;
    rig.cli(&["dead-letters", "purge", "--all"]).await.expect(64);
    rig.cli(&["dead-letters", "purge", "--yes"]).await.expect(64);
    assert_eq!(count(&rig).await, 3, "a purge without --yes, or of nothing named, did something");
    rig.cli(&["dead-letters", "purge", "--reason", "json", "--yes"]).await.expect(0);
    let left: Vec<_> = rig.dead_letters().await;
    let reasons: Vec<_> = left.iter().map(|l| l.header(names::HEADER_REASON).unwrap()).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(!reasons.contains(&"json"), "{reasons:?}");
    rig.cli(&["dead-letters", "purge", "--all", "--yes"]).await.expect(0);
    assert_eq!(count(&rig).await, 0);
}

/// What a producer wrote cannot steer the terminal of whoever looks at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_shown_without_its_control_characters() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let body = "\u{1b}[2J\u{9b}31m\u{202e}{";
    oracle.bad("json", body);
    let worker = rig.worker().await;
    rig.publish(&[Message::raw(body)]).await;
    rig.finish(&oracle, vec![worker]).await;
    let id = list(&rig, &[]).await[0]["id"].as_str().expect("an id").to_owned();
    for args in [&["dead-letters", "list"][..], &["dead-letters", "show", &id]] {
        let run = rig.cli(args).await.expect(0);
        let steers = |c: &char| (c.is_control() && *c != '\n') || *c == '\u{202e}';
        assert_eq!(run.stdout.chars().find(steers), None, "{args:?}: {:?}", run.stdout);
    }
    assert_eq!(list(&rig, &[]).await[0]["body"], body, "a program gets it as it is");
}

/// W3C trace context.
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The same bytes and headers come back; what is still bad is condemned again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_event_lands_once_its_cause_is_mended() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set(names::MESSAGE_BYTES_MAX, "1024");
    let mut producer = Producer::new(seed());
    let mut before = rig.oracle();
    let mut after = rig.oracle();
    let pad = "p".repeat(1100);

    let plain = producer.event_with(json!({"username": "ann", "pad": pad}));
    before.bad("too_large", plain.to_string());
    after.good(&plain);
    let lines = producer.events(10);
    let ndjson = Message::ndjson(lines.iter().map(Value::to_string));
    before.bad("too_large", ndjson.body.clone());
    after.all_good(&lines);
    // All that makes this a CloudEvent are its headers.
    let data = json!({"state": "CA", "city": "Fresno", "username": "bob", "pad": pad});
    let time = producer.moment();
    let attributes = json!({
        "specversion": "1.0", "type": "t", "source": "s", "id": "1", "time": time,
    });
    let mut cloud_event = Message::object(&data);
    for (name, value) in attributes.as_object().unwrap() {
        cloud_event = cloud_event.header(&format!("cloudEvents:{name}"), value.as_str().unwrap());
    }
    before.bad("too_large", data.to_string());
    let mut payload = data.clone();
    payload["cloudevent"] = attributes;
    after.row(&time, &payload.to_string());
    after.adds(&time, &data);
    let broken = format!("{{ {pad}");
    before.bad("too_large", broken.clone());
    after.bad("json", broken.clone());
    // Not chosen for the replay below.
    before.bad("json", "{");
    after.bad("json", "{");

    let worker = rig.worker().await;
    rig.publish(&[
        Message::object(&plain),
        ndjson,
        cloud_event,
        Message::raw(broken.clone()).header("traceparent", TRACE),
        Message::raw("{"),
    ])
    .await;
    rig.finish(&before, vec![worker]).await;

    rig.cli(&["dead-letters", "replay"]).await.expect(64);
    rig.set(names::MESSAGE_BYTES_MAX, "1048576");
    rig.cli(&["dead-letters", "replay", "--reason", "too_large", "--json"]).await.expect(0);
    assert_eq!(count(&rig).await, 1, "only what was chosen has left");
    let worker = rig.worker().await;
    rig.finish(&after, vec![worker]).await;
    // Condemned, replayed and condemned again: what its producer said of the trace is still there.
    let letters = rig.dead_letters().await;
    let letter = letters.iter().find(|letter| letter.body == broken.as_bytes()).expect("it is");
    assert_eq!(letter.header("traceparent"), Some(TRACE), "{letter:?}");
}

/// A replay of everything while a worker runs ends, though what is bad comes back at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_does_not_chase_its_own_tail() {
    let rig = Rig::new(DEFAULT_SETS).await;
    condemn_three(&rig).await;
    let mut oracle = rig.oracle();
    for letter in rig.dead_letters().await {
        oracle.bad(letter.header(names::HEADER_REASON).unwrap(), letter.body.clone());
    }
    let worker = rig.worker().await;
    rig.cli(&["dead-letters", "replay", "--all"]).await.expect(0);
    rig.finish(&oracle, vec![worker]).await;
}

/// Where there is nothing, every command says so and none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_dead_letters_is_an_answer() {
    let rig = Rig::new(DEFAULT_SETS).await;
    assert_eq!(list(&rig, &[]).await.len(), 0);
    let counted = rig.cli(&["dead-letters", "count", "--json"]).await.expect(0).json();
    assert_eq!(counted["total"], 0, "{counted}");
    rig.cli(&["dead-letters", "replay", "--all"]).await.expect(0);
    rig.cli(&["dead-letters", "purge", "--all", "--yes"]).await.expect(0);
}

/// Whatever it is that kills the worker, past the delivery limit the broker dead-letters it, and
/// it alone: it takes nothing along that was in its company. A replay brings it home.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_gave_up_on_can_be_replayed() {
    let mut rig = Rig::bare(DEFAULT_SETS).await;
    rig.set(names::DELIVERY_LIMIT, "3");
    rig.cli(&["manage", "migrate"]).await.expect(0);
    rig.cli(&["manage", "topology"]).await.expect(0);
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events = producer.events(3);
    let mut worker = rig.warm_worker(&mut oracle, &mut producer).await;
    oracle.all_good(&events);
    let gate = rig.close_gate().await;
    rig.publish_events(&events).await;
    let amqp = rig.amqp().await;
    let given_up = async || amqp.ready(rig.dead_letters_queue()).await.unwrap();
    // The first crash takes all three along. From then on a worker has one in its hands, so each
    // crash counts for one: RabbitMQ hands out what came back by turns.
    for crash in 1.. {
        assert!(crash < 30, "the broker gives nothing up");
        rig.wait_at_gate().await;
        worker.kill().await;
        rig.clear_gate().await;
        worker = rig.worker_unready().await;
        if given_up().await > 0 {
            break;
        }
    }
    gate.open().await;
    eventually(LONG, "all to be stored or given up", async || {
        let (stored, dead) = (rig.pg().await.events().await?, given_up().await);
        match stored + i64::from(dead) {
            103 => Ok(()),
            _ => Err(format!("{stored} are stored and {dead} given up")),
        }
    })
    .await;
    let letters = list(&rig, &[]).await;
    assert!(letters.len() < 3, "innocents were dragged along: {letters:#?}");
    assert!(letters.iter().all(|letter| letter["stage"] == "broker"), "{letters:#?}");
    rig.cli(&["dead-letters", "replay", "--all"]).await.expect(0);
    rig.finish(&oracle, vec![worker]).await;
}
