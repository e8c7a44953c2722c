//! Questions that the command line asks, each on a connection of its own. Nothing here writes.

use std::time::Duration;

use super::error::StoreError;
use super::link::Link;
use super::migrate::{SchemaState, read_state};
use crate::config::{self, Secret};

/// Counting reads every row: far beyond what a statement of a lane may take.
const COUNT_MAX: Duration = Duration::from_secs(10 * 60);

/// What is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As the server says it: "15.9 (Debian 15.9-0)".
    pub version: String,
    /// False on a standby.
    pub primary: bool,
    /// Commits wait for a standby.
    pub synchronous_standby: bool,
    /// False: a crash of the server's machine can lose what it has confirmed.
    pub fsync: bool,
    pub schema: SchemaState,
}

/// Asks the primary.
pub async fn ping(store: &config::Store) -> Result<Server, StoreError> {
    ask(&store.url, store.timeout).await
}

/// Asks the replica, where one is configured.
pub async fn ping_replica(store: &config::Store) -> Result<Option<Server>, StoreError> {
    match &store.replica_url {
        Some(url) => Ok(Some(ask(url, store.timeout).await?)),
        None => Ok(None),
    }
}

/// Events stored, exactly: reads the whole table.
pub async fn count_events(store: &config::Store) -> Result<u64, StoreError> {
    let mut link = Link::open(&store.url, store.timeout).await?;
    read_state(&mut link).await?.required()?;
    link.allow(COUNT_MAX).await?;
    let count: i64 = link
        .run("count events", async |conn| {
            sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(conn).await
        })
        .await?;
    link.close().await;
    // A count is not negative.
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Whether there is nothing that a set could hold: no event, and no member of one that retention has
/// dropped. Reads two rows at most.
pub async fn is_empty(store: &config::Store) -> Result<bool, StoreError> {
    let mut link = Link::open(&store.url, store.timeout).await?;
    read_state(&mut link).await?.required()?;
    let empty = link
        .run("see whether there are events", async |conn| {
            sqlx::query_scalar(
                "SELECT NOT EXISTS (SELECT FROM events) \
                 AND NOT EXISTS (SELECT FROM retired_members)",
            )
            .fetch_one(conn)
            .await
        })
        .await?;
    link.close().await;
    Ok(empty)
}

/// Sees that the primary takes writes: a few bytes of WAL, and no row.
pub async fn probe(store: &config::Store) -> Result<(), StoreError> {
    let mut link = Link::open(&store.url, store.timeout).await?;
    link.run("try a write", async |conn| {
        let message = "SELECT pg_logical_emit_message(true, 'rollcall', 'probe'::text)::text";
        sqlx::query(message).execute(conn).await
    })
    .await?;
    link.close().await;
    Ok(())
}

async fn ask(url: &Secret, timeout: Duration) -> Result<Server, StoreError> {
    let mut link = Link::open(url, timeout).await?;
    let (version, primary, synchronous_standby, fsync) = link
        .run("ask who is there", async |conn| {
            sqlx::query_as(
                "SELECT current_setting('server_version'), NOT pg_is_in_recovery(), \
                 current_setting('synchronous_standby_names') <> '', \
                 current_setting('fsync')::boolean",
            )
            .fetch_one(conn)
            .await
        })
        .await?;
    let schema = read_state(&mut link).await?;
    link.close().await;
    Ok(Server { version, primary, synchronous_standby, fsync, schema })
}
