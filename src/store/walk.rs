//! Reads the table partition by partition, in bounded steps, as rows lie on disk. A step is one
//! statement, so its snapshot is short, and what it reads is bounded in rows and in blocks. It
//! counts on no order of rows: with an index, or several processes, Postgres gives them in any.
//!
//! It sees every row that was committed before it began and is not deleted meanwhile. A row that
//! comes while it goes may be seen or not: whoever cares takes a mark first, and looks once more.

use futures_util::TryStreamExt;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{AssertSqlSafe, PgConnection, Postgres};
use time::OffsetDateTime;

use super::error::StoreError;
use super::link::Link;

/// Rows of one step, unless one block holds more. A row can add 256 KiB of members at the very most.
const STEP_ROWS: u64 = 1_000;
/// What the first step reads: of usual events some 600.
const STEP_BLOCKS_FIRST: i64 = 32;
/// 32 MiB: where nothing matches, this is what one statement reads.
const STEP_BLOCKS_MAX: i64 = 4_096;

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub name: String,
    /// Quoted, and with its schema where that is needed.
    pub(super) table: String,
}

/// A value of a filter's `$n`.
#[derive(Clone, Debug)]
pub(super) enum Bind {
    Number(i64),
    Text(String),
    Texts(Vec<String>),
}

/// Which rows.
#[derive(Clone, Debug)]
pub struct Filter {
    pub(super) sql: String,
    pub(super) binds: Vec<Bind>,
}

impl Filter {
    pub fn all() -> Filter {
        Filter { sql: "true".to_owned(), binds: Vec::new() }
    }

    /// Stored by a transaction from this one on.
    pub fn since(txid: i64) -> Filter {
        Filter { sql: "txid >= $1".to_owned(), binds: vec![Bind::Number(txid)] }
    }

    pub fn and(mut self, other: &Filter) -> Filter {
        let other = other.clone().after(self.binds.len());
        self.sql = format!("({}) AND ({})", self.sql, other.sql);
        self.binds.extend(other.binds);
        self
    }

    pub fn negated(self) -> Filter {
        // Of a missing field a comparison says NULL, which is no.
        Filter { sql: format!("({}) IS NOT TRUE", self.sql), ..self }
    }

    /// Numbers its parameters from another one's end.
    fn after(self, taken: usize) -> Filter {
        let mut parts = self.sql.split('$');
        let mut sql = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            let number: usize = part[..end].parse().unwrap_or_default();
            sql.push_str(&format!("${}{}", number + taken, &part[end..]));
        }
        Filter { sql, binds: self.binds }
    }

    pub(super) fn bind<'q, O>(
        &self,
        mut query: QueryAs<'q, Postgres, O, PgArguments>,
    ) -> QueryAs<'q, Postgres, O, PgArguments> {
        for bind in &self.binds {
            query = match bind {
                Bind::Number(number) => query.bind(*number),
                Bind::Text(text) => query.bind(text.clone()),
                Bind::Texts(texts) => query.bind(texts.clone()),
            };
        }
        query
    }
}

/// The partitions, by name.
pub async fn leaves(link: &mut Link) -> Result<Vec<Leaf>, StoreError> {
    let rows: Vec<(String, String)> = link
        .run("list partitions", async |conn: &mut PgConnection| {
            sqlx::query_as(
                "SELECT c.relname::text, i.inhrelid::regclass::text FROM pg_inherits i \
                 JOIN pg_class c ON c.oid = i.inhrelid \
                 WHERE i.inhparent = 'events'::regclass AND NOT i.inhdetachpending \
                 ORDER BY c.relname",
            )
            .fetch_all(conn)
            .await
        })
        .await?;
    Ok(rows.into_iter().map(|(name, table)| Leaf { name, table }).collect())
}

/// A walk through one partition.
pub struct Walk {
    leaf: Leaf,
    /// All before this block has been read.
    at: i64,
    /// Blocks of the next step.
    step: i64,
    blocks: i64,
}

impl Walk {
    /// `None` where the partition is gone.
    pub async fn begin(link: &mut Link, leaf: &Leaf) -> Result<Option<Walk>, StoreError> {
        let blocks = size(link, leaf).await?;
        let walk = |blocks| Walk { leaf: leaf.clone(), at: 0, step: STEP_BLOCKS_FIRST, blocks };
        Ok(blocks.map(walk))
    }

    /// Blocks read, and blocks there are.
    pub fn done(&self) -> (u64, u64) {
        (self.at.min(self.blocks).unsigned_abs(), self.blocks.unsigned_abs())
    }

