//! What Redis is known to lack, kept in Postgres (`rollcall_projection`), one row a key prefix.
//!
//! A note is committed before the first ack that Redis has not seen. Each note raises `version`; a
//! repair reads the row, then takes its snapshot, and settles only if the version is still the one
//! it read: what was noted later was maybe committed after the snapshot. It must never lower a need
//! on any other ground.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::error::StoreError;
use super::link::Link;

/// Which Postgres, and which of its histories: txids of another say nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    pub system_identifier: i64,
    pub timeline: i32,
}

/// The row of one prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub version: i64,
    /// Rows with `txid >=` this may be missing in Redis.
    pub catch_up_from: Option<i64>,
    /// Only a rebuild mends it.
    pub rebuild: bool,
    pub reason: Option<String>,
    pub removed_txid: Option<i64>,
    /// What the sets were last made from; `None` before that was ever said.
    pub history: Option<History>,
    pub rebuilt_at: Option<OffsetDateTime>,
    pub verified_at: Option<OffsetDateTime>,
    pub verified_missing: Option<i64>,
    pub verified_phantom: Option<i64>,
}

/// A moment of the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Every transaction below it has ended: what a snapshot of this moment does not see has a
    /// txid at or above it.
    pub xmin: i64,
    /// No transaction at or above it had begun.
    pub xmax: i64,
    /// Where the log was after that snapshot: a replica that has replayed it sees all it sees.
    pub lsn: String,
    pub history: History,
    /// Which database, and which table of events in it: others after a restore from a dump.
    pub table: String,
}

/// The snapshot first and the position after it: SQL evaluates both after the snapshot was taken.
/// The timeline is that of the segment being written; `pg_control_checkpoint` lags a promotion.
const MARK: &str = "
SELECT txid_snapshot_xmin(txid_current_snapshot()), txid_snapshot_xmax(txid_current_snapshot()),
       pg_current_wal_insert_lsn()::text,
       (SELECT system_identifier FROM pg_control_system()),
       ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int,
       (SELECT oid FROM pg_database WHERE datname = current_database())
         || '.' || 'events'::regclass::oid";

type Found = (
    i64,
    Option<i64>,
    bool,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i32>,
    Option<OffsetDateTime>,
    Option<OffsetDateTime>,
    Option<i64>,
    Option<i64>,
);

pub async fn mark(link: &mut Link) -> Result<Mark, StoreError> {
    type Row = (i64, i64, String, i64, i32, String);
    let (xmin, xmax, lsn, system_identifier, timeline, table): Row = link
        .run("take a mark", async |conn: &mut PgConnection| {
            sqlx::query_as(MARK).fetch_one(conn).await
        })
        .await?;
    Ok(Mark { xmin, xmax, lsn, history: History { system_identifier, timeline }, table })
}

pub async fn standing(link: &mut Link, prefix: &str) -> Result<Standing, StoreError> {
    let found: Option<Found> = link
        .run("read what redis lacks", async |conn: &mut PgConnection| {
            sqlx::query_as(
                "SELECT version, catch_up_from, rebuild, reason, removed_txid, \
                 system_identifier, timeline, rebuilt_at, verified_at, verified_missing, \
                 verified_phantom FROM rollcall_projection WHERE prefix = $1",
            )
            .bind(prefix)
            .fetch_optional(conn)
            .await
        })
        .await?;
    let Some(row) = found else { return Ok(Standing::default()) };
    let history = |(system_identifier, timeline)| History { system_identifier, timeline };
    Ok(Standing {
        version: row.0,
        catch_up_from: row.1,
        rebuild: row.2,
        reason: row.3,
        removed_txid: row.4,
        history: row.5.zip(row.6).map(history),
        rebuilt_at: row.7,
        verified_at: row.8,
        verified_missing: row.9,
        verified_phantom: row.10,
    })
}

/// Notes that rows with `txid >= from` may be missing in Redis; where retention has dropped such
/// rows, that only a rebuild mends it. Committed when it returns.
pub async fn note_missing(
    link: &mut Link,
    prefix: &str,
    from: i64,
    reason: &str,
) -> Result<(), StoreError> {
    link.run("note what redis lacks", async |conn: &mut PgConnection| {
        sqlx::query(
            "INSERT INTO rollcall_projection AS p (prefix, version, catch_up_from, reason, \
             noted_at) VALUES ($1, 1, $2, $3, now()) ON CONFLICT (prefix) DO UPDATE SET \
             version = p.version + 1, noted_at = now(), reason = coalesce(p.reason, $3), \
             catch_up_from = least(coalesce(p.catch_up_from, $2), $2), \
             rebuild = p.rebuild OR coalesce($2 < p.dropped_txid, false)",
        )
        .bind(prefix)
        .bind(from)
        .bind(reason)
        .execute(conn)
        .await
    })
    .await?;
    Ok(())
}

