//! Peers that neither answer nor go away: frozen servers, and links on which nothing passes. The
//! worker notices, stays alive, settles nothing twice, and goes on soon after. All with the
//! settings that a worker has by default.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    DEFAULT_SETS, Flow, Oracle, Producer, Proxy, Rig, Server, Verb, Worker, eventually, names, seed,
};

/// `/readyz` says so within this.
const NOTICED: Duration = Duration::from_secs(25);
/// Work has resumed within this.
const RESUMED: Duration = Duration::from_secs(10);
const FROZEN: Duration = Duration::from_secs(45);
const HOLE: Duration = Duration::from_secs(30);
/// An idle worker is given something to do this long before the end: what it sends then is lost on
/// a connection that it has had no answer on for long.
const LATE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_noticed_and_waited_for() {
    // Each world has servers of its own; they are frozen at the same time to save it.
    let mut trials = Vec::new();
    for server in Server::ALL {
        trials.push(Trial::frozen(server).await);
    }
    run_all(trials).await;
}

/// The connections that stood go on when the link does, if they were not given up before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_stands_still_is_noticed_and_waited_for() {
    half_open(Flow::Keep, Traffic::Busy).await;
}

/// The connections that stood are dead for good, and neither side is told. The worker is idle until
/// shortly before the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_loses_its_connections_is_noticed_and_made_anew() {
    half_open(Flow::Lose, Traffic::Idle).await;
}

async fn half_open(flow: Flow, traffic: Traffic) {
    let mut trials = Vec::new();
    for variable in ["AMQP_URL", "DATABASE_URL", "REDIS_URL"] {
        trials.push(Trial::half_open(variable, flow, traffic).await);
    }
    run_all(trials).await;
}

async fn run_all(trials: Vec<Trial>) {
    let [one, two, three] = trials.try_into().unwrap_or_else(|_| panic!("three of them"));
    tokio::join!(one.run(), two.run(), three.run());
}

enum Fault {
    Frozen(Server),
    HalfOpen(Proxy, Flow),
}

/// What the worker has to do when the fault comes.
#[derive(Clone, Copy, PartialEq)]
enum Traffic {
    Busy,
    Idle,
}

struct Trial {
    name: String,
    rig: Rig,
    worker: Worker,
    oracle: Oracle,
    producer: Producer,
    fault: Fault,
    traffic: Traffic,
    lasts: Duration,
}

impl Trial {
    async fn frozen(server: Server) -> Trial {
        let rig = Rig::breakable(DEFAULT_SETS).await;
        let (name, fault) = (format!("frozen {server:?}"), Fault::Frozen(server));
        Trial::new(name, rig, fault, Traffic::Busy, FROZEN).await
    }

    async fn half_open(variable: &str, flow: Flow, traffic: Traffic) -> Trial {
        let mut rig = Rig::new(DEFAULT_SETS).await;
        let url = rig.env[variable].clone();
        let fault = Fault::HalfOpen(rig.proxy(variable).await, flow);
        let name = format!("half-open {variable} {flow:?}");
        let mut trial = Trial::new(name, rig, fault, traffic, HOLE).await;
        // Only the worker goes through the proxy.
        trial.rig.set(variable, &url);
        trial
    }

    async fn new(name: String, rig: Rig, fault: Fault, traffic: Traffic, lasts: Duration) -> Trial {
        let (mut oracle, mut producer) = (rig.oracle(), Producer::new(seed()));
        oracle.dead_may_repeat = true;
        let worker = rig.warm_worker(&mut oracle, &mut producer).await;
        Trial { name, rig, worker, oracle, producer, fault, traffic, lasts }
    }

    fn begin(&self) {
        match &self.fault {
            Fault::Frozen(server) => self.rig.control(Verb::Pause, *server),
            Fault::HalfOpen(proxy, flow) => proxy.blackhole(*flow),
        }
    }

    fn end(&self) {
        match &self.fault {
            Fault::Frozen(server) => self.rig.control(Verb::Resume, *server),
            Fault::HalfOpen(proxy, _) => proxy.heal(),
        }
    }

