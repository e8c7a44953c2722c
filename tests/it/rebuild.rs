//! Rebuilds while ingest goes on: nothing that a reader has seen is ever absent for longer than a
//! moment, nothing is invented, nothing is left over, however often the rebuilder is killed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::{LONG, Producer, Redis, Reply, Rig, Rng, eventually, names, seed};

const SETS: &str = "users=username by_city=username@city daily=username/day about=username~";
/// Between two looks of the reader.
const LOOK: Duration = Duration::from_millis(10);
/// How long a member that was seen may be absent: in the long run, which has the machine for
/// itself, and beside the other tests.
const ABSENT_MAX: Duration = Duration::from_secs(1);
const ABSENT_MAX_BUSY: Duration = Duration::from_secs(10);
/// Members that the reader keeps an eye on.
const WATCHED: usize = 300;

/// How much of it: `make test` has the short one, `make chaos` the long one.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => default,
    }
}

fn rebuilds() -> u64 {
    number("ROLLCALL_TEST_REBUILDS", 3)
}

/// Events that nobody published, of as many users; into the table at once.
async fn fill(rig: &Rig, users: u64) {
    let sql = format!(
        "INSERT INTO events (occurred_at, id, payload)
         SELECT now() - n * interval '100 milliseconds', gen_random_uuid(),
                jsonb_build_object('username', 'old' || n, 'city', 'c' || n % 100)
         FROM generate_series(1, {users}) AS n"
    );
    rig.cli(&["manage", "partitions"]).await.expect(0);
    // The partitions of what lies behind.
    let mut pg = rig.pg().await;
    pg.run(
        "SELECT rollcall_ensure_partition(now() - n * interval '1 day', 'month')
            FROM generate_series(0, 40) AS n",
    )
    .await;
    pg.run(&sql).await;
}

/// Asks a hundred times a second: whoever was a member stays one.
struct Reader {
    stop: watch::Sender<bool>,
    task: JoinHandle<Watched>,
}

#[derive(Default)]
struct Watched {
    looks: u64,
    /// The longest that one was absent.
    absent_longest: Duration,
    smallest: Option<i64>,
}

impl Reader {
    async fn start(rig: &Rig, seed: u64) -> Reader {
        let (stop, stopped) = watch::channel(false);
        let (redis, key) = (rig.redis().await, format!("{}:users", rig.prefix()));
        Reader { stop, task: tokio::spawn(read(redis, key, Rng(seed), stopped)) }
    }

    async fn end(self) -> Watched {
        let _ = self.stop.send(true);
        self.task.await.expect("the reader goes on to its end")
    }
}

async fn read(
    mut redis: Redis,
    key: String,
    mut rng: Rng,
    stopped: watch::Receiver<bool>,
) -> Watched {
    let mut watched = Watched::default();
    let mut members: Vec<String> = Vec::new();
    let mut absent: HashMap<String, Instant> = HashMap::new();
    let mut ticks = tokio::time::interval(LOOK);
    while !*stopped.borrow() {
        ticks.tick().await;
        // Some of them new each time, so that members of the last second are among them.
        for member in redis.in_order(&["SRANDMEMBER", &key, "3"]).await.unwrap() {
            match members.len() {
                len if len < WATCHED => members.push(member),
                len => members[rng.below(len as u64) as usize] = member,
            }
        }
        if members.is_empty() {
            continue;
        }
        // Those that are absent are kept in view until they are back.
        let asked: Vec<String> = members.iter().cloned().chain(absent.keys().cloned()).collect();
        let mut command = vec!["SMISMEMBER", key.as_str()];
        command.extend(asked.iter().map(String::as_str));
        let Ok(Reply::List(flags)) = redis.ask(&command).await else { panic!("no list of flags") };
        let now = Instant::now();
        for (member, flag) in asked.iter().zip(flags) {
            if flag == Reply::Int(1) {
                absent.remove(member);
            } else {
                absent.entry(member.clone()).or_insert(now);
            }
        }
        for since in absent.values() {
            watched.absent_longest = watched.absent_longest.max(now - *since);
        }
        let size = redis.int(&["SCARD", &key]).await;
        watched.smallest = Some(watched.smallest.map_or(size, |smallest| smallest.min(size)));
        watched.looks += 1;
    }
    watched
}

