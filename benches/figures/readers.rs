//! The same three questions asked of Redis and of Postgres, over a table of a million events: how
//! many users, is this one there, how many are in both of two states.
//!
//! Postgres is asked in the best words there are for each, first as it comes and then with the
//! indexes of `manage index`; every answer must be the one that Redis gives.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rollcall::store::FieldIndex;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::book::Book;
use crate::rows;
use crate::shared::redis::Redis;
use crate::shared::{Servers, settle};
use crate::worker::{self, PREFIX};

pub const ROWS: u64 = 1_000_000;
pub const PART: &str = "readers";
const SETS: &str = "users=username users_by_state=username@state";
/// Of Redis, a run and what warms it up.
const ASKED: usize = 2_000;
const WARM: usize = 200;
/// Of Postgres: until both are reached, or the most.
const RUNS_MIN: usize = 5;
const RUNS_MAX: usize = 200;
const RUNS_FOR: Duration = Duration::from_secs(2);

struct Question {
    name: &'static str,
    redis: String,
    postgres: String,
}

fn questions() -> [Question; 3] {
    let one = |field: &str| FieldIndex::of([field]).expressions.concat();
    let (user, state) = (one("username"), FieldIndex::of(["state", "username"]).expressions);
    let of_state =
        |name: &str| format!("SELECT {} FROM events WHERE {} = '{name}'", state[1], state[0]);
    [
        Question {
            name: "SCARD / count(DISTINCT …)",
            redis: format!("SCARD {PREFIX}:users"),
            postgres: format!("SELECT count(DISTINCT {user}) FROM events"),
        },
        Question {
            name: "SISMEMBER / EXISTS (… WHERE username = …)",
            redis: format!("SISMEMBER {PREFIX}:users user4711"),
            postgres: format!(
                "SELECT count(*) FROM (SELECT 1 WHERE EXISTS \
                 (SELECT FROM events WHERE {user} = 'user4711')) AS answer"
            ),
        },
        Question {
            name: "SINTERCARD / INTERSECT of two states",
            redis: format!("SINTERCARD 2 {PREFIX}:users_by_state:S1 {PREFIX}:users_by_state:S2"),
            postgres: format!(
                "SELECT count(*) FROM ({} INTERSECT {}) AS answer",
                of_state("S1"),
                of_state("S2")
            ),
        },
    ]
}

pub async fn measure(servers: &Servers, book: &mut Book) -> Result<()> {
    worker::reset(servers).await?;
    rows::fill(servers, ROWS).await?;
    let mut database = PgConnection::connect(&servers.database).await?;
    settle(&mut database).await?;
    manage(servers, "rebuild")?;
    let mut redis = Redis::connect(&servers.redis)?;
    let mut answers = Vec::new();
    for question in questions() {
        redis.times(&question.redis, WARM)?;
        let (median, p99) = redis.times(&question.redis, ASKED)?;
        book.note(PART, question.name, "redis", median.as_secs_f64());
        book.note(PART, question.name, "redis p99", p99.as_secs_f64());
        let answer: u64 = redis.ask(&question.redis)?.parse()?;
        ensure!(answer > 0, "{} is a question with no answer", question.redis);
        answers.push(answer);
    }
    ask(&mut database, book, "postgres", &answers).await?;
    manage(servers, "index")?;
    settle(&mut database).await?;
    ask(&mut database, book, "postgres, indexed", &answers).await?;
    for name in [["username"].as_slice(), &["state", "username"]] {
        let name = FieldIndex::of(name.iter().copied()).name;
        sqlx::query(AssertSqlSafe(format!("DROP INDEX {name}"))).execute(&mut database).await?;
    }
    Ok(())
}

async fn ask(
    database: &mut PgConnection,
    book: &mut Book,
    what: &'static str,
    answers: &[u64],
) -> Result<()> {
    for (question, answer) in questions().iter().zip(answers) {
        let asked = Instant::now();
        let mut took = Vec::new();
        while took.len() < RUNS_MIN || (took.len() < RUNS_MAX && asked.elapsed() < RUNS_FOR) {
            let began = Instant::now();
            let query = sqlx::query_scalar(AssertSqlSafe(question.postgres.as_str()));
            let found: i64 = query.fetch_one(&mut *database).await?;
            took.push(began.elapsed());
            let same = found.unsigned_abs() == *answer;
            ensure!(same, "{}: {answer} in Redis, {found} in Postgres", question.name);
        }
        took.sort_unstable();
        book.note(PART, question.name, what, took[took.len() / 2].as_secs_f64());
    }
    Ok(())
}

fn manage(servers: &Servers, what: &str) -> Result<()> {
    let mut command = servers.rollcall(&["manage", what]);
    command.env("ROLLCALL_KEY_PREFIX", PREFIX).env("ROLLCALL_SETS", SETS);
    let output = command.output().context("rollcall")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "rollcall manage {what}: {said}");
    Ok(())
}
