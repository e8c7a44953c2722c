//! Drops partitions whose time is over, and keeps the distinct members of their events.
//!
//! First the members, in steps and without a lock; then, in one transaction that has the partition
//! to itself, those of the events that came meanwhile, and the partition goes. An event is never in
//! neither place. Killed anywhere, it is begun again: a member that is kept already stays.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection};
use time::OffsetDateTime;
use tokio::time::sleep;

use super::error::StoreError;
use super::link::Link;
use super::marks;
use super::members::{self, Kept, Member};
use super::patient::{is_in_the_way, once};
use super::walk::{Filter, Leaf, Walk};
use crate::retry::Backoff;

/// One step of a walk, or one statement of the end.
const STEP_MAX: Duration = Duration::from_secs(10 * 60);
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Between two tries everybody else gets through: a minute and a half and more of patience.
const TRIES_MAX: u32 = 40;
/// Rows of one DELETE.
const EXPIRED_MAX: i64 = 10_000;

/// What became of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// More than there were, where some came meanwhile: those are read twice.
    pub rows_read: u64,
    /// Distinct members that were not kept before.
    pub members: u64,
    /// False: somebody else had it all the time, and it is there still.
    pub dropped: bool,
}

/// Folds one partition and drops it. `members` says what an event adds; `progress` is given blocks
/// read, and blocks there are.
pub async fn retire(
    link: &mut Link,
    leaf: &Leaf,
    mut members: impl FnMut(OffsetDateTime, &str, &mut HashSet<Member>),
    mut progress: impl FnMut(u64, u64),
) -> Result<Folded, StoreError> {
    let usual = link.limit();
    link.allow(STEP_MAX).await?;
    let mut folded = Folded::default();
    let mut pause = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    let mut filter = Filter::all();
    for _ in 0..TRIES_MAX {
        // Taken before the walk: what the walk may miss has a txid at or above it.
        let mark = marks::mark(link).await?.xmin;
        let Some(mut walk) = Walk::begin(link, leaf).await? else { break };
        loop {
            let mut found = HashSet::new();
            let read =
                walk.step(link, &filter, |at, payload| members(at, payload, &mut found)).await?;
            folded.members += retain(link, found).await?;
            let Some(rows) = read else { break };
            folded.rows_read += rows;
            let (done, total) = walk.done();
            progress(done, total);
        }
        match finish(link, leaf, mark, &mut members).await {
            Ok((rows, new)) => {
                folded.rows_read += rows;
                folded.members += new;
                folded.dropped = true;
                break;
            }
            // Another try, and for it only what has come since need be read.
            Err(error) if is_in_the_way(&error) => sleep(pause.next()).await,
            Err(error) => return Err(error),
        }
        filter = Filter::since(mark);
    }
    link.allow(usual).await?;
    Ok(folded)
}

async fn retain(link: &mut Link, found: HashSet<Member>) -> Result<u64, StoreError> {
    if found.is_empty() {
        return Ok(0);
    }
    let found = sorted(found);
    link.run("keep the members of old events", async |conn: &mut PgConnection| {
        members::keep(conn, Kept::Retired, &found).await
    })
    .await
}

/// What a catch-up has still to read goes with the partition, so it must be a rebuild: also for a
/// note that comes later, of rows from before this. Every row here has a txid below that xmax.
const DROPPED: &str = "
UPDATE rollcall_projection SET dropped_txid = txid_snapshot_xmax(txid_current_snapshot()),
       rebuild = rebuild OR catch_up_from IS NOT NULL,
       version = version + (catch_up_from IS NOT NULL)::int";

/// One transaction. ACCESS EXCLUSIVE on the partition first, so that nothing more can come; then
/// what has come since the mark; last the table itself is locked, for as long as it takes to note
/// in the catalogs that the partition is gone.
async fn finish(
    link: &mut Link,
    leaf: &Leaf,
    mark: i64,
    members: &mut impl FnMut(OffsetDateTime, &str, &mut HashSet<Member>),
) -> Result<(u64, u64), StoreError> {
    let table = &leaf.table;
    let mut steps = async |conn: &mut PgConnection| {
        let lock = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *conn).await?;
        let mut found = HashSet::new();
        let mut rows = 0;
        let late = format!("SELECT occurred_at, payload::text FROM ONLY {table} WHERE txid >= $1");
        {
            let late = sqlx::query_as::<_, (OffsetDateTime, String)>(AssertSqlSafe(late));
            let mut late = late.persistent(false).bind(mark).fetch(&mut *conn);
            while let Some((at, payload)) = late.try_next().await? {
                rows += 1;
                members(at, &payload, &mut found);
            }
        }
        let new = members::keep(&mut *conn, Kept::Retired, &sorted(found)).await?;
        let drop = format!("ALTER TABLE events DETACH PARTITION {table}; DROP TABLE {table}");
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *conn).await?;
        sqlx::raw_sql(DROPPED).execute(&mut *conn).await?;
        Ok((rows, new))
    };
    once(link, "drop a partition", &mut steps).await
}

/// Deletes the retired members of windows that Redis has dropped; how many there were.
pub async fn drop_expired(link: &mut Link) -> Result<u64, StoreError> {
    let mut dropped = 0;
    loop {
        let some = link
            .run("drop expired members", async |conn: &mut PgConnection| {
                sqlx::query(
                    "DELETE FROM retired_members WHERE ctid = ANY (ARRAY(SELECT ctid \
                     FROM retired_members WHERE expires_at <= now() LIMIT $1))",
                )
                .bind(EXPIRED_MAX)
                .execute(conn)
                .await
            })
            .await?
            .rows_affected();
        dropped += some;
        if some == 0 {
            return Ok(dropped);
        }
    }
}

/// In the order of the key, as everything that is written.
fn sorted(found: HashSet<Member>) -> Vec<Member> {
    let mut found: Vec<Member> = found.into_iter().collect();
    found.sort_unstable();
    found
}
