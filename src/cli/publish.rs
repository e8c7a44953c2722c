//! What `rollcall publish` takes.

use std::path::PathBuf;

use clap::Args;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Output;

/// Publish sample events, the lines of a file or the rows of a query; each one is confirmed
///
/// Persistent and mandatory, with a bounded window of unconfirmed messages. A connection that is
/// lost is made again, and the same bytes are sent again: the worker stores each event once.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rollcall publish --count 200000 --duplicates 5 --bad 1 --events-per-message 100
  rollcall publish --rate 100 --count 6000
  rollcall publish --file events.ndjson
  zcat events.ndjson.gz | rollcall publish --file - --events-per-message 500 --json
  rollcall publish --from-postgres 'SELECT event FROM old_events ORDER BY id'
  rollcall publish --from-postgres 'SELECT id, created_at AS occurred_at, city FROM messages'")]
pub struct Publish {
    /// Events to publish, duplicates and bad ones included
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub count: u64,
    /// Events a second, at most [default: as fast as they are confirmed]
    #[arg(long, value_name = "R", value_parser = rate)]
    pub rate: Option<f64>,
    /// The same seed and --ending-at make the same events [default: a random one, reported]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Per cent of the events that repeat an earlier one, byte for byte
    #[arg(long, value_name = "PCT", default_value_t = 0.0, value_parser = per_cent)]
    pub duplicates: f64,
    /// Per cent of the events that a worker must dead-letter
    #[arg(long, value_name = "PCT", default_value_t = 0.0, value_parser = per_cent)]
    pub bad: f64,
    /// The events' times spread over this many hours, in order
    #[arg(long, value_name = "H", default_value_t = 24)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=43_800))]
    pub spread_hours: u32,
    /// Time of the last event, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", value_parser = rfc3339)]
    pub ending_at: Option<OffsetDateTime>,
    /// Publish each line of this file that is not blank as it is; `-` is standard input
    ///
    /// Where there is none, or one is longer than 16 MiB, it says so, and the exit code is 1.
    #[arg(long, value_name = "F.ndjson")]
    #[arg(conflicts_with_all = ["count", "seed", "duplicates", "bad", "spread_hours", "ending_at"])]
    pub file: Option<PathBuf>,
    /// Publish each row of this query, read in ROLLCALL_IMPORT_DATABASE_URL
    ///
    /// One SELECT, whose columns are one of: `event` (json or jsonb) alone; `id`, `occurred_at`
    /// (timestamptz) and `payload` (json or jsonb); `id`, `occurred_at` (timestamptz) and any
    /// others, each a field of the event. It is read in one snapshot, a page at a time. The same
    /// rows are the same events, so a run that was cut short is simply run again. A row without an
    /// event is left out and told, and the exit code is 1.
    #[arg(long, value_name = "QUERY", conflicts_with = "file")]
    #[arg(conflicts_with_all = ["count", "seed", "duplicates", "bad", "spread_hours", "ending_at"])]
    pub from_postgres: Option<String>,
    /// Events in one message; more than one travel as application/x-ndjson
    #[arg(long, value_name = "K", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub events_per_message: u32,
    /// Routing key of each message
    #[arg(long, value_name = "KEY", default_value = "sample")]
    pub routing_key: String,
    #[command(flatten)]
    pub output: Output,
}

fn per_cent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 to 100".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Below one an hour a pause between two events is longer than any sleep should be.
        Ok(value) if value.is_finite() && value >= 1.0 / 3600.0 => Ok(value),
        _ => Err("expected events a second, above 1/3600".to_owned()),
    }
}

fn rfc3339(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "expected RFC 3339, e.g. 2026-11-23T10:00:00Z".to_owned())
}
