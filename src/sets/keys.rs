//! Keys seen from the reader's side: which buckets there can be, and which group a key is of. Pure.

use time::{Duration, OffsetDateTime};

use super::encode::decode;
use super::{KeyError, Set};

impl Set {
    /// The bucket that holds `now`; `None` where there is no window.
    pub fn present_bucket(&self, now: OffsetDateTime) -> Option<String> {
        Some(self.window?.bucket(now.to_offset(time::UtcOffset::UTC)))
    }

    /// The buckets that Redis still keeps, that of `now` first and then back in time, at most
    /// `max`; none where there is no window.
    pub fn buckets_until(&self, now: OffsetDateTime, max: usize) -> Vec<String> {
        let mut buckets = Vec::new();
        let (Some(window), mut at) = (self.window, now.to_offset(time::UtcOffset::UTC)) else {
            return buckets;
        };
        while buckets.len() < max
            && self.expires_at(at).is_some_and(|end| end > now.unix_timestamp())
        {
            let bucket = window.bucket(at);
            let Some(begin) = window.bucket_begin(&bucket) else { break };
            buckets.push(bucket);
            let Some(before) = begin.checked_sub(Duration::SECOND) else { break };
            at = before;
        }
        buckets
    }

    /// Whether Redis still keeps this bucket, so that an empty one was empty.
    ///
    /// # Errors
    /// The set has no such bucket.
    pub fn keeps(&self, bucket: &str, now: OffsetDateTime) -> Result<bool, KeyError> {
        let Some(window) = self.window else {
            return Err(KeyError::BucketUnwanted { set: self.name.clone() });
        };
        let begin = window.bucket_begin(bucket).ok_or_else(|| KeyError::BucketFormat {
            set: self.name.clone(),
            bucket: bucket.to_owned(),
            window: window.name(),
            example: window.example(),
        })?;
        Ok(self.expires_at(begin).is_none_or(|end| end > now.unix_timestamp()))
    }

    /// The bucket that a key of this set names; `None` where there is no window, or no bucket.
    pub fn bucket_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        let window = self.window?;
        let bucket = self.suffix_of(key)?.strip_prefix(':')?.get(..window.example().len())?;
        window.bucket_begin(bucket).map(|_| bucket)
    }

    /// The group that a key of this set names, a value for each field; `None` where it names none,
    /// or one of another shape.
    pub fn group_of(&self, key: &str) -> Option<Vec<String>> {
        let mut rest = self.suffix_of(key)?;
        if self.window.is_some() {
            rest = &rest[1 + self.bucket_of(key)?.len()..];
        }
        let group: Vec<String> = rest.strip_prefix(':')?.split(':').map(decode).collect();
        (group.len() == self.group_fields).then_some(group)
    }

    /// What stands behind `<prefix>:<name>`.
    fn suffix_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(self.base_key())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration as Span;

    use time::macros::datetime;

    use super::*;
    use crate::sets::{Sets, WindowTtl};

    const NOW: OffsetDateTime = datetime!(2026-03-01 00:30:00 UTC);

    fn sets() -> Sets {
        let day = Span::from_secs(86_400);
        let ttl = WindowTtl { hour: day, day: 3 * day, month: 100 * day };
        let text = "users=u by=u@s+c byd=u@s/day d=u/day h=u/hour m=u/month";
        Sets::parse("r", text, ttl).unwrap()
    }

    #[test]
    fn buckets_go_back_as_far_as_redis_keeps_them() {
        let sets = sets();
        let of = |name, max| sets.find(name).unwrap().buckets_until(NOW, max);
        assert_eq!(of("d", 99), ["2026-03-01", "2026-02-28", "2026-02-27", "2026-02-26"]);
        assert_eq!(of("d", 2), ["2026-03-01", "2026-02-28"]);
        assert_eq!(of("h", 3), ["2026-03-01T00", "2026-02-28T23", "2026-02-28T22"]);
        assert_eq!(of("h", 99).len(), 25);
        assert_eq!(of("m", 99), ["2026-03", "2026-02", "2026-01", "2025-12", "2025-11"]);
        assert!(of("users", 9).is_empty());
        // The present one is that of UTC, wherever the clock is.
        let elsewhere = NOW.to_offset(time::macros::offset!(-5));
        let present = sets.find("d").unwrap().present_bucket(elsewhere);
        assert_eq!(present.as_deref(), Some("2026-03-01"));
    }

    #[test]
    fn of_an_expired_bucket_nothing_is_known() {
        let sets = sets();
        let daily = sets.find("d").unwrap();
        assert_eq!(daily.keeps("2026-02-26", NOW), Ok(true));
        assert_eq!(daily.keeps("2026-02-25", NOW), Ok(false));
        assert_eq!(daily.keeps("2027-01-01", NOW), Ok(true));
        for odd in ["2026-02-30", "2026-2-3", "", "2026-03-01T00"] {
            assert!(matches!(daily.keeps(odd, NOW), Err(KeyError::BucketFormat { .. })), "{odd}");
        }
        let users = sets.find("users").unwrap().keeps("2026-03-01", NOW);
        assert!(matches!(users, Err(KeyError::BucketUnwanted { .. })));
    }

    #[test]
    fn a_key_tells_its_group_as_it_was_written() {
        let sets = sets();
        for (name, group) in [("by", ["a:b", "100%"].as_slice()), ("byd", &["{x}"])] {
            let set = sets.find(name).unwrap();
            let group: Vec<String> = group.iter().map(|&one| one.to_owned()).collect();
            let bucket = set.window.map(|_| "2026-03-01");
            let key = set.key(bucket, &group).unwrap();
            assert_eq!(set.group_of(&key), Some(group));
            assert_eq!(set.bucket_of(&key), bucket);
        }
        let by = sets.find("by").unwrap();
        for other in ["r:by", "r:by:a", "r:by:a:b:c", "r:users"] {
            assert_eq!(by.group_of(other), None, "{other}");
        }
        let windowed = sets.find("byd").unwrap();
        for other in ["r:byd:2026-03-01", "r:byd:a", "r:byd:2026-13-01:a"] {
            assert_eq!(windowed.group_of(other), None, "{other}");
        }
    }
}
