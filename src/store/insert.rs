//! Which rows go into which statement, and what is done about one that fails: the bad rows are
//! found and refused, everything else is stored. Pure but for the [`Table`] it is given, so that a
//! model can stand in for Postgres.

use std::collections::HashSet;

use super::error::{Cause, StoreError};
use super::events::{Refusal, Refused, Row, Stored};
use crate::retry::Class;

/// Times that one insert makes missing partitions anew. Each is a race lost against a retention
/// that drops them; who loses more often waits for the caller's next try.
const REPAIRS_MAX: u32 = 2;

/// What can be done to the table, one committed statement or two at a time. `part` names rows by
/// their places, in order of their keys.
pub trait Table {
    /// Sees that each row has a partition; `anew` where what is known of them proved wrong.
    fn make_partitions(
        &mut self,
        rows: &[Row<'_>],
        part: &[usize],
        anew: bool,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Stores the part, whole or not at all. The rows that are there with another payload are
    /// refused.
    fn insert_part(
        &mut self,
        rows: &[Row<'_>],
        part: &[usize],
    ) -> impl Future<Output = Result<Stored, StoreError>> + Send;

    /// The rows whose payload is no jsonb.
    fn bad_payloads(
        &mut self,
        rows: &[Row<'_>],
        part: &[usize],
    ) -> impl Future<Output = Result<Vec<Refused>, StoreError>> + Send;
}

/// Stores `rows`, given in order of arrival; of two with one identity the first to arrive wins.
/// When it returns, all but the refused are committed. On an error any part of them may be: run it
/// again. The error is never of class data: what is bad is refused.
///
/// Statements, each committed by itself: one; one more where rows were there already; two more for
/// bad JSON, however much of it; and some 2 log2 n for each row that a constraint refuses.
/// `rows_max` is what one statement may take: halved when one took too long, doubled when not.
pub async fn insert(
    table: &mut impl Table,
    rows: &[Row<'_>],
    rows_max: &mut usize,
) -> Result<Stored, StoreError> {
    let order = sorted(rows);
    table.make_partitions(rows, &order, false).await?;
    let mut stored = Stored::default();
    let mut repairs = 0;
    let mut timeouts = 0;
    // What is still to do, the next part last. It grows only by halving: log2 n deep at most.
    let mut todo: Vec<Part> = parts(&order, *rows_max);
    while let Some(mut part) = todo.pop() {
        let error = match table.insert_part(rows, &part.rows).await {
            Ok(done) => {
                stored.add(done);
                *rows_max = rows_max.saturating_mul(2);
                continue;
            }
            Err(error) => error,
        };
        match Remedy::of(error, &part) {
            Remedy::Refuse(row, why) => stored.refused.push(Refused { row, why }),
            Remedy::Examine => {
                let bad = table.bad_payloads(rows, &part.rows).await?;
                let places: HashSet<usize> = bad.iter().map(|refused| refused.row).collect();
                part.rows.retain(|row| !places.contains(row));
                part.examined = true;
                stored.refused.extend(bad);
                if !part.rows.is_empty() {
                    todo.push(part);
                }
            }
            Remedy::Halve => todo.extend(part.halves()),
            Remedy::HalveOnce(error) => {
                // Not forgotten after this insert, lest each batch begin with a timeout.
                *rows_max = part.rows.len().div_ceil(2);
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
                table.make_partitions(rows, &part.rows, true).await?;
                todo.push(part);
            }
            Remedy::None(error) => return Err(error),
        }
    }
    stored.refused.sort_unstable_by_key(|refused| refused.row);
    Ok(stored)
}

/// All rows, in parts of what one statement may take, the first part last.
fn parts(order: &[usize], rows_max: usize) -> Vec<Part> {
    let part = |rows: &[usize]| Part { rows: rows.to_vec(), examined: false };
    order.chunks(rows_max.max(1)).rev().map(part).collect()
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
