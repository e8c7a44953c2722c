//! The set grammar, end to end.

use serde_json::json;

use crate::harness::{Message, Producer, Rig, names, seed};

/// Every part of the grammar at once, with values that would collide without the encoding.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_a_set_is_kept() {
    let sets = "plain=username pair=state+city deep=user.address.city by_city=username@state+city \
                hourly=username/hour daily=pair.a+pair.b@state/day monthly=state/month \
                about=username~ about_by_city=username@state/day~";
    let rig = Rig::new(sets).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let nasty = [
        json!("a:b"),
        json!("a"),
        json!("b"),
        json!("a%3Ab"),
        json!("%"),
        json!("{a}"),
        json!("line\r\nbreak"),
        json!("\u{7f}"),
        json!(""),
        json!(" "),
        json!(1),
        json!("1"),
        json!(true),
        json!("true"),
        json!(-1),
        json!(u64::MAX),
        json!(null),
        json!([]),
        json!(["x", "y:z", 3, null, false]),
        json!("Ünïcødé 😀"),
    ];
    let mut events = Vec::new();
    for _ in 0..400 {
        let mut pick = || producer.rng.pick(&nasty).clone();
        let fields = json!({
            "username": pick(), "state": pick(), "city": pick(),
            "user": {"address": {"city": pick()}}, "pair": {"a": pick(), "b": pick()},
        });
        events.push(producer.event_with(fields));
    }
    // A path that ends early or meets a scalar adds nothing.
    for user in [json!(null), json!({}), json!({"address": null}), json!({"address": {}})] {
        events.push(producer.event_with(json!({"user": user, "username": "u"})));
    }
    oracle.all_good(&events);
    let worker = rig.worker().await;
    let messages: Vec<Message> = events.chunks(50).map(Message::array).collect();
    rig.publish(&messages).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A set of one hour, day or month expires by itself, its bucket's end plus a set time; the others
/// never do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_expire_and_the_others_do_not() {
    let mut rig =
        Rig::new("h=username/hour d=username/day m=username/month~ ever=username g=state@city")
            .await;
    rig.set(names::WINDOW_HOUR_TTL_DAYS, "3");
    rig.set(names::WINDOW_DAY_TTL_DAYS, "5");
    rig.set(names::WINDOW_MONTH_TTL_DAYS, "40");
    let mut oracle = rig.oracle();
    let events = Producer::new(seed()).events(50);
    oracle.all_good(&events);
    let worker = rig.worker().await;
    rig.publish(&[Message::array(&events)]).await;
    rig.finish(&oracle, vec![worker]).await;

    let mut redis = rig.redis().await;
    let mut pg = rig.pg().await;
    let mut windows = 0;
    for key in oracle.exact.keys().chain(oracle.estimated.keys()) {
        let mut parts = key.split(':').skip(1);
        let (set, bucket) = (parts.next().unwrap(), parts.next());
        let expires = redis.int(&["EXPIRETIME", key]).await;
        let (unit, keep, start) = match set {
            "h" => ("hour", 3, format!("{}:00:00Z", bucket.unwrap())),
            "d" => ("day", 5, format!("{}T00:00:00Z", bucket.unwrap())),
            "m" => ("month", 40, format!("{}-01T00:00:00Z", bucket.unwrap())),
            _ => {
                assert_eq!(expires, -1, "{key} must not expire");
                continue;
            }
        };
        // Postgres knows how long a month is.
        let wanted = pg
            .int(&format!(
                "SELECT extract(epoch FROM (timestamptz '{start}' AT TIME ZONE 'UTC'
                   + interval '1 {unit}') AT TIME ZONE 'UTC')::bigint + {keep} * 86400"
            ))
            .await;
        assert_eq!(expires, wanted, "{key}");
        windows += 1;
    }
    assert!(windows >= 3, "an hour, a day and a month at least: {windows}");
}

