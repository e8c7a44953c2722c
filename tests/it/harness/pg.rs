//! Postgres as the oracle sees it: the `events` table, and a gate that holds every insert.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};

pub struct Pg(PgConnection);

impl Pg {
    pub async fn connect(url: &str) -> Result<Pg, String> {
        PgConnection::connect(url).await.map(Pg).map_err(|error| format!("postgres: {error}"))
    }

    pub async fn run(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut self.0)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The SQLSTATE, where the server refuses it.
    pub async fn refusal(&mut self, sql: &str) -> Option<String> {
        let ran = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.0).await;
        match ran {
            Ok(_) => None,
            Err(sqlx::Error::Database(error)) => error.code().map(Into::into),
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    pub async fn try_int(&mut self, sql: &str) -> Result<i64, String> {
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut self.0).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| format!("{sql}: {error}"))
    }

    pub async fn int(&mut self, sql: &str) -> i64 {
        self.try_int(sql).await.unwrap()
    }

    /// The first column, as texts.
    pub async fn texts(&mut self, sql: &str) -> Vec<String> {
        let rows = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&mut self.0)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.iter().map(|row: &PgRow| row.get(0)).collect()
    }

    /// What Postgres gives back of each text that it keeps as jsonb.
    pub async fn through_jsonb(&mut self, payloads: &[String]) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT p::jsonb::text FROM unnest($1::text[]) WITH ORDINALITY u (p, n) ORDER BY n",
        )
        .bind(payloads)
        .fetch_all(&mut self.0)
        .await
        .expect("what was decoded is valid jsonb")
    }

    /// Every row, as `(occurred_at, payload)`; the time in UTC, as events write it.
    pub async fn stored(&mut self) -> Vec<(String, String)> {
        sqlx::query_as(
            r#"SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                      payload::text FROM events"#,
        )
        .fetch_all(&mut self.0)
        .await
        .expect("the table can be read")
    }

    pub async fn three_texts(&mut self, sql: &str) -> Vec<(String, Option<String>, String)> {
        sqlx::query_as(AssertSqlSafe(sql))
            .fetch_all(&mut self.0)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Has every insert take up to this long, at random: a disk that others use as well. Work is
    /// then under way at any moment, on a fast machine too.
    pub async fn slow_down(&mut self, seconds_max: f64) {
        self.run(&format!(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(random() * {seconds_max}); RETURN NULL; END $$;
             CREATE TRIGGER slow AFTER INSERT ON events EXECUTE FUNCTION slow()"
        ))
        .await;
    }

    /// Events in the table now.
    pub async fn events(&mut self) -> Result<i64, String> {
        self.try_int("SELECT count(*) FROM events").await
    }

    /// What differs between the table and the rows wanted, each as `occurred_at payload`: first
    /// those missing, then those that are there too often or should not be there. Postgres itself
    /// compares, as jsonb and timestamptz.
    pub async fn difference(
        &mut self,
        occurred_at: &[String],
        payloads: &[String],
    ) -> (Vec<String>, Vec<String>) {
        self.run("DROP TABLE IF EXISTS pg_temp.want").await;
        self.run("CREATE TEMP TABLE want (occurred_at timestamptz, payload jsonb)").await;
        sqlx::query("INSERT INTO want SELECT * FROM unnest($1::timestamptz[], $2::jsonb[])")
            .bind(occurred_at)
            .bind(payloads)
            .execute(&mut self.0)
            .await
            .expect("what the oracle wants is valid");
        let side = |from: &str, except: &str| {
            format!(
                "SELECT occurred_at || ' ' || left(payload::text, 300) FROM (
                   SELECT occurred_at, payload FROM {from}
                   EXCEPT ALL SELECT occurred_at, payload FROM {except}) d LIMIT 20"
            )
        };
        let missing = self.texts(&side("want", "events")).await;
        let surplus = self.texts(&side("events", "want")).await;
        (missing, surplus)
    }

    /// Rows whose key is not what the payload's own id says: a UUID as it is, any other text as
    /// some UUIDv5, the same one for the same text.
    pub async fn wrong_ids(&mut self) -> Vec<String> {
        self.texts(
            "WITH e AS (SELECT id::text AS id, payload->>'id' AS own FROM events
                        WHERE NOT payload ? 'cloudevent'),
                  u AS (SELECT *, own ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' AS is_uuid
                        FROM e)
             SELECT id || ' for ' || own FROM u WHERE CASE WHEN is_uuid THEN id <> lower(own)
                    ELSE substr(id, 15, 1) <> '5' END
             UNION ALL
             SELECT min(id) || ' and ' || max(id) || ' for ' || own FROM u GROUP BY own
             HAVING count(DISTINCT id) > 1 LIMIT 20",
        )
        .await
    }

    /// Ends what waits for a lock; how many there were.
    pub async fn end_waiting(&mut self) -> i64 {
        self.int(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .await
    }

    /// Statements of this database that wait for a lock.
    pub async fn waiting(&mut self) -> i64 {
        self.int(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .await
    }
}

/// While it is there, nothing can be inserted into `events`; all else works.
pub struct Gate(Pg);

impl Gate {
    pub async fn close(mut pg: Pg) -> Gate {
        pg.run("BEGIN; LOCK TABLE events IN EXCLUSIVE MODE").await;
        Gate(pg)
    }

    pub async fn open(mut self) {
        self.0.run("ROLLBACK").await;
    }
}
