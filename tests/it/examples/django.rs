//! The Django application: a row and its event in one transaction, an outbox that is published,
//! counts that come from Redis.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::{
    DEFAULT_SETS, Env, LONG, Language, Oracle, Pg, Rig, Rng, Running, eventually, names, seed,
    with_database,
};

const MANAGE: &str = "examples/django/manage.py";

/// The application, in a database of its own.
pub struct App {
    pub env: Env,
    pub pg: Pg,
}

impl App {
    /// Nothing in it yet.
    pub async fn new(rig: &Rig) -> App {
        let name = format!("{}_app", rig.prefix());
        let mut admin = Pg::connect(&rig.servers().database_url).await.unwrap();
        admin.run(&format!("DROP DATABASE IF EXISTS {name}")).await;
        admin.run(&format!("CREATE DATABASE {name}")).await;
        let url = with_database(&rig.servers().database_url, &name);
        let mut env = rig.env.clone();
        env.insert("DATABASE_URL".to_owned(), url.clone());
        // What it says is read while it runs.
        env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
        App { env, pg: Pg::connect(&url).await.unwrap() }
    }

    pub fn manage(&self, rig: &Rig, args: &[&str]) -> Running {
        let args = [&[MANAGE], args].concat();
        rig.begin_program_with(Language::Python, &args, b"", &self.env)
    }

    pub async fn outbox(&mut self) -> i64 {
        self.pg.int("SELECT count(*) FROM messages_outboxevent").await
    }

    async fn serve(&self, rig: &Rig) -> Server {
        let running = self.manage(rig, &["runserver", "--noreload", "127.0.0.1:0"]);
        let addr = eventually(LONG, "the application to listen", async || {
            let (out, err) = running.said();
            let addr =
                out.split("http://127.0.0.1:").nth(1).and_then(|rest| rest.split('/').next());
            match addr.and_then(|port| port.parse::<u16>().ok()) {
                Some(port) if port > 0 => Ok(SocketAddr::from(([127, 0, 0, 1], port))),
                _ => Err(format!("it says {out}{err}")),
            }
        })
        .await;
        Server { _running: running, addr }
    }
}

struct Server {
    _running: Running,
    addr: SocketAddr,
}

impl Server {
    async fn post(&self, fields: &[(&str, &str)]) -> u16 {
        let form: Vec<String> = fields.iter().map(|(n, v)| format!("{n}={}", escaped(v))).collect();
        self.http("/messages", &form.join("&")).await.0
    }

    async fn counts(&self) -> (u16, Value) {
        self.http("/counts", "").await
    }

    async fn http(&self, path: &str, form: &str) -> (u16, Value) {
        let reply = match form {
            "" => crate::harness::http::get(self.addr, path).await,
            form => crate::harness::http::post_form(self.addr, path, form).await,
        };
        let reply = reply.unwrap();
        let body = serde_json::from_str(&reply.body);
        (reply.status, body.unwrap_or_else(|_| panic!("{path}: {}: {}", reply.status, reply.body)))
    }
}