/// A HyperLogLog keeps within its error where it has something to estimate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_estimated_set_is_within_two_per_cent() {
    let rig = Rig::new("users=username~ exact=username").await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events: Vec<_> =
        (0..5000).map(|n| producer.event_with(json!({"username": format!("user-{n}")}))).collect();
    oracle.all_good(&events);
    let worker = rig.worker().await;
    let messages: Vec<Message> = events.chunks(500).map(Message::array).collect();
    rig.publish(&messages).await;
    rig.finish(&oracle, vec![worker]).await;
    // The same 5000 names each time, so it is within its error always or never.
    let key = format!("{}:users", rig.prefix());
    let estimate = rig.redis().await.int(&["PFCOUNT", &key]).await;
    assert!((4900..=5100).contains(&estimate), "{estimate} for 5000");
}

/// The demo's readers keep working: its keys and members, byte for byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_s_keys_are_kept_byte_for_byte() {
    let mut rig = Rig::new("cities=state+city users=username").await;
    // The prefix is shared with nobody in a Redis database of its own.
    rig.set(names::KEY_PREFIX, "messages");
    let redis_url = rig.env["REDIS_URL"].trim_end_matches("/0").to_owned() + "/1";
    rig.set("REDIS_URL", &redis_url);
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events = [
        producer.event_with(json!({"state": "CA", "city": "Fresno", "username": "ann"})),
        producer.event_with(json!({"state": "CA", "city": "Los Angeles", "username": "Bob Ö'x"})),
        producer.event_with(json!({"state": "NY", "city": "Albany", "username": "ann"})),
    ];
    oracle.all_good(&events);
    let worker = rig.worker().await;
    rig.publish(&[Message::array(&events)]).await;
    rig.finish(&oracle, vec![worker]).await;

    let mut redis = rig.redis().await;
    let cities = redis.texts(&["SMEMBERS", "messages:cities"]).await.unwrap();
    assert_eq!(cities, ["CA:Fresno", "CA:Los Angeles", "NY:Albany"]);
    let users = redis.texts(&["SMEMBERS", "messages:users"]).await.unwrap();
    assert_eq!(users, ["Bob Ö'x", "ann"]);
    assert_eq!(redis.int(&["SISMEMBER", "messages:cities", "CA:Fresno"]).await, 1);
}

/// Beside the sets a reader finds how far to trust them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_finds_how_far_to_trust_the_sets() {
    let rig = Rig::new("users=username").await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let event = producer.event();
    oracle.good(&event);
    let worker = rig.worker().await;
    rig.publish(&[Message::object(&event)]).await;
    rig.finish(&oracle, vec![worker]).await;
    let mut redis = rig.redis().await;
    let meta = format!("{}:meta", rig.prefix());
    for field in ["generation", "last_event_at", "last_applied_at", "state"] {
        let found = redis.ask(&["HGET", &meta, field]).await.unwrap();
        let text = found.into_text();
        assert!(!text.is_empty(), "{field}");
        match field {
            "state" => assert_eq!(text, "fresh"),
            // To the second: how a time is written is not fixed by the contract.
            "last_event_at" => {
                let second = &event["occurred_at"].as_str().unwrap()[..19];
                assert_eq!(&text[..19], second, "{field}");
            }
            _ => {}
        }
    }
}

/// A key that holds something else is told and set aside; the other sets and the events go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_harms_only_its_own_set() {
    let rig = Rig::new("cities=state+city users=username seen=username~").await;
    let mut oracle = rig.oracle();
    let events = Producer::new(seed()).events(50);
    oracle.all_good(&events);
    let users = format!("{}:users", rig.prefix());
    let mut redis = rig.redis().await;
    redis.ask(&["SET", &users, "not a set"]).await.unwrap();
    let mut worker = rig.worker().await;
    rig.publish(&[Message::array(&events)]).await;
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    worker.assert_alive();
    let log = worker.log();
    let told = log.lines().filter(|line| line.contains("holds another type")).count();
    assert_eq!((told, log.contains(&users)), (1, false), "told once, and not by its key: {log}");

    redis.int(&["DEL", &users]).await;
    oracle.exact.remove(&users);
    rig.finish(&oracle, vec![worker]).await;
}
