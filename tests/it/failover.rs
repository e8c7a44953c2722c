//! P3 through a failover to a replica that lacks the last writes: events were acknowledged, and the
//! Redis that is asked now has never heard of them. The worker notices by itself, whether events
//! come or not, and what is missing is added from Postgres.

use std::time::{Duration, Instant};

use crate::harness::{
    LONG, Proxy, Publisher, Redis, RedisReplicas, Reply, Rig, Server, Stream, Verb, Worker,
    eventually, seed,
};

const SETS: &str = "sessions=session cities=state+city users=username by_city=username@state+city";
/// That the replicas have, and that they miss.
const FOLLOWED: u64 = 5_000;
const MISSED: u64 = 5_000;
const PER_SECOND: u64 = 200;
/// It is said that something is wrong, within this.
const NOTICED: Duration = Duration::from_secs(10);
/// Everything is there again, within this.
const WHOLE: Duration = Duration::from_secs(60);
const REPLICAS: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_promoted_stale_replica_lacks_is_made_good_while_events_come() {
    promoted_by_hand(Meanwhile::Busy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_promoted_stale_replica_lacks_is_made_good_though_no_event_comes() {
    promoted_by_hand(Meanwhile::Idle).await;
}

/// Who knew what was lost is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_promoted_stale_replica_lacks_is_made_good_though_its_workers_died_with_the_master()
{
    promoted_by_hand(Meanwhile::Killed).await;
}

/// Who knew what was lost had ended as it should, with everything applied and acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_promoted_stale_replica_lacks_is_made_good_though_its_workers_had_drained() {
    promoted_by_hand(Meanwhile::Drained).await;
}

/// As `promoted_by_hand`, but the Sentinels choose the replica, and tell the workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_choice_of_the_sentinels_lacks_is_made_good() {
    let mut rig = Rig::breakable(SETS).await;
    let replicas = rig.add_redis_replicas(REPLICAS).await;
    let sentinels = rig.add_sentinels(3).await;
    let first = rig.env["REDIS_URL"].clone();
    rig.set("REDIS_URL", &sentinels.url);
    let scene = Scene::start(&rig, &replicas).await;
    let missed = scene.stale(&rig, &replicas).await;
    rig.control(Verb::Kill, Server::Redis);
    let second = sentinels.wait_failed_over(&first).await;
    made_good(&rig, Redis::connect(&second).await.unwrap(), &missed).await;
    // The laws are read from the master, and not through the Sentinels.
    rig.set("REDIS_URL", &second);
    scene.finish(&rig).await;
}

/// What becomes of the workers: they have work after the failover, or none; or all of them end
/// before it, and others come after it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    Busy,
    Idle,
    Killed,
    Drained,
}

impl Meanwhile {
    /// The workers of before, when the failover comes.
    fn has_ended(self) -> bool {
        matches!(self, Meanwhile::Killed | Meanwhile::Drained)
    }
}

/// The address of the dead master becomes that of a stale replica.
async fn promoted_by_hand(meanwhile: Meanwhile) {
    let mut rig = Rig::breakable(SETS).await;
    let replicas = rig.add_redis_replicas(REPLICAS).await;
    let proxy: Proxy = rig.proxy("REDIS_URL").await;
    let mut scene = Scene::start(&rig, &replicas).await;
    let missed = scene.stale(&rig, &replicas).await;
    for worker in scene.workers.extract_if(.., |_| meanwhile.has_ended()) {
        match meanwhile {
            Meanwhile::Killed => worker.kill().await,
            _ => worker.terminate().await,
        }
    }
    rig.control(Verb::Kill, Server::Redis);
    replicas.promote(0).await;
    if meanwhile == Meanwhile::Busy {
        scene.publisher.pace(PER_SECOND);
    }
    proxy.repoint(replicas.address(0));
    if meanwhile.has_ended() {
        scene.workers = vec![rig.worker().await, rig.worker().await];
    }
    made_good(&rig, replicas.redis(0).await, &missed).await;
    scene.finish(&rig).await;
}

/// Workers, and who gives them work.
struct Scene {
    workers: Vec<Worker>,
    publisher: Publisher,
}

impl Scene {
    /// All that was published is on the replicas.
    async fn start(rig: &Rig, replicas: &RedisReplicas) -> Scene {
        let seed = seed();
        let mut stream = Stream::new(seed);
        (stream.many_percent, stream.bad_percent) = (100, 0);
        let publisher = Publisher::start(rig, stream, seed, 0);
        let workers = vec![rig.worker().await, rig.worker().await];
        let scene = Scene { workers, publisher };
        scene.publish(rig, FOLLOWED).await;
        replicas.wait_caught_up().await;
        scene
    }

