//! The three statements that a batch can take, one round trip each. Which of them, and what to do
//! when one fails, is for `events` to say.

use sqlx::PgConnection;
use sqlx::postgres::PgBindIterExt;

use super::error::StoreError;
use super::events::{Refusal, Refused, Row};
use super::link::Link;
use super::sqlstate;

/// One parameter each of arrays, however many rows: 9.5 µs of server per row at 1000 rows, where
/// VALUES takes 13 and has a limit of 65,535 parameters. Locks: ROW EXCLUSIVE on the table and its
/// partitions. Waits only for a transaction under way that writes the same key. The CTE costs
/// nothing that could be measured and brings the transaction's id home, see `CONFLICTS`.
const INSERT: &str = "
WITH inserted AS (
    INSERT INTO events (occurred_at, id, payload)
    SELECT t.o, t.i, t.p::jsonb
    FROM unnest($1::timestamptz[], $2::uuid[], $3::text[]) AS t (o, i, p)
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT count(*), coalesce(txid_current_if_assigned(), 0) FROM inserted";

/// Which of our rows (from 1) Postgres has with another payload, and the lowest transaction of
/// those that it has as they are: whoever stored them may have died before their members were in
/// Redis. Reads by primary key, a row each: the LIMIT leaves the planner no other way, where a join
/// of a table without statistics once read all that was stored between the first time and the last,
/// more with every batch. $5 and $6, those times, let it leave out all other partitions. The JSON
/// of a row that our own statement has just stored ($7) is not parsed a second time, except where
/// its key comes more than once in the batch.
///
/// The message closes a gap of synchronous replication: where a first writer's backend was ended
/// while it waited for the standby, its rows are visible here and maybe nowhere else, and a
/// statement that wrote nothing does not wait. This one writes a few bytes of WAL, so its commit
/// waits for all before it.
const CONFLICTS: &str = "
WITH met AS (
    SELECT t.n, e.txid, e.payload IS DISTINCT FROM t.p::jsonb AS differs
    FROM unnest($1::timestamptz[], $2::uuid[], $3::text[], $4::boolean[])
         WITH ORDINALITY AS t (o, i, p, again, n)
    CROSS JOIN LATERAL (
        SELECT e.txid, e.payload FROM events e
        WHERE e.occurred_at = t.o AND e.id = t.i AND e.occurred_at BETWEEN $5 AND $6
        LIMIT 1
    ) e
    WHERE e.txid <> $7 OR t.again
)
SELECT
    ARRAY(SELECT n FROM met WHERE differs),
    (SELECT min(txid) FROM met WHERE NOT differs),
    CASE WHEN current_setting('synchronous_standby_names') <> ''
         THEN pg_logical_emit_message(true, 'rollcall', ''::text)::text END";

/// See `migrations/0003_bad_payloads.sql`.
const BAD_PAYLOADS: &str = "SELECT place, code, message FROM rollcall_bad_payloads($1::text[])";

/// Stores the rows that `part` names, which are in order of their keys, and returns how many were
/// new and the transaction that has them.
pub async fn insert(
    link: &mut Link,
    rows: &[Row<'_>],
    part: &[usize],
) -> Result<(usize, i64), StoreError> {
    let (inserted, txid): (i64, i64) = link
        .run("insert events", async |conn: &mut PgConnection| {
            // The arrays are views of the same rows: of one length, as unnest must have it.
            sqlx::query_as(INSERT)
                .bind(part.iter().map(|&row| rows[row].occurred_at).bind_iter())
                .bind(part.iter().map(|&row| rows[row].id).bind_iter())
                .bind(part.iter().map(|&row| rows[row].payload).bind_iter())
                .fetch_one(conn)
                .await
        })
        .await?;
    // A count is not negative.
    Ok((usize::try_from(inserted).unwrap_or_default(), txid))
}

/// Rows of `part` that are stored with another payload, and the lowest transaction of those that
/// are stored as they are. `txid` has just stored the others.
pub async fn conflicts(
    link: &mut Link,
    rows: &[Row<'_>],
    part: &[usize],
    txid: i64,
) -> Result<(Vec<Refused>, Option<i64>), StoreError> {
    let (Some(&first), Some(&last)) = (part.first(), part.last()) else {
        return Ok((Vec::new(), None));
    };
    let key = |place: usize| (rows[part[place]].occurred_at, rows[part[place]].id);
    let again = |place: usize| place > 0 && key(place - 1) == key(place);
    let (found, lowest, _): (Vec<i64>, Option<i64>, Option<String>) = link
        .run("look for conflicts", async |conn: &mut PgConnection| {
            sqlx::query_as(CONFLICTS)
                .bind(part.iter().map(|&row| rows[row].occurred_at).bind_iter())
                .bind(part.iter().map(|&row| rows[row].id).bind_iter())
                .bind(part.iter().map(|&row| rows[row].payload).bind_iter())
                .bind((0..part.len()).map(again).bind_iter())
                .bind(rows[first].occurred_at)
                .bind(rows[last].occurred_at)
                .bind(txid)
                .fetch_one(conn)
                .await
        })
        .await?;
    let refused = |n: i64| Some(Refused { row: row_at(part, n)?, why: Refusal::IdConflict });
    Ok((found.into_iter().filter_map(refused).collect(), lowest))
}

/// Rows of `part` whose payload is no jsonb.
pub async fn bad_payloads(
    link: &mut Link,
    rows: &[Row<'_>],
    part: &[usize],
) -> Result<Vec<Refused>, StoreError> {
    let found: Vec<(i32, String, String)> = link
        .run("look for bad payloads", async |conn: &mut PgConnection| {
            sqlx::query_as(BAD_PAYLOADS)
                .bind(part.iter().map(|&row| rows[row].payload).bind_iter())
                .fetch_all(conn)
                .await
        })
        .await?;
    let refused = |(n, sqlstate, message): (i32, String, String)| {
        let detail = sqlstate::scrubbed(&message, None);
        let why = Refusal::Data { sqlstate, detail };
        Some(Refused { row: row_at(part, i64::from(n))?, why })
    };
    Ok(found.into_iter().filter_map(refused).collect())
}

/// The row behind a place as the server counts them, from 1.
fn row_at(part: &[usize], n: i64) -> Option<usize> {
    part.get(usize::try_from(n - 1).ok()?).copied()
}
