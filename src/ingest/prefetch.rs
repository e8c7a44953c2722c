//! How many deliveries may wait in a lane: a count that follows the size of what arrives. Pure.
//!
//! AMQP bounds what is prefetched by number alone, memory is bounded by bytes, and a message is
//! 200 bytes or a megabyte. So a lane starts small and widens when its window was used up, to what
//! its bytes allow by the largest body of late; it narrows at once when bodies grow, and after a
//! while in which it did not need the room, as nobody knows how large the next ones are. The worst
//! case is a full queue that turns from the smallest to the largest bodies: one window of large
//! ones. `ROLLCALL_PREFETCH_MAX` bounds that.

/// Deliveries a lane is given before it has seen any: with two lanes and messages of 1 MiB, 64 MiB.
const START: u16 = 32;
/// Batches in a row that did not need a wide window, before it is given up.
const QUIET: u32 = 64;

/// The prefetch of one lane.
#[derive(Debug)]
pub struct Prefetch {
    max: u16,
    bytes: usize,
    now: u16,
    /// The largest body of late; a quarter is forgotten with every batch.
    largest: usize,
    /// Batches in a row that the smallest window would have held.
    quiet: u32,
}

impl Prefetch {
    pub fn new(max: u16, bytes: usize) -> Self {
        Self { max, bytes, now: START.min(max), largest: 0, quiet: 0 }
    }

    /// What the consumer should be opened with.
    pub fn now(&self) -> u16 {
        self.now
    }

    /// What waits weighs too much already: for bodies of this size, at once.
    pub fn narrow(&mut self, largest: usize) -> u16 {
        self.largest = self.largest.max(largest).max(1);
        self.now = self.fits().min(START);
        self.now
    }

    fn fits(&self) -> u16 {
        u16::try_from(self.bytes / self.largest).unwrap_or(u16::MAX).clamp(1, self.max)
    }

    /// A batch was written whole, its largest body being `largest`, while `in_flight` deliveries
    /// were with us. Gives the new prefetch, where it should change: that costs a cancel and a
    /// consume, so it is not done for little.
    pub fn after_batch(&mut self, largest: usize, in_flight: u64) -> Option<u16> {
        self.largest = (self.largest - self.largest / 4).max(largest).max(1);
        let fits = self.fits();
        self.quiet = if in_flight < u64::from(START / 2) { self.quiet + 1 } else { 0 };
        let wanted = if self.quiet >= QUIET {
            fits.min(START)
        } else if fits < self.now || in_flight >= u64::from(self.now) {
            fits
        } else {
            self.now
        };
        let worth_it = wanted <= self.now / 4 * 3 || wanted / 2 >= self.now || wanted == self.max;
        if wanted == self.now || !worth_it {
            return None;
        }
        self.now = wanted;
        Some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_lane_widens_when_it_was_kept_short() {
        let mut prefetch = Prefetch::new(4000, 32 * MIB);
        assert_eq!(prefetch.now(), START);
        assert_eq!(prefetch.after_batch(200, 3), None);
        assert_eq!(prefetch.after_batch(200, 31), None);
        assert_eq!(prefetch.after_batch(200, 32), Some(4000));
        assert_eq!(prefetch.after_batch(200, 2000), None);
    }

    #[test]
    fn what_waits_fits_into_the_bytes() {
        let mut prefetch = Prefetch::new(4000, 32 * MIB);
        prefetch.after_batch(200, 32);
        assert_eq!(prefetch.after_batch(900 << 10, 4000), Some(36));
        assert_eq!(prefetch.after_batch(64 * MIB, 36), Some(1));
        assert_eq!(Prefetch::new(10, 32 * MIB).now(), 10);
    }

    #[test]
    fn small_bodies_widen_it_again_in_time() {
        let mut prefetch = Prefetch::new(4000, 32 * MIB);
        prefetch.after_batch(900 << 10, 32);
        let mut changes = Vec::new();
        for _ in 0..60 {
            changes.extend(prefetch.after_batch(200, u64::from(prefetch.now())));
        }
        assert_eq!(changes.last(), Some(&4000), "{changes:?}");
        assert!(changes.len() < 10, "{changes:?}");
    }

    #[test]
    fn quiet_narrows_it_and_one_large_batch_is_no_quiet() {
        let mut prefetch = Prefetch::new(4000, 32 * MIB);
        prefetch.after_batch(200, 32);
        for _ in 1..QUIET {
            assert_eq!(prefetch.after_batch(200, 2), None);
        }
        assert_eq!(prefetch.after_batch(200, 1000), None);
        let changes: Vec<_> = (0..200).filter_map(|_| prefetch.after_batch(200, 2)).collect();
        assert_eq!(changes, [START]);
    }
}