    /// Until so many events altogether are stored, applied and acknowledged.
    async fn publish(&self, rig: &Rig, events: u64) {
        self.publisher.allow(events);
        let mut pg = rig.pg().await;
        eventually(LONG, "the events to be stored", async || {
            let (confirmed, stored) = (self.publisher.confirmed(), pg.events().await? as u64);
            match confirmed >= events && stored == confirmed {
                true => Ok(()),
                false => Err(format!("{confirmed} of {events} are confirmed, {stored} are stored")),
            }
        })
        .await;
        for worker in &self.workers {
            worker.assert_books_balance().await;
        }
        rig.wait_idle().await;
    }

    /// The replicas miss what comes now; gives the members that it has added.
    async fn stale(&self, rig: &Rig, replicas: &RedisReplicas) -> Vec<String> {
        let key = format!("{}:sessions", rig.prefix());
        replicas.cut_off().await;
        self.publish(rig, FOLLOWED + MISSED).await;
        let mut master = rig.redis_at(&rig.servers().redis_url).await;
        let had = master.texts(&["SMEMBERS", &key]).await.unwrap();
        let mut replica = replicas.redis(0).await;
        let kept = replica.texts(&["SMEMBERS", &key]).await.unwrap();
        let missed: Vec<String> =
            had.into_iter().filter(|member| kept.binary_search(member).is_err()).collect();
        println!("{} members are on the replica, {} are not", kept.len(), missed.len());
        assert!(missed.len() as u64 > MISSED / 2 && kept.len() as u64 > FOLLOWED / 2);
        let seen = look(rig, &mut replica, &missed).await.unwrap();
        assert!(seen.fresh && seen.lacking == missed.len(), "inconclusive: {}", seen.shown);
        missed
    }

    async fn finish(self, rig: &Rig) {
        let mut oracle = rig.oracle();
        let published = self.publisher.finish(0, &mut oracle).await;
        println!("{} events in all", published.events);
        rig.finish(&oracle, self.workers).await;
        rig.assert_sets_are_the_distinct_values().await;
    }
}

/// How the promoted Redis looks to a reader.
struct Sight {
    fresh: bool,
    lacking: usize,
    shown: String,
}

/// The loss is noticed and made good in time, and nothing is called fresh in between.
async fn made_good(rig: &Rig, mut redis: Redis, missed: &[String]) {
    let began = Instant::now();
    eventually(NOTICED, "the loss to be noticed", async || {
        match look(rig, &mut redis, missed).await? {
            seen if !seen.fresh || seen.lacking == 0 => Ok(()),
            seen => Err(seen.shown),
        }
    })
    .await;
    println!("noticed {:?} after the failover", began.elapsed());
    eventually(WHOLE, "the sets to be whole", async || {
        match look(rig, &mut redis, missed).await? {
            seen if seen.fresh && seen.lacking == 0 => Ok(()),
            seen if seen.fresh => panic!("called fresh again too early: {}", seen.shown),
            seen => Err(seen.shown),
        }
    })
    .await;
    println!("whole {:?} after the failover", began.elapsed());
}

async fn look(rig: &Rig, redis: &mut Redis, missed: &[String]) -> Result<Sight, String> {
    let (key, meta) = (format!("{}:sessions", rig.prefix()), format!("{}:meta", rig.prefix()));
    let missed: Vec<&str> = missed.iter().map(String::as_str).collect();
    let asked = [&["SMISMEMBER", key.as_str()], missed.as_slice()].concat();
    // In one step: the state belongs to what the set holds at that moment.
    let replies = redis
        .ask_all(&[&["MULTI"], &asked, &["HMGET", &meta, "generation", "state"], &["EXEC"]])
        .await?;
    let Some(Reply::List(answers)) = replies.last() else { return Err(format!("{replies:?}")) };
    let [Reply::List(are_there), Reply::List(meta)] = answers.as_slice() else {
        return Err(format!("{answers:?}"));
    };
    let lacking = are_there.iter().filter(|is| **is != Reply::Int(1)).count();
    let fresh = meta.get(1) == Some(&Reply::Text("fresh".to_owned()));
    Ok(Sight { fresh, lacking, shown: format!("{lacking} members are missing, meta: {meta:?}") })
}
