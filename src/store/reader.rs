//! Reading the whole table in pieces that can be read again, from the replica where there is one.
//!
//! A piece is some pages of one partition, or the rows of some transactions; each is one short
//! statement, so nothing holds a snapshot for long and what a standby cancels costs one piece. The
//! rows are streamed: memory does not grow with the table. It must never read a replica that is not
//! known to have replayed what the mark saw.

use std::time::Duration;

use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::error::StoreError;
use super::link::Link;
use super::marks::{self, Mark};
use super::migrate;
use super::walk::{self, Filter};
use crate::config;

/// A piece that takes longer is read again, so it must not be near what a piece needs; what the
/// reader does with a row counts as well.
const PIECE_MAX: Duration = Duration::from_secs(600);
/// How often a replica is asked how far it is.
const FENCE_POLL: Duration = Duration::from_millis(100);
/// After how long that is told.
const FENCE_SAID: Duration = Duration::from_secs(5);
/// How long a replica may take to get to a mark before the primary is read instead.
const FENCE_MAX: Duration = Duration::from_secs(300);

/// One stored event.
#[derive(Debug)]
pub struct StoredEvent {
    pub occurred_at: OffsetDateTime,
    pub payload: String,
}

/// A member of events that were dropped: see `migrations/0005_retired_members.sql`.
#[derive(Debug)]
pub struct RetiredMember {
    pub source: String,
    pub suffix: String,
    pub member: String,
}

/// One partition as it was found.
#[derive(Clone, Debug)]
pub struct Extent {
    name: String,
    /// As Postgres writes them: an open side has no place in the driver's type.
    from: String,
    to: String,
    pub pages: i64,
    /// Another file means that its rows were moved.
    file: i64,
}

/// What to read at once.
#[derive(Clone, Debug)]
pub enum Piece<'a> {
    Pages {
        of: &'a Extent,
        from: i64,
        to: i64,
    },
    /// `from <= txid`, and below `to` if there is an end.
    Transactions {
        from: i64,
        to: Option<i64>,
    },
}

pub struct Reader {
    config: config::Store,
    primary: Link,
    /// Where the pieces are read, if not on the primary.
    replica: Option<Link>,
    /// Whether the planner of the reading side was told to go by pages.
    by_pages: Option<bool>,
    /// What the last mark saw is replayed up to here: whatever is read must show it.
    reached: Option<String>,
}

impl Reader {
    pub async fn open(config: &config::Store) -> Result<Reader, StoreError> {
        let mut primary = Link::open(&config.url, config.timeout).await?;
        migrate::read_state(&mut primary).await?.required()?;
        let replica = match &config.replica_url {
            Some(url) => replica(url, config, &mut primary).await,
            None => None,
        };
        let config = config.clone();
        let mut reader = Reader { config, primary, replica, by_pages: None, reached: None };
        if let Some(replica) = &mut reader.replica {
            replica.allow(PIECE_MAX).await?;
        } else {
            reader.primary.allow(PIECE_MAX).await?;
        }
        Ok(reader)
    }

    /// New connections in the place of these. A replica that crashed, or another one behind the same
    /// address, need not have come as far as the one before.
    pub async fn reopen(&mut self) -> Result<(), StoreError> {
        let mut reader = Reader::open(&self.config).await?;
        if let Some(lsn) = self.reached.clone() {
            reader.reach(lsn).await?;
        }
        *self = reader;
        Ok(())
    }

    pub async fn close(self) {
        self.primary.close().await;
        if let Some(replica) = self.replica {
            replica.close().await;
        }
    }

    /// Of the primary, for short statements.
    pub fn primary(&mut self) -> &mut Link {
        &mut self.primary
    }

    /// A mark of the primary, and the replica not behind it.
    pub async fn mark(&mut self) -> Result<Mark, StoreError> {
        let mark = marks::mark(&mut self.primary).await?;
        self.reach(mark.lsn.clone()).await?;
        Ok(mark)
    }

