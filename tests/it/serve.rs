//! `rollcall serve`: what readers are told is what the oracle knows, and where Redis cannot tell
//! they are told that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Flow, Oracle, Producer, Rig, SHORT, Site, eventually, names, seed};

const SETS: &str = "cities=state+city users=username authors=author seen=username~ \
                    users_by_city=username@state+city users_daily=username/day \
                    city_daily=username@city/day";

/// A site on sets that hold two hundred events, and what is in them.
async fn filled(rig: &Rig) -> (Site, Oracle) {
    let mut producer = Producer::new(seed());
    let mut oracle = rig.oracle();
    let mut events = producer.events(200);
    for (n, event) in events.iter_mut().enumerate() {
        // Some of the users, so that two sets have some members in common.
        event["author"] = json!(format!("user{}", n * 3));
    }
    oracle.all_good(&events);
    let worker = rig.worker().await;
    rig.publish_events(&events).await;
    rig.finish(&oracle, vec![worker]).await;
    let site = rig.site().await;
    site.wait_status("/api/stats", 200).await;
    (site, oracle)
}

/// The keys of one set, without prefix and name, and their members.
fn parts<'o>(oracle: &'o Oracle, rig: &Rig, set: &str) -> BTreeMap<String, &'o BTreeSet<String>> {
    let base = format!("{}:{set}", rig.prefix());
    let all = oracle.exact.iter().chain(&oracle.estimated);
    all.filter_map(|(key, members)| {
        let rest = key.strip_prefix(&base)?;
        let rest = rest.strip_prefix(':').or((rest.is_empty()).then_some(""))?;
        Some((rest.to_owned(), members))
    })
    .collect()
}

/// As the encoding of members has it, the other way round.
fn plain(text: &str) -> String {
    let mut plain = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                let digits = std::str::from_utf8(&digits).unwrap();
                plain.push(u8::from_str_radix(digits, 16).unwrap());
            }
            other => plain.push(other),
        }
    }
    String::from_utf8(plain).unwrap()
}

/// For a query: every byte but letters and digits.
fn quoted(text: &str) -> String {
    let quote = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(quote).collect()
}

