//! The command line: help, exit codes, reading, publishing.

use serde_json::{Value, json};

use crate::harness::{DEFAULT_SETS, Message, Producer, Rig, Worker, names, seed};

const COMMANDS: [&str; 24] = [
    "",
    "worker",
    "manage",
    "manage migrate",
    "manage topology",
    "manage partitions",
    "manage index",
    "manage retention",
    "manage forget",
    "manage status",
    "publish",
    "read",
    "read count",
    "read contains",
    "read members",
    "read list",
    "dead-letters",
    "dead-letters list",
    "dead-letters show",
    "dead-letters replay",
    "dead-letters purge",
    "check",
    "completions",
    "man",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_helps_without_any_configuration() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    for command in COMMANDS {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.push("--help");
        let run = rig.cli_without_env(&args).await.expect(0);
        assert!(run.stdout.contains("Usage"), "{args:?}: {}", run.stdout);
        assert_eq!(run.stderr, "", "{args:?}");
    }
    let version = rig.cli_without_env(&["--version"]).await.expect(0);
    assert!(version.stdout.starts_with("rollcall "), "{}", version.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_usage_ends_with_64() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    for args in [
        &["wroker"][..],
        &["worker", "--no-such-option"],
        &["read", "count"],
        &["publish", "--count", "many"],
        &["publish", "--bad", "101"],
        &["dead-letters", "replay"],
        &[],
    ] {
        let run = rig.cli(args).await.expect(64);
        assert!(!run.stderr.is_empty(), "{args:?} is told on stderr");
    }
}

/// Every mistake at once, each with its variable, and never a secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mistake_of_the_configuration_is_told_at_once() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    let mistakes = [
        ("AMQP_URL", "http://user:s3cret-amqp@localhost"),
        ("DATABASE_URL", "s3cret-database"),
        ("REDIS_URL", "redis://:s3cret-redis@"),
        (names::LANES, "0"),
        (names::BATCH_EVENTS_MAX, "-3"),
        (names::SETS, "users=username/fortnight"),
        (names::OPS_ADDR, "localhost"),
        ("ROLLCALL_NO_SUCH_THING", "1"),
    ];
    for args in [&["worker"][..], &["check"], &["manage", "migrate"]] {
        let run = rig.cli_with_env(args, &mistakes).await.expect(64);
        for (name, _) in mistakes {
            assert!(run.stderr.contains(name), "{args:?} does not name {name}: {}", run.stderr);
        }
        assert!(!run.said().contains("s3cret"), "{args:?} told a secret: {}", run.said());
    }
    let run = rig.cli_without_env(&["worker"]).await.expect(64);
    for name in ["AMQP_URL", "DATABASE_URL", "REDIS_URL"] {
        assert!(run.stderr.contains(name), "{name} is missing and not named: {}", run.stderr);
    }
}

/// Each variable can come from a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_can_come_from_a_file() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let path = rig.file("redis-url", format!("{}\n", rig.env["REDIS_URL"]).as_bytes());
    let from_file = [("REDIS_URL", ""), ("REDIS_URL_FILE", path.as_str())];
    rig.cli_with_env(&["check"], &from_file).await.expect(0);
    let missing = [("REDIS_URL", ""), ("REDIS_URL_FILE", "/no/such/file")];
    let run = rig.cli_with_env(&["check"], &missing).await.expect(64);
    assert!(run.stderr.contains("REDIS_URL_FILE"), "{}", run.stderr);
    let both = [("REDIS_URL_FILE", path.as_str())];
    let run = rig.cli_with_env(&["check"], &both).await.expect(64);
    assert!(run.stderr.contains("REDIS_URL"), "{}", run.stderr);
}