    /// Reads on. How many rows were read for good: another step may give some again, and counts them
    /// then. `None` when all has been read.
    pub async fn step(
        &mut self,
        link: &mut Link,
        filter: &Filter,
        mut each: impl FnMut(OffsetDateTime, &str),
    ) -> Result<Option<u64>, StoreError> {
        let Some((from, to)) = self.next_range(link).await? else { return Ok(None) };
        let (table, filter_sql) = (&self.leaf.table, &filter.sql);
        // A block holds some 290 rows at most.
        let limit = match to - from {
            1 => String::new(),
            _ => format!("LIMIT {STEP_ROWS}"),
        };
        let sql = format!(
            "SELECT occurred_at, payload::text FROM ONLY {table} \
             WHERE ctid >= '({from},0)' AND ctid < '({to},0)' AND ({filter_sql}) {limit}"
        );
        let seen = link
            .run("read events", async |conn: &mut PgConnection| {
                let query = sqlx::query_as::<_, (OffsetDateTime, String)>(AssertSqlSafe(sql))
                    .persistent(false);
                let mut rows = filter.bind(query).fetch(conn);
                let mut seen = 0;
                while let Some((at, payload)) = rows.try_next().await? {
                    each(at, &payload);
                    seen += 1;
                }
                Ok(seen)
            })
            .await?;
        if seen >= STEP_ROWS && to - from > 1 {
            // There may be more of them anywhere in it: once again, in smaller steps.
            self.step = ((to - from) / 4).max(1);
            return Ok(Some(0));
        }
        self.passed(to);
        if seen < STEP_ROWS / 4 {
            self.widen();
        }
        Ok(Some(seen))
    }

    /// Little was found.
    pub(super) fn widen(&mut self) {
        self.step = (self.step * 2).min(STEP_BLOCKS_MAX);
    }

    /// From which block to read on, and up to which; `None` when all has been read.
    pub(super) async fn next_range(
        &mut self,
        link: &mut Link,
    ) -> Result<Option<(i64, i64)>, StoreError> {
        if self.at >= self.blocks {
            // It may have grown; what came later is there as well, if it was committed.
            match size(link, &self.leaf).await? {
                Some(blocks) if blocks > self.blocks => self.blocks = blocks,
                _ => return Ok(None),
            }
        }
        Ok(Some((self.at, (self.at + self.step).min(self.blocks))))
    }

    /// All before this block has been seen to.
    pub(super) fn passed(&mut self, block: i64) {
        self.at = block;
    }

    pub(super) fn table(&self) -> &str {
        &self.leaf.table
    }
}

/// In blocks.
pub(super) async fn size(link: &mut Link, leaf: &Leaf) -> Result<Option<i64>, StoreError> {
    link.run("ask for a partition's size", async |conn: &mut PgConnection| {
        sqlx::query_scalar(
            "SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint",
        )
        .bind(&leaf.table)
        .fetch_one(conn)
        .await
    })
    .await
}

/// All rows of the table that were stored from a transaction on, by the BRIN of txid.
pub async fn rows_since(
    link: &mut Link,
    txid: i64,
    filter: &Filter,
    each: impl FnMut(OffsetDateTime, &str),
) -> Result<(), StoreError> {
    rows(link, &Filter::since(txid).and(filter), each).await
}

/// All rows that match, in one statement.
pub async fn rows(
    link: &mut Link,
    filter: &Filter,
    mut each: impl FnMut(OffsetDateTime, &str),
) -> Result<(), StoreError> {
    let sql = format!("SELECT occurred_at, payload::text FROM events WHERE {}", filter.sql);
    link.run("read matching events", async |conn: &mut PgConnection| {
        let query = sqlx::query_as::<_, (OffsetDateTime, String)>(AssertSqlSafe(sql));
        let mut rows = filter.bind(query.persistent(false)).fetch(conn);
        while let Some((at, payload)) = rows.try_next().await? {
            each(at, &payload);
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_on() {
        let text = |text: &str| Bind::Text(text.to_owned());
        let one = Filter { sql: "a = $1 OR b = $2".to_owned(), binds: vec![text("x"), text("y")] };
        let both = Filter::since(7).and(&one.clone().negated());
        assert_eq!(both.sql, "(txid >= $1) AND ((a = $2 OR b = $3) IS NOT TRUE)");
        assert_eq!(both.binds.len(), 3);
        let many: Vec<String> = (1..=12).map(|n| format!("${n}")).collect();
        let many = Filter { sql: many.join(" "), binds: vec![text("x"); 12] }.after(2);
        assert!(many.sql.starts_with("$3 $4 ") && many.sql.ends_with(" $13 $14"), "{}", many.sql);
    }
}
