//! What was measured, as Markdown.

use std::time::Duration;

use crate::process::Ran;
use crate::queries::Counted;
use crate::shared::machine::Machine;
use crate::shared::words::{duration, grouped, mib};

/// The figures at one size of the table.
pub struct Stage {
    pub rows: u64,
    /// Distinct users.
    pub counted: u64,
    /// Of all sets.
    pub members: u64,
    /// Median and 99th percentile.
    pub scard: (Duration, Duration),
    pub distinct: Counted,
    pub grouped: Counted,
    pub indexed: Counted,
    /// The rows of one user, without the index and with it.
    pub searched: Counted,
    pub found: Counted,
    pub index: Ran,
    pub rebuild: Ran,
    pub verify: Ran,
    pub redis_bytes: u64,
    /// With the primary key and the index of txid.
    pub table_bytes: u64,
    /// Those that `manage index` made.
    pub indexes_bytes: u64,
}

/// The whole page.
pub fn page(machine: &Machine, stages: &[Stage]) -> String {
    let Machine { cores, model, memory_gib, postgres, redis, fsync, at, commit } = machine;
    let page = format!(
        "# How the cost grows\n\n\
         ![Time to count the distinct users](growth.svg)\n\n\
         One run of `make growth` on {at} at commit {commit}: {cores} cores ({model}), \
         {memory_gib:.0} GiB of memory, Postgres \
         {postgres} (fsync {fsync}, else as it comes) and Redis {redis} on the same machine. One table \
         of events of some 250 bytes, over two years of monthly partitions, grows through the sizes; \
         one event in five is by a new user. The sets: `cities=state+city` (30,048 places) \
         `users=username` `users_by_city=username@state+city` (a key each place) \
         `users_daily=username/day` (the last 90 days).\n\n\
         {}\n\
         SCARD: 2,000 asked one after another over one connection, as the client sees it. Queries: the \
         median of three after VACUUM and ANALYZE, and all three give what SCARD gives. Peak memory: \
         resident, of the process of `rollcall manage`. It rebuilds beside the sets that are there, so \
         for that time Redis holds them twice.\n\n\
         ## The plans\n\n\
         What EXPLAIN says, from the top down, each kind of node once. The index is for finding the rows \
         of one value. For a count of the whole table Postgres passes it over, and rightly: it knows no \
         index-only scan of an expression, so it would fetch every row by way of the index.\n\n\
         | rows | query | plan |\n|---:|---|---|\n",
        table(stages)
    );
    let plans = stages.iter().flat_map(|stage| {
        let rows = grouped(stage.rows);
        [
            ("count(DISTINCT …), no index", &stage.distinct),
            ("GROUP BY, no index", &stage.grouped),
            ("GROUP BY, index there", &stage.indexed),
            ("one user, no index", &stage.searched),
            ("one user, index there", &stage.found),
        ]
        .map(|(query, counted)| format!("| {rows} | {query} | {} |\n", counted.plan))
    });
    page + &plans.collect::<String>()
}

pub fn table(stages: &[Stage]) -> String {
    let line = |name: &str, cell: &dyn Fn(&Stage) -> String| {
        let cells: Vec<String> = stages.iter().map(cell).collect();
        format!("| {name} | {} |\n", cells.join(" | "))
    };
    let per = |bytes: u64, count: u64| format!("{:.0}", bytes as f64 / count.max(1) as f64);
    let mut text = line("rows in Postgres", &|stage| grouped(stage.rows));
    text += &format!("|---|{}\n", "---:|".repeat(stages.len()));
    text += &line("distinct users", &|stage| grouped(stage.counted));
    text += &line("**one `SCARD`**, median / p99", &|stage| {
        format!("**{}** / {}", duration(stage.scard.0), duration(stage.scard.1))
    });
    text += &line("`count(DISTINCT …)`, no index", &|stage| duration(stage.distinct.took));
    text += &line("`GROUP BY`, no index", &|stage| duration(stage.grouped.took));
    text += &line("`GROUP BY`, index there", &|stage| duration(stage.indexed.took));
    text += &line("the rows of one user, no index", &|stage| duration(stage.searched.took));
    text += &line("the rows of one user, index there", &|stage| duration(stage.found.took));
    text += &line("`manage index`, 3 indexes", &|stage| duration(stage.index.took));
    text += &line("`manage rebuild`, all sets", &|stage| duration(stage.rebuild.took));
    text += &line("its peak memory", &|stage| mib(stage.rebuild.peak_mib));
    text += &line("`manage verify`, all sets", &|stage| duration(stage.verify.took));
    text += &line("its peak memory", &|stage| mib(stage.verify.peak_mib));
    text += &line("members in Redis", &|stage| grouped(stage.members));
    text += &line("Redis, bytes a member", &|stage| per(stage.redis_bytes, stage.members));
    text += &line("Postgres, bytes a row", &|stage| per(stage.table_bytes, stage.rows));
    text += &line("the 3 indexes, bytes a row", &|stage| per(stage.indexes_bytes, stage.rows));
    text
}
