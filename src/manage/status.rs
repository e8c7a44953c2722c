//! `rollcall manage status`: what there is, in all three servers, on one page. One that is away is
//! shown as that, and the others all the same. Changes nothing.

use anyhow::Result;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::cli::{Outcome, Output};
use crate::config::{self, Config};
use crate::projection::{Answer, Projection, escape_glob};
use crate::sets::{Kind, Set, Sets};
use crate::store::overview;
use crate::telemetry::rfc3339;
use crate::{broker, store};

/// Keys of the whole server up to which those of one set are counted: a walk over all of them.
const KEYS_WALKED_MAX: u64 = 100_000;

pub async fn run(config: &Config, output: Output) -> Result<Outcome> {
    let (postgres, rabbitmq, redis) =
        tokio::join!(postgres(config), rabbitmq(config), redis(config));
    let parts = [("postgres", postgres), ("rabbitmq", rabbitmq), ("redis", redis)];
    let mut all = json!({});
    let mut away = false;
    for (name, part) in parts {
        let (status, mut shown) = match part {
            Ok(Some(shown)) => ("ok", shown),
            Ok(None) => ("not_configured", json!({})),
            Err(error) => {
                away = true;
                ("failed", json!({"error": format!("{error:#}")}))
            }
        };
        // A replica that is away is a part that is.
        away |= shown["replica"]["error"].is_string();
        shown["status"] = json!(status);
        all[name] = shown;
    }
    match output.json {
        true => say!("{all}"),
        false => tell(&all)?,
    }
    Ok(if away { Outcome::TryLater } else { Outcome::Done })
}

async fn postgres(config: &Config) -> Result<Option<Value>> {
    let Ok(store) = config.store() else { return Ok(None) };
    let found = overview::overview(store, config.sets.prefix()).await?;
    let partitions = store::list(store).await?;
    let time = |at: Option<OffsetDateTime>| at.map(rfc3339);
    let partition = |one: &store::Partition| {
        json!({
            "name": one.name, "from": time(one.from), "to": time(one.to),
            "rows_estimated": one.rows_estimated, "bytes": one.bytes,
        })
    };
    let index = |one: &store::IndexFound| {
        json!({
            "name": one.name, "fields": one.fields, "valid": one.valid,
            "partitions": one.partitions, "bytes": one.bytes,
        })
    };
    let standing = &found.standing;
    let history = |history: store::History| json!({"system_identifier": history.system_identifier, "timeline": history.timeline});
    Ok(Some(json!({
        "version": found.version,
        "history": history(found.history),
        "replica": replica(store, &found.lsn).await,
        "partitions": partitions.iter().map(partition).collect::<Vec<_>>(),
        "bytes": partitions.iter().map(|one| one.bytes).sum::<i64>(),
        "indexes": found.indexes.iter().map(index).collect::<Vec<_>>(),
        "retired_members": found.retired,
        "forgetting_members": found.forgetting,
        "projection": {
            "owed": standing.rebuild || standing.catch_up_from.is_some(),
            "rebuild_needed": standing.rebuild,
            "catch_up_from": standing.catch_up_from,
            "reason": standing.reason,
            "history": standing.history.map(history),
            "rebuilt_at": time(standing.rebuilt_at),
            "verified_at": time(standing.verified_at),
            "verified_missing": standing.verified_missing,
            "verified_phantom": standing.verified_phantom,
        },
    })))
}

/// One that is away must not hide the primary.
async fn replica(store: &config::Store, lsn: &str) -> Value {
    match overview::replica(store, lsn).await {
        Ok(None) => Value::Null,
        Ok(Some(replica)) => json!({
            "standby": replica.standby, "lag_bytes": replica.lag_bytes,
            "lag_seconds": replica.lag_seconds,
        }),
        Err(error) => json!({"error": crate::telemetry::chain(&error)}),
    }
}

async fn rabbitmq(config: &Config) -> Result<Option<Value>> {
    let Ok(broker) = config.broker() else { return Ok(None) };
    let depth = broker::topology::depth(broker).await?;
    Ok(Some(json!({
        "queue": broker.queue, "ready": depth.queue.ready, "consumers": depth.queue.consumers,
        "dead_letters_queue": broker.dead_letters, "dead_letters": depth.dead_letters.ready,
    })))
}

async fn redis(config: &Config) -> Result<Option<Value>> {
    let Ok(projection) = config.projection() else { return Ok(None) };
    let redis = Projection::connect(projection, config.sets.prefix()).await?;
    let shown = describe(&redis, &config.sets).await;
    redis.close().await;
    shown.map(Some)
}

async fn describe(redis: &Projection, sets: &Sets) -> Result<Value> {
    let (info, meta, size) = (redis.server_info().await?, redis.meta().await?, redis.size().await?);
    let time = |at: Option<OffsetDateTime>| at.map(rfc3339);
    let mut shown = Vec::new();
    for set in sets.iter() {
        // A key of another type is the set's trouble, not the server's.
        shown.push(match describe_set(redis, set, size.keys).await {
            Ok(set) => set,
            Err(error) => json!({"set": set.name, "definition": set.text,
                                 "error": format!("{error:#}")}),
        });
    }
    Ok(json!({
        "version": info.version, "maxmemory_policy": info.maxmemory_policy,
        "memory_bytes": size.memory_bytes, "memory_max_bytes": size.memory_max_bytes,
        "keys": size.keys, "generation": meta.generation,
        "state": meta.state.map(|state| state.as_str()),
        "last_event_at": time(meta.last_event_at), "last_applied_at": time(meta.last_applied_at),
        "rebuilt_at": time(meta.rebuilt_at), "sets": shown,
    }))
}

