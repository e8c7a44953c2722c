//! `rollcall publish --from-postgres`: the rows of a table that was there before Rollcall.

use serde_json::{Value, json};

use crate::harness::{DEFAULT_SETS, LONG, Oracle, Pg, Rig, eventually, names, with_database};

const IMPORT_URL: &str = "ROLLCALL_IMPORT_DATABASE_URL";

const THREE: &str = "SELECT 'message-' || id AS id, created_at AS occurred_at,
    jsonb_build_object('state', state, 'city', city, 'username', username, 'text', body) AS payload
    FROM messages ORDER BY id -- the whole history
    ;";

const PLAIN: &str =
    "SELECT 'message-' || id AS id, created_at AS occurred_at, state, city, username,
    body AS text FROM messages ORDER BY id";

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
/// however they are packed, and in each form of a query.
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
    rig.cli(&[&import[..], &[PLAIN]].concat()).await.expect(0);
    eventually(LONG, "the duplicates to be seen", async || {
        match worker.metrics().await?.sum(names::DUPLICATES) {
            9000.0 => Ok(()),
            n => Err(format!("{n} were")),
        }
    })
    .await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Each column is a field, whatever its type; and the settings of a role, which write a time, an
/// interval or bytes in other ways, change none of its bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_the_same_bytes_in_each_run() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let mut old = old_table(&mut rig, 1).await;
    let plain = "SELECT 7::bigint AS id, '2026-11-23 10:00:00.123456+02'::timestamptz AS occurred_at,
        'CA' AS state, 1.10::numeric AS price, 0.1::float8 + 0.2 AS sum, true AS ok, ARRAY[1, 2] AS n,
        NULL::text AS nothing, '2026-11-23 09:00+02'::timestamptz AS seen, '\\x00ff'::bytea AS raw,
        '1 day 02:03'::interval AS took";
    let three = "SELECT 7 AS id, '2026-11-23 10:00:00.5+02'::timestamptz AS occurred_at,
        jsonb_build_object('took', '1 day'::interval, 'at', now() - now()) AS payload";
    let name = format!("{}_old", rig.prefix());
    for setting in [
        "timezone = 'Asia/Kolkata'",
        "bytea_output = 'escape'",
        "intervalstyle = 'iso_8601'",
        "datestyle = 'German'",
        "extra_float_digits = -10",
    ] {
        for query in [plain, three] {
            rig.cli(&["publish", "--from-postgres", query]).await.expect(0);
        }
        old.run(&format!("ALTER DATABASE {name} SET {setting}")).await;
    }
    let mut bodies: Vec<String> = Vec::new();
    for message in rig.amqp().await.peek(rig.queue()).await {
        bodies.push(String::from_utf8(message.body).expect("text"));
    }
    assert_eq!(bodies.len(), 10);
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 2, "{bodies:#?}");
    let event = |sum: f64| {
        bodies
            .iter()
            .map(|body| serde_json::from_str::<Value>(body).unwrap())
            .find(|event| event["sum"] == sum)
    };
    assert_eq!(
        event(0.1 + 0.2).expect("the one of columns"),
        json!({
            "id": "7", "occurred_at": "2026-11-23T08:00:00.123456+00:00", "state": "CA",
            "price": 1.10, "sum": 0.1 + 0.2, "ok": true, "n": [1, 2], "nothing": null,
            "seen": "2026-11-23T07:00:00+00:00", "raw": "\\x00ff", "took": "1 day 02:03:00",
        })
    );
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
        (format!("SELECT 1 AS id, {at}, 2 AS id, 3 AS more"), "42702"),
        (format!("SELECT id, {at}, city FROM messages WHERE id > $1"), "has a parameter ($1)"),
        ("SELECT to_jsonb(m) AS event FROM messages m WHERE id > $1".to_owned(), "a parameter"),
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

/// A row without an event is left out, by its number and not in silence; those behind it are
/// published. What a worker will refuse is not its affair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_without_an_event_is_named_and_a_bad_event_is_published() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    old_table(&mut rig, 1).await;
    let mut oracle = rig.oracle();
    let worker = rig.worker().await;
    let query = "SELECT CASE WHEN n < 30 THEN jsonb_build_object('n', n)
                             WHEN n = 31 THEN jsonb_build_array('{\"n\": 1}'::jsonb, 2)
                             WHEN n = 32 THEN jsonb_build_object('n', repeat('x', 17000000))
                             WHEN n = 45 THEN jsonb_build_object('n', n) END AS event
                 FROM generate_series(1, 45) n ORDER BY n";
    let run = rig.cli(&["publish", "--from-postgres", query]).await.expect(1);
    for says in [
        "left out of the rows of the query: 15; the first: 30 (no event: null",
        "31 (an array",
        "32 (larger than 16 MiB), 33, 34, 35, 36, 37, 38, 39 (no event",
        "WHERE … IS NOT NULL",
    ] {
        assert!(run.stderr.contains(says), "{says}: {}", run.stderr);
    }
    assert!(run.stdout.starts_with("30 events"), "{}", run.stdout);
    assert!(run.stdout.ends_with("15 left out\n"), "{}", run.stdout);
    let query = "SELECT n AS id, now() AS occurred_at, to_jsonb(ARRAY[n]) AS payload
                 FROM generate_series(1, 3) n";
    let run = rig.cli(&["publish", "--json", "--from-postgres", query]).await.expect(1);
    let said = run.json();
    assert_eq!((&said["complete"], &said["left_out"]), (&json!(false), &json!(3)), "{said}");
    assert!(run.stderr.contains("3; 1, 2, 3 (no event"), "{}", run.stderr);
    // Where somebody means it so, the query says it.
    let query = "SELECT event FROM (SELECT NULL::jsonb AS event) e WHERE event IS NOT NULL";
    rig.cli(&["publish", "--from-postgres", query]).await.expect(0);
    let bad = (1..30).chain([45]);
    bad.for_each(|n| oracle.bad("missing_id", format!("{{\"n\": {n}}}")));
    rig.finish(&oracle, vec![worker]).await;
}

/// Of a file the same, and one that brings nothing is no success: whoever goes on by the exit code
/// would take for published what another command did not write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_events_is_an_error_and_a_line_too_long_is_left_out() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let path = rig.file("empty.ndjson", b"");
    for (args, stdin) in
        [(["publish", "--file", "-"], &b" \n\n"[..]), (["publish", "--file", &path], b"")]
    {
        let run = rig.cli_with_stdin(&args, stdin).await.expect(1);
        assert!(run.stderr.contains("no event in "), "{}", run.stderr);
    }
    let text = [b"{\"n\":1}\n", &vec![b'x'; 17 << 20][..], b"\n{\"n\":3}\n"].concat();
    let run = rig.cli_with_stdin(&["publish", "--json", "--file", "-"], &text).await.expect(1);
    let said = run.json();
    assert_eq!((&said["confirmed"], &said["left_out"]), (&json!(2), &json!(1)), "{said}");
    assert_eq!(said["complete"], false);
    assert!(run.stderr.contains("lines of -: 1; 2 (longer than 16 MiB)"), "{}", run.stderr);
    assert_eq!(rig.amqp().await.surely_ready(rig.queue()).await, 2);
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
