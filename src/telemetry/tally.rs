//! Handles that can be read back: for what a worker tells of itself beside its metrics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge};
use tokio::time::Instant;

/// A counter that knows how far it is.
pub struct Tally {
    counter: Counter,
    total: AtomicU64,
}

impl Tally {
    pub(super) fn new(counter: Counter) -> Tally {
        Tally { counter, total: AtomicU64::new(0) }
    }

    pub fn increment(&self, by: u64) {
        self.counter.increment(by);
        self.total.fetch_add(by, Ordering::Relaxed);
    }

    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// A gauge of whole numbers that knows where it is.
pub struct Level {
    gauge: Gauge,
    now: AtomicI64,
}

impl Level {
    pub(super) fn new(gauge: Gauge) -> Level {
        Level { gauge, now: AtomicI64::new(0) }
    }

    pub fn increment(&self, by: u64) {
        self.gauge.increment(by as f64);
        self.now.fetch_add(by as i64, Ordering::Relaxed);
    }

    pub fn decrement(&self, by: u64) {
        self.gauge.decrement(by as f64);
        self.now.fetch_sub(by as i64, Ordering::Relaxed);
    }

    pub fn now(&self) -> u64 {
        u64::try_from(self.now.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// What was seen somewhere else, and when.
pub struct Sighting {
    gauge: Gauge,
    last: Mutex<Option<(u64, Instant)>>,
}

impl Sighting {
    pub(super) fn new(gauge: Gauge) -> Sighting {
        Sighting { gauge, last: Mutex::new(None) }
    }

    /// `None`: it was not to be seen. The gauge stays where it was.
    pub fn saw(&self, value: Option<u64>, at: Instant) {
        if let Some(value) = value {
            self.gauge.set(value as f64);
        }
        *self.locked() = value.map(|value| (value, at));
    }

    pub fn last(&self) -> Option<(u64, Instant)> {
        *self.locked()
    }

    fn locked(&self) -> MutexGuard<'_, Option<(u64, Instant)>> {
        // Whole after each assignment.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The highest value since somebody took it.
#[derive(Default)]
pub struct Peak(Mutex<Option<f64>>);

impl Peak {
    pub fn note(&self, value: f64) {
        let mut highest = self.locked();
        *highest = Some(highest.map_or(value, |highest| highest.max(value)));
    }

    pub fn take(&self) -> Option<f64> {
        self.locked().take()
    }

    fn locked(&self) -> MutexGuard<'_, Option<f64>> {
        // Whole after each assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_taken_once() {
        let peak = Peak::default();
        assert_eq!(peak.take(), None);
        [2.0, 5.0, 3.0].iter().for_each(|value| peak.note(*value));
        assert_eq!((peak.take(), peak.take()), (Some(5.0), None));
    }

    #[test]
    fn a_level_is_where_it_was_left() {
        let level = Level::new(Gauge::noop());
        level.increment(7);
        level.decrement(3);
        assert_eq!(level.now(), 4);
        level.decrement(9);
        assert_eq!(level.now(), 0, "what is read is a number of things");
    }
}
