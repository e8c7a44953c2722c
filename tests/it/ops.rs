//! Health and metrics.

use crate::harness::{DEFAULT_SETS, Message, Producer, Rig, SHORT, eventually, names, seed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_tells_how_it_is() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let worker = rig.worker().await;
    assert_eq!(worker.status("/livez").await, Ok(200));
    assert_eq!(worker.status("/readyz").await, Ok(200));
    assert_eq!(worker.status("/metrics").await, Ok(200));
    assert_eq!(worker.status("/no-such-path").await, Ok(404));
    assert!(worker.addr.ip().is_loopback(), "{}", worker.addr);
    worker.terminate().await;
}

/// Every counter is there from the start, at zero, and named by the rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn series_are_at_zero_from_the_start() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let worker = rig.worker().await;
    let metrics = worker.metrics().await.unwrap();
    for name in [names::DELIVERIES, names::SETTLEMENTS, names::IN_FLIGHT] {
        assert!(metrics.has(name), "{name} is not among {:?}", metrics.names());
        assert_eq!(metrics.sum(name), 0.0, "{name}");
    }
    for name in metrics.names() {
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        assert!(plain && name.starts_with("rollcall_"), "{name}");
    }
    worker.terminate().await;
}

/// Deliveries = settlements + in flight, and every delivery is counted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_balance() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events = producer.events(30);
    oracle.all_good(&events);
    oracle.bad("json", "{");
    oracle.bad("not_an_object", "1");
    let worker = rig.worker().await;
    // 10 messages, of which 2 are duplicates, 1 is bad and 1 holds a bad element.
    let mut messages: Vec<Message> = events[..6].iter().map(Message::object).collect();
    messages.extend([Message::object(&events[0]), Message::object(&events[1])]);
    messages.push(Message::raw("{"));
    let elements = events[6..].iter().map(|e| e.to_string()).chain(["1".to_owned()]);
    messages.push(Message::array_of(elements));
    rig.publish(&messages).await;
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    let metrics = worker.metrics().await.unwrap();
    assert_eq!(metrics.sum(names::DELIVERIES), 10.0);
    assert_eq!(metrics.sum(names::SETTLEMENTS), 10.0);
    rig.finish(&oracle, vec![worker]).await;
}

/// While a batch is held, what it holds is in flight and the books balance all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_balance_while_a_batch_is_held() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let events = producer.events(50);
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    oracle.all_good(&events);
    let gate = rig.close_gate().await;
    rig.publish_events(&events).await;
    rig.wait_at_gate().await;
    // Whatever of the fifty it has taken so far, it holds all of that.
    worker.wait_in_flight().await;
    // A scrape in the middle of a delivery has one figure of before it.
    eventually(SHORT, "the books to balance", async || {
        let metrics = worker.metrics().await?;
        let settled_or_held = metrics.sum(names::SETTLEMENTS) + metrics.sum(names::IN_FLIGHT);
        match metrics.sum(names::DELIVERIES) {
            delivered if delivered == settled_or_held => Ok(()),
            delivered => Err(format!("{delivered} delivered, {settled_or_held} settled or held")),
        }
    })
    .await;
    assert_eq!(worker.status("/livez").await, Ok(200));
    gate.open().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Without its schema a worker is alive, not ready, condemns nothing, and begins by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_waits_for_its_schema() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    rig.cli(&["manage", "topology"]).await.expect(0);
    let mut oracle = rig.oracle();
    let event = Producer::new(seed()).event();
    oracle.good(&event);
    rig.publish(&[Message::object(&event)]).await;
    let mut worker = rig.worker_unready().await;
    worker.wait_not_ready().await;
    assert_eq!(worker.status("/livez").await, Ok(200));
    rig.cli(&["manage", "migrate"]).await.expect(0);
    worker.wait_ready().await;
    worker.assert_alive();
    rig.finish(&oracle, vec![worker]).await;
}

/// No payload, member or credential is logged, also of what is bad.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_payload_and_no_credential_is_logged() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set("RUST_LOG", "trace");
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut event = producer.event();
    event["username"] = "w4termark-good".into();
    oracle.good(&event);
    let mut other = event.clone();
    other["username"] = "w4termark-conflict".into();
    oracle.bad("id_conflict", other.to_string());
    let broken = "{\"username\": \"w4termark-broken\"";
    oracle.bad("json", broken);
    let unfit = producer.event_with(serde_json::json!({"username": {"w4termark-unfit": 1}}));
    oracle.bad("field_type", unfit.to_string());
    let worker = rig.worker().await;
    // So that letters come back: the client has much to say of those.
    rig.amqp().await.delete_queue(rig.dead_letters_queue()).await;
    rig.publish(&[Message::array(&[event, other, unfit]), Message::raw(broken)]).await;
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    let log = worker.log();
    assert!(log.contains("the dead letters had no place to go to"), "none came back: {log}");
    let bytes: Vec<String> = b"w4termark".iter().map(u8::to_string).collect();
    let shown = ["w4termark".to_owned(), bytes.join(", ")];
    let told = log.lines().filter(|line| shown.iter().any(|shown| line.contains(shown)));
    let told: Vec<&str> = told.collect();
    assert!(told.is_empty(), "{told:#?}");
    for url in ["AMQP_URL", "DATABASE_URL"] {
        let url = &rig.env[url];
        let password = url.split("://").nth(1).and_then(|u| u.split('@').next()?.split(':').nth(1));
        let password = password.expect("the test servers have passwords");
        let told: Vec<&str> = log.lines().filter(|line| line.contains(password)).collect();
        assert!(told.is_empty(), "a password: {told:#?}");
    }
    rig.finish(&oracle, vec![worker]).await;
}

/// Who is on call hears that Redis was emptied, and that it is well again, without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_is_noticed_by_an_idle_worker() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut Producer::new(seed())).await;
    let shows = async |wanted: f64| {
        eventually(SHORT, "the gauge to follow", async || {
            match worker.metrics().await?.sum(names::GENERATION_MISSING) {
                found if found == wanted => Ok(()),
                found => Err(format!("it is {found}, not {wanted}")),
            }
        })
        .await;
    };
    shows(0.0).await;
    let meta = format!("{}:meta", rig.prefix());
    let mut redis = rig.redis().await;
    // Nobody may mend it before it was seen.
    let mut holder = rig.pg().await;
    holder.run("SELECT pg_advisory_lock(1919904876, 3)").await;
    redis.int(&["DEL", &meta]).await;
    shows(1.0).await;
    assert_eq!(worker.log().matches("holds no generation").count(), 1, "said once");
    rig.cli(&["read", "count", "users"]).await.expect(75);
    redis.int(&["HSET", &meta, "generation", "by-hand", "state", "fresh"]).await;
    shows(0.0).await;
    rig.cli(&["read", "count", "users"]).await.expect(0);
    drop(holder);
    rig.finish(&oracle, vec![worker]).await;
}
