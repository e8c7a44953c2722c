//! `rollcall manage access`: what it prints is enough for everything, and for nothing else.

use std::collections::BTreeMap;

use crate::harness::{Act, Amqp, Pg, Producer, Redis, Reply, Rig, SHORT, eventually, names, seed};

const SETS: &str = "cities=state+city users=username about=username~ daily=username/day \
                    users_by_city=username@state+city";

/// Every role logs in as what was printed for it: from the first migration to the last repair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_pipeline_runs_under_the_users_that_are_printed() {
    let mut rig = Rig::bare(SETS).await;
    rig.set("ROLLCALL_RETENTION_DAYS", "1000");
    rig.set(names::EVENT_AGE_MAX_DAYS, "900");
    for server in ["rabbitmq", "redis", "postgres"] {
        rig.make_users(server).await;
    }
    let manager = all_urls(&rig, "manager");
    let topology = [("AMQP_URL", rig.url_of("AMQP_URL", "topology"))].into();
    run(&rig, &manager, &["manage", "migrate"]).await;
    run(&rig, &topology, &["manage", "topology"]).await;
    for (variable, url) in all_urls(&rig, "worker") {
        rig.worker_env.insert(variable.to_owned(), url);
    }

    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let events = producer.events(60);
    oracle.all_good(&events);
    let lines: Vec<String> = events.iter().map(|event| event.to_string()).collect();
    let good = rig.file("good.ndjson", lines.join("\n").as_bytes());
    let bad = rig.file("bad.ndjson", b"{\n");
    oracle.bad("json", "{");
    let publisher = [("AMQP_URL", rig.url_of("AMQP_URL", "producer"))].into();
    run(&rig, &publisher, &["publish", "--file", &good]).await;
    run(&rig, &publisher, &["publish", "--file", &bad]).await;
    rig.wait_arrived(&oracle).await;

    let mut redis = rig.redis().await;
    drift(&rig, &mut redis).await;
    let verify = ["manage", "verify", "--repair"];
    rig.cli_with_env(&verify, &borrowed(&manager)).await.expect(1);
    for command in COMMANDS {
        run(&rig, &manager, command).await;
    }
    let reader = [("REDIS_URL", rig.url_of("REDIS_URL", "reader"))].into();
    for command in QUESTIONS {
        run(&rig, &reader, command).await;
    }

    // And the worker, which mends what it finds gone.
    empty(&rig, &mut redis).await;
    let meta = format!("{}:meta", rig.prefix());
    let fresh = Reply::Text("fresh".to_owned());
    eventually(SHORT * 2, "the worker to make the sets anew", async || {
        match redis.ask(&["HMGET", &meta, "generation", "state"]).await? {
            Reply::List(said) if said[0] != Reply::Nil && said[1] == fresh => Ok(()),
            other => Err(format!("meta says {other:?}")),
        }
    })
    .await;
    assert_eq!(
        worker.complaints(&["NOPERM", "permission", "ACCESS_REFUSED"]),
        Vec::<String>::new()
    );
    assert_rabbitmq(&rig).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Of a server that a Sentinel names, the client asks first whether it is the one to write to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_users_of_redis_come_in_through_sentinel() {
    let mut rig = Rig::breakable(SETS).await;
    let _replicas = rig.add_redis_replicas(1).await;
    let sentinels = rig.add_sentinels(1).await;
    rig.make_users("redis").await;
    let told = rig.cli(&["manage", "access", "--print", "redis"]).await.expect(0).stdout;
    let rule = told.lines().find_map(|line| line.split_once("'>PASSWORD' ")).expect("a rule").1;
    for role in ["worker", "reader"] {
        sentinels.admit(&rig.role(role), role, &rule.replace('\'', "")).await;
    }
    rig.set("REDIS_URL", &sentinels.url);
    let worker_url = rig.url_of("REDIS_URL", "worker");
    rig.worker_env.insert("REDIS_URL".to_owned(), worker_url);
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut Producer::new(seed())).await;
    let reader = [("REDIS_URL", rig.url_of("REDIS_URL", "reader"))].into();
    run(&rig, &reader, &["read", "count", "users"]).await;
    run(&rig, &reader, &["top", "--once"]).await;
    worker.terminate().await;
}

