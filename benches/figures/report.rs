//! What was measured, as Markdown: the whole page, and the part of it that the README shows.

use std::time::Duration;

use crate::book::{Book, Spread};
use crate::ceilings::AHEAD_EVENTS;
use crate::cpu::SERVERS;
use crate::drain::{DEFAULT, HUNDRED};
use crate::goals::{self, PEERS};
use crate::plan::{
    CEILINGS, DRAINED, HIGHEST, LATENCY, PEAK, PUBLISH, RATE, STEADY, STORED, TABLE, UNSTORED,
    WORKER,
};
use crate::readers::{self, ROWS};
use crate::shared::machine::Machine;
use crate::shared::words::{duration, grouped};

pub struct Setting {
    pub machine: Machine,
    pub rabbitmq: String,
    pub rounds: u32,
}

/// The page that a whole run leaves.
pub fn page(setting: &Setting, book: &Book) -> String {
    format!(
        "# Performance\n\n![Rates, processor time, latency and readers, from one run](performance.svg)\n\n\
         {}\n\n## Goals\n\n{}\n{}",
        origin(setting),
        goals(book),
        tables(book)
    )
}

/// For the README.
pub fn summary(setting: &Setting, book: &Book) -> String {
    format!(
        "{} The whole of it: [docs/performance.md](docs/performance.md).\n\n\
         ![Rates, processor time, latency and readers](docs/performance.svg)\n\n{}\n{}",
        origin(setting),
        goals(book),
        drained(book, DRAINED)
    )
}

fn origin(setting: &Setting) -> String {
    let Setting { machine, rabbitmq, rounds } = setting;
    let Machine { cores, model, memory_gib, postgres, redis, fsync, at, commit } = machine;
    format!(
        "One run of `make bench` on {at} at commit {commit}: {cores} cores ({model}), \
         {memory_gib:.0} GiB, with RabbitMQ {rabbitmq}, Postgres {postgres} (fsync {fsync}), Redis \
         {redis} and the publisher on those same cores. Median of {rounds} rounds, least – most \
         behind it. The machine is shared and noisy: compare ratios."
    )
}

/// All parts that were measured.
fn tables(book: &Book) -> String {
    let mut text = String::new();
    let mut section = |title: &str, body: String, notes: &str| {
        if !body.is_empty() {
            text += &format!("\n## {title}\n\n{body}\n{notes}");
        }
    };
    let ahead = grouped(AHEAD_EVENTS);
    let combined = format!(
        "Tuned as the worker is: two lanes, prefetch 4,000, batches of 2,000, its statement on its \
         table, its allocator; all that is sent is made before the clock starts. *In step*: as many \
         events taken, inserted and added, each loop waiting where it is {ahead} events ahead of the \
         slowest, until all three have done all events; nothing goes from one to the other. *As fast \
         as it can*: each loop goes on, with new rows and members, until the slowest has done all; \
         then SADD takes more than its share. The higher of the two is what goals are held against: \
         here *{}*.\n",
        goals::combined(book)
    );
    section("What the servers can do", ceilings(book), &combined);
    let notes = "Default: one event of 200 B a message, 2 lanes, one process, each event of a user of \
         its own, an empty table. Ratio: to the combined ceiling, which is for one event a message. \
         µs are of processor time an event, equal to seconds a million events: the worker's from its \
         start on, each server's with all its processes. Peak memory: resident, of one worker.\n";
    section("Rollcall, drained from a filled queue", drained(book, DRAINED), notes);
    section("A table that is full", drained(book, TABLE), "");
    let notes = "The same events, one a message, the same queue type, table and servers; Rollcall: one \
         worker process, the first line above. [What they are](../benches/peers/README.md): each acks \
         after both stores, and each run's whole table and both sets were compared with what was \
         published. µs: processor time of its processes an event, from when it began to consume.\n";
    section("What people do instead", peers(book), notes);
    let notes = "Publisher and worker on the same cores as all servers. Highest rate: the last of a \
         search in steps of 5 s after which less than 0.2 s of events were due and not yet settled. \
         Latency: from when an event was due to be published, by an open-loop publisher, until its \
         member is counted; looked at each 2 ms.\n";
    section("Steady state", steady(book), notes);
    let notes = format!(
        "{} rows; {} users in 50 states. Redis: the median of 2,000, as one client sees it (p99 \
         behind it). Postgres: the median of 5 to 200 runs, in memory, after VACUUM and ANALYZE. \
         Every answer was the same.\n",
        grouped(ROWS),
        "200,000"
    );
    section("Readers", readers(book), &notes);
    text
}

