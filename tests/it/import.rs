//! `rollcall publish --from-postgres`: the rows of a table that was there before Rollcall.

use serde_json::json;

use crate::harness::{DEFAULT_SETS, LONG, Oracle, Pg, Rig, eventually, names, with_database};

const IMPORT_URL: &str = "ROLLCALL_IMPORT_DATABASE_URL";

const THREE: &str = "SELECT 'message-' || id AS id, created_at AS occurred_at,
    jsonb_build_object('state', state, 'city', city, 'username', username, 'text', body) AS payload
    FROM messages ORDER BY id -- the whole history
    ;";

const ONE: &str = "SELECT to_json(m) AS event FROM (
    SELECT 'message-' || id AS id, created_at AS occurred_at, state, city, username, body AS text
    FROM messages ORDER BY id) m";

/// A database beside Rollcall's own, with so many messages as the demo had them.
async fn old_table(rig: &mut Rig, rows: u32) -> Pg {
    let name = format!("{}_old", rig.prefix());
    let mut admin = Pg::connect(&rig.servers().database_url).await.unwrap();
    admin.run(&format!("DROP DATABASE IF EXISTS {name}")).await;
    admin.run(&format!("CREATE DATABASE {name}")).await;
    let url = with_database(&rig.servers().database_url, &name);
    rig.set(IMPORT_URL, &url);
    let mut old = Pg::connect(&url).await.unwrap();
    old.run(&format!(
        "CREATE TABLE messages (id bigint PRIMARY KEY, state text, city text, username text,
                                body text, created_at timestamptz);
         INSERT INTO messages
         SELECT n, 'S' || n % 7, 'City: ' || n % 100, 'user' || n % 500, 'text ' || n,
                date_trunc('second', now()) - n * interval '1 s' + interval '0.25 s'
         FROM generate_series(1, {rows}) n"
    ))
    .await;
    old
}

/// What must be stored of it.
async fn expect(oracle: &mut Oracle, old: &mut Pg) {
    let events = old
        .texts(
            r#"SELECT jsonb_build_object('id', 'message-' || id, 'occurred_at', to_char(created_at
                 AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS".25+00:00"'), 'state', state,
                 'city', city, 'username', username, 'text', body)::text FROM messages"#,
        )
        .await;
    for event in events {
        oracle.good(&serde_json::from_str(&event).unwrap());
    }
}

/// The same rows are the same events, byte for byte, whatever the time zone of the database,
/// however they are packed, and in both forms of a query.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_stored_once_however_often_it_is_imported() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let mut old = old_table(&mut rig, 3000).await;
    let mut oracle = rig.oracle();
    expect(&mut oracle, &mut old).await;
    let worker = rig.worker().await;
    let import = ["publish", "--events-per-message", "100", "--json", "--from-postgres"];
    let first = rig.cli(&[&import[..], &[THREE]].concat()).await.expect(0).json();
    assert_eq!((&first["confirmed"], &first["messages"]), (&json!(3000), &json!(30)));
    assert_eq!(first["complete"], true);
    rig.wait_arrived(&oracle).await;
    let name = format!("{}_old", rig.prefix());
    old.run(&format!("ALTER DATABASE {name} SET timezone = 'Asia/Kolkata'")).await;
    rig.cli(&[&import[..], &[THREE]].concat()).await.expect(0);
    rig.cli(&["publish", "--from-postgres", ONE]).await.expect(0);
    eventually(LONG, "the duplicates to be seen", async || {
        match worker.metrics().await?.sum(names::DUPLICATES) {
            6000.0 => Ok(()),
            n => Err(format!("{n} were")),
        }
    })
    .await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Cut short at any point, it is run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_was_killed_is_run_again() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let mut old = old_table(&mut rig, 20_000).await;
    let mut oracle = rig.oracle();
    expect(&mut oracle, &mut old).await;
    let worker = rig.worker().await;
    let mut pg = rig.pg().await;
    let mut stored = 0;
    for _ in 0..3 {
        let import = rig.begin(&["publish", "--rate", "5000", "--from-postgres", THREE]);
        stored =
            eventually(LONG, "more to be stored than before", async || match pg.events().await? {
                n if n > stored => Ok(n),
                n => Err(format!("{n} are")),
            })
            .await;
        assert!(import.kill(), "it was through before it could be killed");
    }
    assert!(stored < 20_000, "it was through");
    let import = ["publish", "--events-per-message", "500", "--from-postgres", THREE];
    rig.cli(&import).await.expect(0);
    rig.finish(&oracle, vec![worker]).await;
}

