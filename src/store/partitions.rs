//! Partitions: made ahead of time, made on demand, listed. The work is done by a function in the
//! database (`migrations/0002_partitions.sql`), so that a worker need not own the table.

use sqlx::PgConnection;
use time::{Duration, Month, OffsetDateTime, Time, UtcOffset};

use super::error::StoreError;
use super::link::Link;
use super::ranges::Range;
use crate::config::{self, PartitionBy};

/// More steps than any sane setting needs (a leap year of days, twice); it bounds the loop.
const STEPS_MAX: usize = 800;

/// Bounds as microseconds since 1970, NULL where open. Infinity and years beyond 9999 have no place
/// in the driver's type, which panics on them.
macro_rules! bounds {
    () => {
        "CASE WHEN isfinite(range_from) \
              THEN (extract(epoch FROM range_from) * 1000000)::bigint END, \
         CASE WHEN isfinite(range_to) \
              THEN (extract(epoch FROM range_to) * 1000000)::bigint END"
    };
}

/// One time range of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub name: String,
    /// In it. None: open, or beyond year 9999.
    pub from: Option<OffsetDateTime>,
    /// Not in it any more. None as above.
    pub to: Option<OffsetDateTime>,
    /// As of the last ANALYZE; None before the first.
    pub rows_estimated: Option<i64>,
    /// With indexes and TOAST.
    pub bytes: i64,
}

/// What the database's function answers.
pub(super) struct Ensured {
    pub name: String,
    pub range: Range,
    pub created: bool,
}

/// Makes the partition that holds `now` and the next `partitions_ahead`, and returns those it made.
pub async fn make_ahead(
    store: &config::Store,
    now: OffsetDateTime,
) -> Result<Vec<Partition>, StoreError> {
    let mut link = Link::open(&store.url, store.timeout).await?;
    super::migrate::read_state(&mut link).await?.required()?;
    // By time and not by number: where days were made before the setting became month, the next
    // so many partitions would reach only days ahead.
    let horizon = horizon(now, store.partition_by, store.partitions_ahead);
    let mut made = Vec::new();
    let mut at = now;
    for _ in 0..STEPS_MAX {
        let ensured = ensure(&mut link, at, store.partition_by).await?;
        let partition = Partition {
            name: ensured.name,
            from: from_micros(Some(ensured.range.from)),
            to: from_micros(Some(ensured.range.to)),
            rows_estimated: None,
            bytes: 0,
        };
        let next = partition.to;
        if ensured.created {
            made.push(partition);
        }
        match next {
            Some(next) if next < horizon => at = next,
            _ => break,
        }
    }
    link.close().await;
    Ok(made)
}

/// All partitions, oldest first.
pub async fn list(store: &config::Store) -> Result<Vec<Partition>, StoreError> {
    type Found = (String, Option<i64>, Option<i64>, Option<i64>, i64);
    let mut link = Link::open(&store.url, store.timeout).await?;
    super::migrate::read_state(&mut link).await?.required()?;
    let rows: Vec<Found> = link
        .run("list partitions", async |conn: &mut PgConnection| {
            sqlx::query_as(concat!(
                "SELECT partition, ",
                bounds!(),
                ", rows_estimated, coalesce(bytes, 0) FROM rollcall_partitions ORDER BY range_from"
            ))
            .fetch_all(conn)
            .await
        })
        .await?;
    link.close().await;
    let partition = |(name, from, to, rows_estimated, bytes): Found| Partition {
        name,
        from: from_micros(from),
        to: from_micros(to),
        rows_estimated,
        bytes,
    };
    Ok(rows.into_iter().map(partition).collect())
}

/// The ranges that can take rows.
pub(super) async fn ranges(link: &mut Link) -> Result<Vec<Range>, StoreError> {
    let rows: Vec<(Option<i64>, Option<i64>)> = link
        .run("read the partitions' ranges", async |conn| {
            sqlx::query_as(concat!(
                "SELECT ",
                bounds!(),
                " FROM rollcall_partitions WHERE range_from IS NOT NULL AND NOT detaching"
            ))
            .fetch_all(conn)
            .await
        })
        .await?;
    Ok(rows.into_iter().map(|(from, to)| Range::new(from, to)).collect())
}

