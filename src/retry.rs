//! Whether to try again, and when. The only file that names the crate `backoff`.
//!
//! It only says how long to wait: it never sleeps, never gives up and never runs what is retried.
//! The loop around it is the caller's, who knows the class, the deadline and the drain.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// What an error of a neighbour means for the batch in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Trying again helps, in time.
    Transient,
    /// This event is bad: it alone is dead-lettered.
    Data,
    /// A human must act: not ready, nothing is dead-lettered.
    Config,
}

/// Waits that double from `min` to `max`, each with jitter, so that many workers which lost the
/// same server do not come back at the same moment.
#[derive(Debug)]
pub struct Backoff {
    inner: ExponentialBackoff,
    min: Duration,
    max: Duration,
}

/// Half of the interval to either side.
const JITTER: f64 = 0.5;

impl Backoff {
    /// Every wait is within `min..=max`.
    pub fn new(min: Duration, max: Duration) -> Backoff {
        let max = max.max(min);
        // The jitter goes half an interval to either side: from 2 * min down to min, and from
        // max / 1.5 up to max. Else the waits would pile up on the bounds that clamp them.
        let last = max.div_f64(1.0 + JITTER);
        let first = (min * 2).min(last);
        let mut inner = ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: JITTER,
            multiplier: 2.0,
            max_interval: last,
            // The default gives up after 15 minutes; an outage may be longer.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        inner.reset();
        Backoff { inner, min, max }
    }

    /// The next wait starts small again: what failed has worked.
    pub fn reset(&mut self) {
        self.inner.reset();
    }

    /// How long to wait before the next try.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so there is no Option")]
    pub fn next(&mut self) -> Duration {
        // None only after max_elapsed_time, which there is not.
        self.inner.next_backoff().unwrap_or(self.max).clamp(self.min, self.max)
    }

    /// The same after a try that took `tried`: one that waited for an answer in vain was a part of
    /// the wait. A tenth stays, for the jitter.
    pub fn next_after(&mut self, tried: Duration) -> Duration {
        let wait = self.next();
        wait.saturating_sub(tried).max(wait / 10).max(self.min)
    }
}

/// For connecting, where an operation may take `limit`. Whoever begins to connect while nothing
/// gets through learns only by this that it may try again: at most 5 s after it is over, unless
/// the operator was far more patient.
pub fn connect_limit(limit: Duration) -> Duration {
    const USUAL: Duration = Duration::from_secs(5);
    limit.min(USUAL.max(limit / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn waits_grow_within_their_bounds_and_never_end() {
        let mut backoff = Backoff::new(MIN, MAX);
        let waits: Vec<Duration> = (0..10_000).map(|_| backoff.next()).collect();
        assert!(waits.iter().all(|wait| (MIN..=MAX).contains(wait)));
        // The first lies within half of 200 ms to either side; ten doublings later it is grown.
        assert!(waits[0] <= Duration::from_millis(301), "{:?}", waits[0]);
        assert!(waits[10..].iter().all(|wait| *wait >= MAX / 4));
    }

    #[test]
    fn waits_have_jitter() {
        let mut backoff = Backoff::new(MIN, MAX);
        let mut waits: Vec<Duration> = (0..100).map(|_| backoff.next()).skip(20).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 70, "{}", waits.len());
    }

    #[test]
    fn a_reset_starts_small_again() {
        let mut backoff = Backoff::new(MIN, MAX);
        (0..20).for_each(|_| {
            backoff.next();
        });
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(301));
    }

    #[test]
    fn a_try_that_took_long_was_a_part_of_the_wait() {
        let mut backoff = Backoff::new(MIN, MAX);
        (0..20).for_each(|_| {
            backoff.next();
        });
        for _ in 0..100 {
            assert!((MIN..=MAX / 10).contains(&backoff.next_after(MAX)));
            assert!(backoff.next_after(Duration::ZERO) >= MAX / 4);
        }
    }

    #[test]
    fn connecting_is_given_up_before_an_operation_is() {
        let cases = [(1, 1), (5, 5), (10, 5), (20, 5), (60, 15)];
        for (limit, wanted) in cases {
            assert_eq!(connect_limit(Duration::from_secs(limit)).as_secs(), wanted, "{limit}");
        }
    }

    #[test]
    fn bounds_that_leave_no_room_are_kept() {
        for (min, max) in [(MIN, MIN), (MAX, MIN), (Duration::ZERO, Duration::ZERO)] {
            let mut backoff = Backoff::new(min, max);
            assert!((0..100).all(|_| backoff.next() == min));
        }
    }
}
