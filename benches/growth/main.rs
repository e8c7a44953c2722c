//! How the cost grows with the table, measured against the servers in the environment
//! (`AMQP_URL`, `DATABASE_URL`, `REDIS_URL`): `make growth` starts private ones.
//!
//! One table grows through the sizes of `GROWTH_ROWS`. At each of them the same number, the
//! distinct users of the whole table, is asked of Redis and of Postgres, and Redis is rebuilt and
//! verified. Writes `growth.md` and `growth.svg` into the folder `GROWTH_OUT`, anew after each
//! size. It must never be pointed at servers that hold anything: it fills `events`.

mod chart;
mod process;
mod queries;
mod report;
mod rows;
#[allow(dead_code, reason = "each bench takes what it needs")]
#[path = "../shared/mod.rs"]
mod shared;

use anyhow::{Context, Result, ensure};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use report::Stage;
use shared::machine::Machine;
use shared::redis::Redis;
use shared::words::grouped;
use shared::{Servers, settle};

const ROWS: &str = "1000000 5000000 20000000";
const OUT: &str = "docs";

const PREFIX: &str = "growth";
const SETS: &str = "cities=state+city users=username users_by_city=username@state+city \
                    users_daily=username/day";
const SETTINGS: [(&str, &str); 2] = [("ROLLCALL_KEY_PREFIX", PREFIX), ("ROLLCALL_SETS", SETS)];
/// What is counted.
const SET: &str = "users";
const SCARDS: usize = 2_000;

fn main() -> Result<()> {
    // `cargo test --all-targets` runs benches with `--test`: measuring is not testing.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> Result<()> {
    let servers = Servers::from_env()?;
    let sizes = std::env::var("GROWTH_ROWS").unwrap_or_else(|_| ROWS.to_owned());
    let sizes: Vec<u64> = sizes
        .split_whitespace()
        .map(|size| size.parse().with_context(|| format!("GROWTH_ROWS: {size}")))
        .collect::<Result<_>>()?;
    ensure!(sizes.is_sorted() && !sizes.is_empty(), "GROWTH_ROWS: sizes in rising order");
    process::run(&servers, &SETTINGS, &["manage", "migrate"])?;
    let mut database = PgConnection::connect(&servers.database).await?;
    let stored: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM events)").fetch_one(&mut database).await?;
    ensure!(!stored, "these servers hold events: not the place for this");
    let mut redis = Redis::connect(&servers.redis)?;
    let empty = redis.used_memory()?;
    let mut rows = rows::Rows::begin(&servers).await?;
    let machine = Machine::look(&mut database, &mut redis).await?;
    let out = std::env::var("GROWTH_OUT").unwrap_or_else(|_| OUT.to_owned());
    let out = std::path::Path::new(&out);
    std::fs::create_dir_all(out)?;
    let mut stages = Vec::new();
    for size in sizes {
        eprintln!("growth: {} rows", grouped(size));
        rows.grow(&servers, size).await?;
        let stage = measure(&servers, &mut database, &mut redis, size, empty).await?;
        eprintln!("{}", report::table(std::slice::from_ref(&stage)));
        stages.push(stage);
        // Each time: who stops it later has what was measured.
        let page = report::page(&machine, &stages);
        std::fs::write(out.join("growth.svg"), chart::svg(&stages))?;
        std::fs::write(out.join("growth.md"), &page)?;
    }
    println!("{}", report::page(&machine, &stages));
    Ok(())
}

async fn measure(
    servers: &Servers,
    database: &mut PgConnection,
    redis: &mut Redis,
    rows: u64,
    empty: u64,
) -> Result<Stage> {
    let run = |arguments: &[&str]| process::run(servers, &SETTINGS, arguments);
    let table_bytes = table_bytes(database).await?;
    let distinct = "SELECT count(DISTINCT payload #>> '{username}') FROM events";
    let distinct = queries::count(database, distinct).await?;
    let by_user = "SELECT payload #>> '{username}', count(*) FROM events GROUP BY 1";
    let grouped = queries::count(database, &counting(by_user)).await?;
    let searched = queries::count(database, &of_one_user("payload #>> '{username}'")).await?;

    let index = run(&["manage", "index"])?;
    settle(database).await?;
    let indexes_bytes = self::table_bytes(database).await? - table_bytes;
    let group_by = group_by(&index.answer)?;
    let indexed = queries::count(database, &counting(&group_by)).await?;
    let expression =
        group_by.strip_prefix("SELECT ").and_then(|text| text.split_once(", count(*)"));
    let expression = expression.context("SELECT an expression, count(*)")?.0;
    let found = queries::count(database, &of_one_user(expression)).await?;
    ensure!(found.count == searched.count, "{} of one user, then {}", searched.count, found.count);

    let rebuild = run(&["manage", "rebuild"])?;
    let key = format!("{PREFIX}:{SET}");
    let counted = redis.scard(&key)?;
    for count in [&distinct, &grouped, &indexed] {
        ensure!(count.count == counted, "Redis has {counted} users, Postgres {}", count.count);
    }
    let verify = run(&["manage", "verify"])?;
    let members = verify.answer["members"].as_u64().context("members")?;
    let redis_bytes = redis.used_memory()? - empty;
    // The first ones warm up the connection.
    let question = format!("SCARD {key}");
    redis.times(&question, SCARDS / 10)?;
    let scard = redis.times(&question, SCARDS)?;

    // The next size is measured without them first.
    for made in index.answer["indexes"].as_array().into_iter().flatten() {
        let name = made["name"].as_str().context("the name of an index")?;
        database.execute(AssertSqlSafe(format!("DROP INDEX {name}"))).await?;
    }
    Ok(Stage {
        rows,
        counted,
        members,
        scard,
        distinct,
        grouped,
        indexed,
        searched,
        found,
        index,
        rebuild,
        verify,
        redis_bytes,
        table_bytes,
        indexes_bytes,
    })
}

/// The rows of a query, counted: all of them are made, and one is sent.
fn counting(query: &str) -> String {
    format!("SELECT count(*) FROM ({query}) AS groups")
}

/// How often a user that is there at every size was heard.
fn of_one_user(expression: &str) -> String {
    format!("SELECT count(*) FROM events WHERE {expression} = 'ada1000'")
}

/// What `manage index` says that the index of the counted set serves.
fn group_by(answer: &serde_json::Value) -> Result<String> {
    let mut made = answer["indexes"].as_array().into_iter().flatten();
    let ours = made.find(|made| {
        let mut sets = made["sets"].as_array().into_iter().flatten();
        sets.any(|set| set == SET)
    });
    let query = ours.and_then(|made| made["group_by"].as_str());
    Ok(query.context("no index for the set")?.to_owned())
}

/// With its indexes.
async fn table_bytes(database: &mut PgConnection) -> Result<u64> {
    let bytes: i64 = sqlx::query_scalar("SELECT sum(bytes)::bigint FROM rollcall_partitions")
        .fetch_one(database)
        .await?;
    Ok(bytes.unsigned_abs())
}