    /// Nothing is read from a replica before it has come to `lsn`.
    async fn reach(&mut self, lsn: String) -> Result<(), StoreError> {
        if let Some(replica) = &mut self.replica
            && let Err(why) = fence(replica, &lsn).await
        {
            // Slower, and as right.
            let error = crate::telemetry::chain(&why);
            tracing::warn!(error, "the replica is of no use now: reading from the primary");
            self.replica = None;
            self.by_pages = None;
            self.primary.allow(PIECE_MAX).await?;
        }
        self.reached = Some(lsn);
        Ok(())
    }

    /// All partitions, the oldest first.
    pub async fn extents(&mut self) -> Result<Vec<Extent>, StoreError> {
        let rows: Vec<(String, String, String, i64, i64)> = self
            .source()
            .run("list what is to be read", async |conn: &mut PgConnection| {
                sqlx::query_as(
                    "SELECT p.partition, p.range_from::text, p.range_to::text, \
                     coalesce(pg_relation_size(c.oid) / current_setting('block_size')::bigint, 0), \
                     coalesce(pg_relation_filenode(c.oid), 0)::bigint \
                     FROM rollcall_partitions p \
                     JOIN pg_inherits i ON i.inhparent = 'events'::regclass \
                     JOIN pg_class c ON c.oid = i.inhrelid AND c.relname = p.partition \
                     WHERE p.range_from IS NOT NULL AND NOT p.detaching ORDER BY p.range_from",
                )
                .fetch_all(conn)
                .await
            })
            .await?;
        let extent = |(name, from, to, pages, file)| Extent { name, from, to, pages, file };
        Ok(rows.into_iter().map(extent).collect())
    }

    /// Hands over the events of a piece as they come. After an error read the piece again.
    pub async fn read<E: From<StoreError>>(
        &mut self,
        piece: &Piece<'_>,
        mut sink: impl AsyncFnMut(StoredEvent) -> Result<(), E>,
    ) -> Result<u64, E> {
        let by_pages = matches!(piece, Piece::Pages { .. });
        self.plan(by_pages).await?;
        let event = |(occurred_at, payload)| StoredEvent { occurred_at, payload };
        let source = self.source();
        // Not prepared for good: a plan for any numbers would not go by these.
        match piece {
            Piece::Pages { of, from, to } => {
                let (from, to) = (format!("({from},0)"), format!("({to},0)"));
                let rows = sqlx::query_as::<_, (OffsetDateTime, String)>(
                    "SELECT occurred_at, payload::text FROM events \
                         WHERE occurred_at >= $1::text::timestamptz \
                           AND occurred_at < $2::text::timestamptz \
                           AND ctid >= $3::text::tid AND ctid < $4::text::tid",
                )
                .bind(of.from.clone())
                .bind(of.to.clone())
                .bind(from)
                .bind(to)
                .persistent(false);
                source.each("read events", rows, async |row| sink(event(row)).await).await
            }
            Piece::Transactions { from, to } => {
                let (from, to) = (*from, to.unwrap_or(i64::MAX));
                let rows = sqlx::query_as::<_, (OffsetDateTime, String)>(
                    "SELECT occurred_at, payload::text FROM events \
                         WHERE txid >= $1 AND txid < $2",
                )
                .bind(from)
                .bind(to)
                .persistent(false);
                source.each("read new events", rows, async |row| sink(event(row)).await).await
            }
        }
    }

    /// Hands over all events that match, in one statement.
    pub async fn matching(
        &mut self,
        filter: &Filter,
        each: impl FnMut(OffsetDateTime, &str),
    ) -> Result<(), StoreError> {
        self.plan(false).await?;
        walk::rows(self.source(), filter, each).await
    }

    /// Hands over the retired members that are made from one of `sources` and have not expired.
    pub async fn read_retired<E: From<StoreError>>(
        &mut self,
        sources: Vec<String>,
        mut sink: impl AsyncFnMut(RetiredMember) -> Result<(), E>,
    ) -> Result<u64, E> {
        let rows = sqlx::query_as::<_, (String, String, String)>(
            "SELECT source, suffix, member FROM retired_members WHERE source = ANY($1) \
                 AND coalesce(expires_at > now(), true)",
        )
        .bind(sources)
        .persistent(false);
        let retired = |(source, suffix, member)| RetiredMember { source, suffix, member };
        let sink = async |row| sink(retired(row)).await;
        self.source().each("read retired members", rows, sink).await
    }

