//! Servers that follow others: a streaming replica of Postgres, replicas of Redis that can be cut
//! off and promoted, and Sentinels. Added to a set that one test has for itself.
//!
//! A cut is never a race: the master first refuses its replicas, and then ends their connections.

use super::pg::Pg;
use super::redis::{Redis, Reply};
use super::rig::{Rig, with_database};
use super::servers::{Server, Verb, value};
use super::wait::{LONG, SHORT, eventually};

/// As `scripts/servers` names them: the user that replicas come as, and what the Sentinels watch.
const REPLICATOR: &str = "replicator";
const MASTER_NAME: &str = "rollcall";

/// A streaming replica of the set's Postgres.
pub struct Replica {
    /// Of this world's database.
    pub url: String,
    primary: Pg,
    pg: Pg,
}

impl Rig {
    /// A replica that has seen all there is.
    pub async fn add_replica(&self) -> Replica {
        let env = self.add(&["replica"]);
        let url = with_database(&value(&env, "DATABASE_REPLICA_URL"), self.prefix());
        let pg = Pg::connect(&url).await.unwrap();
        let mut replica = Replica { url, primary: self.pg().await, pg };
        replica.wait_caught_up().await;
        replica
    }

    /// Replicas of the set's Redis that have what it has.
    pub async fn add_redis_replicas(&self, count: usize) -> RedisReplicas {
        let env = self.add(&["redis-replicas", &count.to_string()]);
        let url = |n: usize| value(&env, &format!("REDIS_{n}_URL"));
        let replicas = RedisReplicas {
            master: self.servers().redis_url.clone(),
            urls: (2..2 + count).map(url).collect(),
        };
        replicas.wait_caught_up().await;
        replicas
    }

    /// After the Redis replicas, so that every Sentinel knows them all.
    pub async fn add_sentinels(&self, count: usize) -> Sentinels {
        let env = self.add(&["sentinels", &count.to_string()]);
        Sentinels { url: value(&env, "REDIS_SENTINEL_URL") }
    }
}

impl Replica {
    pub async fn events(&mut self) -> Result<i64, String> {
        self.pg.events().await
    }

    /// It goes on receiving, and shows nothing of it.
    pub async fn pause_replay(&mut self) {
        self.pg.run("SELECT pg_wal_replay_pause()").await;
        let paused = "SELECT (pg_get_wal_replay_pause_state() = 'paused')::int::bigint";
        eventually(SHORT, "the replica to pause", async || match self.pg.try_int(paused).await? {
            1 => Ok(()),
            _ => Err("it replays".to_owned()),
        })
        .await;
    }

    /// What is replayed at once may be in conflict with the very statement that says so.
    pub async fn resume_replay(&mut self) {
        eventually(LONG, "the replay to go on", async || {
            self.pg.try_int("SELECT count(*) FROM pg_wal_replay_resume()").await?;
            Ok(())
        })
        .await;
    }

    /// It dies, and comes back at most as far as it is sure of: of the rest it shows nothing.
    pub async fn fall_back(&mut self, rig: &Rig) {
        self.pg.run("ALTER SYSTEM SET recovery_min_apply_delay = '1h'").await;
        rig.control(Verb::Kill, Server::Replica);
        rig.control(Verb::Start, Server::Replica);
        self.pg = Pg::connect(&self.url).await.unwrap();
    }

    pub async fn go_on(&mut self) {
        self.pg.run("ALTER SYSTEM RESET recovery_min_apply_delay").await;
        self.pg.run("SELECT pg_reload_conf()").await;
    }

    /// How far it has replayed, as a number of bytes.
    pub async fn replayed(&mut self) -> i64 {
        self.pg.int("SELECT (pg_last_wal_replay_lsn() - '0/0')::bigint").await
    }

    /// Until it shows whatever the primary shows now.
    pub async fn wait_caught_up(&mut self) {
        let written =
            self.primary.int("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").await;
        eventually(LONG, "the replica to catch up", async || match self.replayed().await {
            replayed if replayed >= written => Ok(()),
            replayed => Err(format!("it is at {replayed}, the primary was at {written}")),
        })
        .await;
    }
}

/// Replicas of the set's Redis, by their place: the first is 0.
pub struct RedisReplicas {
    master: String,
    urls: Vec<String>,
}

impl RedisReplicas {
    pub fn url(&self, at: usize) -> &str {
        &self.urls[at]
    }

    /// `host:port`
    pub fn address(&self, at: usize) -> &str {
        address(&self.urls[at])
    }