fn assert_trust(answer: &Value) {
    assert!(answer["generation"].is_string(), "{answer}");
    assert_eq!(answer["state"], "fresh", "{answer}");
    assert!(answer["last_applied_at"].is_string(), "{answer}");
    let age = answer["age_seconds"].as_f64().expect("an age");
    assert!((0.0..600.0).contains(&age), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_those_of_the_oracle() {
    let rig = Rig::new(SETS).await;
    let (site, oracle) = filled(&rig).await;
    let stats = site.json("/api/stats").await;
    assert_trust(&stats);
    for set in ["cities", "users", "authors"] {
        let wanted = oracle.members(set).len();
        assert_eq!(stats[format!("distinct_{set}")], wanted, "{set}");
        let one = site.json(&format!("/api/sets/{set}")).await;
        assert_eq!((&one["cardinality"], &one["kind"]), (&json!(wanted), &json!("exact")));
        assert_trust(&one);
    }
    let near = oracle.members("users").len() as f64;
    let seen = site.json("/api/sets/seen").await;
    let estimate = seen["cardinality"].as_f64().unwrap();
    assert!((estimate - near).abs() <= near * 0.05 && seen["kind"] == "estimated", "{seen}");

    let all = site.json("/api/sets").await;
    let names: Vec<&str> =
        all["sets"].as_array().unwrap().iter().map(|set| set["name"].as_str().unwrap()).collect();
    let wanted: Vec<&str> =
        SETS.split_whitespace().map(|set| set.split('=').next().unwrap()).collect();
    assert_eq!(names, wanted);
    assert_eq!(all["sets"][1]["cardinality"], oracle.members("users").len());
    assert_eq!(all["sets"][4]["cardinality"], Value::Null, "a grouped one has many");
    assert_trust(&all);

    let (users, authors) = (oracle.members("users"), oracle.members("authors"));
    let users: BTreeSet<_> = users.iter().collect();
    let common = authors.iter().filter(|author| users.contains(author)).count();
    assert!(common > 0 && common < users.len(), "{common}: the question is no question");
    let both = site.json("/api/intersect?sets=users,authors").await;
    assert_eq!(both["cardinality"], common);
    assert_trust(&both);
    site.process.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_and_buckets_are_those_of_the_oracle() {
    let rig = Rig::new(SETS).await;
    let (site, oracle) = filled(&rig).await;
    let by_city = parts(&oracle, &rig, "users_by_city");
    for (group, members) in &by_city {
        let values: Vec<String> = group.split(':').map(plain).collect();
        let query: Vec<String> =
            values.iter().map(|value| format!("group={}", quoted(value))).collect();
        let one = site.json(&format!("/api/sets/users_by_city?{}", query.join("&"))).await;
        assert_eq!(one["cardinality"], members.len(), "{group}");
        assert_eq!(one["group"], json!(values));
    }
    // Of a group that there is not nothing is counted, and that is known.
    let none = site.json("/api/sets/users_by_city?group=no&group=where").await;
    assert_eq!(none["cardinality"], 0);

    let mut busiest: Vec<usize> = by_city.values().map(|members| members.len()).collect();
    busiest.sort_by(|a, b| b.cmp(a));
    let listed = eventually(SHORT, "the groups to be walked over", async || {
        let listed = site.json("/api/sets/users_by_city").await;
        match listed["groups"].is_array() {
            true => Ok(listed),
            false => Err(listed.to_string()),
        }
    })
    .await;
    let groups = listed["groups"].as_array().unwrap();
    let counts: Vec<u64> = groups.iter().map(|one| one["cardinality"].as_u64().unwrap()).collect();
    assert_eq!(counts, busiest.iter().map(|n| *n as u64).collect::<Vec<_>>());
    for one in groups {
        let values = one["group"].as_array().unwrap().iter().map(|v| v.as_str().unwrap());
        let found = by_city
            .iter()
            .find(|(group, _)| group.split(':').map(plain).eq(values.clone().map(str::to_owned)));
        assert_eq!(found.map(|(_, members)| members.len() as u64), one["cardinality"].as_u64());
    }

    let daily = parts(&oracle, &rig, "users_daily");
    let listed = site.json("/api/sets/users_daily").await;
    let buckets: BTreeMap<String, usize> = listed["buckets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let count = one["cardinality"].as_u64().unwrap() as usize;
            (one["bucket"].as_str().unwrap().to_owned(), count)
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    let wanted: BTreeMap<String, usize> =
        daily.iter().map(|(bucket, members)| (bucket.clone(), members.len())).collect();
    assert_eq!(buckets, wanted);
    for (bucket, count) in wanted {
        let one = site.json(&format!("/api/sets/users_daily?bucket={bucket}")).await;
        assert_eq!(one["cardinality"], count);
    }
    site.process.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_those_of_the_oracle_and_can_be_asked_about() {
    let rig = Rig::new("users=username tags=city cities=state+city by=city@state").await;
    let (site, oracle) = filled(&rig).await;
    for (set, single) in [("users", true), ("tags", true), ("cities", false)] {
        let stored = oracle.members(set);
        let wanted: BTreeSet<String> =
            stored.iter().map(|one| if single { plain(one) } else { one.clone() }).collect();
        let mut found = BTreeSet::new();
        let mut cursor = String::new();
        loop {
            let page = site.json(&format!("/api/sets/{set}/members?count=10{cursor}")).await;
            assert_trust(&page);
            let members = page["members"].as_array().unwrap();
            found.extend(members.iter().map(|one| one.as_str().unwrap().to_owned()));
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found, wanted, "{set}");
        // What is listed can be asked about, and what is not is not in it.
        for some in wanted.iter().collect::<Vec<_>>().chunks(50) {
            let mut asked: Vec<String> = some.iter().map(|&one| one.clone()).collect();
            asked.extend(asked.iter().map(|one| format!("{one}-not")).collect::<Vec<_>>());
            let query: Vec<String> =
                asked.iter().map(|one| format!("member={}", quoted(one))).collect();
            let path = format!("/api/sets/{set}/contains?{}", query.join("&"));
            let answer = site.json(&path).await;
            assert_trust(&answer);
            let rows: Vec<Value> = asked
                .iter()
                .enumerate()
                .map(|(n, member)| json!({"member": member, "contained": n < some.len()}))
                .collect();
            assert_eq!(answer["members"], json!(rows));
        }
    }
    site.process.terminate().await;
}

const ASKED: [&str; 7] = [
    "/api/sets",
    "/api/sets/users",
    "/api/sets/users/contains?member=user1",
    "/api/sets/users/members",
    "/api/intersect?sets=users,authors",
    "/api/stats",
    "/api/sets/users_by_city",
];

fn assert_problem(reply: &crate::harness::http::Reply, status: u16, code: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
    assert_eq!(reply.header("cache-control"), Some("no-store"), "{reply:?}");
    let said = reply.json();
    assert_eq!((&said["status"], &said["code"]), (&json!(status), &json!(code)), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_is_unknown_and_not_zero() {
    let rig = Rig::new(SETS).await;
    let (site, _) = filled(&rig).await;
    let mut redis = rig.redis().await;
    let meta = format!("{}:meta", rig.prefix());
    let fields = redis.in_order(&["HGETALL", &meta]).await.unwrap();
    for key in redis.texts(&["KEYS", &format!("{}:*", rig.prefix())]).await.unwrap() {
        redis.int(&["DEL", &key]).await;
    }
    for path in ASKED {
        let reply = site.get(path).await;
        assert_problem(&reply, 503, "unknown");
        assert!(reply.header("retry-after").is_some_and(|secs| secs.parse::<u32>().is_ok()));
    }
    eventually(SHORT, "the snapshot to know nothing", async || {
        let seen = site.json("/api/snapshot").await;
        match seen["known"] == json!(false) && seen["redis"]["ok"] == json!(true) {
            true => {
                let counts = seen["sets"].as_array().unwrap().iter().map(|s| &s["cardinality"]);
                assert!(counts.clone().all(Value::is_null), "{seen}");
                Ok(())
            }
            false => Err(seen.to_string()),
        }
    })
    .await;
    // With its generation back it is empty, and that is known.
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    redis.int(&[&["HSET", &meta], fields.as_slice()].concat()).await;
    assert_eq!(site.json("/api/stats").await["distinct_users"], 0);
    site.process.terminate().await;
}

/// A set that was defined after the others holds what came since: nothing is known of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_is_not_filled_from_history_is_unknown() {
    let mut rig = Rig::new("users=username authors=author").await;
    let (site, oracle) = filled(&rig).await;
    site.process.terminate().await;
    rig.set(names::SETS, "users=username authors=author cities=state+city towns=city@state");
    let site = rig.site().await;
    for path in [
        "/api/sets/cities",
        "/api/sets/cities/contains?member=CA:Fresno",
        "/api/sets/cities/members",
        "/api/intersect?sets=users,cities",
        "/api/sets/towns",
        "/api/sets/towns?group=CA",
    ] {
        assert_problem(&site.get(path).await, 503, "unknown");
    }
    let stats = site.json("/api/stats").await;
    assert_eq!(stats["distinct_users"], oracle.members("users").len());
    assert_eq!(stats["distinct_cities"], Value::Null);
    assert_eq!(site.json("/api/sets").await["sets"][2]["cardinality"], Value::Null);
    assert_eq!(site.json("/api/snapshot").await["sets"][2]["cardinality"], Value::Null);
    site.process.terminate().await;
    // Where no number is known, nothing but nulls is no answer.
    rig.set(names::SETS, "cities=state+city");
    let site = rig.site().await;
    site.wait_status("/api/snapshot", 200).await;
    assert_problem(&site.get("/api/stats").await, 503, "unknown");
    site.process.terminate().await;
}

/// Refused, cut and silent: 503 within the time that is set, and answers again when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_away_is_told_in_time_and_found_again() {
    let mut rig = Rig::new(SETS).await;
    let (first, oracle) = filled(&rig).await;
    first.process.terminate().await;
    let proxy = rig.proxy("REDIS_URL").await;
    rig.set(names::SERVE_TIMEOUT_MS, "1000");
    let site = rig.site().await;
    site.wait_status("/api/stats", 200).await;
    for silent in [false, true] {
        match silent {
            true => proxy.blackhole(Flow::Keep),
            false => {
                proxy.refuse(true);
                proxy.cut_all();
            }
        }
        for path in ASKED {
            let began = std::time::Instant::now();
            let reply = site.get(path).await;
            assert_problem(&reply, 503, "redis_away");
            assert!(reply.header("retry-after").is_some(), "{reply:?}");
            assert!(began.elapsed() < Duration::from_secs(3), "{path}: {:?}", began.elapsed());
        }
        eventually(Duration::from_secs(10), "the snapshot to say so", async || {
            let seen = site.json("/api/snapshot").await;
            let error = seen["redis"]["error"].as_str().unwrap_or_default();
            // One that says nothing is not waited for until the client gives up.
            let told = if silent { error.starts_with("no answer for") } else { !error.is_empty() };
            match seen["redis"]["ok"] == json!(false) && told {
                true => Ok(()),
                false => Err(seen.to_string()),
            }
        })
        .await;
        // Once that is known nobody waits to hear it again. The quickest of some, as a machine may
        // be slow.
        let mut quickest = Duration::MAX;
        for _ in 0..5 {
            let began = std::time::Instant::now();
            assert_problem(&site.get(ASKED[0]).await, 503, "redis_away");
            quickest = quickest.min(began.elapsed());
        }
        assert!(quickest < Duration::from_millis(700), "{quickest:?}");
        site.process.wait_not_ready().await;
        assert_eq!(site.process.status("/livez").await, Ok(200), "a restart would not help");
        proxy.refuse(false);
        proxy.heal();
        site.wait_status("/api/stats", 200).await;
        let stats = site.json("/api/stats").await;
        assert_eq!(stats["distinct_users"], oracle.members("users").len());
        site.process.wait_ready().await;
    }
    site.process.terminate().await;
}

/// It begins without Redis as well, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_without_redis() {
    let mut rig = Rig::new(SETS).await;
    let proxy = rig.proxy("REDIS_URL").await;
    proxy.refuse(true);
    let site = rig.site().await;
    assert_problem(&site.get("/api/stats").await, 503, "redis_away");
    assert_eq!(site.get("/").await.status, 200, "the page says so");
    proxy.refuse(false);
    site.wait_status("/api/stats", 503).await;
    eventually(SHORT, "redis to be found", async || {
        let said = site.get("/api/stats").await.json();
        match said["code"] == json!("unknown") {
            true => Ok(()),
            false => Err(said.to_string()),
        }
    })
    .await;
    site.process.terminate().await;
}
