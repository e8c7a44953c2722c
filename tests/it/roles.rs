//! `deploy/postgres/roles.sql` and `manage migrate`: each role has what it needs and nothing else,
//! with one run of each.

use serde_json::json;

use crate::harness::Pg;
use crate::harness::{DEFAULT_SETS, Producer, Rig, names, seed};

const REFUSED: &str = "42501";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_that_are_granted_are_enough() {
    let mut rig = Rig::with_roles(DEFAULT_SETS).await;
    rig.set("ROLLCALL_RETENTION_DAYS", "1000");
    rig.set(names::EVENT_AGE_MAX_DAYS, "900");
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    rig.cli(&["manage", "index"]).await.expect(0);
    // Late ones, whose partitions the worker has to make.
    let mut events = producer.events(40);
    for (n, event) in events.iter_mut().enumerate() {
        event["occurred_at"] = json!(producer.moment_at(-(n as i64) * 20 * 24 * 3600));
    }
    oracle.all_good(&events);
    rig.publish_events(&events).await;
    rig.wait_arrived(&oracle).await;
    for command in COMMANDS {
        rig.cli(command).await.expect(0);
    }
    assert_eq!(worker.complaints(&["partition", "permission"]), Vec::<String>::new());
    rig.finish(&oracle, vec![worker]).await;
}

const COMMANDS: [&[&str]; 7] = [
    &["manage", "migrate"],
    &["manage", "partitions"],
    &["manage", "index", "--prune"],
    &["manage", "retention"],
    &["manage", "forget", "username=nobody"],
    &["manage", "status"],
    &["check"],
];

/// Both ways: a table of refusals alone would be passed by a role that can do nothing at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_role_does_not_need_is_refused() {
    let rig = Rig::with_roles(DEFAULT_SETS).await;
    let partition = rig
        .pg()
        .await
        .texts("SELECT partition FROM rollcall_partitions ORDER BY range_from")
        .await
        .remove(0);
    // Somebody else's, in the same schema.
    Pg::connect(&rig.admin_url)
        .await
        .unwrap()
        .run("CREATE TABLE auth_user (name text, password text)")
        .await;
    rig.grant();
    let event = "(occurred_at, id, payload) VALUES (now(), gen_random_uuid(), '{}')";
    let mark = "SELECT txid_snapshot_xmin(txid_current_snapshot()), system_identifier,
                pg_walfile_name(pg_current_wal_insert_lsn()) FROM pg_control_system()";
    let both = [
        (true, "SELECT count(*) FROM events".to_owned()),
        (true, "SELECT count(*) FROM retired_members".to_owned()),
        (false, "SELECT count(*) FROM auth_user".to_owned()),
        (true, "SELECT count(*) FROM _sqlx_migrations".to_owned()),
        (true, "SELECT * FROM rollcall_partitions".to_owned()),
        (true, "SELECT * FROM rollcall_projection".to_owned()),
        (true, mark.to_owned()),
        (false, "DELETE FROM events".to_owned()),
        (false, "UPDATE events SET payload = '{}'".to_owned()),
        (false, "TRUNCATE events".to_owned()),
        (false, format!("TRUNCATE {partition}")),
        (false, format!("DELETE FROM {partition}")),
        (false, format!("INSERT INTO {partition} {event}")),
        (false, format!("DROP TABLE {partition}")),
        (false, "DROP TABLE events".to_owned()),
        (false, "ALTER TABLE events ADD COLUMN mine text".to_owned()),
        (false, format!("ALTER TABLE events DETACH PARTITION {partition}")),
        (false, "CREATE INDEX ON events (received_at)".to_owned()),
        (false, "CREATE TABLE mine (n int)".to_owned()),
        (false, "CREATE TEMP TABLE mine (n int)".to_owned()),
        (false, "INSERT INTO retired_members VALUES ('a', '', 'b', '\\x00')".to_owned()),
        (false, "DELETE FROM retired_members".to_owned()),
        (false, "DELETE FROM rollcall_projection".to_owned()),
        (false, "UPDATE _sqlx_migrations SET success = false".to_owned()),
        (false, "CREATE ROLE mine".to_owned()),
    ];
    let worker = [
        (true, format!("INSERT INTO events {event} ON CONFLICT DO NOTHING")),
        (true, "SELECT * FROM rollcall_ensure_partition('2020-01-01', 'month')".to_owned()),
        (true, "INSERT INTO rollcall_projection (prefix) VALUES ('p')".to_owned()),
        (true, "UPDATE rollcall_projection SET version = version + 1".to_owned()),
        (false, format!("SELECT FROM {partition}")),
    ];
    let reader = [
        (true, format!("SELECT FROM {partition}")),
        (false, format!("INSERT INTO events {event}")),
        (false, "SELECT * FROM rollcall_ensure_partition('2020-01-01', 'month')".to_owned()),
        (false, "INSERT INTO rollcall_projection (prefix) VALUES ('p')".to_owned()),
        (false, "UPDATE rollcall_projection SET version = version + 1".to_owned()),
    ];
    let manager = [
        (true, "DELETE FROM events".to_owned()),
        (true, format!("ALTER TABLE events DETACH PARTITION {partition}")),
        (true, "CREATE INDEX ON events (received_at)".to_owned()),
        (false, "CREATE ROLE mine".to_owned()),
        (false, "CREATE SCHEMA mine".to_owned()),
        (false, "COPY events FROM PROGRAM 'true'".to_owned()),
    ];
    let shared = both.as_slice();
    for (role, own) in
        [("worker", [shared, &worker].concat()), ("reader", [shared, &reader].concat())]
    {
        assert_rights(&rig, role, &own).await;
    }
    assert_rights(&rig, "manager", &manager).await;
    let plain = "SELECT count(*) FROM pg_roles WHERE rolname = ANY (ARRAY[MINE])
                 AND NOT (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication)";
    let mine = ["manager", "worker", "reader"].map(|role| format!("'{}'", rig.role(role)));
    assert_eq!(rig.pg().await.int(&plain.replace("MINE", &mine.join(","))).await, 3);
}