/// Makes the partition that holds `at`, unless there is one. Never waits for a writer, nor a writer
/// for it.
pub(super) async fn ensure(
    link: &mut Link,
    at: OffsetDateTime,
    by: PartitionBy,
) -> Result<Ensured, StoreError> {
    let granularity = match by {
        PartitionBy::Day => "day",
        PartitionBy::Month => "month",
    };
    let (name, from, to, created): (String, Option<i64>, Option<i64>, bool) = link
        .run("make a partition", async |conn| {
            sqlx::query_as(concat!(
                "SELECT partition, ",
                bounds!(),
                ", created FROM rollcall_ensure_partition($1, $2)"
            ))
            .bind(at)
            .bind(granularity)
            .fetch_one(conn)
            .await
        })
        .await?;
    Ok(Ensured { name, range: Range::new(from, to), created })
}

/// None for what `OffsetDateTime` cannot say, which is only ever an open side or nearly so.
fn from_micros(micros: Option<i64>) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros?) * 1000).ok()
}

/// The end of the bucket that is `ahead` after the one of `now`, in UTC.
fn horizon(now: OffsetDateTime, by: PartitionBy, ahead: u32) -> OffsetDateTime {
    let today = now.to_offset(UtcOffset::UTC).replace_time(Time::MIDNIGHT);
    let buckets = ahead.saturating_add(1);
    match by {
        PartitionBy::Day => today.checked_add(Duration::days(i64::from(buckets))),
        PartitionBy::Month => add_months(today, buckets),
    }
    // Nobody gets here before the year 9999.
    .unwrap_or(today)
}

/// Midnight of the first day of the month that is `months` after the one of `day`.
fn add_months(day: OffsetDateTime, months: u32) -> Option<OffsetDateTime> {
    let months = i64::from(u8::from(day.month())) - 1 + i64::from(months);
    let year = i32::try_from(i64::from(day.year()) + months / 12).ok()?;
    // A remainder of 12 is below 12, so one more is a month.
    let month = Month::try_from(u8::try_from(months % 12).ok()? + 1).ok()?;
    // The day goes first: no other is in every month.
    day.replace_day(1).ok()?.replace_month(month).ok()?.replace_year(year).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn the_horizon_is_whole_buckets_of_utc() {
        let day = |now, ahead| horizon(now, PartitionBy::Day, ahead);
        let month = |now, ahead| horizon(now, PartitionBy::Month, ahead);
        let now = datetime!(2026-11-23 10:00 UTC);
        assert_eq!(day(now, 0), datetime!(2026-11-24 00:00 UTC));
        assert_eq!(day(now, 8), datetime!(2026-12-02 00:00 UTC));
        assert_eq!(day(datetime!(2026-11-23 23:30 -1), 0), datetime!(2026-11-25 00:00 UTC));
        assert_eq!(month(now, 0), datetime!(2026-12-01 00:00 UTC));
        assert_eq!(month(now, 1), datetime!(2027-01-01 00:00 UTC));
        assert_eq!(month(now, 25), datetime!(2029-01-01 00:00 UTC));
        assert_eq!(month(datetime!(2028-01-31 00:00 UTC), 0), datetime!(2028-02-01 00:00 UTC));
        assert_eq!(month(datetime!(2028-02-29 00:00 UTC), 11), datetime!(2029-02-01 00:00 UTC));
        assert_eq!(month(datetime!(2026-12-01 00:30 +1), 0), datetime!(2026-12-01 00:00 UTC));
    }

    #[test]
    fn an_open_bound_is_none() {
        let open = Range::new(None, None);
        assert_eq!((from_micros(Some(open.from)), from_micros(Some(open.to))), (None, None));
        assert_eq!(from_micros(Some(1)), Some(datetime!(1970-01-01 00:00:00.000001 UTC)));
    }
}
