//! Verify names exactly what differs, with ingest running; its repair mends just that.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Redis, Rig, Rng, names, seed};

const SETS: &str = "users=username by_city=username@city daily=username/day about=username~";
const DRIFTS: u64 = 50;

fn pairs(listed: &Value) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let listed = listed.as_array().expect("a list");
    listed.iter().map(|one| (text(&one["key"]), text(&one["member"]))).collect()
}

/// Stored events of as many users, in Redis as well.
async fn filled(users: u64) -> Rig {
    let rig = Rig::new(SETS).await;
    let mut pg = rig.pg().await;
    pg.run(
        "SELECT rollcall_ensure_partition(now() - n * interval '1 day', 'month')
            FROM generate_series(0, 40) AS n",
    )
    .await;
    pg.run(&format!(
        "INSERT INTO events (occurred_at, id, payload)
         SELECT now() - (n % 20000) * interval '1 minute', gen_random_uuid(),
                jsonb_build_object('username', 'old' || n, 'city', 'c' || n % 10)
         FROM generate_series(1, {users}) AS n"
    ))
    .await;
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    rig
}

async fn drift(
    redis: &mut Redis,
    key: &str,
    rng: &mut Rng,
    users: u64,
) -> [BTreeSet<(String, String)>; 2] {
    let (mut missing, mut phantom) = (BTreeSet::new(), BTreeSet::new());
    while (missing.len() as u64) < DRIFTS {
        let member = format!("old{}", 1 + rng.below(users));
        redis.int(&["SREM", key, &member]).await;
        missing.insert((key.to_owned(), member));
    }
    for n in 0..DRIFTS {
        let member = format!("ghost{n}");
        assert_eq!(redis.int(&["SADD", key, &member]).await, 1);
        phantom.insert((key.to_owned(), member));
    }
    [missing, phantom]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_names_exactly_what_differs_and_repair_mends_it_with_ingest_running() {
    let seed = seed();
    let users =
        std::env::var("ROLLCALL_TEST_VERIFY_MEMBERS").map_or(20_000, |text| text.parse().unwrap());
    let rig = filled(users).await;
    let mut redis = rig.redis().await;
    let key = |set: &str| format!("{}:{set}", rig.prefix());
    let worker = rig.worker().await;
    let load = ["publish", "--rate", "500", "--count", "10000000", "--events-per-message", "10"];
    let load = rig.begin(&load);

    rig.cli(&["manage", "verify"]).await.expect(0);
    let [missing, phantom] = drift(&mut redis, &key("users"), &mut Rng(seed), users).await;
    redis.ask(&["DEL", &key("by_city:c3")]).await.unwrap();
    redis.ask(&["SET", &key("by_city:c3"), "no set"]).await.unwrap();
    redis.int(&["EXPIRE", &key("by_city:c4"), "100000"]).await;
    let day = redis.texts(&["KEYS", &key("daily:*")]).await.unwrap().remove(0);
    redis.int(&["PERSIST", &day]).await;
    // An estimate that lost everything but one.
    redis.ask(&["DEL", &key("about")]).await.unwrap();
    redis.int(&["PFADD", &key("about"), "old1"]).await;

    let mut wanted_keys: Vec<Value> = vec![
        json!({"key": key("by_city:c3"), "fault": "wrong_type"}),
        json!({"key": key("by_city:c4"), "fault": "expiry"}),
        json!({"key": day, "fault": "expiry"}),
    ];
    wanted_keys.sort_by_key(|key| key["key"].as_str().unwrap().to_owned());
    for repair in [false, true] {
        let args: &[&str] = match repair {
            false => &["manage", "verify", "--json"],
            true => &["manage", "verify", "--json", "--repair"],
        };
        let found = rig.cli(args).await.expect(1).json();
        assert_eq!(pairs(&found["missing"]), missing, "{repair}");
        assert_eq!(pairs(&found["phantom"]), phantom, "{repair}");
        let mut keys = found["keys"].as_array().unwrap().clone();
        for key in &mut keys {
            let fault = key.as_object_mut().unwrap();
            fault.remove("found");
            fault.remove("wanted");
        }
        assert_eq!(keys, wanted_keys, "{repair}");
        let estimate = &found["estimates"][0];
        assert_eq!(estimate["drifted"], json!(true));
        // However much has come since, on a slow machine: it lacks those that were there before.
        let [exact, estimated] = ["exact", "estimate"].map(|name| estimate[name].as_f64().unwrap());
        assert!(exact - estimated > 0.9 * users as f64, "{estimate}");
    }
    let clean = rig.cli(&["manage", "verify", "--json"]).await.expect(0).json();
    assert_eq!(clean["clean"], json!(true));
    let off = clean["estimates"][0]["error_percent"].as_f64().unwrap();
    assert!(off.abs() < 5.0 * 0.81, "{off} %");

    load.kill();
    rig.wait_idle().await;
    worker.terminate().await;
    rig.assert_sets_are_the_distinct_values().await;
    assert_eq!(redis.int(&["TTL", &key("by_city:c4")]).await, -1);
    assert!(redis.int(&["TTL", &day]).await > 0);
    let mine = format!("rebuild:*{{{}:*", rig.prefix());
    assert_eq!(redis.texts(&["KEYS", &mine]).await.unwrap(), Vec::<String>::new());
}

/// A sample costs the same at any size, and finds that much is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_finds_that_much_is_missing() {
    let rig = filled(2_000).await;
    let args = ["manage", "verify", "--sample", "200", "--json"];
    let clean = rig.cli(&args).await.expect(0).json();
    assert_eq!(clean["events"], json!(200));
    let mut redis = rig.redis().await;
    let key = format!("{}:users", rig.prefix());
    for n in (1..=2_000).step_by(2) {
        redis.int(&["SREM", &key, &format!("old{n}")]).await;
    }
    let found = rig.cli(&args).await.expect(1).json();
    assert!(found["missing_total"].as_u64().unwrap() > 40, "{}", found["missing_total"]);
}

/// A table whose rows no set can count is as clean as an empty one, and both end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_table_is_verified_and_rebuilt_at_once() {
    let mut rig = Rig::new(SETS).await;
    for _ in 0..2 {
        for command in ["rebuild", "verify", "catch-up"] {
            rig.cli(&["manage", command]).await.expect(0);
        }
        let mut pg = rig.pg().await;
        pg.run(
            "INSERT INTO events (occurred_at, id, payload)
                VALUES (now(), gen_random_uuid(), '{\"username\": 1.5, \"city\": {}}')",
        )
        .await;
    }
    rig.set(names::SETS, "users=username");
    rig.cli(&["manage", "verify"]).await.expect(0);
}

/// Whatever somebody wrote there, it is one line on a terminal, and steers nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_verify_names_cannot_steer_a_terminal() {
    let rig = filled(10).await;
    let mut redis = rig.redis().await;
    let users = format!("{}:users", rig.prefix());
    redis.int(&["SADD", &users, "\u{1b}[2Jphantom\nmissing   forged\u{202e}"]).await;
    let said = rig.cli(&["manage", "verify"]).await.expect(1).stdout;
    let wanted = format!("phantom   {users} \\u{{1b}}[2Jphantom\\nmissing   forged\\u{{202e}}");
    assert!(said.lines().any(|line| line == wanted), "{said}");
    assert!(!said.contains('\u{1b}'), "{said}");
}