    async fn run(mut self) {
        let some = self.producer.events(2000);
        let amid = if self.traffic == Traffic::Busy { &some[..1000] } else { &[] };
        let during = &some[1000..];
        // A connection made before: a frozen RabbitMQ lets its publisher wait.
        let publisher = self.rig.amqp().await;
        let messages: Vec<_> = during.iter().map(crate::harness::Message::object).collect();
        self.rig.publish_events(amid).await;
        self.oracle.all_good(amid);
        self.oracle.all_good(during);
        self.begin();
        let began = Instant::now();
        tokio::select! {
            ((), fresh) = async { tokio::join!(
                async {
                    if self.traffic == Traffic::Idle {
                        self.lasted(began, self.lasts - LATE).await;
                    }
                    publisher.publish(self.rig.exchange(), &messages).await;
                },
                self.endured(began),
            ) } => self.oracle.all_good(&[fresh]),
            never = stays_alive(&self.worker) => match never {},
        }
        let log = self.worker.log();
        for wrong in ["panicked", "PRECONDITION_FAILED", "unknown delivery tag"] {
            assert!(!log.contains(wrong), "{}: the log says {wrong}", self.name);
        }
        self.rig.finish(&self.oracle, vec![self.worker]).await;
    }

    /// From the beginning of the fault until work has resumed; returns the event that showed it.
    async fn endured(&self, began: Instant) -> serde_json::Value {
        let Trial { name, rig, worker, .. } = self;
        self.noticed(began).await;
        let noticed = began.elapsed();
        self.lasted(began, self.lasts).await;
        let acked = self.acked().await.unwrap();
        self.end();
        let ended = Instant::now();
        let fresh = Producer::new(began.elapsed().as_nanos() as u64)
            .event_with(json!({"username": "the first one after it"}));
        rig.publish_events(std::slice::from_ref(&fresh)).await;
        let (mut redis, users) = (rig.redis().await, format!("{}:users", rig.prefix()));
        let resumed = format!("{name}: work to resume");
        // From the moment that nothing is in the way any more, publishing included.
        eventually(RESUMED.saturating_sub(ended.elapsed()), &resumed, async || {
            let there = ["SISMEMBER", &users, "the first one after it"];
            let visible = redis.int(&there).await == 1;
            let ready = worker.get("/readyz").await?;
            let acks = self.acked().await? - acked;
            match (visible, ready.status, acks) {
                (true, 200, 1.0..) => Ok(()),
                _ => Err(format!("visible: {visible}, {acks} acked, {}", ready.body)),
            }
        })
        .await;
        println!("{name}: noticed in {noticed:.1?}, resumed in {:.1?}", ended.elapsed());
        fresh
    }

    async fn acked(&self) -> Result<f64, String> {
        let metrics = self.worker.metrics().await?;
        Ok(metrics.sum_where(names::SETTLEMENTS, "outcome=\"ack\""))
    }

    /// Not ready all the while, as soon as it has noticed.
    async fn lasted(&self, began: Instant, lasts: Duration) {
        self.noticed(began).await;
        eventually(lasts, "the fault to have lasted", async || {
            let status = self.worker.status("/readyz").await;
            assert_eq!(status, Ok(503), "{}: ready in the midst of it", self.name);
            match began.elapsed() >= lasts {
                true => Ok(()),
                false => Err("it has not".to_owned()),
            }
        })
        .await;
    }

    async fn noticed(&self, began: Instant) {
        let left = NOTICED.saturating_sub(began.elapsed());
        eventually(left, &format!("{}: /readyz to say 503", self.name), async || {
            match self.worker.status("/readyz").await? {
                503 => Ok(()),
                status => Err(format!("it says {status}")),
            }
        })
        .await;
    }
}

/// Liveness never depends on a server.
async fn stays_alive(worker: &Worker) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        ticks.tick().await;
        assert_eq!(worker.status("/livez").await, Ok(200));
    }
}