async fn assert_nothing_is_left_over(rig: &Rig) {
    let mut redis = rig.redis().await;
    let mine = format!("rebuild:*{{{}:*", rig.prefix());
    assert_eq!(redis.texts(&["KEYS", &mine]).await.unwrap(), Vec::<String>::new());
    for set in ["users", "about"] {
        let key = format!("{}:{set}", rig.prefix());
        assert_eq!(redis.int(&["TTL", &key]).await, -1, "{key} must not expire");
    }
    for key in redis.texts(&["KEYS", &format!("{}:daily:*", rig.prefix())]).await.unwrap() {
        assert!(redis.int(&["TTL", &key]).await > 86_400, "{key} expires in its time");
    }
}

/// Workers ingest, a reader reads, and the sets are rebuilt again and again; the rebuilder is
/// killed as often, at any moment; and two rebuild at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuilds_under_load_lose_nothing_and_invent_nothing() {
    let seed = seed();
    let mut rng = Rng(seed);
    let users = number("ROLLCALL_TEST_REBUILD_MEMBERS", 20_000);
    let rig = Rig::new(SETS).await;
    fill(&rig, users).await;
    // Nothing has been read from it yet: this is how a Redis begins beside a table that is there.
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    let worker = rig.worker().await;
    let rate = number("ROLLCALL_TEST_REBUILD_RATE", 1000).to_string();
    let load = ["publish", "--rate", &rate, "--count", "10000000", "--events-per-message", "10"];
    let load = rig.begin(&load);
    let reader = Reader::start(&rig, seed).await;

    let mut longest = Duration::ZERO;
    for _ in 0..rebuilds() {
        let began = Instant::now();
        rig.cli(&["manage", "rebuild"]).await.expect(0);
        longest = longest.max(began.elapsed());
    }
    // One that ended before its kill tried nothing, and is made good by another.
    let (mut killed, mut runs) = (0, 0);
    while killed < rebuilds() {
        runs += 1;
        assert!(
            runs <= 20 * rebuilds(),
            "{killed} of {runs} were killed: hardly anything was tried"
        );
        let running = rig.begin(&["manage", "rebuild"]);
        // Any moment of it: what must hold is that it does not matter which.
        let began = Instant::now();
        let after = Duration::from_millis(rng.below(longest.as_millis() as u64));
        eventually(LONG, "the moment to come", async || match began.elapsed() >= after {
            true => Ok(()),
            false => Err(format!("{after:?} are not over")),
        })
        .await;
        killed += u64::from(running.kill());
    }
    let both = [rig.begin(&["manage", "rebuild"]), rig.begin(&["manage", "rebuild"])];
    for one in both {
        one.end().await.expect(0);
    }
    let watched = reader.end().await;
    load.kill();
    let oracle = rig.oracle();
    rig.wait_arrived(&oracle).await;
    rig.wait_idle().await;
    println!(
        "{} looks, absent at most {:?}, never fewer than {:?} members, {killed} killed",
        watched.looks, watched.absent_longest, watched.smallest
    );
    assert!(watched.looks > 50, "the reader hardly looked");
    let max =
        if std::env::var("ROLLCALL_TEST_REBUILDS").is_ok() { ABSENT_MAX } else { ABSENT_MAX_BUSY };
    assert!(watched.absent_longest < max, "{:?}", watched.absent_longest);
    assert!(watched.smallest >= Some(users as i64), "a set was seen half built");
    rig.cli(&["manage", "catch-up"]).await.expect(0);
    worker.terminate().await;
    rig.assert_sets_are_the_distinct_values().await;
    assert_nothing_is_left_over(&rig).await;
}

