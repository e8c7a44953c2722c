//! Postgres says no.

use super::{Scene, Told};
use crate::harness::{DEFAULT_SETS, LONG, Message, Pg, Rig, Server, Verb, eventually, names};

struct Trouble {
    name: &'static str,
    says: &'static [&'static str],
    needs_hand: bool,
    /// Whether the worker's connections end as it begins.
    cuts: bool,
    /// SQL for the administrator, in a database of his own or in the worker's. `$role` and `$db`
    /// are the worker's.
    inside: bool,
    breaks: &'static str,
    mends: &'static str,
}

const TROUBLES: &[Trouble] = &[
    Trouble {
        name: "read only in the middle of the work (25006)",
        says: &["read-only transaction", "standby or read only"],
        needs_hand: false,
        cuts: false,
        inside: false,
        breaks: "ALTER SYSTEM SET default_transaction_read_only = on",
        mends: "ALTER SYSTEM RESET default_transaction_read_only",
    },
    Trouble {
        name: "a database that is read only",
        says: &["standby or read only"],
        needs_hand: false,
        cuts: true,
        inside: false,
        breaks: "ALTER DATABASE $db SET default_transaction_read_only = on",
        mends: "ALTER DATABASE $db RESET default_transaction_read_only",
    },
    Trouble {
        name: "statements that take too long (57014)",
        says: &["57014"],
        needs_hand: false,
        cuts: false,
        inside: true,
        breaks: "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                   'BEGIN PERFORM pg_sleep(30); RETURN NEW; END';
                 CREATE TRIGGER slow BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION slow()",
        mends: "DROP FUNCTION slow CASCADE",
    },
    Trouble {
        name: "a lock that somebody keeps (55P03)",
        says: &["55P03"],
        needs_hand: false,
        cuts: false,
        inside: true,
        breaks: "BEGIN; LOCK TABLE events IN EXCLUSIVE MODE",
        mends: "ROLLBACK",
    },
    Trouble {
        name: "out of connections (53300)",
        says: &["too many connections"],
        needs_hand: false,
        cuts: true,
        inside: false,
        breaks: "ALTER ROLE $role CONNECTION LIMIT 0",
        mends: "ALTER ROLE $role CONNECTION LIMIT -1",
    },
    Trouble {
        name: "a wrong password (28P01)",
        says: &["password authentication failed"],
        needs_hand: true,
        cuts: true,
        inside: false,
        breaks: "ALTER ROLE $role PASSWORD 'another'",
        mends: "ALTER ROLE $role PASSWORD 'right'",
    },
    Trouble {
        name: "no database (3D000)",
        says: &["does not exist"],
        needs_hand: true,
        cuts: true,
        inside: false,
        breaks: "ALTER DATABASE $db RENAME TO elsewhere",
        mends: "ALTER DATABASE elsewhere RENAME TO $db",
    },
    Trouble {
        name: "no table (42P01)",
        says: &["does not exist"],
        needs_hand: true,
        cuts: false,
        inside: true,
        breaks: "ALTER TABLE events RENAME TO elsewhere",
        mends: "ALTER TABLE elsewhere RENAME TO events",
    },
    Trouble {
        name: "no privilege (42501)",
        says: &["permission denied"],
        needs_hand: true,
        cuts: false,
        inside: true,
        breaks: "REVOKE INSERT ON events FROM $role",
        mends: "GRANT INSERT ON events TO $role",
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_postgres_says_is_waited_out() {
    let (mut scene, role) = scene().await;
    let db = scene.rig.prefix().to_owned();
    for trouble in TROUBLES {
        let sql = |text: &str| text.replace("$role", &role).replace("$db", &db);
        let mut admin = match trouble.inside {
            true => Pg::connect(&scene.rig.env["ADMIN_URL"]).await.unwrap(),
            false => Pg::connect(&scene.rig.servers().database_url).await.unwrap(),
        };
        // What makes all read only must not bind the one who mends it.
        admin.run("SET default_transaction_read_only = off").await;
        let said = scene.worker.log().len();
        if trouble.cuts {
            admin.run(&cut(&role)).await;
        }
        admin.run(&sql(trouble.breaks)).await;
        admin.run("SELECT pg_reload_conf()").await;
        if trouble.cuts {
            admin.run(&cut(&role)).await;
        }
        let Trouble { says, needs_hand, .. } = *trouble;
        let told = Told { dependency: "postgres", says, needs_hand };
        scene.endure(trouble.name, told, said).await;
        admin.run(&sql(trouble.mends)).await;
        admin.run("SELECT pg_reload_conf()").await;
        scene.recover(trouble.name).await;
    }
    scene.assert_nothing_returned().await;
    scene.finish().await;
}

/// Those who are connected may finish, nobody else comes in: 57P03. Then it stops and starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_shuts_down_is_waited_for() {
    let (mut scene, role) = scene().await;
    let mut admin = Pg::connect(&scene.rig.servers().database_url).await.unwrap();
    let said = scene.worker.log().len();
    let pid = scene.rig.servers().pid(Server::Postgres).expect("it runs");
    let status = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    assert!(status.expect("kill runs").success());
    eventually(LONG, "the shutdown to begin", async || {
        match Pg::connect(&scene.rig.servers().database_url).await {
            Ok(_) => Err("it takes connections".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await;
    admin.run(&cut(&role)).await;
    let told = Told { dependency: "postgres", says: &["shutting down"], needs_hand: false };
    scene.endure("shutting down (57P03)", told, said).await;
    drop(admin);
    scene.rig.control(Verb::Stop, Server::Postgres);
    scene.rig.control(Verb::Start, Server::Postgres);
    scene.recover("shutting down").await;
    scene.assert_nothing_returned().await;
    scene.finish().await;
}

/// The worker is the victim of a deadlock with somebody who inserts the same rows the other way
/// round: it tries again, and nobody is any the wiser.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_is_tried_again() {
    let (mut scene, role) = scene().await;
    // Nor is it to give up waiting for the lock.
    scene.rig.set(names::STORE_TIMEOUT_SECS, "30");
    let mut admin = Pg::connect(&scene.rig.env["ADMIN_URL"]).await.unwrap();
    // Who waits the shorter time is the victim.
    admin.run(&format!("ALTER ROLE {role} SET deadlock_timeout = '10s'")).await;
    admin.run("SET deadlock_timeout = '10min'").await;
    let mut scene = scene.replace_worker().await;
    let mut events = scene.events(2);
    events.sort_by_key(|event| event["occurred_at"].to_string());
    let insert = |event: &serde_json::Value| {
        let text = event.to_string().replace('\'', "''");
        format!(
            "INSERT INTO events (occurred_at, id, payload) SELECT (p->>'occurred_at')::timestamptz,
             (p->>'id')::uuid, p FROM (SELECT '{text}'::jsonb) t (p)"
        )
    };
    admin.run("BEGIN").await;
    admin.run(&insert(&events[1])).await;
    scene.rig.publish(&[Message::array(&events)]).await;
    scene.rig.wait_at_gate().await;
    admin.run(&insert(&events[0])).await;
    admin.run("ROLLBACK").await;
    scene.recover("a deadlock").await;
    let told = scene.worker.complaints(&["40P01"]);
    assert_eq!(told.len(), 1, "told once: {told:#?}");
    scene.assert_nothing_returned().await;
    scene.finish().await;
}

/// With a role of its own for the worker, which may do what the migrations say it must.
async fn scene() -> (Scene, String) {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    rig.set(names::STORE_TIMEOUT_SECS, "2");
    let role = format!("{}_worker", rig.prefix());
    let mut pg = rig.pg().await;
    pg.run(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'right';
         GRANT INSERT, SELECT ON events TO {role};
         GRANT SELECT ON _sqlx_migrations, rollcall_partitions, retired_members TO {role};
         GRANT SELECT, INSERT, UPDATE ON rollcall_projection TO {role};
         GRANT EXECUTE ON FUNCTION rollcall_ensure_partition(timestamptz, text) TO {role}"
    ))
    .await;
    let admin = rig.env["DATABASE_URL"].clone();
    let (_, place) = admin.split_once('@').expect("the url names a user");
    let url = format!("postgres://{role}:right@{place}");
    rig.set("DATABASE_URL", &url);
    let mut scene = Scene::new(rig).await;
    scene.rig.set("ADMIN_URL", &admin);
    (scene, role)
}

fn cut(role: &str) -> String {
    format!("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{role}'")
}
