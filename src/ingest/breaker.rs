//! The dead-letter breaker: when most of what arrives is condemned, the fault is upstream or ours,
//! and emptying the queue into the dead letters helps nobody. Pure.

/// Counts over the last one to two halves of a window.
#[derive(Debug)]
pub struct Breaker {
    /// Per cent of condemned events above which it trips; 0: never.
    percent: u64,
    /// Events that are judged together.
    window: u64,
    now: Counts,
    before: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    good: u64,
    condemned: u64,
}

impl Counts {
    fn all(self) -> u64 {
        self.good + self.condemned
    }
}

/// More than the threshold was condemned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{condemned} of the last {all} events were condemned")]
pub struct Tripped {
    pub condemned: u64,
    pub all: u64,
}

impl Breaker {
    pub fn new(percent: u8, window: u64) -> Self {
        let (now, before) = Default::default();
        Self { percent: u64::from(percent), window, now, before }
    }

    /// Counts a batch that was settled: were it returned, its delivery counts would grow. Judges
    /// whole windows only: a few bad events after a restart are no bad deploy.
    pub fn note(&mut self, good: u64, condemned: u64) -> Result<(), Tripped> {
        self.now.good += good;
        self.now.condemned += condemned;
        let all = self.now.all() + self.before.all();
        let condemned = self.now.condemned + self.before.condemned;
        if self.percent > 0 && all >= self.window && condemned * 100 > all * self.percent {
            return Err(Tripped { condemned, all });
        }
        if self.now.all() >= self.window.div_ceil(2) {
            self.before = std::mem::take(&mut self.now);
        }
        Ok(())
    }

    /// Begins anew: it takes a whole window to trip again.
    pub fn reset(&mut self) {
        (self.now, self.before) = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_trips_when_most_of_a_window_is_condemned_and_not_before() {
        let mut breaker = Breaker::new(50, 1000);
        for _ in 0..99 {
            assert_eq!(breaker.note(0, 10), Ok(()));
        }
        assert_eq!(breaker.note(0, 10), Err(Tripped { condemned: 1000, all: 1000 }));
        breaker.reset();
        assert_eq!(breaker.note(0, 999), Ok(()));
    }

    #[test]
    fn a_flood_of_one_in_five_goes_through() {
        let mut breaker = Breaker::new(50, 1000);
        for _ in 0..10_000 {
            assert_eq!(breaker.note(80, 20), Ok(()));
        }
    }

    #[test]
    fn long_good_times_do_not_hide_a_bad_deploy() {
        let mut breaker = Breaker::new(50, 1000);
        for _ in 0..10_000 {
            assert_eq!(breaker.note(100, 0), Ok(()));
        }
        let bad = (1..).find(|_| breaker.note(0, 100).is_err());
        assert!(bad.is_some_and(|batches| batches <= 11), "{bad:?}");
    }

    #[test]
    fn zero_per_cent_is_off() {
        assert_eq!(Breaker::new(0, 1).note(0, 1_000_000), Ok(()));
    }
}
