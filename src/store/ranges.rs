//! Which times have a partition, as far as one connection knows. Pure. It may be out of date in
//! either direction: what is missing is asked for, what is gone shows as "no partition".

use time::OffsetDateTime;

/// Microseconds since 1970, which is what a `timestamptz` resolves.
pub fn micros(at: OffsetDateTime) -> i64 {
    // Years up to 9999 are below 2^58 of them: no overflow.
    at.unix_timestamp() * 1_000_000 + i64::from(at.microsecond())
}

/// `from` is in it, `to` is not. An open side is the type's own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    pub from: i64,
    pub to: i64,
}

impl Range {
    /// From a row of the database, where an open side is NULL.
    pub fn new(from: Option<i64>, to: Option<i64>) -> Range {
        Range { from: from.unwrap_or(i64::MIN), to: to.unwrap_or(i64::MAX) }
    }

    pub fn holds(&self, at: i64) -> bool {
        self.from <= at && at < self.to
    }
}

/// Ranges in order; as partitions they do not overlap.
#[derive(Debug, Default)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    pub fn new(mut ranges: Vec<Range>) -> Ranges {
        ranges.sort_unstable();
        Ranges(ranges)
    }

    pub fn find(&self, at: i64) -> Option<Range> {
        let after = self.0.partition_point(|range| range.from <= at);
        let range = *self.0.get(after.checked_sub(1)?)?;
        range.holds(at).then_some(range)
    }

    pub fn insert(&mut self, range: Range) {
        if let Err(place) = self.0.binary_search(&range) {
            self.0.insert(place, range);
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_range_holds_its_start_and_not_its_end() {
        let mut ranges =
            Ranges::new(vec![Range::new(Some(20), Some(30)), Range::new(None, Some(0))]);
        ranges.insert(Range::new(Some(10), Some(20)));
        ranges.insert(Range::new(Some(10), Some(20)));
        ranges.insert(Range::new(Some(90), None));
        let found = |at| ranges.find(at).map(|range| range.from);
        assert_eq!(found(i64::MIN), Some(i64::MIN));
        assert_eq!(found(-1), Some(i64::MIN));
        assert_eq!((found(0), found(9)), (None, None));
        assert_eq!((found(10), found(19)), (Some(10), Some(10)));
        assert_eq!((found(20), found(29)), (Some(20), Some(20)));
        assert_eq!((found(30), found(89)), (None, None));
        assert_eq!((found(90), found(i64::MAX - 1)), (Some(90), Some(90)));
        assert_eq!(Ranges::default().find(0), None);
    }

    #[test]
    fn microseconds_are_exact_on_both_sides_of_1970() {
        assert_eq!(micros(datetime!(1970-01-01 00:00:00.000001 UTC)), 1);
        assert_eq!(micros(datetime!(1969-12-31 23:59:59.999999 UTC)), -1);
        assert_eq!(micros(datetime!(1970-01-01 01:00 +1)), 0);
        let far = datetime!(9999-12-31 23:59:59.999999 UTC);
        assert_eq!(i128::from(micros(far)) * 1000, far.unix_timestamp_nanos());
    }
}
