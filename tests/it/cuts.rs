//! Each connection of a worker cut at bytes spread evenly over a whole batch, in either direction,
//! from the first byte of its handshake on; and commits whose reply never comes.

use serde_json::Value;

use crate::harness::{
    DEFAULT_SETS, Ending, Message, Oracle, Producer, Proxy, Rig, Way, Worker, names, seed,
};

/// Cuts in all, over three connections and two directions: this many, or `ROLLCALL_TEST_CUTS`.
const CUTS: u32 = 60;
/// Of several undisturbed batches the one with the fewest bytes is what the cuts are spread over.
const MEASURED: u32 = 3;
/// What comes by the clock (heartbeats, looks at a store) makes one batch longer than another, so
/// a cut near the end may need a few more bytes than the batch had.
const BATCHES_MAX: u32 = 10;

fn cuts_each_way() -> u32 {
    let cuts = match std::env::var("ROLLCALL_TEST_CUTS") {
        Ok(text) => text.parse().expect("ROLLCALL_TEST_CUTS is a number"),
        Err(_) => CUTS,
    };
    println!("ROLLCALL_TEST_CUTS={cuts}");
    cuts.div_ceil(6)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connections_to_rabbitmq_may_be_cut_at_any_byte() {
    sweep("AMQP_URL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connections_to_postgres_may_be_cut_at_any_byte() {
    sweep("DATABASE_URL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_to_redis_may_be_cut_at_any_byte() {
    sweep("REDIS_URL").await;
}

/// Which bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    /// New connections: their set-up, and a batch.
    Anew,
    /// Those that stand: a batch alone, which may be a small part of the other.
    Standing,
}

/// A worker behind a proxy, and what it must have done.
struct Run {
    rig: Rig,
    oracle: Oracle,
    producer: Producer,
    worker: Worker,
    proxy: Proxy,
}

impl Run {
    /// Only the worker goes through the proxy.
    async fn new(variable: &str, settings: &[(&str, &str)]) -> Run {
        let mut rig = Rig::new(DEFAULT_SETS).await;
        let short = [(names::RETRY_MIN_MS, "1"), (names::RETRY_MAX_SECS, "1")];
        for (name, value) in short.iter().chain(settings) {
            rig.set(name, value);
        }
        let url = rig.env[variable].clone();
        let proxy = rig.proxy(variable).await;
        let worker = rig.worker().await;
        rig.set(variable, &url);
        let mut oracle = rig.oracle();
        oracle.dead_may_repeat = true;
        Run { rig, oracle, producer: Producer::new(seed()), worker, proxy }
    }

    /// Each with a member that no other has: what is lost is not made up for by a later event.
    fn events(&mut self, count: usize) -> Vec<Value> {
        let mut events = self.producer.events(count);
        for event in &mut events {
            event["username"] = event["id"].clone();
        }
        events
    }

    /// One message of many events, a duplicate and a bad one among them; three of one event; one
    /// of none. Waits until all of it has arrived and been settled.
    async fn batch(&mut self) {
        let events = self.events(10);
        self.oracle.all_good(&events);
        let bad = format!("\"no event {}\"", self.producer.id());
        self.oracle.bad("not_an_object", bad.clone());
        let mut elements: Vec<String> = events.iter().map(|event| event.to_string()).collect();
        elements.extend([bad, events[0].to_string()]);
        let mut messages = vec![Message::array_of(elements)];
        let singles = self.events(3);
        self.oracle.all_good(&singles);
        messages.extend(singles.iter().map(Message::object));
        let bad = format!("{{{}", self.producer.id());
        self.oracle.bad("json", bad.clone());
        messages.push(Message::raw(bad));
        self.rig.publish(&messages).await;
        self.rig.wait_arrived(&self.oracle).await;
        self.worker.assert_books_balance().await;
    }

    fn count_from(&self, start: Start) {
        if start == Start::Anew {
            self.proxy.cut_all();
        }
        self.proxy.count_anew();
    }

    async fn measure(&mut self, way: Way, start: Start) -> u64 {
        let mut least = u64::MAX;
        for _ in 0..MEASURED {
            self.count_from(start);
            self.batch().await;
            least = least.min(self.proxy.passed(way));
        }
        least
    }

    /// One cut, and everything seen through.
    async fn cut(&mut self, way: Way, start: Start, after: u64, ending: Ending) {
        let before = self.proxy.cuts();
        self.count_from(start);
        self.proxy.cut_after(way, after, ending);
        let mut batches = 0;
        while self.proxy.cuts() == before {
            assert!(batches < BATCHES_MAX, "no cut at byte {after} {way:?}");
            self.batch().await;
            batches += 1;
        }
    }

    /// How often the worker tried again, or was handed a message again.
    async fn tried_again(&self, variable: &str) -> f64 {
        let metrics = self.worker.metrics().await.unwrap();
        match variable {
            "AMQP_URL" => metrics.sum(names::REDELIVERIES),
            "DATABASE_URL" => metrics.sum_where(names::RETRIES, "postgres"),
            _ => metrics.sum_where(names::RETRIES, "redis"),
        }
    }

    async fn finish(mut self) {
        // A fresh one, after the last fault.
        self.batch().await;
        let log = self.worker.log();
        for wrong in ["panicked", "PRECONDITION_FAILED", "unknown delivery tag"] {
            assert!(!log.contains(wrong), "the log says {wrong}");
        }
        self.rig.finish(&self.oracle, vec![self.worker]).await;
    }
}

/// Both ways of one server's connections, beside each other: most of it is waiting.
async fn sweep(variable: &str) {
    let cuts = cuts_each_way();
    tokio::join!(sweep_way(variable, Way::Up, cuts), sweep_way(variable, Way::Down, cuts));
}

/// After each cut the worker has to see everything through.
async fn sweep_way(variable: &str, way: Way, cuts: u32) {
    let mut run = Run::new(variable, &[]).await;
    run.batch().await;
    for start in [Start::Anew, Start::Standing] {
        let bytes = run.measure(way, start).await;
        let cuts = cuts.div_ceil(2);
        println!("{variable} {way:?} {start:?}: {cuts} cuts over {bytes} bytes");
        for n in 0..cuts {
            let after = bytes * u64::from(2 * n + 1) / u64::from(2 * cuts);
            run.cut(way, start, after, if n % 2 == 0 { Ending::Fin } else { Ending::Reset }).await;
        }
    }
    let again = run.tried_again(variable).await;
    println!("{variable} {way:?}: {} cuts made, tried again {again} times", run.proxy.cuts());
    assert!(run.proxy.cuts() >= cuts && again > 0.0, "inconclusive");
    run.finish().await;
}

/// The insert is one statement that commits by itself, so the reply to it is the reply to COMMIT.
/// Two hundred times it does not come: the connection breaks when the server sends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_reply_is_lost_is_done_again_as_a_duplicate() {
    const LOST: usize = 200;
    let mut run = Run::new("DATABASE_URL", &[(names::BATCH_EVENTS_MAX, "1")]).await;
    let events = run.events(LOST);
    let username = |event: &Value| event["username"].as_str().map(str::to_owned);
    run.proxy.lose_replies_to(events.iter().filter_map(username));
    for some in events.chunks(LOST / 8) {
        run.oracle.all_good(some);
        run.rig.publish_events(some).await;
        run.rig.wait_arrived(&run.oracle).await;
    }
    run.worker.assert_books_balance().await;
    assert_eq!(run.proxy.replies_lost(), LOST, "inconclusive");
    let metrics = run.worker.metrics().await.unwrap();
    // What the worker was told: not one event was new to Postgres.
    assert_eq!(metrics.sum(names::EVENTS_STORED), 0.0);
    assert!(metrics.sum(names::DUPLICATES) >= LOST as f64);
    run.finish().await;
}