/// The cardinality of a set with one key; of one with many their number, where that is cheap.
async fn describe_set(redis: &Projection, set: &Set, all_keys: u64) -> Result<Value> {
    let mut shown = json!({
        "set": set.name, "definition": set.text, "approximate": set.kind == Kind::Estimated,
        "cardinality": null, "keys": null,
    });
    if set.window.is_none() && set.group_fields == 0 {
        if let Answer::Known { value, .. } = redis.cardinality(set, set.base_key()).await? {
            shown["cardinality"] = json!(value);
        }
    } else if all_keys <= KEYS_WALKED_MAX {
        let pattern = format!("{}:*", escape_glob(set.base_key()));
        let limit = usize::try_from(KEYS_WALKED_MAX).unwrap_or(usize::MAX);
        if let Answer::Known { value, .. } = redis.keys_of(&pattern, limit).await? {
            shown["keys"] = json!(value.keys.len());
        }
    }
    Ok(shown)
}

/// A value as a person reads it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn tell(all: &Value) -> Result<()> {
    for name in ["postgres", "rabbitmq", "redis"] {
        match all[name]["status"].as_str() {
            Some("ok") => {}
            Some("failed") => say!("{name}: FAILED: {}", plain(&all[name]["error"])),
            _ => say!("{name}: not configured"),
        }
    }
    if all["postgres"]["status"] == "ok" {
        tell_postgres(&all["postgres"])?;
    }
    let rabbitmq = &all["rabbitmq"];
    if rabbitmq["status"] == "ok" {
        say!(
            "rabbitmq: {} ready for {} consumer(s) in {}, {} dead letter(s)",
            rabbitmq["ready"],
            rabbitmq["consumers"],
            plain(&rabbitmq["queue"]),
            rabbitmq["dead_letters"]
        );
    }
    if all["redis"]["status"] == "ok" {
        tell_redis(&all["redis"])?;
    }
    Ok(())
}

fn tell_postgres(postgres: &Value) -> Result<()> {
    say!("postgres: {}, timeline {}", plain(&postgres["version"]), postgres["history"]["timeline"]);
    let replica = &postgres["replica"];
    if let Some(error) = replica["error"].as_str() {
        say!("  replica: FAILED: {error}");
    } else if replica["standby"] == json!(false) {
        say!("  replica: is no standby");
    } else if !replica.is_null() {
        let (bytes, seconds) = (plain(&replica["lag_bytes"]), plain(&replica["lag_seconds"]));
        say!("  replica: {bytes} bytes and {seconds} s behind");
    }
    say!("  {:<28} {:<21} {:<21} {:>12} {:>14}", "PARTITION", "FROM", "TO", "ROWS (EST.)", "BYTES");
    for one in rows(&postgres["partitions"]) {
        say!(
            "  {:<28} {:<21} {:<21} {:>12} {:>14}",
            plain(&one["name"]),
            plain(&one["from"]),
            plain(&one["to"]),
            plain(&one["rows_estimated"]),
            plain(&one["bytes"])
        );
    }
    for one in rows(&postgres["indexes"]) {
        let state = if one["valid"] == json!(true) { "valid" } else { "INVALID: manage index" };
        say!("  index {} ({}): {state}", plain(&one["name"]), plain(&one["fields"]));
    }
    let (retired, forgetting) = (&postgres["retired_members"], &postgres["forgetting_members"]);
    say!("  {retired} retired member(s), {forgetting} being forgotten");
    let projection = &postgres["projection"];
    let owed = match (projection["rebuild_needed"] == json!(true), &projection["catch_up_from"]) {
        (true, _) => format!("a rebuild ({})", plain(&projection["reason"])),
        (false, Value::Null) => "nothing".to_owned(),
        (false, _) => format!("a catch-up ({})", plain(&projection["reason"])),
    };
    say!(
        "  redis is owed {owed}; rebuilt {}, verified {} ({} missing, {} phantom)",
        plain(&projection["rebuilt_at"]),
        plain(&projection["verified_at"]),
        plain(&projection["verified_missing"]),
        plain(&projection["verified_phantom"])
    );
    Ok(())
}

fn tell_redis(redis: &Value) -> Result<()> {
    say!(
        "redis: {}, {} bytes in {} key(s), {}",
        plain(&redis["version"]),
        redis["memory_bytes"],
        redis["keys"],
        plain(&redis["maxmemory_policy"])
    );
    say!(
        "  generation {}, state {}, last applied {}",
        plain(&redis["generation"]),
        plain(&redis["state"]),
        plain(&redis["last_applied_at"])
    );
    say!("  {:<20} {:>12} {:>12}  DEFINITION", "SET", "CARDINALITY", "KEYS");
    for set in rows(&redis["sets"]) {
        say!(
            "  {:<20} {:>12} {:>12}  {} {}",
            plain(&set["set"]),
            plain(&set["cardinality"]),
            plain(&set["keys"]),
            plain(&set["definition"]),
            set["error"].as_str().unwrap_or_default()
        );
    }
    Ok(())
}