/// A server that is away: 75, in good time, and named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_ends_a_command_with_75() {
    let rig = Rig::new(DEFAULT_SETS).await;
    // The discard port: nobody listens there on a machine of ours.
    let amqp = ("AMQP_URL", "amqp://u:s3cret@127.0.0.1:9/%2f");
    let database = ("DATABASE_URL", "postgres://u:s3cret@127.0.0.1:9/x?sslmode=disable");
    let redis = ("REDIS_URL", "redis://:s3cret@127.0.0.1:9/0");
    for (args, away) in [
        (&["manage", "migrate"][..], database),
        (&["manage", "partitions"], database),
        (&["manage", "topology"], amqp),
        (&["dead-letters", "list"], amqp),
        (&["dead-letters", "count", "--json"], amqp),
        (&["read", "count", "users"], redis),
        (&["read", "list"], redis),
        (&["check"], amqp),
        (&["check"], database),
        (&["check", "--json"], redis),
    ] {
        let run = rig.cli_with_env(args, &[away]).await.expect(75);
        assert!(!run.said().contains("s3cret"), "{args:?} told a secret: {}", run.said());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_has_no_side_effects() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    // What is missing may be told as a failure, but must not be made.
    rig.cli(&["check"]).await;
    let mut pg = rig.pg().await;
    assert_eq!(pg.int("SELECT count(*) FROM pg_class WHERE relname = 'events'").await, 0);
    let amqp = rig.amqp().await;
    assert!(amqp.ready(rig.queue()).await.is_err(), "a check declared the queue");
    assert!(!amqp.exchange_exists(rig.exchange()).await, "a check declared the exchange");
    let keys = rig.redis().await.texts(&["KEYS", &format!("{}*", rig.prefix())]).await;
    assert_eq!(keys, Ok(vec![]), "a check wrote to Redis");

    rig.cli(&["manage", "migrate"]).await.expect(0);
    rig.cli(&["manage", "topology"]).await.expect(0);
    rig.cli(&["check"]).await.expect(0);
    rig.cli(&["check", "--json"]).await.expect(0).json();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_is_answered() {
    let rig = Rig::new(
        "cities=state+city users=username by_city=username@state+city daily=username/day \
         about=username~",
    )
    .await;
    let mut producer = Producer::new(seed());
    let mut oracle = rig.oracle();
    let people = [("CA", "Fresno", "ann"), ("CA", "Fresno", "b:b"), ("NY", "Albany", "ann")];
    let events: Vec<Value> = people
        .iter()
        .map(|(state, city, username)| {
            producer.event_with(json!({"state": state, "city": city, "username": username}))
        })
        .collect();
    oracle.all_good(&events);
    let worker = rig.worker().await;
    rig.publish(&[Message::array(&events)]).await;
    rig.finish(&oracle, vec![worker]).await;

    let count = async |args: &[&str]| {
        let run = rig.cli(&[&["read", "count"], args].concat()).await.expect(0);
        run.stdout.trim().to_owned()
    };
    assert_eq!(count(&["cities"]).await, "2");
    assert_eq!(count(&["users"]).await, "2");
    assert_eq!(count(&["by_city", "--group", "CA", "Fresno"]).await, "2");
    assert_eq!(count(&["by_city", "--group", "CA", "Nowhere"]).await, "0");
    let run = rig.cli(&["read", "count", "users", "--json"]).await.expect(0);
    assert_eq!(run.json()["cardinality"], 2, "{}", run.stdout);
    let bucket = events[0]["occurred_at"].as_str().unwrap()[..10].to_owned();
    let run = rig.cli(&["read", "count", "daily", "--bucket", &bucket, "--json"]).await.expect(0);
    let wanted = oracle.members(&format!("daily:{bucket}")).len();
    for of in [&["count", "daily"][..], &["contains", "daily", "ann"], &["members", "daily"]] {
        let expired = [&["read"][..], of, &["--bucket", "2020-01-01"]].concat();
        let said = rig.cli(&expired).await.expect(75).said();
        assert!(said.contains("has expired"), "{said}");
    }
    assert_eq!(run.json()["cardinality"], wanted, "{}", run.stdout);
    let run = rig.cli(&["read", "count", "about", "--json"]).await.expect(0);
    assert_eq!(run.json()["approximate"], true, "an estimate says so");

    for (args, answer) in [
        (&["users", "ann"][..], "yes\n"),
        (&["users", "b:b"], "yes\n"),
        (&["users", "nobody"], "no\n"),
        (&["users", "ann", "nobody", "b:b"], "ann\tyes\nnobody\tno\nb%3Ab\tyes\n"),
        (&["cities", "CA:Fresno"], "yes\n"),
        (&["cities", "CA", "Fresno"], "yes\n"),
        (&["cities", "CA", "Albany"], "no\n"),
        (&["by_city", "ann", "--group", "NY", "Albany"], "yes\n"),
        (&["by_city", "b:b", "--group", "NY", "Albany"], "no\n"),
    ] {
        let run = rig.cli(&[&["read", "contains"], args].concat()).await.expect(0);
        assert_eq!(run.stdout, answer, "{args:?}");
    }
    let run = rig.cli(&["read", "contains", "users", "ann", "nobody", "--json"]).await.expect(0);
    let members = json!([
        {"member": "ann", "contained": true},
        {"member": "nobody", "contained": false},
    ]);
    assert_eq!(run.json()["members"], members, "{}", run.stdout);
    for args in [
        &["contains", "no_such_set", "ann"][..],
        &["contains", "by_city", "ann"],
        &["count", "by_city", "--group", "CA"],
        &["count", "users", "--group", "CA"],
        &["count", "users", "--bucket", &bucket],
        &["count", "daily", "--bucket", "noon"],
    ] {
        rig.cli(&[&["read"], args].concat()).await.expect(64);
    }
    let run = rig.cli(&["read", "members", "cities"]).await.expect(0);
    let mut members: Vec<&str> = run.stdout.lines().collect();
    members.sort();
    assert_eq!(members, ["CA:Fresno", "NY:Albany"]);
    let run = rig.cli(&["read", "members", "users", "--limit", "1"]).await.expect(0);
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
    let run = rig.cli(&["read", "list", "--json"]).await.expect(0);
    run.json();
    for set in ["cities", "users", "by_city", "daily", "about"] {
        assert!(run.stdout.contains(set), "{set} is not in {}", run.stdout);
    }
}

/// An emptied Redis says "not a member" to everything; a reader must be told *unknown*,
/// by the exit code as well: 75, which is neither yes nor no.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_answers_unknown() {
    let rig = Rig::new(DEFAULT_SETS).await;
    for args in [
        &["read", "count", "users"][..],
        &["read", "contains", "users", "ann"],
        &["read", "count", "users", "--json"],
    ] {
        let run = rig.cli(args).await.expect(75);
        assert!(run.said().contains("unknown"), "{args:?}: {}", run.said());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_can_ask_whether_its_worker_is_well() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let worker = rig.worker().await;
    let addr = worker.addr.to_string();
    let ops = [(names::OPS_ADDR, addr.as_str())];
    rig.cli_with_env(&["healthcheck"], &ops).await.expect(0);
    rig.cli_with_env(&["healthcheck", "--ready"], &ops).await.expect(0);
    Worker::terminate(worker).await;
    let run = rig.cli_with_env(&["healthcheck"], &ops).await;
    assert_ne!(run.code, Some(0), "nobody is there: {}", run.said());
}

/// Sample events, with duplicates and bad ones, and a summary that adds up with what arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_says_what_it_published() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let worker = rig.worker().await;
    for (per_message, seed) in [("1", "7"), ("25", "8")] {
        let run = rig
            .cli(&[
                "publish",
                "--count",
                "2000",
                "--duplicates",
                "10",
                "--bad",
                "5",
                "--seed",
                seed,
                "--events-per-message",
                per_message,
                "--json",
            ])
            .await
            .expect(0);
        let said = run.json();
        let number = |name: &str| {
            said[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {said}"))
        };
        assert_eq!(said["complete"], true, "{said}");
        let good = number("good");
        assert_eq!(good + number("duplicates") + number("bad"), 2000, "{said}");
        assert_eq!(number("confirmed"), 2000, "{said}");
        assert!((1500..1900).contains(&good), "{said}");
        let (mut pg, amqp) = (rig.pg().await, rig.amqp().await);
        crate::harness::eventually(crate::harness::LONG, "the sample to arrive", async || {
            let stored = pg.events().await?;
            let dead = amqp.ready(rig.dead_letters_queue()).await?;
            match stored == good as i64 && u64::from(dead) == number("bad") {
                true => Ok(()),
                false => Err(format!("{stored} stored and {dead} dead for {said}")),
            }
        })
        .await;
        worker.assert_books_balance().await;
        pg.run("TRUNCATE events").await;
        rig.cli(&["dead-letters", "purge", "--all", "--yes"]).await.expect(0);
    }
    worker.terminate().await;
}

/// The lines of a file or of standard input, as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_sends_the_lines_it_is_given() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let (one, two) = (producer.events(20), producer.events(33));
    oracle.all_good(&one);
    oracle.all_good(&two);
    oracle.bad("json", "not an event");
    let text =
        |events: &[Value]| -> String { events.iter().map(|event| format!("{event}\n")).collect() };
    let path = rig.file("events.ndjson", (text(&one) + "\n").as_bytes());
    let worker = rig.worker().await;
    rig.cli(&["publish", "--file", &path]).await.expect(0);
    let lines = text(&two) + "not an event";
    let args = ["publish", "--file", "-", "--events-per-message", "10", "--json"];
    let run = rig.cli_with_stdin(&args, lines.as_bytes()).await.expect(0);
    assert_eq!(run.json()["confirmed"], 34, "{}", run.stdout);
    rig.finish(&oracle, vec![worker]).await;
    rig.cli(&["publish", "--file", "/no/such/file"]).await.expect(1);
}

/// Nobody is bound to the exchange: a publish that would vanish fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_reaches_no_queue_fails() {
    let rig = Rig::new(DEFAULT_SETS).await;
    rig.amqp().await.delete_queue(rig.queue()).await;
    let run = rig.cli(&["publish", "--count", "3"]).await;
    assert!(matches!(run.code, Some(1 | 64)), "{:?}: {}", run.code, run.said());
}
