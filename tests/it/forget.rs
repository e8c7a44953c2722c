//! `manage forget`: what holds a value goes, and of its members exactly those that nothing
//! supports.

use serde_json::{Value, json};

use crate::harness::{LONG, Oracle, Producer, Rig, Rng, eventually, names, seed};

const SETS: &str = "cities=state+city users=username users_by_city=username@state+city \
                    tags=tags tags_by_user=tags+deep.id@username users_daily=username/day";
const DAY: i64 = 24 * 3600;

/// Whether an event holds the value, as the contract says it: a scalar, or one in an array.
fn holds(event: &Value, field: &str, value: &str) -> bool {
    let text = |scalar: &Value| match scalar {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    };
    let found = field.split('.').fold(event, |value, part| &value[part]);
    match found {
        Value::Array(items) => items.iter().any(|item| text(item).as_deref() == Some(value)),
        other => text(other).as_deref() == Some(value),
    }
}

/// Events that share their members in all ways: fields absent, null, arrays, numbers.
fn event(producer: &mut Producer, days_ago: i64) -> Value {
    let mut event = producer.event();
    let rng = &mut producer.rng;
    event["username"] = json!(format!("user{}", rng.below(40)));
    event["account"] = json!(rng.below(30));
    event["deep"] = json!({"id": rng.below(3), "note": {"0": rng.below(9)}});
    let tags: Vec<String> = (0..rng.below(4)).map(|_| format!("tag{}", rng.below(30))).collect();
    event["tags"] = match rng.below(4) {
        0 => Value::Null,
        1 => json!(format!("tag{}", rng.below(30))),
        _ => json!(tags),
    };
    if days_ago > 0 {
        event["occurred_at"] = json!(producer.moment_at(-days_ago * DAY));
    }
    event
}

/// A set that is made from the field has a place for the value: what `retired` holds of it goes.
fn names_it(line: &str, place: impl Fn(&str, &str, &str) -> bool) -> bool {
    let parts: Vec<&str> = line.splitn(3, '|').collect();
    place(parts[0], parts[1], parts[2])
}

