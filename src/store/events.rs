//! Writes batches of events, each event once, and tells duplicates from conflicts.
//!
//! Everything here can be run again with the same rows: what was stored is then a duplicate. It
//! must never leave a transaction open between statements, nor write rows in another order than by
//! key: two overlapping batches in opposite order deadlock (15 of 15 rounds; sorted, none).

use std::collections::HashSet;

use time::OffsetDateTime;
use uuid::Uuid;

use super::error::{Cause, StoreError};
use super::link::Link;
use super::ranges::{Range, Ranges, micros};
use super::{migrate, partitions, statements};
use crate::config::{self, PartitionBy};
use crate::retry::Class;

/// Times that one insert makes missing partitions anew. Each is a race lost against a retention
/// that drops them; who loses more often waits for the caller's next try.
const REPAIRS_MAX: u32 = 2;

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

    /// Stores `rows`, given in order of arrival; of two with one identity the first to arrive wins.
    /// When it returns, all but the refused are committed. On an error any part of them may be: run
    /// it again. The error is never of class data: what is bad is refused.
    ///
    /// Statements, each committed by itself: one; one more where rows were there already; two more
    /// for bad JSON, however much of it; and some 2 log2 n for each row that a constraint refuses.
    pub async fn insert(&mut self, rows: &[Row<'_>]) -> Result<Stored, StoreError> {
        let order = sorted(rows);
        self.ensure_partitions(rows, &order).await?;
        let mut stored = Stored::default();
        let mut repairs = 0;
        let mut timeouts = 0;
        // What is still to do, the next part last. It grows only by halving: log2 n deep at most.
        let mut todo: Vec<Part> = self.parts(&order);
        while let Some(mut part) = todo.pop() {
            let Err(error) = self.insert_part(rows, &part.rows, &mut stored).await else {
                self.rows_max = self.rows_max.saturating_mul(2);
                continue;
            };
            match Remedy::of(error, &part) {
                Remedy::Refuse(row, why) => stored.refused.push(Refused { row, why }),
                Remedy::Examine => {
                    let bad = statements::bad_payloads(&mut self.link, rows, &part.rows).await?;
                    let places: HashSet<usize> = bad.iter().map(|refused| refused.row).collect();
                    part.rows.retain(|row| !places.contains(row));
                    part.examined = true;
                    stored.refused.extend(bad);
                    todo.push(part);
                }
                Remedy::Halve => todo.extend(part.halves()),
                Remedy::HalveOnce(error) => {
                    // Not forgotten after this insert, lest each batch begin with a timeout.
                    self.rows_max = part.rows.len().div_ceil(2);
                    timeouts += 1;
                    if timeouts > 1 || part.rows.len() == 1 {
                        return Err(error);
                    }
                    todo.extend(part.halves());
                }
                Remedy::MakePartitions(error) => {
                    repairs += 1;
                    if repairs > REPAIRS_MAX {
                        return Err(error);
                    }
                    self.ranges.clear();
                    self.ensure_partitions(rows, &part.rows).await?;
                    todo.push(part);
                }
                Remedy::None(error) => return Err(error),
            }
        }
        stored.refused.sort_unstable_by_key(|refused| refused.row);
        Ok(stored)
    }

    /// All rows, in parts of what one statement may take, the first part last.
    fn parts(&self, order: &[usize]) -> Vec<Part> {
        let part = |rows: &[usize]| Part { rows: rows.to_vec(), examined: false };
        order.chunks(self.rows_max.max(1)).rev().map(part).collect()
    }

    /// Sees that each row has a partition. Rows come by time, so nearly all are in the range of
    /// the one before.
    async fn ensure_partitions(
        &mut self,
        rows: &[Row<'_>],
        order: &[usize],
    ) -> Result<(), StoreError> {
        let mut last: Option<Range> = None;
        for &row in order {
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

    /// One statement for `part`, and a second one where rows were there already.
    async fn insert_part(
        &mut self,
        rows: &[Row<'_>],
        part: &[usize],
        stored: &mut Stored,
    ) -> Result<(), StoreError> {
        if part.is_empty() {
            return Ok(());
        }
        let (inserted, txid) = statements::insert(&mut self.link, rows, part).await?;
        let conflicts = if inserted < part.len() {
            statements::conflicts(&mut self.link, rows, part, txid).await?
        } else {
            Vec::new()
        };
        stored.inserted += inserted as u64;
        stored.duplicates += part.len().saturating_sub(inserted + conflicts.len()) as u64;
        stored.refused.extend(conflicts);
        Ok(())
    }
}

/// Rows that go into one statement, by their places, in order of their keys.
struct Part {
    rows: Vec<usize>,
    /// Its payloads are known to be jsonb; what still fails is for halving to find.
    examined: bool,
}

impl Part {
    /// The second half first: the next one to do is taken from the end.
    fn halves(mut self) -> [Part; 2] {
        let second = self.rows.split_off(self.rows.len() / 2);
        [Part { rows: second, examined: self.examined }, self]
    }
}

/// What to do about an error of one part.
enum Remedy {
    /// It is bad by itself.
    Refuse(usize, Refusal),
    /// Some rows are bad, most likely in their JSON.
    Examine,
    /// Some rows are bad in another way: a constraint.
    Halve,
    /// Too much at once, perhaps.
    HalveOnce(StoreError),
    MakePartitions(StoreError),
    /// The caller decides when to try again.
    None(StoreError),
}

impl Remedy {
    fn of(error: StoreError, part: &Part) -> Remedy {
        if error.is_unrouted() {
            return Remedy::MakePartitions(error);
        }
        if error.sqlstate() == Some("57014") {
            return Remedy::HalveOnce(error);
        }
        if error.class() != Class::Data {
            return Remedy::None(error);
        }
        match (&part.rows[..], error) {
            (
                &[row],
                StoreError::Statement { source: Cause::Server { sqlstate, message, .. }, .. },
            ) => Remedy::Refuse(row, Refusal::Data { sqlstate, detail: message }),
            _ if part.examined => Remedy::Halve,
            _ => Remedy::Examine,
        }
    }
}

/// Places of `rows` by key, and by arrival where the key is the same.
fn sorted(rows: &[Row<'_>]) -> Vec<usize> {
    for row in rows {
        debug_assert_eq!(row.occurred_at.nanosecond() % 1000, 0, "not whole microseconds");
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&row| (rows[row].occurred_at, rows[row].id));
    order
}
