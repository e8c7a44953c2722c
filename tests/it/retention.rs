//! `manage retention`: rows go, and what a set says stays true.

use serde_json::{Value, json};

use crate::harness::{LONG, Oracle, Producer, Rig, Rng, Worker, eventually, names, seed};

const SETS: &str = "cities=state+city users=username users_too=username~ \
                    users_by_city=username@state+city users_daily=username/day";
const RETENTION_DAYS: &str = "ROLLCALL_RETENTION_DAYS";
const KEEP_DAYS: i64 = 10;
const DAY: i64 = 24 * 3600;
const PARTITIONS: &str = "SELECT count(*) FROM rollcall_partitions";
/// Those that a run has to drop.
const OLD: &str = "SELECT count(*) FROM rollcall_partitions
                   WHERE range_to <= now() - interval '10 days'";

/// A worker that takes events of any age, and commands that know of a retention. The other way
/// round an old event would be refused, and nothing old could be stored to be dropped.
async fn world() -> (Rig, Oracle, Producer, Worker) {
    let mut rig = Rig::with_roles_and(SETS, &[(names::PARTITION_BY, "day")]).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    rig.set(RETENTION_DAYS, &KEEP_DAYS.to_string());
    (rig, oracle, producer, worker)
}

/// Events of these days ago.
fn aged(producer: &mut Producer, days: impl Iterator<Item = i64>) -> Vec<Value> {
    let mut events = Vec::new();
    for day in days {
        let mut event = producer.event();
        event["occurred_at"] = json!(producer.moment_at(-day * DAY));
        events.push(event);
    }
    events
}