async fn forget(rig: &Rig, what: &str) -> (Value, Value) {
    let would = ["manage", "forget", what, "--json", "--dry-run"];
    let would = rig.cli(&would).await.expect(0).json();
    let done = rig.cli(&["manage", "forget", what, "--json"]).await.expect(0).json();
    for field in ["events", "events_by_partition", "retired_members", "members_checked"] {
        assert_eq!(would[field], done[field], "{field}: a dry run says what is done");
    }
    let removed = |answer: &Value| {
        let sets = answer["members_removed"].as_object().unwrap().clone();
        sets.into_iter().filter(|(_, count)| count != 0).collect::<Vec<_>>()
    };
    assert_eq!(removed(&would), removed(&done), "a dry run says what is removed");
    (would, done)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_what_nothing_else_supports_goes() {
    let mut rig = Rig::with_roles_and(SETS, &[(names::PARTITION_BY, "day")]).await;
    let mut producer = Producer::new(seed());
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    // Those of the warm worker, to begin with.
    let mut young: Vec<Value> =
        oracle.payloads.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let old: Vec<Value> = (0..60).map(|n| event(&mut producer, 20 + n % 4)).collect();
    let mut new: Vec<Value> = (0..600).map(|n| event(&mut producer, n % 3)).collect();
    // More of one value than one transaction takes, in one partition.
    new.extend((0..700).map(|_| {
        let mut event = event(&mut producer, 0);
        event["account"] = json!(7);
        event
    }));
    oracle.all_good(&[old.clone(), new.clone()].concat());
    rig.publish_events(&[old.clone(), new.clone()].concat()).await;
    young.extend(new);
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    worker.terminate().await;
    rig.set("ROLLCALL_RETENTION_DAYS", "10");
    rig.cli(&["manage", "retention"]).await.expect(0);
    let mut gone = rig.oracle();
    gone.all_good(&old);
    let mut retired = gone.by_source();
    assert_eq!(rig.retired().await, retired);

    let mut removed = 0;
    for (field, value, place) in [
        ("account", "7", None),
        ("username", "user3", Some("user3")),
        ("tags", "tag5", Some("tag5")),
        ("city", "Sea:ttle", Some("Sea%3Attle")),
        ("deep.id", "1", None),
        ("deep.note.0", "4", None),
        ("no.such", "x", None),
    ] {
        let (_, done) = forget(&rig, &format!("{field}={value}")).await;
        let before = young.len();
        young.retain(|event| !holds(event, field, value));
        let deleted = done["events"].as_u64().unwrap() as usize;
        assert_eq!(deleted, before - young.len(), "{done}");
        let mut wanted = rig.oracle();
        wanted.all_good(&young);
        let kept = rig.retired().await;
        let expected = |line: &String| match (field, place) {
            (_, Some(place)) => !names_it(line, |_, suffix, member| {
                let mut parts = suffix.split(':').chain(member.split(':'));
                parts.any(|part| part == place)
            }),
            ("deep.id", None) => !names_it(line, |source, _, member| {
                source.starts_with("tags+deep.id") && member.ends_with(":1")
            }),
            _ => true,
        };
        retired.retain(expected);
        assert_eq!(kept, retired, "{field}={value}");
        assert_rows(&rig, field, value).await;
        let supported = rig.supported().await;
        let wanted = &wanted.by_source() | &retired;
        assert_eq!(wanted, supported.by_source(), "{field}={value}");
        rig.assert_sets(&supported).await;
        let counts = done["members_removed"].as_object().unwrap();
        removed += counts.values().map(|count| count.as_u64().unwrap()).sum::<u64>();
        assert_eq!(rig.pg().await.int("SELECT count(*) FROM rollcall_forgetting").await, 0);
        rig.cli(&["manage", "verify"]).await.expect(0);
    }
    assert!(removed > 50, "hardly a member was removed: nothing was tried");
    let run = rig.cli(&["manage", "forget", "account=7"]).await.expect(0);
    assert!(run.stdout.contains("nothing holds it"), "{}", run.stdout);
}

/// No row holds it, asked in another way than the command does: of each stored event.
async fn assert_rows(rig: &Rig, field: &str, value: &str) {
    for (_, payload) in rig.pg().await.stored().await {
        let event: Value = serde_json::from_str(&payload).unwrap();
        assert!(!holds(&event, field, value), "{field}={value} is still there");
    }
}

/// Whether the event that stays says it alone, in an array, or as a number: it supports it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_in_an_array_supports_as_one_alone_does() {
    let rig = Rig::new("tags=tags").await;
    let mut producer = Producer::new(seed());
    let mut oracle = rig.oracle();
    let worker = rig.worker().await;
    let (mut doomed, mut staying) = (Vec::new(), Vec::new());
    let forms = |value: &Value| [value.clone(), json!([value]), json!(["other", value, null])];
    for (n, going) in forms(&json!(0)).iter().enumerate() {
        for (m, _) in forms(going).iter().enumerate() {
            for value in [json!(100 + 10 * n + m), json!(format!("a:b%{n}{m}"))] {
                let gone = forms(&value)[n].clone();
                doomed.push(producer.event_with(json!({"tags": gone, "account": 1})));
                let stays = forms(&value)[m].clone();
                staying.push(producer.event_with(json!({"tags": stays, "account": 2})));
            }
        }
        doomed.push(producer.event_with(json!({"tags": format!("gone{n}"), "account": 1})));
    }
    rig.publish_events(&doomed).await;
    oracle.all_good(&staying);
    rig.publish_events(&staying).await;
    let all = (doomed.len() + staying.len()) as i64;
    let mut pg = rig.pg().await;
    eventually(LONG, "all to be stored", async || match pg.events().await? {
        n if n == all => Ok(()),
        n => Err(format!("{n} of {all}")),
    })
    .await;
    worker.assert_books_balance().await;
    worker.terminate().await;
    let (_, done) = forget(&rig, "account=1").await;
    assert_eq!(done["members_removed"]["tags"], 3, "{done}");
    rig.assert_laws(&oracle).await;
}

