//! `rollcall manage retention`: partitions whose whole range is older than ROLLCALL_RETENTION_DAYS
//! go; the members of their events stay, so that a set that says "ever" stays true.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::upkeep;
use crate::cli::{Outcome, RetentionArgs};
use crate::config::Config;
use crate::event::Rules;
use crate::progress::Progress;
use crate::repair::members;
use crate::store::retention::Folded;
use crate::store::{self, Partition, walk};
use crate::telemetry::rfc3339;

pub async fn run(config: &Config, args: &RetentionArgs) -> Result<Outcome> {
    let store = config.store()?;
    let Some(retention) = config.retention else {
        bail!(upkeep::NotConfigured {
            what: "ROLLCALL_RETENTION_DAYS is not set: events stay for ever, and there is nothing \
                   to drop",
        });
    };
    let now = OffsetDateTime::now_utc();
    let old = old(store::list(store).await?, now, retention);
    let rows = old.iter().map(|partition| (partition, None)).collect::<Vec<_>>();
    if args.dry_run {
        tell(&rows, 0, args)?;
        return Ok(Outcome::Done);
    }
    let mut lock = upkeep::lock(store, args.turn).await?;
    let result = retire_all(lock.link(), config, &old, now).await;
    lock.release().await;
    let (rows, expired) = result?;
    tell(&rows, expired, args)?;
    let whole = rows.iter().all(|(_, folded)| folded.is_some_and(|folded| folded.dropped));
    Ok(if whole { Outcome::Done } else { Outcome::TryLater })
}

/// Those that hold nothing younger than the retention.
fn old(all: Vec<Partition>, now: OffsetDateTime, retention: Duration) -> Vec<Partition> {
    let limit = now - retention;
    all.into_iter().filter(|partition| partition.to.is_some_and(|to| to <= limit)).collect()
}

type Rows<'a> = Vec<(&'a Partition, Option<Folded>)>;

async fn retire_all<'a>(
    link: &mut store::Link,
    config: &Config,
    old: &'a [Partition],
    now: OffsetDateTime,
) -> Result<(Rows<'a>, u64)> {
    let rules = Rules { sets: &config.sets, limits: &config.limits, now };
    let leaves = walk::leaves(link).await?;
    let mut rows = Vec::new();
    for partition in old {
        let Some(leaf) = leaves.iter().find(|leaf| leaf.name == partition.name) else {
            // Somebody else has dropped it since it was listed.
            continue;
        };
        let mut progress: Option<Progress> = None;
        let folded = store::retention::retire(
            link,
            leaf,
            |at, payload, found| found.extend(members(rules, at, payload)),
            |done, total| {
                let bar = || Progress::new("blocks read", Some(total));
                progress.get_or_insert_with(bar).at(done);
            },
        )
        .await;
        if let Some(progress) = &progress {
            progress.finish();
        }
        let folded = folded?;
        if !folded.dropped {
            eprintln!("rollcall: {} was in use all the time: try again later", partition.name);
        }
        rows.push((partition, Some(folded)));
    }
    let expired = store::retention::drop_expired(link).await?;
    Ok((rows, expired))
}

fn tell(rows: &[(&Partition, Option<Folded>)], expired: u64, args: &RetentionArgs) -> Result<()> {
    let time = |at: Option<OffsetDateTime>| at.map(rfc3339);
    if args.output.json {
        let row = |(partition, folded): &(&Partition, Option<Folded>)| {
            let mut row = json!({
                "name": partition.name, "from": time(partition.from), "to": time(partition.to),
                "rows_estimated": partition.rows_estimated, "bytes": partition.bytes,
            });
            if let Some(folded) = folded {
                row["rows_read"] = json!(folded.rows_read);
                row["members_kept"] = json!(folded.members);
                row["dropped"] = json!(folded.dropped);
            }
            row
        };
        let rows: Vec<Value> = rows.iter().map(row).collect();
        say!("{}", json!({"dry_run": args.dry_run, "partitions": rows, "expired": expired}));
        return Ok(());
    }
    for (partition, folded) in rows {
        let range = (time(partition.from), time(partition.to));
        let range = format!(
            "{} to {}",
            range.0.as_deref().unwrap_or("-"),
            range.1.as_deref().unwrap_or("-")
        );
        let Partition { name, bytes, rows_estimated, .. } = partition;
        match folded {
            None => {
                let rows = rows_estimated.map_or_else(|| "?".to_owned(), |rows| rows.to_string());
                say!("would go  {name} ({range}), about {rows} event(s), {bytes} bytes");
            }
            Some(Folded { dropped: true, rows_read, members }) => {
                say!(
                    "dropped   {name} ({range}), {rows_read} event(s), {bytes} bytes; \
                      {members} new member(s) kept"
                );
            }
            Some(Folded { dropped: false, .. }) => say!("in use    {name} ({range})"),
        }
    }
    if expired > 0 {
        say!("expired   {expired} kept member(s) of windows that are over");
    }
    if rows.is_empty() {
        say!("no partition is older than the retention");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_partition_goes_when_its_last_moment_is_too_old() {
        let day = Duration::from_secs(86_400);
        let partition =
            |to| Partition { name: String::new(), from: None, to, rows_estimated: None, bytes: 0 };
        let all = [
            Some(datetime!(2026-11-01 00:00 UTC)),
            Some(datetime!(2026-11-20 10:00 UTC)),
            Some(datetime!(2026-11-20 10:00:01 UTC)),
            None,
        ];
        let now = datetime!(2026-11-23 10:00 UTC);
        assert_eq!(old(all.map(partition).to_vec(), now, 3 * day).len(), 2);
    }
}