fn goals(book: &Book) -> String {
    let mut text = "| Goal | Measured | |\n|---|---:|---|\n".to_owned();
    for goal in goals::all(book) {
        let measured = goal.measured.unwrap_or_default();
        text += &format!("| {} | {measured} | {} |\n", goal.what, goal.verdict);
    }
    if let Some(share) = postgres_share(book) {
        text += &format!(
            "\nDraining 100 events a message, Postgres had {share:.0} % of all processor time that was \
             used.\n"
        );
    }
    text
}

/// Of what the worker and all servers used together, with 100 events a message.
fn postgres_share(book: &Book) -> Option<f64> {
    let of = |what| book.median(DRAINED, HUNDRED, what);
    let all: f64 = SERVERS.into_iter().filter_map(of).sum::<f64>() + of(WORKER)?;
    Some(of("postgres")? / all * 100.0)
}

fn ceilings(book: &Book) -> String {
    let mut text = String::new();
    for row in book.rows(CEILINGS) {
        let Some(found) = book.get(CEILINGS, row, RATE) else { continue };
        let ratio = book.ratio((CEILINGS, row, RATE), (CEILINGS, goals::combined(book), RATE));
        text += &format!("| {row} | {} | {} |\n", cells(found, rate), median(ratio));
    }
    headed(
        "| alone, but for the last two | events/s | least – most | ratio |\n|---|---:|---:|---:|\n",
        text,
    )
}

fn drained(book: &Book, part: &'static str) -> String {
    let mut text = String::new();
    for row in book.rows(part) {
        let Some(found) = book.get(part, row, RATE) else { continue };
        let ratio = book.ratio((part, row, RATE), (CEILINGS, goals::combined(book), RATE));
        let micros = |what| {
            let value = book.median(part, row, what);
            value.map(|value| format!("{value:.1}")).unwrap_or_default()
        };
        let peak = book.get(part, row, PEAK).map(|peak| format!("{:.0} MiB", peak.most));
        let servers = SERVERS.map(micros).join(" | ");
        let bold = if row == DEFAULT.name { "**" } else { "" };
        text += &format!(
            "| {bold}{row}{bold} | {} | {} | {} | {servers} | {} |\n",
            cells(found, rate),
            median(ratio),
            micros(WORKER),
            peak.unwrap_or_default()
        );
    }
    let head = "| one factor changed | events/s | least – most | ratio | worker µs | RabbitMQ µs | \
                Postgres µs | Redis µs | peak memory |\n\
                |---|---:|---:|---:|---:|---:|---:|---:|---:|\n";
    headed(head, text)
}

fn peers(book: &Book) -> String {
    let mut text = String::new();
    for row in book.rows(PEERS) {
        let Some(found) = book.get(PEERS, row, RATE) else { continue };
        let ratio = book.ratio((DRAINED, DEFAULT.name, RATE), (PEERS, row, RATE));
        let micros = book.median(PEERS, row, WORKER).unwrap_or_default();
        let peak = book.get(PEERS, row, PEAK).map_or(0.0, |peak| peak.most);
        text += &format!(
            "| {row} | {} | {} | {micros:.0} | {peak:.0} MiB |\n",
            cells(found, rate),
            median(ratio)
        );
    }
    let head = "| instead | events/s | least – most | Rollcall is so many times it | µs | peak memory |\n\
                |---|---:|---:|---:|---:|---:|\n";
    headed(head, text)
}

