//! The commands that keep Redis equal to Postgres: arguments in, a report out. What they do is in
//! [`crate::repair`].

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::cli::{Manage, Outcome, Output, Turn};
use crate::config::Config;
use crate::progress::Progress;
use crate::projection::Projection;
use crate::repair::{self, CaughtUp, Context, KeyFault, Pruned, Rebuilt, Repairer, Verified};
use crate::telemetry::rfc3339;
use crate::terminal::escaped;

/// Runs one of them.
pub async fn run(config: &Config, command: Manage) -> Result<Outcome> {
    let (store, redis) = (config.store()?.clone(), config.projection()?);
    let projection = Projection::connect(redis, config.sets.prefix()).await?;
    let (sets, limits) = (config.sets.clone(), config.limits.clone());
    let context = Context { store, projection, sets, limits };
    let outcome = carry_out(&context, command).await;
    context.projection.close().await;
    outcome
}

async fn carry_out(context: &Context, command: Manage) -> Result<Outcome> {
    match command {
        Manage::Rebuild { set, turn, output } => {
            let rebuilt =
                repairing(context, &set, turn, async |repairer| repairer.rebuild().await).await?;
            say_rebuilt(&rebuilt, output)
        }
        Manage::CatchUp { turn, output } => {
            let caught_up =
                repairing(context, &[], turn, async |repairer| repairer.catch_up().await).await?;
            say_caught_up(caught_up, output)
        }
        Manage::Verify { set, sample, repair, limit, turn, output } => {
            let verified = repairing(context, &set, turn, async |repairer| match sample {
                Some(events) => repairer.sample(events).await,
                None => repairer.verify(repair).await,
            })
            .await?;
            say_verified(&verified, limit, output)
        }
        Manage::Prune { dry_run, turn, output } => {
            let lock = repair::lock(&context.store, patience(turn)).await?;
            let pruned = repair::prune(&context.projection, &context.sets, dry_run).await;
            lock.release().await;
            say_pruned(&pruned?, dry_run, output)
        }
        // The others are not for here.
        _ => Ok(Outcome::No),
    }
}

fn patience(turn: Turn) -> Duration {
    Duration::from_secs(u64::from(turn.wait))
}

