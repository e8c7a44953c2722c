//! Several workers of one world, kept running as a service manager would, and what they count.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::names;
use super::oracle::Oracle;
use super::pg::Pg;
use super::process::Worker;
use super::publisher::Publisher;
use super::rig::Rig;
use super::wait::{LONG, eventually};
use super::witness::Witness;

pub struct Fleet<'a> {
    rig: &'a Rig,
    workers: Vec<(usize, Worker)>,
    pub witness: Witness,
}

impl<'a> Fleet<'a> {
    pub async fn start(rig: &'a Rig, workers: usize) -> Fleet<'a> {
        let mut fleet = Fleet { rig, workers: Vec::new(), witness: Witness::new() };
        for _ in 0..workers {
            let worker = fleet.begin().await;
            worker.1.wait_ready().await;
            fleet.workers.push(worker);
        }
        fleet
    }

    async fn begin(&self) -> (usize, Worker) {
        let worker = self.rig.worker_unready().await;
        (self.witness.began(worker.addr), worker)
    }

    /// Waits until `events` are stored and the worker in this slot has deliveries that it has not
    /// settled. Meanwhile it keeps the publisher this far ahead of what is stored: there is work
    /// under way all the time, and no more than that in a queue that stalls.
    pub async fn wait_at_work(
        &mut self,
        publisher: &Publisher,
        events: u64,
        ahead: u64,
        slot: usize,
    ) {
        let mut pg: Option<Pg> = None;
        let (mut best, mut since) = (0, Instant::now());
        // The deadline is for each step on the way: the whole of it takes as long as it takes.
        eventually(Duration::MAX, "work to get on", async || {
            for (_, worker) in &mut self.workers {
                worker.assert_alive();
            }
            let stored = stored(self.rig, &mut pg).await;
            if let Ok(stored) = stored {
                publisher.allow(stored + ahead);
                let metrics = self.workers[slot].1.metrics().await;
                let in_flight = metrics.map_or(0.0, |metrics| metrics.sum(names::IN_FLIGHT));
                if stored >= events && in_flight > 0.0 {
                    return Ok(());
                }
                if stored > best {
                    (best, since) = (stored, Instant::now());
                }
            }
            assert!(
                since.elapsed() < LONG,
                "nothing was stored for {LONG:?}: {stored:?} of {events}, {} are confirmed",
                publisher.confirmed()
            );
            Err(String::new())
        })
        .await;
    }

    /// SIGKILL, and another in its place at once.
    pub async fn kill(&mut self, slot: usize) {
        let (number, worker) = &mut self.workers[slot];
        self.witness.ends(*number).await;
        worker.signal("KILL");
        let status = worker.wait_exit(LONG).await;
        assert_eq!(status.code(), None, "ended by itself, not by the signal: {status}");
        self.workers[slot] = self.begin().await;
        self.witness.fired(format!("worker {slot} killed"));
    }

    /// SIGTERM, and another in its place, which need not wait for the end of the old one. Gives how
    /// that one ended and how long it took.
    pub async fn replace(&mut self, slot: usize) -> (ExitStatus, Duration) {
        let new = self.begin().await;
        let (number, mut old) = std::mem::replace(&mut self.workers[slot], new);
        let began = Instant::now();
        old.signal("TERM");
        let status = old.wait_exit(LONG).await;
        let took = began.elapsed();
        self.witness.ends(number).await;
        self.witness.fired(format!("worker {slot} replaced"));
        (status, took)
    }

    /// The end of a run: all has arrived, the workers are idle and nothing is unacknowledged, they
    /// drain, and the laws hold.
    pub async fn finish(self, oracle: &Oracle) -> Witness {
        let Fleet { rig, workers, witness } = self;
        rig.wait_arrived(oracle).await;
        for (_, worker) in &workers {
            worker.assert_books_balance().await;
        }
        rig.wait_idle().await;
        for (number, worker) in workers {
            witness.ends(number).await;
            let log = worker.log();
            assert!(!log.contains("panicked"), "{log}");
            worker.terminate().await;
        }
        rig.assert_laws(oracle).await;
        rig.assert_sets_are_the_distinct_values().await;
        witness
    }
}

/// Asks on a connection that is kept while it works.
async fn stored(rig: &Rig, pg: &mut Option<Pg>) -> Result<u64, String> {
    let connection = match pg {
        Some(connection) => connection,
        None => pg.insert(rig.try_pg().await?),
    };
    let stored = connection.events().await;
    if stored.is_err() {
        *pg = None;
    }
    stored.map(|stored| stored as u64)
}
