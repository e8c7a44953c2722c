//! The rows of somebody's query, each as the text of an event: what `publish --from-postgres`
//! reads.
//!
//! One cursor in one read-only snapshot: the query sees one state of its tables, and memory holds a
//! page of its rows, however many there are. It must never write, and never judge an event: a bad
//! one is the worker's to dead-letter, with its reason.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Column, Either, Executor, PgConnection, SqlSafeStr, Statement, TypeInfo,
};

use super::error::StoreError;
use super::link::Link;
use crate::config::Secret;

/// For each statement: the first page of a query that sorts is the whole sort.
const STATEMENT_MAX: Duration = Duration::from_secs(3600);

/// A page grows to this many rows while they are small, and to this weight, judged by the heaviest
/// row of the page before.
const PAGE_ROWS_MAX: usize = 500;
const PAGE_BYTES: usize = 4 << 20;
/// Of the first page, of which nothing is known.
const PAGE_ROWS_FIRST: usize = 16;

const WRITES: &str = "writes, and is here to read";

const STANDS_ALONE: &str = "must be one that can be a subquery: a SELECT that does not write";

const COLUMNS: &str = "must give one column, event (json or jsonb); or id, occurred_at \
                       (timestamptz) and payload (json or jsonb); or id, occurred_at (timestamptz) \
                       and the fields of the event, each a column";

const PARAMETERS: &str = "has a parameter ($1), and no value for it: write the value itself";

/// A query that is being read.
pub struct Export {
    link: Link,
    rows: usize,
    page_rows: usize,
}

impl Export {
    /// Begins to read. `query` is one SELECT.
    ///
    /// # Errors
    /// Of class config where the query is none, or gives other columns.
    pub async fn open(url: &Secret, timeout: Duration, query: &str) -> Result<Export, StoreError> {
        Export::begin(url, timeout, query).await.map_err(told)
    }

    async fn begin(url: &Secret, timeout: Duration, query: &str) -> Result<Export, StoreError> {
        // A subquery below: what ends a statement does not end one, and a comment ends with its
        // line.
        let query = query.trim().trim_end_matches(';');
        let mut link = Link::open(url, timeout).await?;
        link.allow(STATEMENT_MAX).await?;
        // A time is written in the session's zone, and the same row must be the same text each
        // time. The driver opens each session in UTC, whatever the database's or the role's own
        // setting.
        for sql in [
            "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            // Between two pages we wait for the broker, or for --rate.
            "SET LOCAL idle_in_transaction_session_timeout = 0",
            // The same for what else a role's settings write in more than one way.
            "SET LOCAL bytea_output = hex",
            "SET LOCAL intervalstyle = postgres",
        ] {
            execute(&mut link, "begin to read", sql.to_owned()).await?;
        }
        let event = columns(&mut link, query).await?;
        let rows = count(&mut link, query).await?;
        let declare = format!(
            "DECLARE rollcall_export NO SCROLL CURSOR FOR SELECT {event} FROM (\n{query}\n) q"
        );
        execute(&mut link, "run the query", declare).await?;
        Ok(Export { link, rows, page_rows: PAGE_ROWS_FIRST })
    }

    /// How many rows there are in all.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The next rows, in the query's order; none at the end. `None` is a row without an event.
    pub async fn page(&mut self) -> Result<Vec<Option<String>>, StoreError> {
        let fetch = format!("FETCH FORWARD {} FROM rollcall_export", self.page_rows);
        let page: Vec<Option<String>> = self
            .link
            .run("read rows", async |conn: &mut PgConnection| {
                sqlx::query_scalar(AssertSqlSafe(fetch)).persistent(false).fetch_all(conn).await
            })
            .await
            .map_err(told)?;
        let heaviest = page.iter().flatten().map(String::len).max().unwrap_or_default();
        self.page_rows = (PAGE_BYTES / heaviest.max(1)).clamp(1, PAGE_ROWS_MAX);
        Ok(page)
    }

    pub async fn close(self) {
        self.link.close().await;
    }
}

/// Elsewhere 25006 is a primary that is none any more, and 0A000 a server that may be replaced;
/// here it is the query, which will not change.
fn told(error: StoreError) -> StoreError {
    match error.sqlstate() {
        Some("25006") => StoreError::Query { rule: WRITES },
        Some("0A000") => StoreError::Query { rule: STANDS_ALONE },
        _ => error,
    }
}

/// What makes an event of a row, by the columns that the query gives.
async fn columns(link: &mut Link, query: &str) -> Result<&'static str, StoreError> {
    let sql = format!("SELECT * FROM (\n{query}\n) q");
    let (parameters, found): (bool, Vec<(String, String)>) = link
        .run("look at the query", async |conn: &mut PgConnection| {
            let statement = conn.prepare(AssertSqlSafe(sql).into_sql_str()).await?;
            let column = |column: &sqlx::postgres::PgColumn| {
                (column.name().to_owned(), column.type_info().name().to_owned())
            };
            let parameters = match statement.parameters() {
                Some(Either::Left(types)) => !types.is_empty(),
                Some(Either::Right(count)) => count > 0,
                None => false,
            };
            Ok((parameters, statement.columns().iter().map(column).collect()))
        })
        .await?;
    if parameters {
        return Err(StoreError::Query { rule: PARAMETERS });
    }
    let is = |name: &str, types: &[&str]| {
        let mut columns = found.iter().filter(|(found, _)| found == name);
        columns.next().is_some_and(|(_, found)| types.contains(&found.as_str()))
    };
    const JSON: &[&str] = &["JSON", "JSONB"];
    if found.len() == 1 && is("event", JSON) {
        // Of type json it is as somebody wrote it. A raw line feed can only stand between two of
        // its tokens, and would end the event where several travel as lines.
        return Ok("translate(q.event::text, E'\\n\\r', '  ')");
    }
    let has_id = found.iter().any(|(name, _)| name == "id");
    if found.len() == 3 && has_id && is("occurred_at", &["TIMESTAMPTZ"]) && is("payload", JSON) {
        // Of two objects the result is one; of an object and something else, an array.
        return Ok("CASE jsonb_typeof(q.payload::jsonb) WHEN 'object' THEN (q.payload::jsonb || \
                   jsonb_build_object('id', q.id::text, 'occurred_at', q.occurred_at))::text END");
    }
    // Three of that form whose payload is no JSON are a mistake, not a field of that name.
    let mistaken = found.len() == 3 && found.iter().any(|(name, _)| name == "payload");
    if has_id && is("occurred_at", &["TIMESTAMPTZ"]) && !mistaken {
        return Ok("(to_jsonb(q) || \
                   jsonb_build_object('id', q.id::text, 'occurred_at', q.occurred_at))::text");
    }
    Err(StoreError::Query { rule: COLUMNS })
}

async fn count(link: &mut Link, query: &str) -> Result<usize, StoreError> {
    let sql = format!("SELECT count(*) FROM (\n{query}\n) q");
    let rows: i64 = link
        .run("count the rows", async |conn: &mut PgConnection| {
            sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false).fetch_one(conn).await
        })
        .await?;
    Ok(usize::try_from(rows).unwrap_or_default())
}

async fn execute(link: &mut Link, doing: &'static str, sql: String) -> Result<(), StoreError> {
    link.run(doing, async |conn: &mut PgConnection| {
        sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(conn).await
    })
    .await?;
    Ok(())
}
