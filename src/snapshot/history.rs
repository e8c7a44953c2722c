//! The last hour of each set's cardinality, a point each ten seconds. In memory, bounded, pure.

use std::collections::VecDeque;

use time::OffsetDateTime;

const SPAN_SECS: i64 = 3_600;
const STEP_SECS: i64 = 10;
/// Points of all sets together: of more than some twenty sets it is less than an hour. It is what
/// travels to each listener each second.
const POINTS_MAX: usize = 8_000;

pub struct History {
    sets: Vec<VecDeque<(i64, u64)>>,
    points_max: usize,
}

impl History {
    pub fn new(sets: usize) -> History {
        let hour = (SPAN_SECS / STEP_SECS) as usize + 1;
        let points_max = (POINTS_MAX / sets.max(1)).clamp(2, hour);
        History { sets: vec![VecDeque::new(); sets], points_max }
    }

    /// Keeps the first of every ten seconds.
    pub fn note(&mut self, set: usize, now: OffsetDateTime, cardinality: u64) {
        let Some(points) = self.sets.get_mut(set) else { return };
        let now = now.unix_timestamp();
        let step = |at: i64| at.div_euclid(STEP_SECS);
        // A clock that was set back begins anew.
        while points.back().is_some_and(|(at, _)| *at > now) {
            points.pop_back();
        }
        if points.back().is_none_or(|(at, _)| step(*at) < step(now)) {
            points.push_back((now, cardinality));
        }
        while points.len() > self.points_max {
            points.pop_front();
        }
    }

    /// Oldest first.
    pub fn of(&self, set: usize, now: OffsetDateTime) -> Vec<(i64, u64)> {
        let from = now.unix_timestamp() - SPAN_SECS;
        let points = self.sets.get(set).into_iter().flatten();
        points.filter(|(at, _)| *at >= from).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 10:00:00 UTC);

    #[test]
    fn it_holds_an_hour_with_a_point_each_ten_seconds() {
        let mut history = History::new(1);
        for second in 0..2 * SPAN_SECS {
            history.note(0, NOW + Duration::seconds(second), second as u64);
        }
        let end = NOW + Duration::seconds(2 * SPAN_SECS - 1);
        let points = history.of(0, end);
        assert_eq!(points.len(), 360);
        assert!(points.windows(2).all(|pair| pair[1].0 - pair[0].0 == STEP_SECS));
        assert_eq!(points.last().map(|point| point.1), Some(2 * SPAN_SECS as u64 - 10));
        let quiet = history.of(0, end + Duration::minutes(59));
        assert_eq!(quiet.len(), 6, "what is older than an hour is not told");
    }

    #[test]
    fn it_is_bounded_however_many_sets_there_are() {
        let mut history = History::new(256);
        for second in 0..SPAN_SECS {
            (0..256).for_each(|set| history.note(set, NOW + Duration::seconds(second), 1));
        }
        let all: usize = (0..256).map(|set| history.of(set, NOW).len()).sum();
        assert!(all <= POINTS_MAX && all > POINTS_MAX / 2, "{all}");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_turn_the_order() {
        let mut history = History::new(1);
        history.note(0, NOW + Duration::minutes(5), 5);
        history.note(0, NOW, 1);
        assert_eq!(history.of(0, NOW), [(NOW.unix_timestamp(), 1)]);
    }
}
