//! Whether a run was worth anything: what its workers counted, those that were killed included, and
//! which of its faults fired. A run in which nothing happened proves nothing, and fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::http::{self, Metrics};
use super::names;

/// How often each worker is asked. What one counts between its last answer and its death is not
/// seen, so every sum is a lower bound.
const EVERY: Duration = Duration::from_millis(100);

pub struct Witness {
    began: Instant,
    seen: Arc<Mutex<Seen>>,
    asking: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// Who runs, by a number of its own: a port is used again.
    running: BTreeMap<usize, SocketAddr>,
    /// The last answer of each process there ever was.
    last: BTreeMap<usize, Metrics>,
    armed: usize,
    fired: Vec<String>,
}

impl Witness {
    pub fn new() -> Witness {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let asked = seen.clone();
        let asking = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let running = with(&asked, |seen| seen.running.clone());
                for (worker, addr) in running {
                    ask(&asked, worker, addr).await;
                }
            }
        });
        Witness { began: Instant::now(), seen, asking }
    }

    /// A new process. Gives the number by which it is known here.
    pub fn began(&self, addr: SocketAddr) -> usize {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let worker = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        with(&self.seen, |seen| seen.running.insert(worker, addr));
        worker
    }

    /// Asks once more, for the last time.
    pub async fn ends(&self, worker: usize) {
        if let Some(addr) = with(&self.seen, |seen| seen.running.remove(&worker)) {
            ask(&self.seen, worker, addr).await;
        }
    }

    /// So many faults are meant to fire.
    pub fn arm(&self, faults: usize) {
        with(&self.seen, |seen| seen.armed += faults);
    }

    pub fn fired(&self, what: String) {
        println!("{:.1} s: {what}", self.began.elapsed().as_secs_f64());
        with(&self.seen, |seen| seen.fired.push(what));
    }

    /// Over all processes there were.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        // Not `sum()`, which starts from -0.0 and prints so.
        let add = |sum, metrics: &Metrics| sum + metrics.sum_where(name, label);
        with(&self.seen, |seen| seen.last.values().fold(0.0, add))
    }

    /// What was counted of each that a run must have had.
    pub fn account(&self) -> Vec<(String, f64)> {
        let mut account = vec![
            ("redeliveries".to_owned(), self.sum(names::REDELIVERIES, "")),
            ("duplicates".to_owned(), self.sum(names::DUPLICATES, "")),
        ];
        for dependency in ["rabbitmq", "postgres", "redis"] {
            let label = format!("dependency=\"{dependency}\"");
            account.push((format!("retries of {dependency}"), self.sum(names::RETRIES, &label)));
        }
        account
    }

    /// Something was delivered again, something was stored already, each server was waited for, and
    /// each armed fault fired: else the run says nothing about the laws.
    pub fn assert_conclusive(&self) {
        let account = self.account();
        let (armed, fired) = with(&self.seen, |seen| (seen.armed, seen.fired.len()));
        println!("witness: {account:?}, {fired} of {armed} faults fired");
        let missing: Vec<&str> =
            account.iter().filter(|(_, n)| *n < 1.0).map(|(what, _)| what.as_str()).collect();
        assert!(
            missing.is_empty() && fired == armed && armed > 0,
            "inconclusive: the laws held in a run without {missing:?}, {fired} of {armed} faults"
        );
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

async fn ask(seen: &Mutex<Seen>, worker: usize, addr: SocketAddr) {
    // One that is just dying does not answer: its last answer stands.
    let Ok(reply) = http::get(addr, "/metrics").await else { return };
    if reply.status == 200 {
        let metrics = Metrics::parse(&reply.body);
        with(seen, |seen| seen.last.insert(worker, metrics));
    }
}

fn with<T>(seen: &Mutex<Seen>, f: impl FnOnce(&mut Seen) -> T) -> T {
    f(&mut seen.lock().unwrap_or_else(PoisonError::into_inner))
}
