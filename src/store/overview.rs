//! What there is in Postgres, for whoever looks. Nothing here writes, and nothing reads the events.

use sqlx::PgConnection;

use super::error::StoreError;
use super::indexes::{self, Found};
use super::link::Link;
use super::marks::{self, History, Standing};
use crate::config;

/// The primary.
#[derive(Clone, Debug)]
pub struct Overview {
    pub version: String,
    pub primary: bool,
    pub history: History,
    pub standing: Standing,
    pub indexes: Vec<Found>,
    /// Exact up to a million, then as of the last ANALYZE.
    pub retired: i64,
    /// Members of erased events that Redis may still have.
    pub forgetting: i64,
    /// How far its log goes.
    pub lsn: String,
}

/// The replica, against the primary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Replica {
    /// False: it is a primary itself.
    pub standby: bool,
    pub lag_bytes: Option<i64>,
    /// Since the last transaction that it replayed; 0 where it has replayed all.
    pub lag_seconds: Option<f64>,
}

pub async fn overview(store: &config::Store, prefix: &str) -> Result<Overview, StoreError> {
    let mut link = Link::open(&store.url, store.timeout).await?;
    super::migrate::read_state(&mut link).await?.required()?;
    let (version, primary, retired, forgetting): (String, bool, i64, i64) = link
        .run("look around", async |conn: &mut PgConnection| {
            sqlx::query_as(
                "SELECT current_setting('server_version'), NOT pg_is_in_recovery(), \
                 CASE WHEN (SELECT reltuples FROM pg_class \
                            WHERE oid = 'retired_members'::regclass) > 1000000 \
                      THEN (SELECT reltuples::bigint FROM pg_class \
                            WHERE oid = 'retired_members'::regclass) \
                      ELSE (SELECT count(*) FROM retired_members) END, \
                 (SELECT count(*) FROM rollcall_forgetting)",
            )
            .fetch_one(conn)
            .await
        })
        .await?;
    if !primary {
        return Err(StoreError::NotPrimary { target: link.target().to_owned() });
    }
    let mark = marks::mark(&mut link).await?;
    let overview = Overview {
        version,
        primary,
        history: mark.history,
        standing: marks::standing(&mut link, prefix).await?,
        indexes: indexes::indexes(&mut link).await?,
        retired,
        forgetting,
        lsn: mark.lsn,
    };
    link.close().await;
    Ok(overview)
}

/// `None` where none is configured. `lsn` is the primary's, taken before.
pub async fn replica(store: &config::Store, lsn: &str) -> Result<Option<Replica>, StoreError> {
    let Some(url) = &store.replica_url else { return Ok(None) };
    let mut link = Link::open(url, store.timeout).await?;
    let (standby, bytes, seconds): (bool, Option<i64>, Option<f64>) = link
        .run("ask how far the replica is", async |conn: &mut PgConnection| {
            sqlx::query_as(
                "SELECT pg_is_in_recovery(), \
                 greatest(pg_wal_lsn_diff($1::text::pg_lsn, pg_last_wal_replay_lsn()), 0)::bigint, \
                 extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8",
            )
            .bind(lsn)
            .fetch_one(conn)
            .await
        })
        .await?;
    link.close().await;
    // Without anything to replay, the time since the last transaction says nothing.
    let lag_seconds = if bytes == Some(0) { Some(0.0) } else { seconds };
    Ok(Some(Replica { standby, lag_bytes: bytes, lag_seconds }))
}