const COMMANDS: [&[&str]; 16] = [
    &["manage", "verify"],
    &["manage", "verify", "--sample", "50"],
    &["manage", "rebuild"],
    &["manage", "rebuild", "users"],
    &["manage", "catch-up"],
    &["manage", "prune"],
    &["manage", "partitions"],
    &["manage", "index"],
    &["manage", "retention"],
    &["manage", "forget", "username=nobody"],
    &["manage", "status"],
    &["check"],
    &["dead-letters", "count"],
    &["dead-letters", "list"],
    &["dead-letters", "replay", "--reason", "json"],
    &["read", "list"],
];

const QUESTIONS: [&[&str]; 6] = [
    &["read", "list"],
    &["read", "count", "cities"],
    &["read", "count", "about"],
    &["read", "contains", "users", "ann"],
    &["read", "members", "users"],
    &["read", "members", "users_by_city", "--group", "CA", "Fresno"],
];

fn all_urls(rig: &Rig, role: &str) -> BTreeMap<&'static str, String> {
    ["AMQP_URL", "DATABASE_URL", "REDIS_URL"].map(|url| (url, rig.url_of(url, role))).into()
}

fn borrowed<'a>(urls: &'a BTreeMap<&'static str, String>) -> Vec<(&'a str, &'a str)> {
    urls.iter().map(|(variable, url)| (*variable, url.as_str())).collect()
}

/// With no other login than these.
async fn run(rig: &Rig, urls: &BTreeMap<&'static str, String>, args: &[&str]) {
    let mut changes = vec![("AMQP_URL", ""), ("DATABASE_URL", ""), ("REDIS_URL", "")];
    changes.extend(borrowed(urls));
    let ran = rig.cli_with_env(args, &changes).await;
    assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.said());
    assert!(!ran.said().contains("NOPERM"), "{args:?}: {}", ran.said());
}

/// Of every kind that `verify --repair` mends.
async fn drift(rig: &Rig, redis: &mut Redis) {
    let key = |name: &str| format!("{}:{name}", rig.prefix());
    redis.int(&["SADD", &key("users"), "phantom"]).await;
    redis.ask(&["SPOP", &key("cities")]).await.unwrap();
    redis.int(&["EXPIRE", &key("users"), "100000"]).await;
    redis.int(&["DEL", &key("about")]).await;
    redis.int(&["RPUSH", &key("about"), "of another type"]).await;
}

async fn empty(rig: &Rig, redis: &mut Redis) {
    let keys = redis.texts(&["KEYS", &format!("{}:*", rig.prefix())]).await.unwrap();
    let mut unlink = vec!["UNLINK"];
    unlink.extend(keys.iter().map(String::as_str));
    redis.int(&unlink).await;
}

const REFUSED: u16 = 403;