/// Rebuilt before every worker has it, a set lacks what comes: readers are not told that it is
/// whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_a_worker_does_not_keep_is_unknown_though_it_was_filled() {
    let mut rig = Rig::new("users=username").await;
    let mut producer = Producer::new(seed());
    let mut oracle = rig.oracle();
    let worker = rig.worker().await;
    let events = producer.events(100);
    oracle.all_good(&events);
    rig.publish_events(&events).await;
    rig.wait_arrived(&oracle).await;
    let more = "users=username states=state";
    rig.set(names::SETS, more);
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    eventually(LONG, "the worker to take it back", async || {
        let read = rig.cli(&["read", "count", "states"]).await;
        if read.code == Some(75) { Ok(()) } else { Err(read.said()) }
    })
    .await;
    rig.cli(&["read", "count", "users"]).await.expect(0);
    worker.terminate().await;

    let worker = rig.worker().await;
    rig.cli(&["manage", "rebuild", "states"]).await.expect(0);
    rig.publish_events(&producer.events(100)).await;
    rig.wait_idle().await;
    rig.cli(&["read", "count", "states"]).await.expect(0);
    assert!(!worker.log().contains("does not keep"), "{}", worker.log());
    worker.terminate().await;
    rig.assert_sets_are_the_distinct_values().await;
}

/// A worker that ends before its next look takes it back all the same, with its last batch or, where
/// there was none since, when it leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_ends_takes_back_what_it_does_not_keep() {
    let mut rig = Rig::new("users=username").await;
    let mut producer = Producer::new(seed());
    let mut oracle = rig.oracle();
    for killed in [true, false] {
        rig.set(names::SETS, "users=username");
        let worker = rig.warm_worker(&mut oracle, &mut producer).await;
        rig.set(names::SETS, "users=username states=state");
        rig.cli(&["manage", "rebuild"]).await.expect(0);
        if killed {
            let events = producer.events(20);
            oracle.all_good(&events);
            rig.publish_events(&events).await;
            rig.wait_arrived(&oracle).await;
            worker.assert_books_balance().await;
            worker.kill().await;
        } else {
            worker.terminate().await;
        }
        let read = rig.cli(&["read", "count", "states"]).await;
        assert_eq!(read.code, Some(75), "{killed}: {}", read.said());
        rig.cli(&["read", "count", "users"]).await.expect(0);
    }
}

/// A Redis with sets of another database: nothing in this one supports them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_new_postgres_the_sets_of_an_old_one_are_made_anew() {
    let rig = Rig::new("users=username").await;
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut Producer::new(seed())).await;
    worker.terminate().await;
    rig.pg().await.run("TRUNCATE events, rollcall_projection").await;
    let worker = rig.worker().await;
    eventually(LONG, "the phantoms to go", async || {
        let read = rig.cli(&["read", "count", "users"]).await;
        if read.stdout.trim() == "0" { Ok(()) } else { Err(read.said()) }
    })
    .await;
    worker.terminate().await;
    rig.cli(&["manage", "verify"]).await.expect(0);
}

