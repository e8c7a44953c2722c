//! P3 where Postgres is put back to how it was, on the same server and timeline: what Redis has
//! beyond that is taken out, with nobody's hand, and what comes since is kept.

use std::fs;

use crate::harness::{
    DEFAULT_SETS, LONG, Oracle, Pg, Producer, Rig, SHORT, Server, Verb, eventually, seed,
    with_database,
};
use crate::loss::{arrives, copy_folder, mended, unique};

/// More than are given out between its start and the first look after it.
const TRANSACTIONS: u32 = 500;

async fn generation(rig: &Rig) -> String {
    let meta = format!("{}:meta", rig.prefix());
    rig.redis().await.in_order(&["HMGET", &meta, "generation"]).await.unwrap().swap_remove(0)
}

/// Sets are made anew, and there is nothing in them that Postgres has not.
async fn made_anew(rig: &Rig, oracle: &Oracle, before: &str) {
    eventually(LONG, "the sets to be made anew", async || match generation(rig).await {
        now if now != before => Ok(()),
        now => Err(format!("the generation is still {now}")),
    })
    .await;
    mended(rig, oracle).await;
}

/// From a cold copy of its files, under a worker that goes on: txids went back, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_put_back_from_a_copy_of_its_files_is_noticed() {
    let rig = Rig::breakable(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    arrives(&rig, &mut oracle, &worker, &unique(&mut producer, 50)).await;
    let folder = rig.servers().folder(Server::Postgres);
    let copy = folder.with_file_name("postgres-copy");
    rig.control(Verb::Stop, Server::Postgres);
    copy_folder(&folder, &copy);
    rig.control(Verb::Start, Server::Postgres);

    let lost = unique(&mut producer, 100);
    arrives(&rig, &mut oracle.clone(), &worker, &lost).await;
    let mut pg = rig.pg().await;
    let mut reached = 0;
    for _ in 0..TRANSACTIONS {
        reached = pg.int("SELECT txid_current()").await;
    }
    let wm = format!("{}:wm", rig.prefix());
    let mut redis = rig.redis().await;
    eventually(SHORT, "a look to see them", async || {
        let seen = redis.in_order(&["HMGET", &wm, "postgres"]).await?.swap_remove(0);
        let txid = seen.split_once(' ').and_then(|(_, txid)| txid.parse().ok());
        if txid > Some(reached) { Ok(()) } else { Err(format!("{seen}, not {reached}")) }
    })
    .await;
    let before = generation(&rig).await;
    rig.control(Verb::Stop, Server::Postgres);
    fs::remove_dir_all(&folder).unwrap();
    copy_folder(&copy, &folder);
    fs::remove_dir_all(&copy).unwrap();
    rig.control(Verb::Start, Server::Postgres);
    arrives(&rig, &mut oracle, &worker, &unique(&mut producer, 10)).await;
    made_anew(&rig, &oracle, &before).await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A database beside itself, as from a dump: the server's txids go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_replaced_by_an_older_one_is_noticed() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    arrives(&rig, &mut oracle, &worker, &unique(&mut producer, 50)).await;
    worker.terminate().await;
    let name = rig.prefix();
    let mut server =
        Pg::connect(&with_database(&rig.servers().database_url, "postgres")).await.unwrap();
    server.run(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}")).await;

    let worker = rig.worker().await;
    let lost = unique(&mut producer, 100);
    arrives(&rig, &mut oracle.clone(), &worker, &lost).await;
    worker.terminate().await;
    let before = generation(&rig).await;
    server.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
    server.run(&format!("ALTER DATABASE {name}_copy RENAME TO {name}")).await;
    let worker = rig.worker().await;
    made_anew(&rig, &oracle, &before).await;
    rig.finish(&oracle, vec![worker]).await;
}
