//! Passwords in files: one that is replaced counts from the next connection on, without a restart,
//! and a file that is of no use says why and shows nothing.

use std::fs;

use crate::harness::{DEFAULT_SETS, LONG, Producer, Rig, Worker, eventually, seed};

const VARIABLES: [&str; 3] = ["AMQP_URL", "DATABASE_URL", "REDIS_URL"];

/// Users of this test's own on all three servers, with this password.
async fn set_password(rig: &Rig, password: &str) {
    let user = rig.prefix();
    let known = rig.rabbitmqctl(&["-q", "list_users"]).lines().any(|line| line.starts_with(user));
    let (verb, create) = match known {
        true => ("change_password", "ALTER"),
        false => ("add_user", "CREATE"),
    };
    rig.rabbitmqctl(&["-q", verb, user, password]);
    rig.rabbitmqctl(&["-q", "set_permissions", user, ".*", ".*", ".*"]);
    let role = format!("{create} ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'");
    rig.pg().await.run(&role).await;
    let rule = format!(">{password}");
    let mut redis = rig.redis().await;
    redis.ask(&["ACL", "SETUSER", user, "reset", "on", &rule, "~*", "&*", "+@all"]).await.unwrap();
}

/// What each URL is for that user.
fn url(rig: &Rig, variable: &str, password: &str) -> String {
    let (scheme, rest) = rig.env[variable].split_once("://").expect("a url");
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    format!("{scheme}://{}:{password}@{place}", rig.prefix())
}

/// Replaced as whoever mounts secrets does it: at once, never half-written.
fn write_files(rig: &Rig, password: &str) {
    for variable in VARIABLES {
        let written = rig.file("secret.new", url(rig, variable, password).as_bytes());
        fs::rename(written, rig.dir.join(variable)).expect("the test's folder can be written");
    }
}

/// Every connection of that user ends.
async fn cut_all(rig: &Rig) {
    rig.rabbitmqctl(&["eval", "rabbit_networking:close_all_connections(<<\"bye\">>)."]);
    let user = rig.prefix();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename";
    rig.pg().await.run(&format!("{end} = '{user}'")).await;
    rig.redis().await.ask(&["CLIENT", "KILL", "USER", user]).await.unwrap();
}

async fn worker_with_files(rig: &Rig) -> Worker {
    let mut env = rig.env.clone();
    for variable in VARIABLES {
        env.remove(variable);
        let file = rig.dir.join(variable).display().to_string();
        env.insert(format!("{variable}_FILE"), file);
    }
    Worker::start(&rig.dir, &env).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_was_replaced_counts_from_the_next_connection() {
    let rig = Rig::breakable(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    set_password(&rig, "c4n4ry-first").await;
    write_files(&rig, "c4n4ry-first");
    let worker = worker_with_files(&rig).await;
    worker.wait_ready().await;

    for password in ["c4n4ry-second", "c4n4ry-third"] {
        // Before the file: for a while the worker has the wrong one, and goes on trying.
        set_password(&rig, password).await;
        cut_all(&rig).await;
        worker.wait_not_ready().await;
        write_files(&rig, password);
        worker.wait_ready().await;
        let events = producer.events(20);
        oracle.all_good(&events);
        rig.publish_events(&events).await;
        rig.wait_arrived(&oracle).await;
    }
    // Both may be right for a while: it is the new one that a new connection logs in with.
    let (old, new) = (rig.prefix().to_owned(), format!("{}-next", rig.prefix()));
    let mut redis = rig.redis().await;
    let rule = ["reset", "on", ">c4n4ry-third", "~*", "&*", "+@all"];
    redis.ask(&[&["ACL", "SETUSER", &new][..], &rule].concat()).await.unwrap();
    let next = url(&rig, "REDIS_URL", "c4n4ry-third").replace(&old, &new);
    rig.file("REDIS_URL", next.as_bytes());
    redis.ask(&["CLIENT", "KILL", "USER", &old]).await.unwrap();
    eventually(LONG, "the new user to log in", async || {
        let clients = redis.ask(&["CLIENT", "LIST"]).await?.into_text();
        let of = |user: &str| clients.contains(&format!("user={user} "));
        if of(&new) && !of(&old) { Ok(()) } else { Err(clients) }
    })
    .await;
    worker.wait_ready().await;
    write_files(&rig, "c4n4ry-third");

    // What is no URL at all is told, by its file's name.
    for variable in VARIABLES {
        rig.file(variable, b"amqp:/c4n4ry-broken");
    }
    cut_all(&rig).await;
    eventually(LONG, "the file to be told", async || {
        let ready = worker.get("/readyz").await?;
        let told = ready.status == 503 && ready.body.contains("is of no use");
        if told { Ok(()) } else { Err(ready.body) }
    })
    .await;
    write_files(&rig, "c4n4ry-third");
    worker.wait_ready().await;
    let log = worker.log();
    assert!(!log.contains("c4n4ry"), "{log}");
    rig.finish(&oracle, vec![worker]).await;
}
