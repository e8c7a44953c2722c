//! `manage index`: on every partition, while ingest goes on, whatever becomes of the process.

use serde_json::{Value, json};

use crate::harness::{DEFAULT_SETS, LONG, Producer, Rig, eventually, names, seed};

const SETS: &str = "cities=state+city users=username users_again=username users_daily=username/day \
                    users_by_city=username@state+city deep=user.id~";
/// Distinct lists of fields among them.
const INDEXES: usize = 4;

/// Partitions that lack an index which the table has.
const LACKING: &str = "
    SELECT count(*) FROM pg_index p JOIN pg_class c ON c.oid = p.indexrelid
    CROSS JOIN pg_inherits t
    WHERE p.indrelid = 'events'::regclass AND c.relname LIKE 'events\\_by\\_%'
      AND t.inhparent = 'events'::regclass
      AND NOT EXISTS (SELECT FROM pg_inherits h JOIN pg_index i ON i.indexrelid = h.inhrelid
                      WHERE h.inhparent = p.indexrelid AND i.indrelid = t.inhrelid
                        AND i.indisvalid)";
const INVALID: &str = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
const OURS: &str =
    "SELECT relname::text FROM pg_class WHERE relkind = 'I' AND relname LIKE 'events\\_by\\_%'";

async fn assert_whole(rig: &Rig, wanted: usize) {
    let mut pg = rig.pg().await;
    assert_eq!(pg.texts(OURS).await.len(), wanted);
    assert_eq!(pg.int(LACKING).await, 0, "partitions that lack an index");
    assert_eq!(pg.int(INVALID).await, 0, "invalid indexes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sets_of_the_same_fields_share_an_index_that_serves_their_group_by() {
    let rig = Rig::new(SETS).await;
    let made = rig.cli(&["manage", "index", "--json"]).await.expect(0).json();
    let rows = made["indexes"].as_array().unwrap();
    assert_eq!(rows.len(), INDEXES);
    assert_whole(&rig, INDEXES).await;
    let mut pg = rig.pg().await;
    for row in rows {
        let group_by = row["group_by"].as_str().unwrap();
        let plan = format!("EXPLAIN {group_by}");
        pg.run("SET enable_seqscan = off; SET enable_hashagg = off; SET enable_sort = off").await;
        let plan = pg.texts(&plan).await.join("\n");
        assert!(plan.contains("Index Scan") && !plan.contains("Sort  ("), "{group_by}\n{plan}");
    }
    let again = rig.cli(&["manage", "index", "--json"]).await.expect(0).json();
    for row in again["indexes"].as_array().unwrap() {
        assert_eq!(row["partitions_built"], json!([]), "there was nothing to do");
    }
    rig.cli(&["manage", "index", "no_such_set"]).await.expect(64);
}

/// One made by hand of what `manage index` would do, as an attack on it: partitions come all the
/// time while it runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_comes_during_or_after_has_every_index() {
    let rig = Rig::new(SETS).await;
    let mut pg = rig.pg().await;
    let mut running = rig.begin(&["manage", "index"]);
    let mut months = 0;
    let run = loop {
        months += 1;
        pg.int(&format!(
            "SELECT count(*) FROM rollcall_ensure_partition(now() - interval '{months} months',
                                                            'month')"
        ))
        .await;
        if let Some(run) = running.ended() {
            break run;
        }
    };
    run.expect(0);
    assert!(months > 1, "none came meanwhile");
    assert_whole(&rig, INDEXES).await;
    pg.int("SELECT count(*) FROM rollcall_ensure_partition(now() + interval '5 years', 'month')")
        .await;
    assert_whole(&rig, INDEXES).await;
}