fn steady(book: &Book) -> String {
    let mut text = String::new();
    if let Some(found) = book.get(STEADY, HIGHEST, RATE) {
        let ratio = book.ratio((STEADY, HIGHEST, RATE), (CEILINGS, PUBLISH, RATE));
        text += &format!(
            "Highest rate without a growing backlog: **{} events/s** ({} – {}), {} of what publishing \
             with confirms comes to alone.\n",
            rate(found.median),
            rate(found.least),
            rate(found.most),
            ratio.map_or("a part".to_owned(), |ratio| format!("{:.2}", ratio.median)),
        );
    }
    let mut rows = String::new();
    for row in book.rows(LATENCY) {
        let cell = |what| {
            let found = book.get(LATENCY, row, what);
            found.map_or(String::new(), |Spread { least, median, most }| {
                format!("**{}** ({} – {})", seconds(median), seconds(least), seconds(most))
            })
        };
        let at = row.parse().map_or(row.to_owned(), grouped);
        rows += &format!("| {at} | {} | {} | {} |\n", cell("p50"), cell("p99"), cell("p99.9"));
    }
    if !rows.is_empty() {
        text += "\n| events/s | p50 | p99 | p99.9 |\n|---:|---:|---:|---:|\n";
    }
    text += &rows;
    let mut rows = String::new();
    for row in book.rows(LATENCY) {
        let at = row.parse().map_or(row.to_owned(), grouped);
        let cells = [UNSTORED, STORED, LATENCY].map(|part| {
            let of = |what| book.get(part, row, what);
            match (of("p50"), of("p99")) {
                (Some(p50), Some(p99)) => format!(
                    "{} · **{}** ({} – {})",
                    seconds(p50.median),
                    seconds(p99.median),
                    seconds(p99.least),
                    seconds(p99.most)
                ),
                _ => String::new(),
            }
        });
        rows += &format!("| {at} | {} |\n", cells.join(" | "));
    }
    if !rows.is_empty() {
        text += "\nWhat of that the servers take: p50 and **p99** of the same events, in the same \
                 rounds, with a consumer that does nothing but take what there is, add its users and \
                 acknowledge it; with one that also inserts it before; and with Rollcall.\n\n\
                 | events/s | broker and Redis alone | with the INSERT | Rollcall |\n\
                 |---:|---:|---:|---:|\n";
    }
    text + &rows
}

fn readers(book: &Book) -> String {
    let mut text = String::new();
    for row in book.rows(readers::PART) {
        let of = |what| book.median(readers::PART, row, what);
        let told = |what| of(what).map(seconds).unwrap_or_default();
        let times = |what| match (of(what), of("redis")) {
            (Some(postgres), Some(redis)) => grouped((postgres / redis).round() as u64),
            _ => String::new(),
        };
        text += &format!(
            "| {row} | **{}** ({}) | {} | {} | {} | {} |\n",
            told("redis"),
            told("redis p99"),
            told("postgres"),
            times("postgres"),
            told("postgres, indexed"),
            times("postgres, indexed")
        );
    }
    let head = "| Redis / Postgres | Redis | Postgres | times | with the indexes | times |\n\
                |---|---:|---:|---:|---:|---:|\n";
    headed(head, text)
}

fn headed(head: &str, rows: String) -> String {
    if rows.is_empty() { rows } else { head.to_owned() + &rows }
}

fn cells(spread: Spread, show: fn(f64) -> String) -> String {
    let Spread { least, median, most } = spread;
    format!("**{}** | {} – {}", show(median), show(least), show(most))
}

fn median(ratio: Option<Spread>) -> String {
    ratio.map(|ratio| format!("{:.2}", ratio.median)).unwrap_or_default()
}

/// Events a second.
pub fn rate(rate: f64) -> String {
    grouped(rate.round() as u64)
}

fn seconds(seconds: f64) -> String {
    duration(Duration::from_secs_f64(seconds))
}
