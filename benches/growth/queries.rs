//! The same count asked of Postgres, and which plan it chose.

use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::{AssertSqlSafe, PgConnection};

const ROUNDS: usize = 3;

/// One way to count, as measured.
pub struct Counted {
    pub took: Duration,
    pub count: u64,
    pub plan: String,
}

/// The median of some rounds.
pub async fn count(database: &mut PgConnection, query: &str) -> Result<Counted> {
    let plan = plan(database, query).await?;
    let (mut took, mut count) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let found: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut *database).await?;
        took.push(began.elapsed());
        count = found.unsigned_abs();
    }
    took.sort_unstable();
    Ok(Counted { took: took[ROUNDS / 2], count, plan })
}

/// The kinds of nodes from the top down, each once: partitions have all the same.
async fn plan(database: &mut PgConnection, query: &str) -> Result<String> {
    let explain = format!("EXPLAIN (COSTS OFF) {query}");
    let lines: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(&mut *database).await?;
    let mut nodes: Vec<String> = Vec::new();
    for line in &lines {
        let text = line.trim_start();
        if let Some(workers) = text.strip_prefix("Workers Planned: ") {
            if let Some(last) = nodes.last_mut() {
                last.push_str(&format!(" ({workers} workers)"));
            }
            continue;
        }
        let node = match text.strip_prefix("->") {
            Some(node) => node.trim_start(),
            None if nodes.is_empty() => text,
            None => continue,
        };
        let kind = |node: &str| {
            node.split([' '])
                .take_while(|w| *w != "on" && *w != "using")
                .collect::<Vec<_>>()
                .join(" ")
        };
        let node = kind(node);
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    Ok(nodes.join(" > "))
}
