//! Redis is away: for how long a batch waits for it, and when ingest goes on without. Shared by the
//! lanes and the look, so that one of them finds out for all. Pure but for its lock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub struct Outage {
    hold: Duration,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// The first failure that no success followed.
    since: Option<Instant>,
    skipping: bool,
    /// It answers a look again, and has not yet taken a batch.
    tried: bool,
}

impl Outage {
    pub fn new(hold: Duration) -> Outage {
        Outage { hold, state: Mutex::default() }
    }

    /// Whether ingest goes on without Redis.
    pub fn is_skipping(&self) -> bool {
        self.state().skipping
    }

    /// It failed. Whether it has for long enough that ingest goes on without it.
    pub fn failed(&self, now: Instant) -> bool {
        let mut state = self.state();
        let since = *state.since.get_or_insert(now);
        state.skipping |= now.saturating_duration_since(since) >= self.hold;
        state.skipping
    }

    /// One batch has waited for it as long as a batch may, whatever others found.
    pub fn skip(&self, now: Instant) {
        let mut state = self.state();
        state.since.get_or_insert(now);
        state.skipping = true;
    }

    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// It took a batch.
    pub fn over(&self) {
        let mut state = self.state();
        if !state.skipping {
            *state = State::default();
        }
    }

    /// It answers a look, and says that it is stale if anything was skipped. Batches go to it
    /// again; where it still takes none, they need not wait anew. Whether that is news.
    pub fn answers(&self) -> bool {
        let mut state = self.state();
        let skipped = state.skipping;
        if skipped {
            (state.skipping, state.tried) = (false, true);
        } else if !state.tried {
            state.since = None;
        }
        skipped
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(60);

    #[test]
    fn ingest_goes_on_without_redis_once_it_has_been_away_for_the_hold() {
        let (outage, began) = (Outage::new(HOLD), Instant::now());
        assert!(!outage.failed(began));
        assert!(!outage.failed(began + HOLD / 2));
        assert!(outage.failed(began + HOLD));
        assert!(outage.answers());
        assert!(!outage.is_skipping());
        assert!(outage.failed(began + HOLD * 2), "it took nothing: nobody waits anew");
        outage.answers();
        outage.over();
        assert!(!outage.failed(began + HOLD * 3));
    }

    #[test]
    fn short_failures_do_not_add_up() {
        let (outage, began) = (Outage::new(HOLD), Instant::now());
        for n in 0..10 {
            assert!(!outage.failed(began + HOLD * n));
            if n % 2 == 0 { outage.over() } else { assert!(!outage.answers()) }
        }
    }

    #[test]
    fn without_a_hold_nobody_waits() {
        let outage = Outage::new(Duration::ZERO);
        assert!(outage.failed(Instant::now()));
    }

    #[test]
    fn a_batch_that_was_added_late_does_not_end_what_others_found() {
        let outage = Outage::new(Duration::ZERO);
        outage.skip(Instant::now());
        outage.over();
        assert!(outage.is_skipping(), "only a look ends it: it says first that Redis is stale");
    }
}