/// Every byte as %XX: right, whatever it is.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// What the business table holds must be what arrives.
async fn expect(oracle: &mut Oracle, app: &mut App) {
    let rows = app.pg.texts("SELECT to_jsonb(m)::text FROM messages_message m").await;
    for row in rows {
        let row: Value = serde_json::from_str(&row).unwrap();
        let fields = json!({
            "state": row["state"], "city": row["city"], "username": row["username"],
        });
        oracle.adds(row["created_at"].as_str().unwrap(), &fields);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_counts_each_message_once_and_says_when_it_does_not_know() {
    let mut rng = Rng(seed());
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let mut app = App::new(&rig).await;
    app.manage(&rig, &["migrate", "-v0"]).end().await.expect(0);
    let drift = app.manage(&rig, &["makemigrations", "--check", "--dry-run"]).end().await;
    drift.expect(0);
    let server = app.serve(&rig).await;
    assert_eq!(server.counts().await, (503, json!({"error": "unknown"})), "nothing runs yet");

    let worker = rig.worker().await;
    let zero = json!({"cities": 0, "users": 0, "fresh": true});
    assert_eq!(server.counts().await, (200, zero));
    let proxy = rig.proxy("AMQP_URL").await;
    app.env.insert("AMQP_URL".to_owned(), rig.amqp_url().to_owned());
    proxy.lose_replies_to(["user 7".to_owned(), "user 7".to_owned()]);
    let relay = app.manage(&rig, &["publish_outbox"]);
    let cities = ["Fresno", "Åre & Co", "a:b", "100%"];
    for n in 0..25 {
        let user = format!("user {}", n % 10);
        let fields =
            [("state", "CA"), ("city", *rng.pick(&cities)), ("username", &user), ("text", "é")];
        assert_eq!(server.post(&fields).await, 201);
    }
    // An administrator, a failover: the relay goes on by itself.
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    app.pg.run(cut).await;
    assert_eq!(server.post(&[("state", "CA"), ("city", "Fresno")]).await, 400);
    let long = "x".repeat(65);
    let long = [("state", &*long), ("city", "Fresno"), ("username", "ann"), ("text", "t")];
    assert_eq!(server.post(&long).await, 400);
    // Each of its characters is six bytes of JSON.
    let large = "é".repeat(200_000);
    let large = [("state", "CA"), ("city", "Fresno"), ("username", "ann"), ("text", &*large)];
    assert_eq!(server.post(&large).await, 413);
    let nul = [("state", "CA"), ("city", "Fresno"), ("username", "a\0b"), ("text", "t")];
    assert_eq!(server.post(&nul).await, 400);
    eventually(LONG, "the outbox to be published", async || match app.outbox().await {
        0 => Ok(()),
        n => Err(format!("{n} are left; the relay says {:?}", relay.said())),
    })
    .await;
    assert_eq!(proxy.replies_lost(), 2);
    relay.signal("TERM");
    relay.end().await.expect(0);

    let mut oracle = rig.oracle();
    expect(&mut oracle, &mut app).await;
    let mut pg = rig.pg().await;
    eventually(LONG, "each message to be stored", async || match pg.events().await? {
        25 => Ok(()),
        n => Err(format!("{n} of 25 are")),
    })
    .await;
    worker.assert_books_balance().await;
    let duplicates = worker.metrics().await.unwrap().sum(names::DUPLICATES);
    assert!(duplicates >= 2.0, "{duplicates} duplicates: no retry was confirmed twice");
    let (users, cities) = (oracle.members("users").len(), oracle.members("cities").len());
    let counted = json!({"cities": cities, "users": users, "fresh": true});
    assert_eq!(server.counts().await, (200, counted));
    worker.terminate().await;
    rig.assert_sets(&oracle).await;
    assert_eq!(rig.dead_letters().await.len(), 0);

    let mut redis = rig.redis().await;
    for key in redis.texts(&["KEYS", &format!("{}:*", rig.prefix())]).await.unwrap() {
        redis.int(&["DEL", &key]).await;
    }
    assert_eq!(server.counts().await, (503, json!({"error": "unknown"})));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_queue_takes_stays_in_the_outbox() {
    let rig = Rig::new(DEFAULT_SETS).await;
    rig.amqp().await.delete_queue(rig.queue()).await;
    let mut app = App::new(&rig).await;
    app.manage(&rig, &["migrate", "-v0"]).end().await.expect(0);
    app.pg.run("INSERT INTO messages_outboxevent (body) VALUES ('{}')").await;
    let run = app.manage(&rig, &["publish_outbox"]).end().await.expect(1);
    assert!(run.stderr.contains("unroutable"), "{}", run.stderr);
    assert_eq!(app.outbox().await, 1);
}

/// What RabbitMQ will never take holds up nothing: those before it are sent once, those behind it
/// are sent, and it stays, with the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_broker_refuses_is_set_aside() {
    let rig = Rig::breakable(DEFAULT_SETS).await;
    // No other test has this broker afterwards.
    rig.spoil();
    // RabbitMQ 3.10 looks here, and 4.0 there.
    let takes = |bytes: u32| {
        let here = format!("application:set_env(rabbit, max_message_size, {bytes})");
        let there = format!("persistent_term:put(max_message_size, {bytes})");
        rig.rabbitmqctl(&["eval", &format!("{here}, {there}.")]);
    };
    takes(4096);
    let mut app = App::new(&rig).await;
    app.manage(&rig, &["migrate", "-v0"]).end().await.expect(0);
    app.pg
        .run(
            "INSERT INTO messages_outboxevent (body)
             SELECT jsonb_build_object('n', n, 'text', repeat('x', CASE WHEN n IN (11, 15) THEN 5000
                                                                    ELSE 10 END))::text
             FROM generate_series(1, 20) n",
        )
        .await;
    let run = app.manage(&rig, &["publish_outbox", "--once"]).end().await.expect(0);
    for id in [11, 15] {
        let told = format!("outbox row {id} is set aside");
        assert_eq!(run.stderr.matches(&told).count(), 1, "{}", run.stderr);
    }
    let aside = "SELECT id::text || refused FROM messages_outboxevent ORDER BY id";
    let aside = app.pg.texts(aside).await;
    assert_eq!(aside.len(), 2, "{aside:?}");
    assert!(aside[0].starts_with("11406") && aside[1].starts_with("15406"), "{aside:?}");
    let bodies = rig.amqp().await.peek(rig.queue()).await;
    let numbers: Vec<Value> = bodies
        .iter()
        .map(|message| serde_json::from_slice::<Value>(&message.body).unwrap()["n"].take())
        .collect();
    let sent: Vec<Value> = (1..=20).filter(|n| ![11, 15].contains(n)).map(Value::from).collect();
    assert_eq!(numbers, sent, "each once, and in their order");
    // Once the broker takes more, a person lets it go.
    takes(1 << 24);
    app.pg.run("UPDATE messages_outboxevent SET refused = ''").await;
    app.manage(&rig, &["publish_outbox", "--once"]).end().await.expect(0);
    assert_eq!(app.outbox().await, 0);
}

/// What the URL says after its `?` counts: no password goes over a link that should be encrypted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_takes_the_whole_of_its_database_url() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    let mut app = App::new(&rig).await;
    let url = app.env["DATABASE_URL"].clone();
    let (place, _) = url.split_once('?').unwrap_or((&url, ""));
    for (query, code) in [("application_name=a%20shop", 0), ("sslmode=require", 1)] {
        app.env.insert("DATABASE_URL".to_owned(), format!("{place}?{query}"));
        let run = app.manage(&rig, &["migrate", "-v0"]).end().await.expect(code);
        assert_eq!(run.stderr.contains("SSL"), code == 1, "{}", run.stderr);
    }
}

/// The event is there if and only if the row is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_rolled_back_publishes_nothing() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    let mut app = App::new(&rig).await;
    app.manage(&rig, &["migrate", "-v0"]).end().await.expect(0);
    let post = |after: &str| {
        format!(
            "from django.db import transaction
from messages import models
try:
    with transaction.atomic():
        models.post('CA', 'Fresno', 'ann', 'hello')
        {after}
except ZeroDivisionError:
    pass
"
        )
    };
    for (after, rows) in [("1 / 0", 0), ("pass", 1)] {
        app.manage(&rig, &["shell", "-v0", "-c", &post(after)]).end().await.expect(0);
        assert_eq!(app.outbox().await, rows);
        assert_eq!(app.pg.int("SELECT count(*) FROM messages_message").await, rows);
    }
    // A table that refuses the event refuses the message with it, where nobody else began a
    // transaction.
    app.pg.run("ALTER TABLE messages_outboxevent ADD CHECK (false) NOT VALID").await;
    let alone = "from messages import models\nmodels.post('CA', 'Fresno', 'ann', 'hello')";
    let run = app.manage(&rig, &["shell", "-v0", "-c", alone]).end().await;
    assert_ne!(run.code, Some(0));
    assert_eq!(app.pg.int("SELECT count(*) FROM messages_message").await, 1);
}