/// A set that is defined tomorrow is unknown until it is filled from all history; one that is taken
/// out leaves with `prune`, and what is not ours stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_set_is_filled_from_history_and_an_old_one_is_pruned() {
    let mut rig = Rig::new("users=username cities=city").await;
    let events = Producer::new(seed()).events(300);
    let worker = rig.worker().await;
    rig.publish_events(&events).await;
    let mut oracle = rig.oracle();
    oracle.all_good(&events);
    rig.finish(&oracle, vec![worker]).await;

    rig.set(names::SETS, "users=username states=state");
    let unknown = rig.cli(&["read", "count", "states"]).await;
    assert_eq!(unknown.code, Some(75), "{}", unknown.said());
    rig.cli(&["read", "count", "users"]).await.expect(0);
    rig.cli(&["manage", "rebuild", "nosuch"]).await.expect(64);
    rig.cli(&["manage", "rebuild", "states"]).await.expect(0);
    let states = rig.cli(&["read", "count", "states"]).await.expect(0);
    let mut redis = rig.redis().await;
    let states: i64 = states.stdout.trim().parse().unwrap();
    assert_eq!(states, redis.int(&["SCARD", &format!("{}:states", rig.prefix())]).await);
    assert!(states > 1);
    // By one that knows of no other set: what is told of the others stays.
    let mut pg = rig.pg().await;
    let both = "users=username states=state";
    let owed = "SELECT count(catch_up_from) FROM rollcall_projection";
    rig.set(names::SETS, "states=state");
    rig.cli(&["manage", "rebuild", "states"]).await.expect(0);
    assert_eq!(pg.int(owed).await, 0, "what it owed itself is settled");
    rig.set(names::SETS, both);
    rig.cli(&["read", "count", "users"]).await.expect(0);
    rig.cli(&["read", "count", "states"]).await.expect(0);
    let foreign = format!("{}:mine", rig.prefix());
    redis.ask(&["SET", &foreign, "kept"]).await.unwrap();
    let dry = rig.cli(&["manage", "prune", "--dry-run", "--json"]).await.expect(0).json();
    assert_eq!(dry["keys"], json!({"cities": 1}));
    assert_eq!(dry["left_alone"], json!([foreign]));
    assert_eq!(redis.int(&["EXISTS", &format!("{}:cities", rig.prefix())]).await, 1);
    rig.cli(&["manage", "prune"]).await.expect(0);
    assert_eq!(redis.int(&["EXISTS", &format!("{}:cities", rig.prefix())]).await, 0);
    assert_eq!(redis.int(&["DEL", &foreign]).await, 1);

    // And what others are owed stays owed, whatever it does.
    let users = format!("{}:users", rig.prefix());
    let gone = redis.texts(&["SRANDMEMBER", &users, "1"]).await.unwrap().remove(0);
    redis.int(&["SREM", &users, &gone]).await;
    pg.run("UPDATE rollcall_projection SET catch_up_from = 1, version = version + 1").await;
    for command in [&["manage", "rebuild", "states"][..], &["manage", "catch-up"]] {
        rig.set(names::SETS, "states=state");
        let said = rig.cli(command).await.expect(0).said();
        assert!(command.len() == 3 || said.contains("not done"), "{said}");
        rig.set(names::SETS, both);
        assert_eq!(pg.int(owed).await, 1, "{command:?}");
    }
    rig.cli(&["manage", "catch-up"]).await.expect(0);
    assert_eq!(pg.int(owed).await, 0);
    assert_eq!(redis.int(&["SISMEMBER", &users, &gone]).await, 1);
    rig.assert_sets_are_the_distinct_values().await;
}

/// Keys that no event supports go with a rebuild, and a new generation begins; windows get the life
/// that is left to them, and those that are over are not made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_takes_out_what_nothing_supports() {
    let rig = Rig::new("users=username by_city=username@city hourly=username/hour").await;
    let mut pg = rig.pg().await;
    pg.run(
        "SELECT rollcall_ensure_partition(now() - n * interval '1 month', 'month')
            FROM generate_series(0, 2) AS n",
    )
    .await;
    pg.run(
        "INSERT INTO events (occurred_at, id, payload) VALUES
            (now(), gen_random_uuid(), '{\"username\": \"ann\", \"city\": \"x\"}'),
            (now() - interval '40 days', gen_random_uuid(), '{\"username\": \"bob\"}')",
    )
    .await;
    let mut redis = rig.redis().await;
    let key = |set: &str| format!("{}:{set}", rig.prefix());
    for (set, member) in
        [("users", "ghost"), ("by_city:gone", "ghost"), ("hourly:2020-01-01T00", "x")]
    {
        redis.int(&["SADD", &key(set), member]).await;
    }
    redis.ask(&["EXPIRE", &key("users"), "9999"]).await.unwrap();
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    let first = redis.texts(&["HMGET", &key("meta"), "generation", "state"]).await.unwrap();
    assert!(first.contains(&"fresh".to_owned()), "{first:?}");
    assert_eq!(redis.texts(&["SMEMBERS", &key("users")]).await.unwrap(), ["ann", "bob"]);
    assert_eq!(redis.int(&["TTL", &key("users")]).await, -1);
    let keys = redis.texts(&["KEYS", &key("*")]).await.unwrap();
    let sets = keys.iter().filter(|key| !names::is_reserved(key));
    assert_eq!(sets.count(), 3, "users, by_city:x and one hour: {keys:?}");
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    let second = redis.texts(&["HMGET", &key("meta"), "generation", "state"]).await.unwrap();
    assert_ne!(first, second, "a rebuild of all sets begins a generation");

    // Of an empty table nothing is left.
    pg.run("DELETE FROM events").await;
    rig.cli(&["manage", "rebuild"]).await.expect(0);
    eventually(LONG, "no set to be left", async || {
        let keys = redis.texts(&["KEYS", &key("*")]).await.unwrap();
        match keys.iter().all(|key| names::is_reserved(key)) {
            true => Ok(()),
            false => Err(format!("{keys:?}")),
        }
    })
    .await;
}

