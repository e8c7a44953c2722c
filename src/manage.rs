//! `rollcall manage`: what a worker must not do, or should not have to.

pub mod access;
pub mod forget;
pub mod index;
mod repair;
pub mod retention;
pub mod status;
mod upkeep;

pub use upkeep::NotConfigured;

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use time::OffsetDateTime;

use crate::cli::Output;
use crate::telemetry::{Metrics, rfc3339};
use crate::{broker, config, store};

pub use repair::run as repair;

/// Brings the schema up to date and makes the coming partitions.
pub async fn migrate(config: &config::Store, output: Output) -> Result<()> {
    let report = store::migrate(config).await?;
    let made = store::make_ahead(config, OffsetDateTime::now_utc()).await?;
    let made: Vec<_> = made.iter().map(|partition| partition.name.as_str()).collect();
    if output.json {
        let applied: Vec<_> = report
            .applied
            .iter()
            .map(|one| json!({"version": one.version, "description": one.description}))
            .collect();
        let granted = report.granted;
        let all =
            json!({"applied": applied, "partitions_made": made, "rights_granted_to": granted});
        say!("{all}");
        return Ok(());
    }
    for migration in &report.applied {
        say!("applied   {:04} {}", migration.version, migration.description);
    }
    for partition in &made {
        say!("partition {partition}");
    }
    if !report.granted.is_empty() {
        say!("rights    granted to {}", report.granted.join(" and "));
    }
    if report.applied.is_empty() && made.is_empty() {
        say!("nothing to do: the schema and the partitions are as they should be");
    }
    Ok(())
}

/// Declares what is missing of the exchanges and queues.
pub async fn topology(config: &config::Broker, output: Output) -> Result<()> {
    let report = broker::topology::ensure(config).await?;
    if output.json {
        let (declared, present, notes) = (report.declared, report.present, report.notes);
        say!("{}", json!({"declared": declared, "present": present, "notes": notes}));
        return Ok(());
    }
    for (what, lines) in
        [("declared", report.declared), ("present", report.present), ("note", report.notes)]
    {
        for line in lines {
            say!("{what:<9} {line}");
        }
    }
    Ok(())
}

/// Makes the coming partitions and lists them all.
pub async fn partitions(config: &config::Store, output: Output) -> Result<()> {
    let made = store::make_ahead(config, OffsetDateTime::now_utc()).await?;
    let all = store::list(config).await?;
    let is_new = |name: &str| made.iter().any(|partition| partition.name == name);
    let time = |at: Option<OffsetDateTime>| at.map(rfc3339);
    if output.json {
        let rows: Vec<_> = all
            .iter()
            .map(|partition| {
                json!({
                    "name": partition.name, "made_now": is_new(&partition.name),
                    "from": time(partition.from), "to": time(partition.to),
                    "rows_estimated": partition.rows_estimated, "bytes": partition.bytes,
                })
            })
            .collect();
        say!("{}", json!({"partitions": rows}));
        return Ok(());
    }
    say!("{:<24} {:<21} {:<21} {:>12} {:>14}", "PARTITION", "FROM", "TO", "ROWS (EST.)", "BYTES");
    for partition in &all {
        say!(
            "{:<24} {:<21} {:<21} {:>12} {:>14} {}",
            partition.name,
            time(partition.from).as_deref().unwrap_or("-"),
            time(partition.to).as_deref().unwrap_or("-"),
            partition.rows_estimated.map_or_else(|| "-".to_owned(), |rows| rows.to_string()),
            partition.bytes,
            if is_new(&partition.name) { "new" } else { "" },
        );
    }
    Ok(())
}

/// How often a worker looks whether the coming partitions are there.
const LOOK: Duration = Duration::from_secs(3600);
/// How soon it looks again after it could not.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Keeps the coming partitions made ahead, for as long as it is polled. A role that may not is no
/// failure: a partition is made on demand too, and `rollcall manage partitions` can run elsewhere.
pub async fn keep_partitions(config: &config::Store, metrics: &Metrics) -> Infallible {
    let mut said = false;
    loop {
        let made = store::make_ahead(config, OffsetDateTime::now_utc()).await;
        // Also where none could be made: then it counts what is left of them.
        if let Ok(all) = store::list(config).await {
            let now = OffsetDateTime::now_utc();
            let ahead = all.iter().filter(|one| one.from.is_some_and(|from| from > now));
            metrics.partitions_ahead.set(ahead.count() as f64);
        }
        match made {
            Ok(made) => {
                for partition in made {
                    tracing::info!(partition = partition.name, "made a partition ahead");
                }
                said = false;
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    let error = crate::telemetry::chain(&error);
                    tracing::warn!(error, "could not make the coming partitions; trying again");
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}