/// Killed at any moment, with events coming in that bring the same members again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_it_is_killed_the_next_run_finishes_it() {
    let rig = Rig::with_roles(SETS).await;
    let mut producer = Producer::new(seed());
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let mut pg = rig.pg().await;
    pg.run(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_sleep(random() * 0.4); RETURN NULL; END $$;
         CREATE TRIGGER slowly AFTER INSERT OR DELETE ON rollcall_forgetting
             EXECUTE FUNCTION slowly();
         CREATE TRIGGER slowly AFTER UPDATE ON rollcall_projection EXECUTE FUNCTION slowly()",
    )
    .await;
    let mut rng = Rng(seed());
    let mut killed = 0;
    for round in 0..8 {
        let account = format!("account={}", 1000 + round);
        let mut doomed: Vec<Value> = (0..150).map(|_| event(&mut producer, 0)).collect();
        for (n, event) in doomed.iter_mut().enumerate() {
            event["account"] = json!(1000 + round);
            event["username"] = json!(format!("own{}", n % 60));
        }
        rig.publish_events(&doomed).await;
        rig.wait_idle().await;
        worker.assert_books_balance().await;
        // Of the same users, and to stay.
        let staying: Vec<Value> = (0..60)
            .map(|_| {
                let mut event = event(&mut producer, 0);
                event["username"] = json!(format!("own{}", producer.rng.below(60)));
                event
            })
            .collect();
        oracle.all_good(&staying);
        let mut running = rig.begin(&["manage", "forget", &account]);
        rig.publish_events(&staying).await;
        // Somewhere between the first transaction and the end.
        let looks = rng.below(20);
        let mut looked = 0;
        eventually(LONG, "it to come so far", async || {
            looked += 1;
            let matching = format!(
                "SELECT count(*) FROM events WHERE payload->>'account' = '{}'",
                1000 + round
            );
            let begun = pg.int(&matching).await < 150;
            match (begun && looked > looks) || running.ended().is_some() {
                true => Ok(()),
                false => Err("it has hardly begun".to_owned()),
            }
        })
        .await;
        killed += u32::from(running.kill());
        if round % 2 == 0 {
            rig.cli_at_last(&["manage", "forget", &account]).await.expect(0);
        }
    }
    assert!(killed > 1, "hardly a run was killed: nothing was tried");
    for round in 0..8 {
        let account = format!("account={}", 1000 + round);
        rig.cli_at_last(&["manage", "forget", &account]).await.expect(0);
    }
    assert_eq!(pg.int("SELECT count(*) FROM rollcall_forgetting").await, 0);
    rig.finish(&oracle, vec![worker]).await;
    rig.cli(&["manage", "verify"]).await.expect(0);
}