/// What is there when it begins, and nothing that comes while it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_reads_one_state_of_the_table() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let mut old = old_table(&mut rig, 2000).await;
    let mut oracle = rig.oracle();
    expect(&mut oracle, &mut old).await;
    let worker = rig.worker().await;
    let import = rig.begin(&["publish", "--rate", "1000", "--json", "--from-postgres", THREE]);
    let mut pg = rig.pg().await;
    eventually(LONG, "the first to be stored", async || match pg.events().await? {
        0 => Err("none is".to_owned()),
        _ => Ok(()),
    })
    .await;
    old.run(
        "INSERT INTO messages SELECT 1000000 + id, 'late', city, 'late', body, created_at
         FROM messages; DELETE FROM messages WHERE id BETWEEN 1900 AND 2000",
    )
    .await;
    let import = import.end().await.expect(0).json();
    assert_eq!(import["confirmed"], 2000);
    rig.finish(&oracle, vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_gives_no_events_is_told_at_once() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let mut old = old_table(&mut rig, 30).await;
    let at = "now() AS occurred_at";
    let wrong = [
        ("SELECT * FROM messages".to_owned(), "must give one column, event"),
        ("SELECT 1 AS event".to_owned(), "must give one column, event"),
        ("SELECT '{}'::jsonb AS event, 1 AS more".to_owned(), "must give one column, event"),
        // Of which zone? It is the query that must say so.
        (
            "SELECT 1 AS id, now()::timestamp AS occurred_at, '{}'::jsonb AS payload".to_owned(),
            "must",
        ),
        (format!("SELECT 1 AS id, {at}, '{{}}' AS payload"), "must give one column, event"),
        ("SELECT event FROM no_such_table".to_owned(), "no_such_table"),
        ("DELETE FROM messages".to_owned(), "42601"),
        ("WITH d AS (DELETE FROM messages RETURNING 1) SELECT 1 AS event".to_owned(), "a subquery"),
        ("SELECT '{}'::jsonb AS event; DELETE FROM messages".to_owned(), "42601"),
    ];
    for (query, says) in &wrong {
        let run = rig.cli(&["publish", "--from-postgres", query]).await.expect(64);
        assert!(run.stderr.contains(says), "{query}: {}", run.stderr);
    }
    // It reads; a query that writes by the back door is refused as well.
    old.run(
        "CREATE FUNCTION spoil() RETURNS jsonb LANGUAGE sql AS
         $$ DELETE FROM messages; SELECT '{}'::jsonb $$",
    )
    .await;
    let run = rig.cli(&["publish", "--from-postgres", "SELECT spoil() AS event"]).await.expect(64);
    assert!(run.stderr.contains("writes, and is here to read"), "{}", run.stderr);
    assert_eq!(old.int("SELECT count(*) FROM messages").await, 30);
    let run = rig.cli_with_env(
        &["publish", "--from-postgres", THREE],
        &[(IMPORT_URL, ""), ("DATABASE_URL", "")],
    );
    let run = run.await.expect(64);
    assert!(run.stderr.contains(IMPORT_URL), "{}", run.stderr);
    let nobody = [(IMPORT_URL, "postgres://rollcall:s3cret@127.0.0.1:1/old")];
    let run = rig.cli_with_env(&["publish", "--from-postgres", THREE], &nobody).await.expect(75);
    assert!(!run.said().contains("s3cret"), "{}", run.stderr);
    for both in ["--file", "--count", "--seed"] {
        rig.cli(&["publish", "--from-postgres", THREE, both, "1"]).await.expect(64);
    }
}

/// As somebody wrote it, over several lines; beside others that travel one a line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_many_lines_stays_one() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let mut old = old_table(&mut rig, 40).await;
    let mut oracle = rig.oracle();
    expect(&mut oracle, &mut old).await;
    let worker = rig.worker().await;
    let query = format!(
        "SELECT replace(replace(event::text, '{{', E'{{\\r\\n  '), ',', E',\\n')::json AS event
         FROM ({}) e",
        ONE.replace("ORDER BY id", "")
    );
    let import = ["publish", "--events-per-message", "7", "--from-postgres", &query];
    rig.cli(&import).await.expect(0);
    rig.finish(&oracle, vec![worker]).await;
}

/// A row without an event ends it, by its number: nothing is left out in silence. What a worker
/// will refuse is not its affair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_without_an_event_is_named_and_a_bad_event_is_published() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    old_table(&mut rig, 1).await;
    let mut oracle = rig.oracle();
    let worker = rig.worker().await;
    let query = "SELECT CASE n WHEN 30 THEN NULL ELSE jsonb_build_object('n', n) END AS event
                 FROM generate_series(1, 40) n ORDER BY n";
    let run = rig.cli(&["publish", "--from-postgres", query]).await.expect(1);
    assert!(run.stderr.contains("row 30 of the query holds no event"), "{}", run.stderr);
    assert!(run.stdout.starts_with("29 events"), "{}", run.stdout);
    let query = "SELECT n AS id, now() AS occurred_at, to_jsonb(ARRAY[n]) AS payload
                 FROM generate_series(1, 3) n";
    let run = rig.cli(&["publish", "--from-postgres", query]).await.expect(1);
    assert!(run.stderr.contains("row 1 of the query holds no event"), "{}", run.stderr);
    (1..30).for_each(|n| oracle.bad("missing_id", format!("{{\"n\": {n}}}")));
    rig.finish(&oracle, vec![worker]).await;
}

/// However many rows there are, and however heavy: a page of them is in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_holds_a_page_of_the_rows() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    old_table(&mut rig, 1).await;
    let amqp = rig.amqp().await;
    let mut published = 0;
    // Of 200 MB of small rows all are in memory where there is no page, and of the heavy ones 400
    // MB where a page is not bounded by its weight; the first page of those is a small one anyhow.
    for (rows, bytes, rate, enough) in [(200_000, 1000, "2000", 1000), (500, 800_000, "100", 30)] {
        let query = format!(
            "SELECT jsonb_build_object('id', n, 'text', repeat('p', {bytes})) AS event
             FROM generate_series(1, {rows}) n"
        );
        let import = rig.begin(&["publish", "--rate", rate, "--from-postgres", &query]);
        published += enough;
        eventually(LONG, "several pages to be published", async || {
            match amqp.ready(rig.queue()).await? {
                n if n < published => Err(format!("{n} events are")),
                _ => Ok(()),
            }
        })
        .await;
        let peak = import.peak_memory() >> 20;
        println!("{peak} MiB at most for rows of {bytes} bytes");
        assert!(peak < 100, "{peak} MiB were resident for rows of {bytes} bytes");
        assert!(import.kill(), "it was through before its end");
        published = amqp.ready(rig.queue()).await.unwrap();
    }
}