/// With the fleet's lock and a progress bar.
async fn repairing<T>(
    context: &Context,
    sets: &[String],
    turn: Turn,
    work: impl AsyncFnOnce(&mut Repairer<'_>) -> Result<T, repair::RepairError>,
) -> Result<T> {
    // Before waiting for anybody: a name that is not there is told at once.
    context.sets.only(sets)?;
    let lock = repair::lock(&context.store, patience(turn)).await?;
    let mut bar: Option<(&'static str, Progress)> = None;
    let mut progress = |what: &'static str, done: u64, total: Option<u64>| {
        if bar.as_ref().is_none_or(|(shown, _)| *shown != what) {
            if let Some((_, before)) = bar.take() {
                before.finish();
            }
            bar = Some((what, Progress::new(what, total)));
        }
        if let Some((_, bar)) = &mut bar {
            bar.at(done);
        }
    };
    let mut repairer = Repairer::begin(context, sets, lock, &mut progress).await?;
    let done = work(&mut repairer).await;
    repairer.end().await;
    if let Some((_, bar)) = bar {
        bar.finish();
    }
    Ok(done?)
}

fn say_rebuilt(rebuilt: &Rebuilt, output: Output) -> Result<Outcome> {
    let Rebuilt { events, keys, keys_removed, restarts } = rebuilt;
    if output.json {
        let keys = json!({
            "events": events, "keys": keys, "keys_removed": keys_removed, "restarts": restarts,
        });
        say!("{keys}");
    } else {
        say!(
            "rebuilt {keys} keys from {events} events; {keys_removed} removed that no event supports"
        );
    }
    Ok(Outcome::Done)
}

fn say_caught_up(caught_up: CaughtUp, output: Output) -> Result<Outcome> {
    let CaughtUp { passes, events, others } = caught_up;
    match (output.json, passes) {
        (true, _) => {
            say!("{}", json!({"passes": passes, "events": events, "others_lack": others}));
        }
        (false, 0) => say!("nothing to do: redis lacks nothing that is known of"),
        (false, _) => say!("caught up: the members of {events} events added"),
    }
    if others && !output.json {
        say!("not done: readers are told of sets that are not in this ROLLCALL_SETS");
    }
    Ok(Outcome::Done)
}

fn say_verified(verified: &Verified, limit: usize, output: Output) -> Result<Outcome> {
    let outcome = if verified.is_clean() { Outcome::Done } else { Outcome::No };
    if output.json {
        say!("{}", verified_json(verified, limit));
        return Ok(outcome);
    }
    for (what, drifts) in [("missing", &verified.missing), ("phantom", &verified.phantom)] {
        for (key, member) in drifts.iter().take(limit) {
            say!("{what:<9} {} {}", escaped(key), escaped(member));
        }
        if drifts.len() > limit {
            say!("{what:<9} and {} more", drifts.len() - limit);
        }
    }
    for (key, fault) in &verified.faults {
        say!("key       {} {}", escaped(key), fault_text(*fault));
    }
    for one in &verified.estimates {
        let (key, error) = (escaped(&one.key), one.error_percent());
        let drifted = if one.drifted { ": drifted" } else { "" };
        let (estimate, exact) = (one.estimate, one.exact);
        say!("estimate  {key} {estimate} of exactly {exact}, {error:+.2} % off{drifted}");
    }
    let more = if verified.truncated { ", and more" } else { "" };
    let mended = if verified.repaired && !verified.is_clean() { "; repaired" } else { "" };
    say!(
        "{} events, {} members: {} missing, {} phantom, {} keys wrong, {} estimates drifted{more}\
         {mended}",
        verified.events,
        verified.members,
        verified.missing.len(),
        verified.phantom.len(),
        verified.faults.len(),
        verified.estimates.iter().filter(|one| one.drifted).count(),
    );
    Ok(outcome)
}

fn verified_json(verified: &Verified, limit: usize) -> Value {
    let named = |drifts: &[(String, String)]| -> Vec<Value> {
        let named = drifts.iter().take(limit);
        named.map(|(key, member)| json!({"key": key, "member": member})).collect()
    };
    let keys: Vec<Value> =
        verified.faults.iter().map(|(key, fault)| fault_json(key, *fault)).collect();
    let estimates: Vec<Value> = verified
        .estimates
        .iter()
        .map(|one| {
            json!({
                "key": one.key, "estimate": one.estimate, "exact": one.exact,
                "error_percent": one.error_percent(), "drifted": one.drifted,
            })
        })
        .collect();
    json!({
        "clean": verified.is_clean(), "repaired": verified.repaired,
        "events": verified.events, "members": verified.members,
        "missing_total": verified.missing.len(), "phantom_total": verified.phantom.len(),
        "missing": named(&verified.missing), "phantom": named(&verified.phantom),
        "keys": keys, "estimates": estimates, "truncated": verified.truncated,
    })
}

fn fault_text(fault: KeyFault) -> String {
    let time = |at: Option<i64>| moment(at).map_or_else(|| "never".to_owned(), rfc3339);
    match fault {
        KeyFault::WrongType => "holds another type".to_owned(),
        KeyFault::Expiry { wanted, found } => {
            format!("expires {} and should {}", time(found), time(wanted))
        }
        KeyFault::Unsupported => "is an estimate that no event supports".to_owned(),
    }
}

fn fault_json(key: &str, fault: KeyFault) -> Value {
    match fault {
        KeyFault::WrongType => json!({"key": key, "fault": "wrong_type"}),
        KeyFault::Expiry { wanted, found } => {
            let time = |at: Option<i64>| moment(at).map(rfc3339);
            json!({"key": key, "fault": "expiry", "wanted": time(wanted), "found": time(found)})
        }
        KeyFault::Unsupported => json!({"key": key, "fault": "unsupported"}),
    }
}

fn moment(at: Option<i64>) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(at?).ok()
}

fn say_pruned(pruned: &Pruned, dry_run: bool, output: Output) -> Result<Outcome> {
    if output.json {
        let (keys, foreign) = (&pruned.keys, &pruned.foreign);
        say!("{}", json!({"dry_run": dry_run, "keys": keys, "left_alone": foreign}));
        return Ok(Outcome::Done);
    }
    let verb = if dry_run { "would go" } else { "gone" };
    for (set, keys) in &pruned.keys {
        say!("{verb:<9} {}: {keys} keys", escaped(set));
    }
    for key in &pruned.foreign {
        say!("left      {}: holds no set", escaped(key));
    }
    if pruned.keys.is_empty() {
        say!("nothing to do: every key belongs to a set in ROLLCALL_SETS");
    }
    Ok(Outcome::Done)
}