/// Notes that only a rebuild mends what Redis holds.
pub async fn note_rebuild(link: &mut Link, prefix: &str, reason: &str) -> Result<(), StoreError> {
    link.run("note that redis must be rebuilt", async |conn: &mut PgConnection| {
        sqlx::query(
            "INSERT INTO rollcall_projection AS p (prefix, version, rebuild, reason, noted_at) \
             VALUES ($1, 1, true, $2, now()) ON CONFLICT (prefix) DO UPDATE SET \
             version = p.version + 1, noted_at = now(), reason = $2, rebuild = true",
        )
        .bind(prefix)
        .bind(reason)
        .execute(conn)
        .await
    })
    .await?;
    Ok(())
}

/// Everything that the snapshot of `through` saw is in Redis. Clears the need if nothing was noted
/// since `version`; else what was noted counts from there on, or is left alone where that is true
/// of some sets only. Whether nothing is left.
pub async fn caught_up(
    link: &mut Link,
    prefix: &str,
    version: i64,
    through: &Mark,
    all: bool,
) -> Result<bool, StoreError> {
    let left: Option<bool> = link
        .run("note what redis has got", async |conn: &mut PgConnection| {
            sqlx::query_scalar(
                "UPDATE rollcall_projection SET \
                 catch_up_from = CASE WHEN version = $2 THEN NULL \
                                      WHEN $4 THEN greatest(catch_up_from, $3) \
                                      ELSE catch_up_from END, \
                 reason = CASE WHEN version = $2 AND NOT rebuild THEN NULL ELSE reason END \
                 WHERE prefix = $1 RETURNING catch_up_from IS NOT NULL OR rebuild",
            )
            .bind(prefix)
            .bind(version)
            .bind(through.xmin)
            .bind(all)
            .fetch_optional(conn)
            .await
        })
        .await?;
    Ok(!left.unwrap_or(false))
}

/// Every set was made anew from `history`; the rest as for [`caught_up`].
pub async fn rebuilt(
    link: &mut Link,
    prefix: &str,
    version: i64,
    through: &Mark,
) -> Result<bool, StoreError> {
    let left: bool = link
        .run("note that redis was rebuilt", async |conn: &mut PgConnection| {
            sqlx::query_scalar(
                "INSERT INTO rollcall_projection AS p (prefix, rebuilt_at, system_identifier, \
                 timeline) VALUES ($1, now(), $4, $5) ON CONFLICT (prefix) DO UPDATE SET \
                 rebuilt_at = now(), system_identifier = $4, timeline = $5, \
                 dropped_txid = CASE WHEN (p.system_identifier, p.timeline) = ($4, $5) \
                                     THEN p.dropped_txid END, \
                 catch_up_from = CASE WHEN p.version = $2 THEN NULL \
                                      ELSE greatest(p.catch_up_from, $3) END, \
                 rebuild = p.rebuild AND p.version <> $2, \
                 reason = CASE WHEN p.version = $2 THEN NULL ELSE p.reason END \
                 RETURNING catch_up_from IS NOT NULL OR rebuild",
            )
            .bind(prefix)
            .bind(version)
            .bind(through.xmin)
            .bind(through.history.system_identifier)
            .bind(through.history.timeline)
            .fetch_one(conn)
            .await
        })
        .await?;
    Ok(!left)
}

/// Notes that members are about to be taken out of Redis: one that goes back to before this has
/// phantoms, which no catch-up takes out.
pub async fn note_removal(link: &mut Link, prefix: &str) -> Result<(), StoreError> {
    link.run("note a removal", async |conn: &mut PgConnection| {
        sqlx::query(
            "INSERT INTO rollcall_projection (prefix, removed_txid) VALUES ($1, txid_current()) \
             ON CONFLICT (prefix) DO UPDATE SET removed_txid = txid_current()",
        )
        .bind(prefix)
        .execute(conn)
        .await
    })
    .await?;
    Ok(())
}

/// What the last verify of all sets found.
pub async fn verified(
    link: &mut Link,
    prefix: &str,
    missing: u64,
    phantom: u64,
) -> Result<(), StoreError> {
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    link.run("note what verify found", async |conn: &mut PgConnection| {
        sqlx::query(
            "INSERT INTO rollcall_projection (prefix, verified_at, verified_missing, \
             verified_phantom) VALUES ($1, now(), $2, $3) ON CONFLICT (prefix) DO UPDATE SET \
             verified_at = now(), verified_missing = $2, verified_phantom = $3",
        )
        .bind(prefix)
        .bind(count(missing))
        .bind(count(phantom))
        .execute(conn)
        .await
    })
    .await?;
    Ok(())
}

/// Says which history the sets of an empty table begin from, where none has been said.
pub async fn begin_history(link: &mut Link, prefix: &str) -> Result<(), StoreError> {
    let history = mark(link).await?.history;
    link.run("note which postgres this is", async |conn: &mut PgConnection| {
        sqlx::query(
            "INSERT INTO rollcall_projection AS p (prefix, system_identifier, timeline) \
             VALUES ($1, $2, $3) ON CONFLICT (prefix) DO UPDATE SET \
             system_identifier = coalesce(p.system_identifier, $2), \
             timeline = coalesce(p.timeline, $3)",
        )
        .bind(prefix)
        .bind(history.system_identifier)
        .bind(history.timeline)
        .execute(conn)
        .await
    })
    .await?;
    Ok(())
}