/// Both ways: refusals alone would be passed by a user that can do nothing at all.
async fn assert_rabbitmq(rig: &Rig) {
    let (exchange, queue, dead) = (rig.exchange(), rig.queue(), rig.dead_letters_queue());
    let other = format!("{}.other", rig.prefix());
    let other = other.as_str();
    let cases: [(&str, &[(bool, Act<'_>)]); 4] = [
        (
            "producer",
            &[
                (false, Act::Publish(dead)),
                (false, Act::Publish("amq.topic")),
                (false, Act::Get(queue)),
                (false, Act::Purge(queue)),
                (false, Act::Get(dead)),
                (false, Act::Declare(other)),
                (false, Act::Delete(queue)),
                (false, Act::DeleteExchange(exchange)),
            ],
        ),
        (
            "worker",
            &[
                (true, Act::Get(queue)),
                (false, Act::Publish(exchange)),
                (false, Act::Get(dead)),
                (false, Act::Purge(dead)),
                (false, Act::Declare(other)),
                (false, Act::Delete(queue)),
                (false, Act::Bind(queue, "amq.topic")),
            ],
        ),
        (
            "manager",
            &[
                (true, Act::Get(dead)),
                (false, Act::Get(queue)),
                (false, Act::Purge(queue)),
                (false, Act::Publish(dead)),
                (false, Act::Delete(dead)),
                (false, Act::DeleteExchange(exchange)),
            ],
        ),
        (
            "topology",
            &[
                (true, Act::Bind(queue, exchange)),
                (false, Act::Publish(exchange)),
                (false, Act::Declare(other)),
                (false, Act::Bind(queue, "amq.topic")),
            ],
        ),
    ];
    for (role, acts) in cases {
        let amqp = Amqp::connect(&rig.url_of("AMQP_URL", role)).await.unwrap();
        for (allowed, act) in acts {
            let wanted = (!allowed).then_some(REFUSED);
            assert_eq!(amqp.refusal(*act).await, wanted, "{role}: {act:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_of_redis_does_not_need_is_refused() {
    let rig = Rig::bare(SETS).await;
    rig.make_users("redis").await;
    // Again: what a user had is what it has.
    rig.make_users("redis").await;
    let prefix = rig.prefix().to_owned();
    let fill = |text: &str| text.replace("P:", &format!("{prefix}:"));
    for (role, cases) in [("worker", WORKER), ("manager", MANAGER), ("reader", READER)] {
        let mut redis = rig.redis_at(&rig.url_of("REDIS_URL", role)).await;
        for (allowed, command) in NOBODY.iter().chain(cases) {
            let command = fill(command);
            let words: Vec<&str> = command.split('|').collect();
            let refused = match redis.ask(&words).await {
                Ok(_) => false,
                // The last is how Redis 7.0 says it of a script.
                Err(error) => ["NOPERM", "ACL failure", "user executing the script can't"]
                    .iter()
                    .any(|refusal| error.contains(refusal)),
            };
            assert_eq!(refused, !allowed, "{role}: {words:?}");
        }
        // What would harm the neighbours of this test is asked about, and not tried.
        for command in ["FLUSHALL", "FLUSHDB", "SHUTDOWN"] {
            let user = rig.role(role);
            let dry = rig.redis().await.ask(&["ACL", "DRYRUN", &user, command]).await.unwrap();
            let said = dry.into_text();
            assert!(said.contains("no permissions"), "{role}: {command}: {said}");
        }
    }
    let wrong = rig.url_of("REDIS_URL", "reader").replace(":reader@", ":wrong@");
    assert!(Redis::connect(&wrong).await.is_err());
}

type Cases = &'static [(bool, &'static str)];

const NOBODY: Cases = &[
    (true, "PING"),
    (true, "HGET|P:meta|generation"),
    (false, "SWAPDB|14|15"),
    (false, "KEYS|*"),
    (false, "CONFIG|GET|maxmemory-policy"),
    (false, "ACL|LIST"),
    (false, "SHUTDOWN|ABORT"),
    (false, "LATENCY|RESET"),
    (false, "REPLICAOF|NO|ONE"),
    (false, "DEL|P:users"),
    (false, "HGET|other:meta|generation"),
    (false, "SADD|other:users|x"),
    (false, "PUBLISH|channel|x"),
];

const WORKER: Cases = &[
    (true, "SADD|P:users|ann"),
    (true, "PFADD|P:about|ann"),
    (true, "HSET|P:pipeline|x|1"),
    (true, "SET|rebuild:t:{P:}|0"),
    (true, "SADD|rebuild:t:{P:users}|ann"),
    (true, "EVAL|return redis.call('HSET', KEYS[1], 'a', '1')|1|P:wm"),
    (true, "UNLINK|P:users"),
    (false, "SET|P:users|overwritten"),
    (false, "SREM|P:users|ann"),
    (false, "SMEMBERS|P:users"),
    (false, "SADD|rebuild:t:{other:users}|ann"),
    (false, "EVAL|return redis.call('SET', KEYS[1], '1')|1|P:users"),
    (false, "EVAL|return redis.call('SADD', 'other:users', '1')|0"),
];

const MANAGER: Cases = &[
    (true, "SADD|P:users|ann"),
    (true, "SREM|P:users|ann"),
    (true, "SSCAN|P:users|0"),
    (true, "SET|rebuild:t:{P:}|0"),
    (true, "COPY|P:users|P:users2|REPLACE"),
    (true, "DBSIZE"),
    (false, "SET|P:users|overwritten"),
    (false, "SREM|other:users|ann"),
    (false, "RENAME|P:users|other:users"),
    (false, "SUBSCRIBE|channel"),
];

const READER: Cases = &[
    (true, "SCARD|P:users"),
    (true, "SISMEMBER|P:users|ann"),
    (true, "SMISMEMBER|P:users|ann"),
    (true, "SMEMBERS|P:users"),
    (true, "SINTERCARD|2|P:users|P:users2"),
    (true, "PFCOUNT|P:about"),
    (true, "SCAN|0"),
    (true, "HGETALL|P:pipeline"),
    (true, "MULTI"),
    (true, "EXEC"),
    (false, "SADD|P:users|ann"),
    (false, "HSET|P:meta|state|fresh"),
    (false, "EXPIRE|P:users|1"),
    (false, "SINTERSTORE|P:users|P:users|P:users2"),
    (false, "SCARD|other:users"),
    (false, "SMEMBERS|rebuild:t:{P:users}"),
    (false, "EVAL|return redis.call('SADD', KEYS[1], '1')|1|P:users"),
];

/// The roles of `deploy/postgres/roles.sql`, of which `roles.rs` tells more, as this prints them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_roles_of_postgres_are_printed_with_their_passwords_left_out() {
    let rig = Rig::bare(SETS).await;
    rig.make_users("postgres").await;
    let manager = rig.url_of("DATABASE_URL", "manager");
    rig.cli_with_env(&["manage", "migrate"], &[("DATABASE_URL", &manager)]).await.expect(0);
    for (role, allowed, sql) in [
        ("worker", true, "SELECT count(*) FROM events"),
        ("worker", false, "DELETE FROM events"),
        ("worker", false, "TRUNCATE events"),
        ("reader", true, "SELECT count(*) FROM retired_members"),
        ("reader", false, "INSERT INTO rollcall_projection (prefix) VALUES ('p')"),
        ("manager", true, "DELETE FROM events"),
        ("manager", false, "CREATE ROLE mine"),
    ] {
        let mut pg = Pg::connect(&rig.url_of("DATABASE_URL", role)).await.unwrap();
        let wanted = (!allowed).then_some("42501");
        assert_eq!(pg.refusal(sql).await.as_deref(), wanted, "{role}: {sql}");
    }
    let wrong = manager.replace(":manager@", ":wrong@");
    assert!(Pg::connect(&wrong).await.is_err());
    for server in ["rabbitmq", "postgres", "redis"] {
        let args = ["manage", "access", "--print", server];
        let said = rig.cli(&args).await.expect(0).said();
        for url in ["AMQP_URL", "DATABASE_URL", "REDIS_URL"] {
            let login = rig.env[url].split("://").nth(1).and_then(|rest| rest.split_once('@'));
            let password = login.and_then(|(login, _)| login.split_once(':')).map(|(_, p)| p);
            if let Some(password) = password.filter(|password| password.len() > 4) {
                assert!(!said.contains(password), "{server}: the password of {url}");
            }
        }
    }
}
