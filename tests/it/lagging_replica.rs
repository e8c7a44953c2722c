//! What is read from a replica that lags: a real streaming replica whose replay stands still for
//! half a minute. It lacks events whose members are in Redis; a repair that believed it would take
//! good members for phantoms, or leave them out of a set that it makes anew.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rollcall::config::Config;
use rollcall::store::{self, Piece};
use serde_json::Value;

use crate::harness::{
    LONG, Producer, Publisher, Reader, Replica, Rig, Run, SHORT, Stream, Worker, eventually, seed,
};

const SETS: &str = "sessions=session cities=state+city users=username by_city=username@state+city";
/// Events that the replica shows, and that it does not.
const SHOWN: u64 = 10_000;
const HIDDEN: u64 = 2_000;
const PER_SECOND: u64 = 100;
const PAUSED: Duration = Duration::from_secs(30);
/// Members taken out by hand, and others put in.
const DRIFTS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verify_that_repairs_believes_no_replica_that_lags() {
    let scene = Scene::start().await;
    let (scene, run) = scene.paused_while(&["manage", "verify", "--repair", "--json"]).await;
    let found = run.expect(1).json();
    assert_eq!(members(&found["missing"]), scene.taken_out, "missing");
    assert_eq!(members(&found["phantom"]), scene.put_in, "phantoms");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_believes_no_replica_that_lags() {
    let scene = Scene::start().await;
    let (scene, run) = scene.paused_while(&["manage", "rebuild"]).await;
    run.expect(0);
    scene.finish().await;
}

/// New connections in the middle of it, to one that died meanwhile, or to another behind the same
/// address: what it had come to before is waited for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_comes_back_with_less_is_not_believed() {
    let mut rig = Rig::breakable(SETS).await;
    let mut replica = rig.add_replica().await;
    rig.set("DATABASE_REPLICA_URL", &replica.url);
    let env = rig.env.iter().map(|(name, value)| (name.into(), value.into()));
    let config = Config::load(env).unwrap();
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let events = producer.events(500);
    oracle.all_good(&events);
    rig.publish_events(&events).await;
    rig.wait_arrived(&oracle).await;
    let stored = rig.pg().await.events().await.unwrap();

    let mut reader = store::Reader::open(config.store().unwrap()).await.unwrap();
    let mark = reader.mark().await.unwrap();
    replica.fall_back(&rig).await;
    let shown = replica.events().await.unwrap();
    assert!(shown < stored, "inconclusive: it came back with all {stored}");
    let all = Piece::Transactions { from: 0, to: Some(mark.xmax) };
    let sink = async |_| Ok::<(), store::StoreError>(());
    let mut reads = Box::pin(async {
        reader.reopen().await.unwrap();
        reader.read(&all, sink).await.unwrap()
    });
    let early = tokio::time::timeout(Duration::from_secs(2), &mut reads).await;
    assert!(early.is_err(), "it read {early:?} of {stored} from one that is behind");
    replica.go_on().await;
    let read = reads.await;
    assert_eq!(read as i64, stored, "it showed {shown} when it came back");
    reader.close().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A worker under load, drift, and one who reads all members that are good.
struct Scene {
    rig: Rig,
    replica: Replica,
    worker: Worker,
    publisher: Publisher,
    reader: Reader,
    taken_out: BTreeSet<String>,
    put_in: BTreeSet<String>,
}

impl Scene {
    /// The replica stands still.
    async fn start() -> Scene {
        let seed = seed();
        let mut rig = Rig::breakable(SETS).await;
        let mut replica = rig.add_replica().await;
        rig.set("DATABASE_REPLICA_URL", &replica.url);
        let worker = rig.worker().await;
        let mut stream = Stream::new(seed);
        (stream.many_percent, stream.bad_percent) = (100, 0);
        let publisher = Publisher::start(&rig, stream, seed, 0);
        applied(&rig, &publisher, &worker, SHOWN).await;
        replica.wait_caught_up().await;
        replica.pause_replay().await;
        applied(&rig, &publisher, &worker, SHOWN + HIDDEN).await;

        let (sessions, users) = (key(&rig, "sessions"), key(&rig, "users"));
        let mut redis = rig.redis().await;
        let mut good = redis.texts(&["SMEMBERS", &sessions]).await.unwrap();
        let taken_out: BTreeSet<String> = good.drain(..DRIFTS).collect();
        for member in &taken_out {
            assert_eq!(redis.int(&["SREM", &sessions, member]).await, 1);
        }
        let put_in: BTreeSet<String> = (0..DRIFTS).map(|n| format!("ghost{n}")).collect();
        for member in &put_in {
            assert_eq!(redis.int(&["SADD", &users, member]).await, 1);
        }
        let reader = Reader::start(&rig.env["REDIS_URL"], rig.prefix(), "sessions", good, seed);
        reader.wait(SHORT, "a reader to know", |seen| seen.known > 0).await;
        Scene { rig, replica, worker, publisher, reader, taken_out, put_in }
    }

    /// Runs a command; half a minute after its start the replica goes on.
    async fn paused_while(mut self, args: &[&str]) -> (Scene, Run) {
        self.publisher.pace(PER_SECOND);
        let (replica, began) = (&mut self.replica, Instant::now());
        let wait = async {
            eventually(PAUSED + LONG, "the pause to have lasted", async || {
                match began.elapsed() > PAUSED {
                    true => Ok(()),
                    false => Err(format!("it has lasted {:?}", began.elapsed())),
                }
            })
            .await;
            let shown = replica.events().await.unwrap();
            replica.resume_replay().await;
            shown
        };
        let (run, shown) = tokio::join!(self.rig.cli(args), wait);
        println!("{args:?} took {:?}: {}", began.elapsed(), run.stderr);
        let stored = self.rig.pg().await.events().await.unwrap();
        assert!(stored - shown >= HIDDEN as i64, "inconclusive: {shown} of {stored} were shown");
        (self, run)
    }

    /// All is right in the end, and no good member was ever missed.
    async fn finish(self) {
        let Scene { rig, mut replica, worker, publisher, reader, .. } = self;
        replica.wait_caught_up().await;
        rig.cli(&["manage", "verify"]).await.expect(0);
        let mut oracle = rig.oracle();
        publisher.finish(0, &mut oracle).await;
        rig.finish(&oracle, vec![worker]).await;
        rig.assert_sets_are_the_distinct_values().await;
        let seen = reader.seen();
        println!("the reader knew {} times, {} times not", seen.known, seen.unknown);
        assert_eq!(seen.denied, Vec::<String>::new(), "answers that were believed and wrong");
        assert!(seen.known > 100, "inconclusive");
    }
}

fn key(rig: &Rig, set: &str) -> String {
    format!("{}:{set}", rig.prefix())
}

fn members(listed: &Value) -> BTreeSet<String> {
    let listed = listed.as_array().expect("a list");
    listed.iter().map(|one| one["member"].as_str().expect("a text").to_owned()).collect()
}

/// Until so many events altogether are stored, applied and acknowledged.
async fn applied(rig: &Rig, publisher: &Publisher, worker: &Worker, events: u64) {
    publisher.allow(events);
    let mut pg = rig.pg().await;
    eventually(LONG, "the events to be stored", async || {
        let (confirmed, stored) = (publisher.confirmed(), pg.events().await? as u64);
        match confirmed >= events && stored == confirmed {
            true => Ok(()),
            false => Err(format!("{confirmed} of {events} are confirmed, {stored} are stored")),
        }
    })
    .await;
    worker.assert_books_balance().await;
}