async fn publish(rig: &Rig, oracle: &mut Oracle, events: &[Value]) {
    oracle.all_good(events);
    rig.publish_events(events).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_partitions_go_and_their_members_stay() {
    let (mut rig, mut oracle, mut producer, worker) = world().await;
    let old = aged(&mut producer, (0..300).map(|n| KEEP_DAYS + 2 + n % 30));
    let young = aged(&mut producer, (0..100).map(|n| n % (KEEP_DAYS - 1)));
    publish(&rig, &mut oracle, &[old.clone(), young].concat()).await;
    rig.wait_arrived(&oracle).await;

    let mut pg = rig.pg().await;
    let before = pg.int(PARTITIONS).await;
    assert_eq!(pg.int(OLD).await, 30);
    let would = rig.cli(&["manage", "retention", "--dry-run", "--json"]).await.expect(0).json();
    assert_eq!(would["partitions"].as_array().unwrap().len(), 30, "{would}");
    assert_eq!(pg.int(PARTITIONS).await, before, "a dry run drops nothing");
    assert!(rig.retired().await.is_empty(), "nor does it keep anything");

    // One that has expired, and a set whose windows of those days have.
    pg.run("INSERT INTO retired_members VALUES ('a/day', ':2020-01-01', 'b', '\\x00', now())")
        .await;
    rig.set(names::SETS, &format!("{SETS} users_hourly=username/hour"));
    let run = rig.cli(&["manage", "retention", "--json"]).await.expect(0).json();
    assert_eq!(run["expired"], json!(1), "{run}");
    let read: i64 = run["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["rows_read"].as_i64().unwrap())
        .sum();
    assert_eq!(read, 300, "{run}");
    rig.set(names::SETS, SETS);

    assert_eq!(pg.int(OLD).await, 0);
    assert_eq!(pg.int(PARTITIONS).await, before - 30);
    let tables = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^events_\\d'";
    assert_eq!(pg.int(tables).await, before - 30, "what is detached is dropped");
    let mut gone = rig.oracle();
    gone.all_good(&old);
    assert_eq!(rig.retired().await, gone.by_source());
    assert_eq!(rig.supported().await.by_source(), oracle.by_source());
    let again = rig.cli(&["manage", "retention", "--json"]).await.expect(0).json();
    assert_eq!(again["partitions"], json!([]), "there was nothing to do");

    // The worker has those ranges in mind, and finds that their partitions are gone.
    let late = aged(&mut producer, [KEEP_DAYS + 2, KEEP_DAYS + 3].into_iter());
    oracle.all_good(&late);
    rig.publish_events(&late).await;
    let wanted = 100 + 100 + late.len() as i64;
    eventually(LONG, "late events to be stored", async || match pg.events().await? {
        n if n == wanted => Ok(()),
        n => Err(format!("{n} rows of {wanted}")),
    })
    .await;
    worker.assert_books_balance().await;
    worker.terminate().await;
    rig.assert_sets(&oracle).await;
    assert_eq!(rig.supported().await.by_source(), oracle.by_source());
    // Of rows and of retired members: nothing is lost when the sets are made anew, either.
    rig.cli(&["manage", "verify"]).await.expect(0);
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    rig.assert_sets(&oracle).await;
}

/// An event whose transaction was open when the partition was read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_comes_while_its_partition_goes_is_kept() {
    let (rig, mut oracle, mut producer, worker) = world().await;
    publish(&rig, &mut oracle, &aged(&mut producer, [20; 5].into_iter())).await;
    rig.wait_arrived(&oracle).await;
    worker.terminate().await;
    let mut open = rig.pg().await;
    let mut pg = rig.pg().await;
    for round in 0..3 {
        let event = producer.event_with(json!({
            "occurred_at": producer.moment_at(-20 * DAY), "username": format!("late{round}"),
        }));
        let (id, at) = (event["id"].as_str().unwrap(), event["occurred_at"].as_str().unwrap());
        pg.int(&format!("SELECT count(*) FROM rollcall_ensure_partition('{at}', 'day')")).await;
        open.run(&format!("BEGIN; INSERT INTO events VALUES ('{at}', '{id}', '{event}')")).await;
        oracle.adds(at, &event);
        let running = rig.begin(&["manage", "retention"]);
        eventually(LONG, "the lock to be waited for", async || match pg.waiting().await {
            0 => Err("it is not".to_owned()),
            _ => Ok(()),
        })
        .await;
        open.run("COMMIT").await;
        running.end().await.expect(0);
        assert_eq!(pg.int(OLD).await, 0);
        assert_eq!(rig.supported().await.by_source(), oracle.by_source());
    }
}

/// Killed at any moment, with events coming in, old ones too: at no moment is a member in neither
/// place, and in the end every one is where it belongs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_it_is_killed_no_member_is_lost() {
    let (rig, mut oracle, mut producer, worker) = world().await;
    let mut pg = rig.pg().await;
    pg.run(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_sleep(random() * 0.1); RETURN NULL; END $$;
         CREATE TRIGGER slowly AFTER INSERT ON retired_members EXECUTE FUNCTION slowly()",
    )
    .await;
    let mut rng = Rng(seed());
    let (mut killed, mut runs) = (0, 0);
    // One that ended before its kill tried nothing, and is made good by another.
    while killed < 6 {
        runs += 1;
        assert!(runs <= 40, "{killed} of 40 runs were killed: hardly anything was tried");
        let events = aged(&mut producer, (0..150).map(|n| n % 40));
        let (first, meanwhile) = events.split_at(75);
        publish(&rig, &mut oracle, first).await;
        let wanted = 1 + rng.below(15) as i64;
        eventually(LONG, "more partitions to be old than are to go", async || {
            match pg.int(OLD).await {
                old if old > wanted => Ok(()),
                old => Err(format!("{old} are, {wanted} are to go")),
            }
        })
        .await;
        let mut running = rig.begin(&["manage", "retention"]);
        publish(&rig, &mut oracle, meanwhile).await;
        let (mut gone, mut before) = (0, pg.int(OLD).await);
        eventually(LONG, "some partitions to go", async || {
            let now = pg.int(OLD).await;
            gone += (before - now).max(0);
            before = now;
            // It ends by itself where more of them went between two looks than came.
            match gone >= wanted || running.ended().is_some() {
                true => Ok(()),
                false => Err(format!("{gone} went, {wanted} wanted")),
            }
        })
        .await;
        killed += u32::from(running.kill());
        assert_no_less(&rig, &oracle).await;
    }
    rig.wait_idle().await;
    worker.assert_books_balance().await;
    rig.cli_at_last(&["manage", "retention"]).await.expect(0);
    assert_eq!(pg.int(OLD).await, 0);
    worker.terminate().await;
    assert_eq!(rig.supported().await.by_source(), oracle.by_source());
    rig.assert_sets(&oracle).await;
    rig.cli(&["manage", "verify"]).await.expect(0);
}