/// The event is there before the member is taken out, and nobody could have seen it when it was
/// looked whether there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_back_meanwhile_is_put_back() {
    let rig = Rig::new("users=username users_daily=username/day").await;
    let mut producer = Producer::new(seed());
    let mut oracle = rig.oracle();
    let worker = rig.worker().await;
    let doomed = producer.event_with(json!({"username": "ann", "account": 1}));
    rig.publish_events(&[doomed]).await;
    let mut redis = rig.redis().await;
    let users = format!("{}:users", rig.prefix());
    eventually(LONG, "ann to be there", async || {
        match redis.int(&["SISMEMBER", &users, "ann"]).await {
            1 => Ok(()),
            _ => Err("she is not".to_owned()),
        }
    })
    .await;
    worker.terminate().await;

    let staying = producer.event_with(json!({"username": "ann", "account": 2}));
    oracle.good(&staying);
    let (id, at) = (staying["id"].as_str().unwrap(), staying["occurred_at"].as_str().unwrap());
    let mut open = rig.pg().await;
    open.run(&format!("BEGIN; INSERT INTO events VALUES ('{at}', '{id}', '{staying}')")).await;
    let mut gate = rig.pg().await;
    gate.run("BEGIN; LOCK TABLE rollcall_projection").await;
    let running = rig.begin(&["manage", "forget", "account=1", "--json"]);
    let mut pg = rig.pg().await;
    eventually(LONG, "it to note the removal", async || match pg.waiting().await {
        0 => Err("it does not wait there".to_owned()),
        _ => Ok(()),
    })
    .await;
    open.run("COMMIT").await;
    gate.run("COMMIT").await;
    let answer = running.end().await.expect(0).json();
    assert_eq!(answer["members_put_back"], 2, "{answer}");
    rig.assert_laws(&oracle).await;
    let daily = format!("{}:users_daily:{}", rig.prefix(), &at[..10]);
    assert!(redis.int(&["TTL", &daily]).await > 0, "a window ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_estimated_set_that_cannot_forget_is_told_and_owed_a_rebuild() {
    let rig = Rig::with_roles("users=username estimated=username~").await;
    let mut producer = Producer::new(seed());
    let mut oracle: Oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let mut pg = rig.pg().await;
    let one = pg.texts("SELECT DISTINCT payload->>'username' FROM events LIMIT 1").await.remove(0);
    // One that runs would rebuild at once.
    worker.terminate().await;
    let (_, done) = forget(&rig, &format!("username={one}")).await;
    assert_eq!(done["estimated_sets"], json!(["estimated"]), "{done}");
    assert_eq!(done["members_removed"]["users"], 1, "{done}");
    assert!(done["events_stored_recently"].as_u64().unwrap() > 0, "{done}");
    let status = rig.cli(&["manage", "status", "--json"]).await.expect(0).json();
    assert_eq!(status["postgres"]["projection"]["rebuild_needed"], true, "{status}");
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    rig.cli(&["manage", "verify"]).await.expect(0);
    rig.assert_sets(&rig.supported().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_asks_for_a_field_and_a_value_and_for_its_turn() {
    let rig = Rig::new(SETS).await;
    for wrong in ["username", "=ann", "user..id=7", ""] {
        rig.cli(&["manage", "forget", wrong]).await.expect(64);
    }
    let mut pg = rig.pg().await;
    pg.run("SELECT pg_advisory_lock(1919904876, 3)").await;
    let run = rig.cli(&["manage", "forget", "username=ann", "--wait", "0"]).await.expect(75);
    assert!(run.stderr.contains("another process"), "{}", run.stderr);
    rig.cli(&["manage", "forget", "username=ann", "--dry-run"]).await.expect(0);
}

/// With several processes at it, or by an index, Postgres gives rows in any order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walk_misses_no_row_in_whatever_order_they_come() {
    let rig = Rig::new("tags=tag places=state+city").await;
    let mut pg = rig.pg().await;
    let database = pg.texts("SELECT current_database()::text").await.remove(0);
    for setting in
        ["parallel_setup_cost = 0", "parallel_tuple_cost = 0", "min_parallel_table_scan_size = 0"]
    {
        pg.run(&format!("ALTER DATABASE \"{database}\" SET {setting}")).await;
    }
    pg.run("SELECT rollcall_ensure_partition(now(), 'month')").await;
    // Each tag is in one event beside those that go, and more of them match than a step reads.
    pg.run(
        "INSERT INTO events (occurred_at, id, payload)
         SELECT now(), gen_random_uuid(), jsonb_build_object('tag', 't' || n)
         FROM generate_series(0, 19999) AS n",
    )
    .await;
    pg.run(
        "INSERT INTO events (occurred_at, id, payload)
         SELECT now(), gen_random_uuid(), jsonb_build_object(
            'tag', (SELECT jsonb_agg('t' || n) FROM generate_series(a * 50, a * 50 + 49) AS n),
            'username', 'ann') FROM generate_series(0, 399) AS a",
    )
    .await;
    pg.run("ANALYZE events").await;
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    let forgotten = rig.cli(&["manage", "forget", "username=ann", "--json"]).await.expect(0).json();
    assert_eq!(forgotten["events"], json!(400), "{forgotten}");
    let mut redis = rig.redis().await;
    let tags = redis.int(&["SCARD", &format!("{}:tags", rig.prefix())]).await;
    assert_eq!(tags, 20_000, "each of them is in another event as well");
}
