//! What this process thinks of itself: is it alive, and should it get work.
//!
//! Liveness never depends on a server: restarting us does not bring Postgres back, and would throw
//! away the batches that lanes hold for it. Readiness does. This page opens no connection.

mod endpoint;
mod probe;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

pub use endpoint::{bind, serve};
pub use probe::{ProbeError, probe};

use tokio::sync::Notify;

use crate::config::redact::scrub;
use crate::telemetry::{Dependency, Label as _, Metrics};

/// The supervisor beats at least every few seconds, whatever is away; a silence this long is a
/// process that makes no progress and that only a restart can help.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Longest reason that is kept.
const REASON_CHARS_MAX: usize = 200;

/// Shared by those who know (supervisor, lanes) and the ops endpoint, which tells.
pub struct Health {
    started: Instant,
    /// Milliseconds from `started` to the last beat.
    last_beat: AtomicU64,
    draining: AtomicBool,
    /// Only those that the role needs. Held for a few assignments, never over an await.
    dependencies: Mutex<Vec<State>>,
    /// Somebody says to go on, after the breaker stopped the worker.
    resume: Notify,
}

struct State {
    dependency: Dependency,
    status: Status,
    since: Instant,
    reason: Option<String>,
}

/// What is known of a server. `Unknown` until the first word, and as good as down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Unknown,
    Ok,
    Down,
}

/// The answer of `/readyz`.
#[derive(Debug, Serialize)]
pub struct Report {
    pub ready: bool,
    pub draining: bool,
    pub dependencies: Vec<DependencyReport>,
}

#[derive(Debug, Serialize)]
pub struct DependencyReport {
    pub name: &'static str,
    pub status: Status,
    /// Whole seconds that it has been so.
    pub for_secs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Health {
    /// `needs` are the servers without which this role should get no work.
    pub fn new(needs: &[Dependency]) -> Health {
        let started = Instant::now();
        let unknown = |dependency: &Dependency| State {
            dependency: *dependency,
            status: Status::Unknown,
            since: started,
            reason: None,
        };
        Health {
            started,
            last_beat: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            dependencies: Mutex::new(needs.iter().map(unknown).collect()),
            resume: Notify::new(),
        }
    }

    /// Somebody says to go on.
    pub fn resume(&self) {
        self.resume.notify_waiters();
    }

    /// Returns when somebody says so from now on. Cancel-safe.
    pub async fn resumed(&self) {
        self.resume.notified().await;
    }

    /// The dependency has just worked. True when that is news.
    pub fn up(&self, dependency: Dependency) -> bool {
        self.set(dependency, Status::Ok, None)
    }

    /// It has just failed. True when that is news; a new reason alone is none.
    pub fn down(&self, dependency: Dependency, reason: &str) -> bool {
        self.set(dependency, Status::Down, Some(scrub(reason, REASON_CHARS_MAX)))
    }

    fn set(&self, dependency: Dependency, status: Status, reason: Option<String>) -> bool {
        let mut states = self.states();
        // One that the role does not need is nobody's business here.
        let Some(state) = states.iter_mut().find(|state| state.dependency == dependency) else {
            return false;
        };
        let news = state.status != status;
        if news {
            state.status = status;
            state.since = Instant::now();
        }
        state.reason = reason;
        news
    }

    /// From now on not ready, for good.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The supervisor is going round.
    pub fn beat(&self) {
        let elapsed = self.started.elapsed().as_millis();
        self.last_beat.store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn is_alive(&self, now: Instant) -> bool {
        let beat = Duration::from_millis(self.last_beat.load(Ordering::Relaxed));
        now.saturating_duration_since(self.started).saturating_sub(beat) <= SILENCE_MAX
    }

    pub fn report(&self, now: Instant) -> Report {
        let draining = self.draining.load(Ordering::Relaxed);
        let states = self.states();
        Report {
            ready: !draining && states.iter().all(|state| state.status == Status::Ok),
            draining,
            dependencies: states
                .iter()
                .map(|state| DependencyReport {
                    name: state.dependency.as_str(),
                    status: state.status,
                    for_secs: now.saturating_duration_since(state.since).as_secs(),
                    reason: state.reason.clone(),
                })
                .collect(),
        }
    }

    /// The same as metrics; a server that this role does not need stays at 0.
    pub fn tell(&self, metrics: &Metrics, now: Instant) {
        let report = self.report(now);
        metrics.ready.set(f64::from(u8::from(report.ready)));
        for state in self.states().iter() {
            let up = f64::from(u8::from(state.status == Status::Ok));
            metrics.dependency_up.of(state.dependency).set(up);
        }
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        // Each state is whole after every assignment, so a panic elsewhere has spoiled nothing.
        self.dependencies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
