//! Events made by Postgres itself: a table that is full already.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::shared::Servers;

/// Rows of one INSERT.
const STATEMENT: u64 = 50_000;

/// Of the last 20 days, so mostly in the partition that is written to. 200,000 users in 7,500
/// cities of 50 states; `n` is the event's number. No event of `events` has the identity of one of
/// these.
const INSERT: &str = "
INSERT INTO events (occurred_at, id, payload)
SELECT e.at, e.id, jsonb_build_object(
    'id', e.id,
    'occurred_at', to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
    'state', 'S' || e.city % 50,
    'city', 'City ' || e.city,
    'username', 'user' || e.chance % 200000,
    'text', e.id)
FROM (
    SELECT md5('event ' || n)::uuid AS id,
        now() - interval '20 days' + interval '479 hours' * (n::float8 / {rows}) AS at,
        abs(hashint8(n)::bigint) AS chance,
        abs(hashint8(-n)::bigint) % 7500 AS city
    FROM generate_series({from}, {to} - 1) AS n
) AS e";

/// Fills an empty table, on two connections. The caller settles it.
pub async fn fill(servers: &Servers, rows: u64) -> Result<()> {
    let mut database = PgConnection::connect(&servers.database).await?;
    let partitions = "SELECT rollcall_ensure_partition(at, 'month') FROM \
                      (VALUES (now() - interval '20 days'), (now())) AS t (at)";
    database.execute(partitions).await?;
    database.close().await?;
    let next = AtomicU64::new(0);
    let insert = || async {
        let mut database = PgConnection::connect(&servers.database).await?;
        loop {
            let from = next.fetch_add(STATEMENT, Ordering::Relaxed);
            if from >= rows {
                return anyhow::Ok(());
            }
            let sql = INSERT
                .replace("{rows}", &rows.to_string())
                .replace("{from}", &from.to_string())
                .replace("{to}", &(from + STATEMENT).min(rows).to_string());
            database.execute(AssertSqlSafe(sql)).await?;
        }
    };
    let (one, two) = tokio::join!(insert(), insert());
    one.and(two)
}
