//! One lane's connection to the table of events: each event once, duplicates told from conflicts.
//!
//! Everything here can be run again with the same rows: what was stored is then a duplicate. It
//! must never leave a transaction open between statements, nor write rows in another order than by
//! key: two overlapping batches in opposite order deadlock (15 of 15 rounds; sorted, none).

use time::OffsetDateTime;
use uuid::Uuid;

use super::error::StoreError;
use super::insert::{self, Table};
use super::link::Link;
use super::ranges::{Range, Ranges, micros};
use super::{marks, migrate, partitions, statements};
use crate::config::{self, PartitionBy};

/// An event as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Whole microseconds, which is what Postgres keeps.
    pub occurred_at: OffsetDateTime,
    pub id: Uuid,
    /// One JSON object.
    pub payload: &'a str,
}

/// A row that Postgres will not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its place in the slice that was given.
    pub row: usize,
    pub why: Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The identity is taken by an event with another payload.
    IdConflict,
    /// The row itself will not do. `detail` is the server's message, bounded and free of the
    /// payload.
    Data { sqlstate: String, detail: String },
}

/// What became of the rows: each is counted in exactly one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub inserted: u64,
    /// Were there already, equal as JSON.
    pub duplicates: u64,
    /// By place.
    pub refused: Vec<Refused>,
    /// The lowest transaction of the rows that are there now, the duplicates' too: who stored those
    /// may have died before their members were in Redis.
    pub txid_min: Option<i64>,
}

impl Stored {
    pub(super) fn add(&mut self, other: Stored) {
        self.inserted += other.inserted;
        self.duplicates += other.duplicates;
        self.refused.extend(other.refused);
        self.txid_min = [self.txid_min, other.txid_min].into_iter().flatten().min();
    }
}

/// One lane's connection.
pub struct EventStore {
    link: Link,
    ranges: Ranges,
    partition_by: PartitionBy,
    /// Rows per statement. Halved when one took too long, doubled when one did not.
    rows_max: usize,
}

impl EventStore {
    /// Connects to the primary and sees that the schema is there.
    pub async fn connect(store: &config::Store) -> Result<EventStore, StoreError> {
        let mut link = Link::open(&store.url, store.timeout).await?;
        let (read_only, _): (bool, Option<String>) = link
            .run("ask for the role", async |conn| {
                // Off, a commit is confirmed before it is on disk; what we acknowledge then would
                // be lost with the server. Whoever set it did not mean this table.
                sqlx::query_as(
                    "SELECT current_setting('transaction_read_only')::boolean, \
                     CASE WHEN current_setting('synchronous_commit') = 'off' \
                          THEN set_config('synchronous_commit', 'on', false) END",
                )
                .fetch_one(conn)
                .await
            })
            .await?;
        if read_only {
            return Err(StoreError::NotPrimary { target: link.target().to_owned() });
        }
        migrate::read_state(&mut link).await?.required()?;
        let ranges = Ranges::new(partitions::ranges(&mut link).await?);
        Ok(EventStore { link, ranges, partition_by: store.partition_by, rows_max: usize::MAX })
    }

    /// True after a lost connection, a timeout of ours or an insert that was dropped half way: make
    /// a new one.
    pub fn is_broken(&self) -> bool {
        self.link.is_broken()
    }

    pub async fn close(self) {
        self.link.close().await;
    }

    /// Stores `rows`, given in order of arrival: see [`insert::insert`].
    pub async fn insert(&mut self, rows: &[Row<'_>]) -> Result<Stored, StoreError> {
        let mut rows_max = self.rows_max;
        let stored = insert::insert(self, rows, &mut rows_max).await;
        self.rows_max = rows_max;
        stored
    }
}

impl EventStore {
    /// See [`marks::note_missing`]: committed when it returns.
    pub async fn note_missing(
        &mut self,
        prefix: &str,
        from: i64,
        reason: &str,
    ) -> Result<(), StoreError> {
        marks::note_missing(&mut self.link, prefix, from, reason).await
    }
}

impl Table for EventStore {
    /// Rows come by time, so nearly all are in the range of the one before.
    async fn make_partitions(
        &mut self,
        rows: &[Row<'_>],
        part: &[usize],
        anew: bool,
    ) -> Result<(), StoreError> {
        if anew {
            self.ranges.clear();
        }
        let mut last: Option<Range> = None;
        for &row in part {
            let at = micros(rows[row].occurred_at);
            if last.is_some_and(|range| range.holds(at)) {
                continue;
            }
            let range = match self.ranges.find(at) {
                Some(range) => range,
                None => {
                    let time = rows[row].occurred_at;
                    let made = partitions::ensure(&mut self.link, time, self.partition_by).await?;
                    self.ranges.insert(made.range);
                    made.range
                }
            };
            last = Some(range);
        }
        Ok(())
    }

    /// One statement, and a second one where rows were there already.
    async fn insert_part(
        &mut self,
        rows: &[Row<'_>],
        part: &[usize],
    ) -> Result<Stored, StoreError> {
        let (inserted, txid) = statements::insert(&mut self.link, rows, part).await?;
        let (refused, of_duplicates) = if inserted < part.len() {
            statements::conflicts(&mut self.link, rows, part, txid).await?
        } else {
            (Vec::new(), None)
        };
        let duplicates = part.len().saturating_sub(inserted + refused.len()) as u64;
        let ours = (inserted > 0).then_some(txid);
        let txid_min = [ours, of_duplicates].into_iter().flatten().min();
        Ok(Stored { inserted: inserted as u64, duplicates, refused, txid_min })
    }

    async fn bad_payloads(
        &mut self,
        rows: &[Row<'_>],
        part: &[usize],
    ) -> Result<Vec<Refused>, StoreError> {
        statements::bad_payloads(&mut self.link, rows, part).await
    }
}
