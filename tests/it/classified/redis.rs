//! Redis says no.

use std::process::{Child, Command, Stdio};

use super::{Scene, Told};
use crate::harness::{DEFAULT_SETS, LONG, Redis, Rig, Server, eventually, names};

struct Trouble {
    name: &'static str,
    says: &'static [&'static str],
    needs_hand: bool,
    breaks: &'static [&'static [&'static str]],
    mends: &'static [&'static [&'static str]],
}

const CUT: &[&str] = &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];

const TROUBLES: &[Trouble] = &[
    Trouble {
        name: "a replica",
        says: &["READONLY"],
        needs_hand: false,
        breaks: &[&["REPLICAOF", "127.0.0.1", "1"]],
        mends: &[&["REPLICAOF", "NO", "ONE"]],
    },
    Trouble {
        name: "out of memory",
        says: &["OOM"],
        needs_hand: false,
        breaks: &[&["CONFIG", "SET", "maxmemory", "1"]],
        mends: &[&["CONFIG", "SET", "maxmemory", "0"]],
    },
    Trouble {
        name: "too few replicas",
        says: &["NOREPLICAS"],
        needs_hand: false,
        breaks: &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
        mends: &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
    },
    Trouble {
        name: "a password that the worker does not have",
        says: &["NOAUTH"],
        needs_hand: true,
        breaks: &[&["CONFIG", "SET", "requirepass", "secret"], CUT],
        mends: &[&["CONFIG", "SET", "requirepass", ""]],
    },
];