    fn source(&mut self) -> &mut Link {
        self.replica.as_mut().unwrap_or(&mut self.primary)
    }

    /// Pages are read in order and nothing else: an index on the time would be taken for the bounds
    /// of the partition, which are there only to leave out the others.
    async fn plan(&mut self, by_pages: bool) -> Result<(), StoreError> {
        if self.by_pages == Some(by_pages) {
            return Ok(());
        }
        self.source()
            .run("choose how to read", async |conn: &mut PgConnection| {
                sqlx::query(
                    "SELECT set_config('enable_indexscan', $1, false), \
                     set_config('enable_bitmapscan', $1, false)",
                )
                .bind(if by_pages { "off" } else { "on" })
                .execute(conn)
                .await
            })
            .await?;
        self.by_pages = Some(by_pages);
        Ok(())
    }
}

impl Extent {
    /// Pages of a piece: 16 MiB, some 60,000 events of 200 bytes, about half a second.
    pub const PIECE_PAGES: u64 = 2_048;

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is the same partition with its rows in another file: VACUUM FULL and the like
    /// move them, and pages of the one before that were read by number may have missed some.
    pub fn replaces(&self, other: &Extent) -> bool {
        self.name == other.name && self.file != other.file
    }

    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let pages = Self::PIECE_PAGES as i64;
        (0..self.pages).step_by(pages as usize).map(move |from| {
            let to = (from + pages).min(self.pages);
            Piece::Pages { of: self, from, to }
        })
    }
}

/// A replica of this primary, or `None` and a warning: the primary is read then.
async fn replica(url: &config::Secret, config: &config::Store, primary: &mut Link) -> Option<Link> {
    let connected = async {
        let mut replica = Link::open(url, config.timeout).await?;
        let theirs: i64 = replica
            .run("ask the replica who it is", async |conn: &mut PgConnection| {
                sqlx::query_scalar("SELECT system_identifier FROM pg_control_system()")
                    .fetch_one(conn)
                    .await
            })
            .await?;
        let ours = marks::mark(primary).await?.history.system_identifier;
        if theirs != ours {
            return Err(StoreError::OtherReplica { target: replica.target().to_owned() });
        }
        Ok(replica)
    };
    match connected.await {
        Ok(replica) => Some(replica),
        Err(error) => {
            let error = crate::telemetry::chain(&error);
            tracing::warn!(error, "no replica to read from: reading from the primary");
            None
        }
    }
}

/// Waits until the replica has replayed the log up to `lsn`.
async fn fence(replica: &mut Link, lsn: &str) -> Result<(), StoreError> {
    let began = Instant::now();
    let mut said = false;
    loop {
        if began.elapsed() > FENCE_SAID && !std::mem::replace(&mut said, true) {
            tracing::warn!(lsn, "waiting for the replica to get there");
        }
        // NULL where it is no standby (any more): then nothing tells that it follows.
        let behind: Option<bool> = replica
            .run("ask how far the replica is", async |conn: &mut PgConnection| {
                sqlx::query_scalar(
                    "SELECT CASE WHEN pg_is_in_recovery() \
                     THEN pg_last_wal_replay_lsn() < $1::text::pg_lsn END",
                )
                .bind(lsn)
                .fetch_one(conn)
                .await
            })
            .await?;
        match behind {
            Some(false) => return Ok(()),
            Some(true) if began.elapsed() < FENCE_MAX => tokio::time::sleep(FENCE_POLL).await,
            Some(true) => {
                let waited = began.elapsed();
                return Err(StoreError::ReplicaBehind { waited });
            }
            None => {
                let target = replica.target().to_owned();
                return Err(StoreError::NotReplica { target });
            }
        }
    }
}