/// Wherever a rebuilder dies, the next look of a worker makes good what it left undone: members
/// that were added to the old sets after its last pass, and what it had put aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuilder_that_dies_anywhere_leaves_nothing_undone() {
    let seed = seed();
    for point in rollcall::fault::REBUILD_POINTS {
        let rig = Rig::new(SETS).await;
        let mut oracle = rig.oracle();
        let worker = rig.warm_worker(&mut oracle, &mut Producer::new(seed)).await;
        let died = rig.cli_with_env(&["manage", "rebuild"], &[("FAULT_POINT", point)]).await;
        assert_eq!(died.code, None, "{point}: it was to be killed: {}", died.said());
        let mut redis = rig.redis().await;
        let meta = format!("{}:meta", rig.prefix());
        eventually(LONG, "the sets to be fresh again", async || {
            match redis.in_order(&["HMGET", &meta, "state", "generation"]).await?.as_slice() {
                [state, _] if state == "fresh" => Ok(()),
                other => Err(format!("{point}: {other:?}")),
            }
        })
        .await;
        let owed = rig.pg().await.int("SELECT count(catch_up_from) FROM rollcall_projection").await;
        assert_eq!(owed, 0, "{point}");
        rig.finish(&oracle, vec![worker]).await;
        assert_nothing_is_left_over(&rig).await;
    }
}

/// What it was making is gone in time without anybody's doing. And while its counter is there no
/// set of it has expired, or less than a whole one might be put in place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_rebuilder_leaves_expires_and_its_counter_first() {
    let rig = Rig::new(SETS).await;
    // More than goes into one write: sets are added to after they were given their expiry.
    fill(&rig, 60_000).await;
    let began = OffsetDateTime::now_utc().unix_timestamp();
    let died = rig.cli_with_env(&["manage", "rebuild"], &[("FAULT_POINT", "before_swap")]).await;
    assert_eq!(died.code, None, "it was to be killed: {}", died.said());
    let mut redis = rig.redis().await;
    let left = redis.texts(&["KEYS", &format!("rebuild:*{{{}:*", rig.prefix())]).await.unwrap();
    let end = format!("{{{}:}}", rig.prefix());
    let (counters, sets): (Vec<String>, _) = left.into_iter().partition(|key| key.ends_with(&end));
    let [counter] = counters.as_slice() else { panic!("one counter: {counters:?}") };
    let writes: u64 = redis.texts(&["MGET", counter]).await.unwrap()[0].parse().unwrap();
    assert!(writes > 1, "one write gives each set its expiry");
    let first = redis.int(&["EXPIRETIME", counter]).await;
    assert!(first >= began, "the counter expires: {first}");
    assert!(sets.len() > 100, "a hundred cities and more: {}", sets.len());
    for set in sets {
        let at = redis.int(&["EXPIRETIME", &set]).await;
        assert!((first..began + 3_600).contains(&at), "{set}: {at}, the counter {first}");
    }
}