/// A field of 60 KiB is a good member where the limit says so. A btree takes 2,704 bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_is_too_long_to_be_stored() {
    let mut rig = Rig::new("names=name pairs=name+other@other").await;
    rig.set("ROLLCALL_MEMBER_BYTES_MAX", "65536");
    rig.cli(&["manage", "index"]).await.expect(0);
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    // Random, so that no compression makes it fit; of four bytes each, the longest there are.
    let mut long = |characters: usize| -> String {
        let any = |n: u64| char::from_u32(0x20000 + (n % 40_000) as u32).unwrap();
        (0..characters).map(|_| any(producer.rng.next())).collect()
    };
    let texts = [long(15_000), long(700), long(256), long(255)];
    let mut producer = Producer::new(seed());
    for text in &texts {
        for other in ["a", &texts[1]] {
            oracle.good(&producer.event_with(json!({"name": text, "other": other})));
        }
    }
    let worker = rig.worker().await;
    let events: Vec<Value> =
        oracle.payloads.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    rig.publish_events(&events).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// It waits for a transaction that is open, is killed there, and leaves an invalid index behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_run_is_finished_by_the_next_and_ingest_never_waits() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let mut open = rig.pg().await;
    // Of one partition: while the table itself is locked no index is begun at all.
    let partition = "SELECT partition FROM rollcall_partitions
                     WHERE range_from <= now() AND now() < range_to";
    let partition = open.texts(partition).await.remove(0);
    open.run(&format!(
        "BEGIN; INSERT INTO {partition} (occurred_at, id, payload)
                VALUES (now(), gen_random_uuid(), '{{}}')"
    ))
    .await;
    let running = rig.begin(&["manage", "index"]);
    let mut pg = rig.pg().await;
    let building = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND wait_event_type = 'Lock' AND query LIKE 'CREATE INDEX CONCURRENTLY%'";
    eventually(LONG, "an index to be under way", async || match pg.try_int(building).await? {
        0 => Err("none is".to_owned()),
        _ => Ok(()),
    })
    .await;
    // More than one batch for each lane.
    for _ in 0..3 {
        let events = producer.events(500);
        oracle.all_good(&events);
        rig.publish_events(&events).await;
        rig.wait_arrived(&oracle).await;
    }
    assert!(running.kill(), "it ended before it was killed");
    // The server looks every two seconds whether its client still lives.
    eventually(LONG, "the server to notice", async || match pg.try_int(building).await? {
        0 => Ok(()),
        n => Err(format!("{n} are under way")),
    })
    .await;
    open.run("ROLLBACK").await;
    assert!(pg.int(INVALID).await > 0, "nothing was left half done: nothing is tried");
    let run = rig.cli_at_last(&["manage", "index", "--json"]).await.expect(0).json();
    let cleaned = |row: &Value| row["leftovers_dropped"].as_i64().unwrap();
    let cleaned: i64 = run["indexes"].as_array().unwrap().iter().map(cleaned).sum();
    assert!(cleaned > 0, "{run}");
    assert_whole(&rig, 2).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Killed at any moment, again and again, with events coming in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_often_it_is_killed_it_gets_there() {
    let rig = Rig::new(SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let mut pg = rig.pg().await;
    for (done, killed) in (0..10).map(|n| (n % 7, n)) {
        let events = producer.events(20);
        oracle.all_good(&events);
        let running = rig.begin(&["manage", "index"]);
        rig.publish_events(&events).await;
        // By how far it has come, as time says little on a busy machine.
        let wanted = pg.int(LACKING).await - done;
        eventually(LONG, "some progress", async || {
            let lacking = pg.int(LACKING).await;
            let any = pg.int("SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_by\\_%'").await;
            match any > killed || lacking <= wanted.max(0) {
                true => Ok(()),
                false => Err(format!("{lacking} lack one")),
            }
        })
        .await;
        running.kill();
    }
    rig.cli_at_last(&["manage", "index"]).await.expect(0);
    assert_whole(&rig, INDEXES).await;
    rig.finish(&oracle, vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_no_set_needs_goes_only_when_told() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.cli(&["manage", "index"]).await.expect(0);
    rig.set(names::SETS, "cities=state+city");
    let run = rig.cli(&["manage", "index", "--json"]).await.expect(0).json();
    assert_eq!(run["unused"].as_array().unwrap().len(), 1, "{run}");
    assert_whole(&rig, 2).await;
    let run = rig.cli(&["manage", "index", "--prune", "--json"]).await.expect(0).json();
    assert_eq!(run["dropped"].as_array().unwrap().len(), 1, "{run}");
    assert_whole(&rig, 1).await;
    let kept = rig.pg().await.texts(OURS).await;
    assert!(kept[0].contains("state_city"), "{kept:?}");
}