    pub fn server(&self, at: usize) -> Server {
        Server::RedisReplica(at + 2)
    }

    pub async fn redis(&self, at: usize) -> Redis {
        Redis::connect(&self.urls[at]).await.unwrap()
    }

    /// Until each has whatever the master has now.
    pub async fn wait_caught_up(&self) {
        let mut master = Redis::connect(&self.master).await.unwrap();
        let written = offset(&info(&mut master).await, "master_repl_offset");
        for url in &self.urls {
            let mut replica = Redis::connect(url).await.unwrap();
            eventually(LONG, "a redis replica to catch up", async || {
                let info = info(&mut replica).await;
                let applied = offset(&info, "slave_repl_offset");
                match info.contains("master_link_status:up") && applied >= written {
                    true => Ok(()),
                    false => Err(format!("{applied:?} of {written:?}: {info}")),
                }
            })
            .await;
        }
    }

    /// From here on nothing reaches them; they keep what they have, and go on answering.
    pub async fn cut_off(&self) {
        let mut master = Redis::connect(&self.master).await.unwrap();
        master.ask(&["ACL", "SETUSER", REPLICATOR, "off"]).await.unwrap();
        let cut = master.int(&["CLIENT", "KILL", "TYPE", "replica"]).await;
        assert_eq!(cut, self.urls.len() as i64, "connections of replicas");
        for url in &self.urls {
            let mut replica = Redis::connect(url).await.unwrap();
            eventually(SHORT, "a redis replica to be cut off", async || {
                match info(&mut replica).await {
                    info if info.contains("master_link_status:down") => Ok(()),
                    info => Err(info),
                }
            })
            .await;
        }
    }

    /// It is a master, with what it has.
    pub async fn promote(&self, at: usize) {
        self.redis(at).await.ask(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    }
}

/// Sentinels that watch the set's first Redis.
pub struct Sentinels {
    /// As a worker's `REDIS_URL`.
    pub url: String,
}

impl Sentinels {
    /// Whom they would send a client to, `redis://host:port/0`, if all that answer agree.
    pub async fn master(&self) -> Result<String, String> {
        let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME];
        let mut named: Vec<Vec<String>> = Vec::new();
        for node in self.nodes() {
            if let Ok(mut sentinel) = Redis::connect(&format!("redis://{node}/0")).await {
                named.push(sentinel.in_order(&ask).await?);
            }
        }
        named.dedup();
        match named.as_slice() {
            [one] => Ok(format!("redis://{}/0", one.join(":"))),
            other => Err(format!("they name {other:?}")),
        }
    }

    /// Until they have made a master of another one, which says itself that it is one.
    pub async fn wait_failed_over(&self, from: &str) -> String {
        eventually(LONG, "the sentinels to fail over", async || {
            let master = self.master().await?;
            if address(&master) == address(from) {
                return Err(format!("{master} it still is"));
            }
            let mut redis = Redis::connect(&master).await?;
            match redis.ask(&["ROLE"]).await? {
                Reply::List(role) if role.first() == Some(&Reply::Text("master".to_owned())) => {
                    Ok(master)
                }
                role => Err(format!("{master} says it is {role:?}")),
            }
        })
        .await
    }

    /// A user with these rights, on each of them.
    pub async fn admit(&self, user: &str, password: &str, rights: &str) {
        let password = format!(">{password}");
        let rule: Vec<&str> = ["ACL", "SETUSER", user, "reset", "on", &password]
            .into_iter()
            .chain(rights.split_whitespace())
            .collect();
        for node in self.nodes() {
            let mut sentinel = Redis::connect(&format!("redis://{node}/0")).await.unwrap();
            sentinel.ask(&rule).await.unwrap();
        }
    }

    fn nodes(&self) -> Vec<&str> {
        let (first, query) = self.url.split_once('?').expect("it names the service");
        let others = query.split('&').filter_map(|pair| pair.strip_prefix("node="));
        std::iter::once(address(first)).chain(others).collect()
    }
}

/// `host:port` of `redis://host:port/0`.
fn address(url: &str) -> &str {
    let rest = url.split("://").nth(1).expect("a url");
    rest.split('/').next().expect("split gives one at least")
}

async fn info(redis: &mut Redis) -> String {
    redis.ask(&["INFO", "replication"]).await.unwrap().into_text()
}

fn offset(info: &str, name: &str) -> Option<i64> {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|number| number.trim().parse().ok())
}