/// The other order: the tables were there first, another's, with rights that nobody needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_there_becomes_the_managers() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let manager = [("DATABASE_URL", rig.role_url("manager"))];
    let manager = manager.each_ref().map(|(name, url)| (*name, url.as_str()));
    rig.grant();
    rig.pg().await.run(&format!("GRANT DELETE ON events TO {}", rig.role("worker"))).await;
    let said = rig.cli_with_env(&["manage", "migrate"], &manager).await.expect(0).stdout;
    assert!(said.contains(&rig.role("worker")) && said.contains(&rig.role("reader")), "{said}");
    // Each again, which takes nothing away.
    rig.grant();
    rig.cli_with_env(&["manage", "migrate"], &manager).await.expect(0);
    rig.grant();
    let events = "INSERT INTO events (occurred_at, id, payload)
                  VALUES (now(), gen_random_uuid(), '{}') ON CONFLICT DO NOTHING";
    let worker = [(true, events.to_owned()), (false, "DELETE FROM events".to_owned())];
    let reader = [(true, "SELECT FROM events".to_owned()), (false, events.to_owned())];
    assert_rights(&rig, "worker", &worker).await;
    assert_rights(&rig, "reader", &reader).await;
    // By another than the manager it grants nothing: the names are the manager's.
    let said = rig.cli(&["manage", "migrate", "--json"]).await.expect(0).stdout;
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["rights_granted_to"], json!([]));
}

async fn assert_rights(rig: &Rig, role: &str, cases: &[(bool, String)]) {
    let mut pg = Pg::connect(&rig.role_url(role)).await.unwrap();
    for (allowed, sql) in cases {
        pg.run("BEGIN").await;
        let refusal = pg.refusal(sql).await;
        pg.run("ROLLBACK").await;
        let wanted = (!allowed).then_some(REFUSED);
        assert_eq!(refusal.as_deref(), wanted, "{role}: {sql}");
    }
}
