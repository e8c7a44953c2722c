//! The harness judges others; here it is judged itself. No test here runs the binary.

use serde_json::json;

use super::message::Message;
use super::oracle::Oracle;
use super::producer::{Producer, seed};
use super::stream::Stream;
use super::wait::{SHORT, eventually};
use super::witness::Witness;
use super::{http::Metrics, rig::Rig};

#[test]
fn the_oracle_writes_the_demo_s_keys_and_members() {
    let mut oracle = Oracle::new("messages", "cities=state+city users=username");
    oracle.adds("", &json!({"state": "CA", "city": "Fresno", "username": "ann"}));
    assert_eq!(oracle.members("cities"), ["CA:Fresno"]);
    assert_eq!(oracle.members("users"), ["ann"]);
}

#[test]
fn the_oracle_knows_the_grammar() {
    let mut oracle = Oracle::new("p", "a=x+y.z@g/hour b=t/day~");
    let event = json!({"x": ["1:2", 3, null], "y": {"z": true}, "g": "%{", "t": "\u{1}"});
    oracle.adds("2026-11-23T10:59:59.5Z", &event);
    assert_eq!(oracle.members("a:2026-11-23T10:%25%7B"), ["1%3A2:true", "3:true"]);
    assert!(oracle.estimated["p:b:2026-11-23"].contains("%01"));
    oracle.adds("2026-11-23T10:59:59.5Z", &json!({"x": null, "y": {"z": 1}, "g": 1}));
    assert_eq!(oracle.exact.len(), 1, "a field that is null adds nothing");
}

#[test]
fn a_scrape_is_summed_by_name_and_label() {
    let text = "# HELP a b\na_total{r=\"x\",s=\"y\"} 2\na_total{r=\"z\"} 3\na_totals 7\nb 1.5\n";
    let metrics = Metrics::parse(text);
    assert_eq!(metrics.sum("a_total"), 5.0);
    assert_eq!(metrics.sum_where("a_total", "r=\"x\""), 2.0);
    assert_eq!(metrics.sum("b"), 1.5);
    assert!(metrics.has("a_totals") && !metrics.has("a"));
}

#[test]
fn the_same_seed_makes_the_same_ids() {
    let ids = |seed| -> Vec<String> {
        let mut producer = Producer::new(seed);
        (0..100).map(|_| producer.id()).collect()
    };
    assert_eq!(ids(7), ids(7));
    assert_ne!(ids(7), ids(8));
}

/// However well the laws hold in it.
#[tokio::test]
#[should_panic(expected = "inconclusive")]
async fn a_run_in_which_nothing_happened_proves_nothing() {
    let witness = Witness::new();
    witness.arm(1);
    witness.fired("a fault".to_owned());
    witness.assert_conclusive();
}

#[test]
fn a_stream_makes_the_same_message_again_and_no_two_alike() {
    let stream = Stream::new(seed());
    let bodies: Vec<_> = (0..500).map(|number| stream.message(number).message.body).collect();
    for (number, body) in bodies.iter().enumerate() {
        assert_eq!(stream.message(number as u64).message.body, *body);
    }
    let different: std::collections::BTreeSet<_> = bodies.iter().collect();
    assert_eq!(different.len(), bodies.len());
    let made = (0..500).map(|number| stream.message(number));
    let (many, bad) = made.fold((0, 0), |(many, bad), made| {
        (many + usize::from(made.events() > 1), bad + made.bad.len())
    });
    assert!(many > 50 && bad > 0, "{many} with several events, {bad} bad events");
}

/// Writes by hand what a worker would, so that the laws themselves are seen to hold and to break.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_laws_notice_what_is_missing_and_what_is_too_much() {
    let rig = Rig::bare("cities=state+city users=username~").await;
    let (amqp, mut pg, mut redis) = (rig.amqp().await, rig.pg().await, rig.redis().await);
    amqp.declare_queue(rig.queue(), &[]).await;
    amqp.declare_queue(rig.dead_letters_queue(), &[]).await;
    pg.run("CREATE TABLE events (occurred_at timestamptz, id uuid, payload jsonb)").await;

    let mut oracle = rig.oracle();
    let event = Producer::new(seed()).event();
    oracle.good(&event);
    oracle.bad("json", "{");
    let insert = "INSERT INTO events SELECT (p->>'occurred_at')::timestamptz, (p->>'id')::uuid, p
                  FROM (SELECT $json$PAYLOAD$json$::jsonb AS p) x";
    pg.run(&insert.replace("PAYLOAD", &event.to_string())).await;
    for (key, members) in &oracle.exact {
        redis.int(&["SADD", key, members.first().unwrap()]).await;
    }
    for (key, members) in &oracle.estimated {
        redis.int(&["PFADD", key, members.first().unwrap()]).await;
    }
    let letter = Message::raw("{").header("reason", "json");
    amqp.publish_to_queue(rig.dead_letters_queue(), &letter).await;
    eventually(SHORT, "the letter to lie there", async || {
        match amqp.ready(rig.dead_letters_queue()).await? {
            1 => Ok(()),
            n => Err(format!("there are {n}")),
        }
    })
    .await;
    rig.assert_laws(&oracle).await;

    let (missing, surplus) = pg.difference(&[], &[]).await;
    assert_eq!((missing.len(), surplus.len()), (0, 1), "a row too many is seen");
    let twice = |texts: &[String]| [texts, texts].concat();
    let (missing, surplus) =
        pg.difference(&twice(&oracle.occurred_at), &twice(&oracle.payloads)).await;
    assert_eq!((missing.len(), surplus.len()), (1, 0), "a row too few is seen");
}
