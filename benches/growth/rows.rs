//! Events made by Postgres itself, as many as it takes: 24 months of them, one in five by a new
//! user.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::shared::{Servers, settle};

/// Rows of one INSERT.
const STATEMENT: u64 = 50_000;

/// The quarters of a town: 7,512 real places make 30,048 groups.
const QUARTERS: [&str; 4] = ["", "North ", "East ", "Old "];

/// What the statement reads: `n` is the event's number, `u` its user's. A user is at home in one
/// place, and one event in ten is from somewhere else.
const INSERT: &str = "
INSERT INTO events (occurred_at, id, payload)
SELECT e.at, e.id, jsonb_build_object(
    'id', e.id,
    'occurred_at', to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
    'state', p.state,
    'city', p.city,
    'username', (ARRAY['ada', 'ben', 'chen', 'dora', 'eli', 'hana', 'ivan', 'maya', 'omar', 'zoe'])
        [1 + e.u % 10] || e.u,
    'text', (ARRAY['First snow of the year in ', 'Best coffee I ever had: here in ',
        'The bus is late again, stuck in ', 'Nothing beats a quiet evening in '])[1 + e.n % 4]
        || p.city || '. ' || left('Back at the usual time tomorrow, and until then do call.',
        (e.n % 57)::int))
FROM (
    SELECT r.n, r.u, md5('event ' || r.n)::uuid AS id,
        (SELECT begins FROM growth)
            + (SELECT ends - begins FROM growth) * ((r.n - {first})::float8 / {rows}) AS at,
        CASE WHEN r.elsewhere < 0.1 THEN floor(r.elsewhere * 10 * {places})::bigint
            ELSE (hashint8(r.u)::bigint + 2147483648) % {places} END AS place
    FROM (
        SELECT n, random() AS elsewhere,
            CASE WHEN n % 5 = 0 THEN n / 5 ELSE floor(power(random(), 2) * (n / 5 + 1))::bigint END AS u
        FROM generate_series({from}, {to} - 1) AS n
    ) r
) e
JOIN growth_places p ON p.n = e.place";

pub struct Rows {
    places: usize,
    there: u64,
}

impl Rows {
    /// An empty table with the partitions that all of it needs.
    pub async fn begin(servers: &Servers) -> Result<Rows> {
        let mut database = PgConnection::connect(&servers.database).await?;
        let lines = include_str!("../../data/us-places.tsv").lines();
        let (mut states, mut cities) = (Vec::new(), Vec::new());
        for (state, city) in lines.filter_map(|line| line.split_once('\t')) {
            for quarter in QUARTERS {
                states.push(state);
                cities.push(format!("{quarter}{city}"));
            }
        }
        for statement in [
            "DROP TABLE IF EXISTS growth, growth_places",
            "CREATE TABLE growth_places (n bigint PRIMARY KEY, state text, city text)",
            "CREATE TABLE growth AS SELECT now() - interval '2 years' AS begins, now() AS ends",
            "SELECT rollcall_ensure_partition(at, 'month') FROM growth, \
             generate_series(begins, ends + interval '1 month', interval '1 month') AS at",
        ] {
            database.execute(statement).await?;
        }
        sqlx::query(
            "INSERT INTO growth_places SELECT o - 1, s, c \
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t (s, c, o)",
        )
        .bind(states)
        .bind(&cities)
        .execute(&mut database)
        .await?;
        database.execute("ANALYZE growth_places").await?;
        Ok(Rows { places: cities.len(), there: 0 })
    }

    /// Adds rows until there are `wanted`, evenly over the two years, on two connections. The same
    /// number always gives the same events, except for who sent which and from where.
    pub async fn grow(&mut self, servers: &Servers, wanted: u64) -> Result<()> {
        let (first, next) = (self.there, AtomicU64::new(self.there));
        let insert = || async {
            let mut database = PgConnection::connect(&servers.database).await?;
            loop {
                let from = next.fetch_add(STATEMENT, Ordering::Relaxed);
                if from >= wanted {
                    return anyhow::Ok(());
                }
                let to = (from + STATEMENT).min(wanted);
                let sql = INSERT
                    .replace("{first}", &first.to_string())
                    .replace("{rows}", &(wanted - first).to_string())
                    .replace("{places}", &self.places.to_string())
                    .replace("{from}", &from.to_string())
                    .replace("{to}", &to.to_string());
                database.execute(AssertSqlSafe(sql)).await?;
            }
        };
        let (one, two) = tokio::join!(insert(), insert());
        one.and(two)?;
        self.there = wanted;
        let mut database = PgConnection::connect(&servers.database).await?;
        settle(&mut database).await
    }
}
