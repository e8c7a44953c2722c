//! P3 and P7 where Redis loses everything under load: readers are told *unknown*, never a number
//! that is too small; the sets are whole again soon; and ingest does not stop for it.

use std::fs;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

use crate::harness::{
    Growth, LONG, Publisher, Reader, Rig, Rng, SHORT, Seen, Server, Stream, Verb, Worker,
    eventually, names, seed,
};

const SETS: &str = "sessions=session cities=state+city users=username by_city=username@state+city";
/// There before the loss, in the set that is read.
const MEMBERS: u64 = 100_000;
const PER_SECOND: u64 = 1_000;
/// It is said that something is wrong, within this.
const NOTICED: Duration = Duration::from_secs(10);
/// Everything is there again, within this.
const WHOLE: Duration = Duration::from_secs(60);
/// Both are for a machine of two cores that has nothing else to do, on which two workers take the
/// members in within this. On one that is slower by some factor they are longer by the same.
const FILLED: Duration = Duration::from_secs(20);
/// A pause this long holds a whole second in which nothing was stored. Where the machine is so busy
/// that a repair takes long, a pause is one that lasts for a quarter of it.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// What `rollcall read` ends with where Redis cannot tell.
const UNKNOWN: i32 = 75;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_flushed_under_load_is_filled_again_while_ingest_goes_on() {
    emptied(Loss::Flushed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_is_filled_again_while_ingest_goes_on() {
    emptied(Loss::RestartedEmpty).await;
}

/// All workers die in the middle of it, three times. A repair may be over before its workers are
/// killed: then there is another loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_is_finished_however_often_all_who_could_do_it_are_killed() {
    const KILLS: usize = 3;
    const TURNS: usize = 5 * KILLS;
    let mut scene = Scene::start().await;
    let mut rng = Rng(scene.seed);
    let mut in_the_middle = 0;
    let mut over = true;
    for _ in 0..TURNS {
        if in_the_middle == KILLS {
            break;
        }
        if over {
            lose(&scene.rig, Loss::Flushed).await;
        }
        let work = rng.below(PER_SECOND);
        stored_more(&scene.growth, work).await;
        for worker in std::mem::take(&mut scene.workers) {
            worker.kill().await;
        }
        // Nobody changes it now.
        let seen = scene.reader.look().await;
        over = is_fresh(&seen);
        in_the_middle += usize::from(!over);
        println!("killed after {work} events: {:?} {:?}", seen.generation, seen.state);
        scene.workers = vec![scene.rig.worker().await, scene.rig.worker().await];
        scene.growth = Growth::watch(&scene.workers);
    }
    assert_eq!(in_the_middle, KILLS, "inconclusive: of {TURNS} kills");
    scene.whole(Instant::now()).await;
    all_there(&scene.rig, &scene.members).await;
    scene.finish().await;
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Flushed,
    RestartedEmpty,
}

async fn emptied(loss: Loss) {
    let scene = Scene::start().await;
    lose(&scene.rig, loss).await;
    let lost = Instant::now();
    if loss == Loss::RestartedEmpty {
        // What was held while Redis was away goes on when it is noticed to be back.
        stored_more(&scene.growth, 1).await;
    }
    scene.growth.begin();
    let reader = &scene.reader;
    let told = tokio::join!(ask_until_known(&scene.rig, reader), scene.whole(lost)).0;
    let took = lost.elapsed();
    all_there(&scene.rig, &scene.members).await;
    stored_more(&scene.growth, 2 * PER_SECOND).await;
    let pause = scene.growth.longest_pause();
    println!("{loss:?}: longest pause of ingest {pause:?}; rollcall read said {told:?}");
    let pause_max = PAUSE_MAX.mul_f64(scene.slower).max(took / 4);
    assert!(pause < pause_max, "nothing was stored for {pause:?} of {took:?}");
    scene.finish().await;
}

/// Two workers under load, a large set, and one who reads it.
struct Scene {
    seed: u64,
    rig: Rig,
    workers: Vec<Worker>,
    growth: Growth,
    publisher: Publisher,
    reader: Reader,
    /// Of the set, before anything was lost.
    members: Vec<String>,
    /// How much slower than it should be this machine is now.
    slower: f64,
    /// They are measured: one at a time.
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    async fn start() -> Scene {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let _alone = ALONE.lock().await;
        let seed = seed();
        let mut rig = Rig::breakable(SETS).await;
        rig.set(names::RETRY_MAX_SECS, "1");
        let workers = vec![rig.worker().await, rig.worker().await];
        let growth = Growth::watch(&workers);
        let mut stream = Stream::new(seed);
        (stream.many_percent, stream.bad_percent) = (100, 0);
        let mut publisher = Publisher::start(&rig, stream, seed, 0);
        let began = Instant::now();
        let members = fill(&rig, &publisher).await;
        let slower = (began.elapsed().as_secs_f64() / FILLED.as_secs_f64()).max(1.0);
        println!("filled in {:?}, slower by {slower:.1}", began.elapsed());
        let (url, asked) = (&rig.env["REDIS_URL"], members.clone());
        let reader = Reader::start(url, rig.prefix(), "sessions", asked, seed);
        publisher.pace(PER_SECOND);
        stored_more(&growth, 2 * PER_SECOND).await;
        reader.wait(SHORT, "a reader to know", is_fresh).await;
        reader.begin();
        Scene { seed, rig, workers, growth, publisher, reader, members, slower, _alone }
    }

    /// Noticed and made good in time.
    async fn whole(&self, lost: Instant) {
        let left = |of: Duration| of.mul_f64(self.slower).saturating_sub(lost.elapsed());
        let noticed = |seen: &Seen| seen.noticed.is_some();
        let seen = self.reader.wait(left(NOTICED), "the loss to be noticed", noticed).await;
        let noticed = seen.noticed.map(|at| at.saturating_duration_since(lost));
        println!("noticed {noticed:?} after the loss");
        self.reader.wait(left(WHOLE), "the sets to be whole", is_fresh).await;
        println!("whole {:?} after the loss", lost.elapsed());
    }

    async fn finish(self) {
        let Scene { rig, workers, publisher, reader, .. } = self;
        let mut oracle = rig.oracle();
        let published = publisher.finish(0, &mut oracle).await;
        rig.finish(&oracle, workers).await;
        rig.assert_sets_are_the_distinct_values().await;
        let seen = reader.seen();
        println!(
            "{} events; the reader knew {} times, {} times not, {} times there was no answer",
            published.events, seen.known, seen.unknown, seen.away
        );
        let wrong = [seen.denied, seen.shrunk].concat();
        assert_eq!(wrong, Vec::<String>::new(), "answers that were believed and wrong");
        assert!(seen.known > 100 && seen.unknown > 0, "inconclusive");
    }
}

fn is_fresh(seen: &Seen) -> bool {
    seen.generation.is_some() && seen.state.as_deref() == Some("fresh")
}

/// Events until the set has its members, which are given.
async fn fill(rig: &Rig, publisher: &Publisher) -> Vec<String> {
    publisher.allow(MEMBERS + MEMBERS / 100);
    let key = format!("{}:sessions", rig.prefix());
    let mut redis = rig.redis().await;
    eventually(2 * LONG, "the set to be large", async || match redis.int(&["SCARD", &key]).await {
        n if n as u64 >= MEMBERS => Ok(()),
        n => Err(format!("it has {n} members")),
    })
    .await;
    redis.texts(&["SMEMBERS", &key]).await.unwrap()
}

async fn stored_more(growth: &Growth, events: u64) {
    let before = growth.stored();
    eventually(LONG, "more to be stored", async || match growth.stored() - before {
        more if more >= events => Ok(()),
        more => Err(format!("{more} events are")),
    })
    .await;
}

async fn lose(rig: &Rig, loss: Loss) {
    if loss == Loss::Flushed {
        rig.redis().await.ask(&["FLUSHALL"]).await.unwrap();
        return;
    }
    rig.control(Verb::Kill, Server::Redis);
    let files = rig.servers().folder(Server::Redis).join("appendonlydir");
    fs::remove_dir_all(&files).expect("the tests' Redis keeps an append-only file");
    rig.control(Verb::Start, Server::Redis);
}

/// `rollcall read count` until it knows again: how often it did not, and then the number. Whoever
/// waits for the sets beside it says when that is too late.
async fn ask_until_known(rig: &Rig, reader: &Reader) -> (u32, i64) {
    let most = reader.seen().most;
    let mut unknown = 0;
    loop {
        let run = rig.cli(&["read", "count", "sessions"]).await;
        match run.code {
            Some(0) => {
                let count: i64 = run.stdout.trim().parse().expect("a count is a number");
                assert!(count >= most, "{count} members were read, {most} had been counted");
                return (unknown, count);
            }
            Some(UNKNOWN) => unknown += 1,
            other => panic!("rollcall read ended with {other:?}: {}", run.said()),
        }
    }
}

/// Each member that was there before.
async fn all_there(rig: &Rig, members: &[String]) {
    let key = format!("{}:sessions", rig.prefix());
    let mut redis = rig.redis().await;
    for some in members.chunks(1000) {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        let answer = redis.ask(&[&["SMISMEMBER", key.as_str()], some.as_slice()].concat()).await;
        let lacking = format!("{answer:?}").matches("Int(0)").count();
        assert_eq!(lacking, 0, "members that are said to be not there though the sets are fresh");
    }
}
