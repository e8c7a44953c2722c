//! Partitions and migrations.

use serde_json::json;

use crate::harness::{DEFAULT_SETS, LONG, Message, Producer, Rig, eventually, names, seed};

const PARTITIONS: &str = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass";
const DAY: i64 = 24 * 3600;

/// Some of each month of the last three years, in one batch with events of today.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_event_makes_its_partition() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut events = producer.events(100);
    for (n, event) in events.iter_mut().enumerate() {
        if n % 2 == 0 {
            event["occurred_at"] = json!(producer.moment_at(-(n as i64) * 11 * DAY));
        }
    }
    oracle.all_good(&events);
    // Two workers, so that two lanes want the same new partition at once.
    let workers = vec![rig.worker().await, rig.worker().await];
    let mut pg = rig.pg().await;
    let before = pg.int(PARTITIONS).await;
    rig.publish_events(&events).await;
    rig.finish(&oracle, workers).await;
    let after = pg.int(PARTITIONS).await;
    assert!(after - before >= 30, "{before} partitions before, {after} after");
    // None of them went into a catch-all, which a partition could not be cut out of later.
    let catch_all = "SELECT count(*) FROM pg_class WHERE relispartition
                     AND pg_get_expr(relpartbound, oid) = 'DEFAULT'";
    assert_eq!(pg.int(catch_all).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_made_ahead() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    for (by, unit, ahead) in [("month", "month", "6"), ("month", "month", "14")] {
        rig.set(names::PARTITION_BY, by);
        rig.set(names::PARTITIONS_AHEAD, ahead);
        rig.cli(&["manage", "partitions"]).await.expect(0);
        rig.cli(&["manage", "partitions", "--json"]).await.expect(0).json();
        let mut pg = rig.pg().await;
        // A row can be put at the far end, with no worker there to make room for it.
        pg.run(&format!(
            "INSERT INTO events (occurred_at, id, payload)
             SELECT now() + interval '{ahead} {unit}', gen_random_uuid(), '{{}}'"
        ))
        .await;
    }
}

/// By day as well as by month.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_may_be_a_day() {
    let mut rig = Rig::bare(DEFAULT_SETS).await;
    rig.set(names::PARTITION_BY, "day");
    rig.cli(&["manage", "migrate"]).await.expect(0);
    rig.cli(&["manage", "topology"]).await.expect(0);
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut events = producer.events(30);
    for (n, event) in events.iter_mut().enumerate() {
        event["occurred_at"] = json!(producer.moment_at(-(n as i64) * DAY));
    }
    oracle.all_good(&events);
    let worker = rig.worker().await;
    rig.publish(&[Message::array(&events)]).await;
    rig.finish(&oracle, vec![worker]).await;
    let mut pg = rig.pg().await;
    assert!(pg.int(PARTITIONS).await >= 30, "one for each day");
}

/// Twice, and by many at once: the schema is made once and nothing in it is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_again_changes_nothing() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    let migrate = ["manage", "migrate"];
    let (a, b, c) = tokio::join!(rig.cli(&migrate), rig.cli(&migrate), rig.cli(&migrate));
    for run in [a, b, c] {
        run.expect(0);
    }
    rig.cli(&["manage", "partitions"]).await.expect(0);
    let mut pg = rig.pg().await;
    pg.run("INSERT INTO events (occurred_at, id, payload) VALUES (now(), gen_random_uuid(), '{}')")
        .await;
    let schema = "SELECT relkind::text || ' ' || relname FROM pg_class
                  WHERE relnamespace = 'public'::regnamespace ORDER BY 1";
    let before = pg.texts(schema).await;
    rig.cli(&migrate).await.expect(0);
    rig.cli(&["manage", "migrate", "--json"]).await.expect(0).json();
    assert_eq!(pg.texts(schema).await, before);
    assert_eq!(pg.events().await, Ok(1));
}

/// Rows that are there already are looked up one by one, also where Postgres has no statistics of a
/// large table: what a redelivery costs does not grow with the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redelivery_reads_its_own_rows_alone() {
    const ROWS: i64 = 100_000;
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut events = producer.events(1_000);
    for (n, event) in events.iter_mut().enumerate() {
        event["occurred_at"] = json!(producer.moment_at(-(n as i64)));
    }
    oracle.all_good(&events);
    // One statement for all: the more it looks for, the more a scan tempts.
    let batch = [Message::array(&events)];
    let worker = rig.worker().await;
    rig.publish(&batch).await;
    rig.wait_arrived(&oracle).await;
    let mut pg = rig.pg().await;
    pg.run(
        "DO $$ DECLARE part regclass; BEGIN
           FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass LOOP
             EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', part);
           END LOOP;
         END $$",
    )
    .await;
    // As many between the first and the last of ours.
    pg.run(&format!(
        "INSERT INTO events (occurred_at, id, payload)
         SELECT min(occurred_at) + (max(occurred_at) - min(occurred_at)) * (n / {ROWS}.0),
                gen_random_uuid(), '{{\"other\": true}}'
         FROM events, generate_series(1, {ROWS}) n GROUP BY n"
    ))
    .await;
    let read = "SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint
                FROM pg_stat_user_tables WHERE relname LIKE 'events%'";
    // A session tells what it read when it ends.
    drop(pg);
    worker.terminate().await;
    let before = when_alone(&rig, read).await;
    let worker = rig.worker().await;
    rig.publish(&batch).await;
    eventually(LONG, "the duplicates to be counted", async || {
        match worker.metrics().await?.sum(names::DUPLICATES) {
            n if n >= events.len() as f64 => Ok(()),
            n => Err(format!("{n} are")),
        }
    })
    .await;
    worker.terminate().await;
    let rows = when_alone(&rig, read).await - before;
    let expected = 0..10 * events.len() as i64;
    assert!(expected.contains(&rows), "{rows} rows were read for {} duplicates", events.len());
    rig.pg().await.run("DELETE FROM events WHERE payload ? 'other'").await;
    rig.finish(&oracle, Vec::new()).await;
}

async fn when_alone(rig: &Rig, sql: &str) -> i64 {
    let mut pg = rig.pg().await;
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                  AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    eventually(LONG, "all others to have gone", async || match pg.int(others).await {
        0 => Ok(()),
        n => Err(format!("{n} are there")),
    })
    .await;
    pg.int(sql).await
}