/// The same for a worker that logs in as a user of its own.
const TROUBLES_OF_A_USER: &[Trouble] = &[
    Trouble {
        name: "a wrong password",
        says: &["WRONGPASS"],
        needs_hand: true,
        breaks: &[&["ACL", "SETUSER", "it", "resetpass", ">other"], CUT],
        mends: &[&["ACL", "SETUSER", "it", ">right"]],
    },
    Trouble {
        name: "a command that the user may not use",
        says: &["NOPERM"],
        needs_hand: true,
        breaks: &[&["ACL", "SETUSER", "it", "-sadd"]],
        mends: &[&["ACL", "SETUSER", "it", "+sadd"]],
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_redis_says_is_waited_out() {
    let mut scene = scene().await;
    let mut redis = scene.rig.redis().await;
    redis.ask(&["ACL", "SETUSER", "it", "on", ">right", "~*", "&*", "+@all"]).await.unwrap();
    for trouble in TROUBLES {
        wait_out(&mut scene, &mut redis, trouble).await;
    }
    failed_snapshot(&mut scene, &mut redis).await;
    loading(&mut scene, &mut redis).await;
    scene.assert_nothing_returned().await;

    let url = scene.rig.env["REDIS_URL"].clone();
    scene.rig.set("REDIS_URL", &url.replace("redis://", "redis://it:right@"));
    let mut scene = scene.replace_worker().await;
    for trouble in TROUBLES_OF_A_USER {
        wait_out(&mut scene, &mut redis, trouble).await;
    }
    scene.assert_nothing_returned().await;
    // The oracle reads without a user.
    scene.rig.set("REDIS_URL", &url);
    scene.finish().await;
    redis.ask(&["ACL", "DELUSER", "it"]).await.unwrap();
}

async fn wait_out(scene: &mut Scene, redis: &mut Redis, trouble: &Trouble) {
    let said = scene.worker.log().len();
    for command in trouble.breaks {
        redis.ask(command).await.unwrap();
    }
    let told = Told { dependency: "redis", says: trouble.says, needs_hand: trouble.needs_hand };
    scene.endure(trouble.name, told, said).await;
    for command in trouble.mends {
        redis.ask(command).await.unwrap();
    }
    scene.recover(trouble.name).await;
}

/// A snapshot that cannot be written: MISCONF until one can.
async fn failed_snapshot(scene: &mut Scene, redis: &mut Redis) {
    let said = scene.worker.log().len();
    let in_the_way = scene.rig.servers().folder(Server::Redis).join("dump.rdb");
    std::fs::create_dir(&in_the_way).expect("the servers' folder can be written");
    redis.ask(&["CONFIG", "SET", "save", "3600 1"]).await.unwrap();
    save(redis, "err").await;
    let told = Told { dependency: "redis", says: &["MISCONF"], needs_hand: false };
    scene.endure("a snapshot that fails", told, said).await;
    std::fs::remove_dir(&in_the_way).expect("made above");
    save(redis, "ok").await;
    redis.ask(&["CONFIG", "SET", "save", ""]).await.unwrap();
    scene.recover("a snapshot that fails").await;
}

async fn save(redis: &mut Redis, wanted: &str) {
    redis.ask(&["BGSAVE"]).await.unwrap();
    eventually(LONG, "the snapshot to end", async || {
        let info = redis.ask(&["INFO", "persistence"]).await?.into_text();
        match info.contains(&format!("rdb_last_bgsave_status:{wanted}")) {
            true => Ok(()),
            false => Err(info),
        }
    })
    .await;
}

/// A Redis that reads its data set says LOADING until it has. It is made to read a copy of what it
/// holds, and much more, slowly.
async fn loading(scene: &mut Scene, redis: &mut Redis) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = port.expect("a free port").port().to_string();
    let folder = scene.rig.file("empty", b"");
    let folder = std::path::Path::new(&folder).parent().expect("a file lies in a folder");
    let other = Command::new("redis-server")
        .args(["--port", &port, "--save", "", "--bind", "127.0.0.1"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn();
    let _other = Ended(other.expect("redis-server runs"));
    let url = format!("redis://127.0.0.1:{port}");
    let mut other = eventually(LONG, "another redis", async || {
        let mut other = Redis::connect(&url).await?;
        other.ask(&["PING"]).await.map(|_| other)
    })
    .await;
    let ours = format!("{}:*", scene.rig.prefix());
    for key in redis.texts(&["KEYS", &ours]).await.unwrap() {
        let hash = names::is_reserved(&key);
        let (read, write) = if hash { ("HGETALL", "HSET") } else { ("SMEMBERS", "SADD") };
        let all = redis.in_order(&[read, &key]).await.unwrap();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        other.int(&[&[write, key.as_str()], &all[..]].concat()).await;
    }
    const FILLER: u32 = 2_000;
    for n in 0..FILLER {
        other.ask(&["SET", &format!("filler:{n}"), "x"]).await.unwrap();
    }
    // Microseconds a key, and how often it looks up meanwhile: some 16 s in all.
    redis.ask(&["CONFIG", "SET", "key-load-delay", "8000"]).await.unwrap();
    redis.ask(&["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]).await.unwrap();
    let said = scene.worker.log().len();
    redis.ask(&["REPLICAOF", "127.0.0.1", &port]).await.unwrap();
    eventually(LONG, "redis to load", async || match redis.ask(&["GET", "filler:0"]).await {
        Err(error) if error.contains("LOADING") => Ok(()),
        other => Err(format!("it answers {other:?}")),
    })
    .await;
    let told = Told { dependency: "redis", says: &["LOADING"], needs_hand: false };
    scene.endure("a data set that is read", told, said).await;
    eventually(LONG, "redis to have loaded", async || redis.ask(&["GET", "filler:0"]).await).await;
    redis.ask(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    redis.ask(&["CONFIG", "SET", "key-load-delay", "0"]).await.unwrap();
    for n in 0..FILLER {
        redis.int(&["DEL", &format!("filler:{n}")]).await;
    }
    scene.recover("a data set that is read").await;
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Fails only for a child that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn scene() -> Scene {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    rig.set(names::REDIS_TIMEOUT_MS, "1000");
    Scene::new(rig).await
}
