//! P1 and P5 for every way in which a server can say no: what is good is held and never condemned,
//! the worker lives and says once what is wrong, and goes on by itself when it is mended.

use serde_json::Value;

use crate::harness::{LONG, Oracle, Producer, Rig, Worker, eventually, names, seed};

mod postgres;
mod rabbitmq;
mod redis;

/// A worker that is well, on servers of its own, and what it must have done at the end.
struct Scene {
    rig: Rig,
    worker: Worker,
    oracle: Oracle,
    producer: Producer,
}

/// What a worker must say of a trouble, in its log and in `/readyz`: one of these texts.
#[derive(Clone, Copy)]
struct Told<'a> {
    dependency: &'static str,
    says: &'a [&'a str],
    /// It does not pass by itself, and who reads the log should know.
    needs_hand: bool,
}

/// Told at most so often: by a lane that holds, by the look at an idle worker's neighbours, and by
/// a session that does not begin.
const TOLD_MAX: usize = 3;
/// Tries that a trouble lasts for.
const TRIES: f64 = 4.0;

impl Scene {
    async fn new(mut rig: Rig) -> Scene {
        rig.set(names::LANES, "1");
        rig.set(names::RETRY_MAX_SECS, "1");
        let mut oracle = rig.oracle();
        let mut producer = Producer::new(seed());
        let worker = rig.warm_worker(&mut oracle, &mut producer).await;
        Scene { rig, worker, oracle, producer }
    }

    /// Another worker in the place of this one, with the environment as it is now.
    async fn replace_worker(self) -> Scene {
        self.worker.terminate().await;
        let worker = self.rig.worker().await;
        Scene { worker, ..self }
    }

    /// Events that must arrive in the end.
    fn events(&mut self, count: usize) -> Vec<Value> {
        let events = self.producer.events(count);
        self.oracle.all_good(&events);
        events
    }

    /// Publishes into the trouble, and sees that it is held and told. `said_before`: the length of
    /// the log when all was well.
    async fn endure(&mut self, name: &str, told: Told<'_>, said_before: usize) {
        println!("{name}");
        let events = self.events(50);
        self.rig.publish_events(&events).await;
        self.is_told(name, told, said_before).await;
    }

    async fn is_told(&mut self, name: &str, told: Told<'_>, said_before: usize) {
        let worker = &mut self.worker;
        let label = format!("dependency=\"{}\"", told.dependency);
        let tries = async || -> Result<f64, String> {
            Ok(worker.metrics().await?.sum_where(names::RETRIES, &label))
        };
        let before = tries().await.unwrap();
        eventually(LONG, &format!("{name}: /readyz to say why"), async || {
            let reply = worker.get("/readyz").await?;
            let why = told.says.iter().any(|text| reply.body.contains(text));
            match reply.status == 503 && why {
                true => Ok(()),
                false => Err(format!("it says {}: {}", reply.status, reply.body)),
            }
        })
        .await;
        eventually(LONG, &format!("{name}: some tries"), async || match tries().await? - before {
            TRIES.. => Ok(()),
            n => Err(format!("{n} so far")),
        })
        .await;
        assert_eq!(worker.status("/livez").await, Ok(200), "{name}");
        worker.assert_alive();
        let log = worker.log().split_off(said_before);
        let said: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("\"WARN\"") || line.contains("\"ERROR\""))
            .filter(|line| told.says.iter().any(|text| line.contains(text)))
            .collect();
        assert!((1..=TOLD_MAX).contains(&said.len()), "{name} is told so:\n{log}");
        let hand = said.iter().any(|line| line.contains("a hand is needed"));
        assert_eq!(hand, told.needs_hand, "{name}: whether a hand is needed:\n{log}");
    }

    /// All of it arrives, and nothing was condemned or handed out more often than it had to be.
    async fn recover(&mut self, name: &str) {
        println!("{name}: mended");
        let Scene { rig, worker, oracle, .. } = self;
        worker.wait_ready().await;
        rig.wait_arrived(oracle).await;
        worker.assert_books_balance().await;
        worker.assert_alive();
        rig.assert_dead_letters(oracle).await;
    }

    async fn finish(self) {
        self.rig.finish(&self.oracle, vec![self.worker]).await;
    }

    /// Held, never returned: no delivery was handed out twice.
    async fn assert_nothing_returned(&self) {
        let metrics = self.worker.metrics().await.unwrap();
        assert_eq!(metrics.sum(names::REDELIVERIES), 0.0, "redeliveries");
        assert_eq!(metrics.sum(names::SESSIONS), 1.0, "sessions");
    }
}