/// Everything that Redis has been told is supported: workers write there last.
async fn assert_no_less(rig: &Rig, oracle: &Oracle) {
    let mut redis = rig.redis().await;
    let mut told = rig.oracle();
    for key in oracle.exact.keys() {
        let members = redis.texts(&["SMEMBERS", key]).await.unwrap();
        told.exact.insert(key.clone(), members.into_iter().collect());
    }
    let supported = rig.supported().await.by_source();
    let lost: Vec<_> = told.by_source().difference(&supported).take(5).cloned().collect();
    assert!(lost.is_empty(), "in Redis, and not in Postgres any more: {lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_why_it_does_nothing() {
    let mut rig = Rig::new(SETS).await;
    let run = rig.cli(&["manage", "retention"]).await.expect(64);
    assert!(run.stderr.contains(RETENTION_DAYS), "{}", run.stderr);
    rig.set(RETENTION_DAYS, "10");
    let mut pg = rig.pg().await;
    pg.run("SELECT pg_advisory_lock(1919904876, 3)").await;
    let run = rig.cli(&["manage", "retention", "--wait", "0"]).await.expect(75);
    assert!(run.stderr.contains("another process"), "{}", run.stderr);
    rig.cli(&["manage", "retention", "--dry-run"]).await.expect(0);
}

/// Nothing but retired members is left: an emptied Redis lacks them all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retired_members_come_back_into_an_emptied_redis() {
    let (rig, _, mut producer, worker) = world().await;
    worker.terminate().await;
    let mut pg = rig.pg().await;
    pg.run("TRUNCATE events").await;
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    let mut oracle = rig.oracle();
    let mut young = rig.env.clone();
    young.remove(RETENTION_DAYS);
    let worker = Worker::start(&rig.dir, &young).await;
    worker.wait_ready().await;
    publish(&rig, &mut oracle, &aged(&mut producer, [20, 21].into_iter())).await;
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    rig.cli(&["manage", "retention"]).await.expect(0);
    assert_eq!(pg.int("SELECT count(*) FROM events").await, 0);
    let mut redis = rig.redis().await;
    let keys = redis.texts(&["KEYS", &format!("{}:*", rig.prefix())]).await.unwrap();
    redis.int(&[&["DEL"], &keys.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat()).await;
    // Two, unless both events are of one.
    let users = oracle.members("users").len().to_string();
    eventually(LONG, "the users to come back", async || {
        let read = rig.cli(&["read", "count", "users"]).await;
        if read.stdout.trim() == users { Ok(()) } else { Err(read.said()) }
    })
    .await;
    worker.terminate().await;
    rig.cli(&["manage", "verify"]).await.expect(0);
}

/// What a catch-up had still to read goes with its partition: noted before it went, or after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_was_owed_when_its_partition_went_is_not_lost() {
    let (rig, mut oracle, mut producer, worker) = world().await;
    let mut pg = rig.pg().await;
    let mut redis = rig.redis().await;
    let users = format!("{}:users", rig.prefix());
    // Nobody mends anything meanwhile.
    worker.terminate().await;
    for noted_first in [true, false] {
        let name = format!("owed-{noted_first}");
        let mut event = aged(&mut producer, [20].into_iter()).remove(0);
        event["username"] = json!(name);
        let at = event["occurred_at"].as_str().unwrap().to_owned();
        let id = event["id"].as_str().unwrap();
        let ensure = format!("SELECT count(*) FROM rollcall_ensure_partition('{at}', 'day')");
        pg.int(&ensure).await;
        let insert = format!("INSERT INTO events VALUES ('{at}', '{id}', '{event}')");
        pg.run(&insert).await;
        let txid = pg.int(&format!("SELECT txid FROM events WHERE id = '{id}'")).await;
        // As a worker does whose Redis is away: `marks::note_missing`, by the CLI's own process.
        let owe = format!(
            "UPDATE rollcall_projection SET version = version + 1, catch_up_from = {txid}, \
             rebuild = rebuild OR coalesce({txid} < dropped_txid, false)"
        );
        if noted_first {
            pg.run(&owe).await;
        }
        rig.cli(&["manage", "retention"]).await.expect(0);
        assert_eq!(pg.int(OLD).await, 0);
        if !noted_first {
            pg.run(&owe).await;
        }
        assert_eq!(redis.int(&["SISMEMBER", &users, &name]).await, 0, "Redis never saw it");
        oracle.adds(&at, &event);
        let worker = rig.worker().await;
        eventually(LONG, "it to be made good", async || {
            match redis.int(&["SISMEMBER", &users, &name]).await {
                1 => Ok(()),
                _ => Err("it lacks it".to_owned()),
            }
        })
        .await;
        worker.terminate().await;
    }
    rig.cli(&["manage", "verify"]).await.expect(0);
}
