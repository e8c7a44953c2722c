//! The added servers judged by themselves: a replica that never lags, and one that cannot lose
//! anything, prove nothing. Nothing here runs a worker.

use super::pg::Pg;
use super::rig::{DEFAULT_SETS, Rig};
use super::servers::{Server, Verb};
use super::wait::{LONG, SHORT, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_shows_nothing_new_while_it_is_paused_and_all_of_it_later() {
    let rig = Rig::breakable(DEFAULT_SETS).await;
    let mut replica = rig.add_replica().await;
    assert_eq!(replica.events().await, Ok(0));
    store(&rig, "a").await;
    replica.wait_caught_up().await;
    assert_eq!(replica.events().await, Ok(1), "it follows");

    replica.pause_replay().await;
    let stands_at = replica.replayed().await;
    store(&rig, "b").await;
    // What is written now is received all the same: it will be there when replay goes on.
    let mut primary = rig.pg().await;
    let received = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'
                    AND flush_lsn >= pg_current_wal_insert_lsn()";
    eventually(SHORT, "the replica to receive it", async || {
        match primary.try_int(received).await? {
            1 => Ok(()),
            _ => Err("it has not".to_owned()),
        }
    })
    .await;
    assert_eq!(replica.events().await, Ok(1), "it lags");
    assert_eq!(replica.replayed().await, stands_at);

    replica.resume_replay().await;
    replica.wait_caught_up().await;
    assert_eq!(replica.events().await, Ok(2), "it has caught up");

    // A kill, and what is written meanwhile.
    rig.control(Verb::Kill, Server::Replica);
    store(&rig, "c").await;
    rig.control(Verb::Start, Server::Replica);
    eventually(LONG, "the replica to go on where it was", async || {
        match Pg::connect(&replica.url).await?.events().await? {
            3 => Ok(()),
            n => Err(format!("it shows {n} events")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_replica_that_was_cut_off_lacks_the_last_writes_when_promoted() {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    let mut master = rig.redis().await;
    master.int(&["SADD", "k", "before"]).await;
    let replicas = rig.add_redis_replicas(2).await;
    master.int(&["SADD", "k", "followed"]).await;
    replicas.wait_caught_up().await;
    replicas.cut_off().await;
    master.int(&["SADD", "k", "missed"]).await;
    let wanted = ["before", "followed"].map(str::to_owned);
    let mut stale = replicas.redis(0).await;
    assert!(stale.ask(&["SADD", "k", "x"]).await.is_err(), "a replica takes no write");

    // Whoever comes through the proxy finds another server in the place of the one that died.
    let proxy = rig.proxy("REDIS_URL").await;
    let mut through = rig.redis().await;
    assert_eq!(through.int(&["SCARD", "k"]).await, 3);
    rig.control(Verb::Kill, Server::Redis);
    replicas.promote(0).await;
    proxy.repoint(replicas.address(0));
    assert!(through.ask(&["PING"]).await.is_err(), "a connection to the old one");
    let mut through = rig.redis().await;
    assert_eq!(through.texts(&["SMEMBERS", "k"]).await.unwrap(), wanted);
    through.int(&["SADD", "k", "after"]).await;

    // The other one is left as it was, and in the end so is its file.
    rig.control(Verb::Kill, replicas.server(1));
    rig.control(Verb::Start, replicas.server(1));
    let mut other = replicas.redis(1).await;
    assert_eq!(other.texts(&["SMEMBERS", "k"]).await.unwrap(), wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_fail_over_and_a_reader_follows_them() {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    let mut redis = rig.redis().await;
    let (meta, users) = (format!("{}:meta", rig.prefix()), format!("{}:users", rig.prefix()));
    redis.int(&["HSET", &meta, "generation", "one"]).await;
    redis.int(&["SADD", &users, "ann", "bob"]).await;
    let replicas = rig.add_redis_replicas(2).await;
    let sentinels = rig.add_sentinels(3).await;
    let first = rig.servers().redis_url.clone();
    assert_eq!(sentinels.master().await.as_deref(), Ok(first.as_str()));
    rig.set("REDIS_URL", &sentinels.url);
    assert_eq!(rig.cli(&["read", "count", "users"]).await.expect(0).stdout.trim(), "2");

    replicas.wait_caught_up().await;
    // Two of three are enough.
    rig.control(Verb::Kill, Server::Sentinel(3));
    rig.control(Verb::Kill, Server::Redis);
    let second = sentinels.wait_failed_over(&first).await;
    assert!([replicas.url(0), replicas.url(1)].contains(&second.as_str()), "{second}");
    let mut redis = rig.redis_at(&second).await;
    redis.int(&["SADD", &users, "cid"]).await;
    assert_eq!(rig.cli(&["read", "count", "users"]).await.expect(0).stdout.trim(), "3");
}

/// An event as a row, with no worker.
async fn store(rig: &Rig, id: &str) {
    let insert = "INSERT INTO events (occurred_at, id, payload)
                  SELECT now(), md5('ID')::uuid, '{}'
                  FROM rollcall_ensure_partition(now(), 'day')";
    rig.pg().await.run(&insert.replace("ID", id)).await;
}
