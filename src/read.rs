//! `rollcall read`: the reader's side, from Redis alone. Prints answers, and says *unknown* where
//! Redis holds no generation: a wiped Redis would answer "no" and 0 to everything.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::cli::{Output, Read, Which};
use crate::projection::{Answer, Projection, ProjectionError, escape_glob};
use crate::sets::{Kind, Set, Sets};
use crate::telemetry::rfc3339;
use crate::terminal::escaped;

/// Keys of one grouped or windowed set that `read list` counts before it says "at least".
const LIST_KEYS_MAX: usize = 100_000;
/// Members asked for in one SSCAN.
const PAGE: u32 = 1000;

/// Whether Redis could say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Yes,
    /// No generation: the sets may be half empty.
    No,
}

pub async fn run(command: Read, sets: &Sets, redis: &Projection) -> Result<Known> {
    match command {
        Read::Count { which, output } => count(sets, redis, &which, output).await,
        Read::Contains { which, member, output } => {
            contains(sets, redis, &which, &member, output).await
        }
        Read::Members { which, limit, output } => members(sets, redis, &which, limit, output).await,
        Read::List(output) => list(sets, redis, output).await,
    }
}

/// The set that a command line names, and its key; no key where Redis keeps it no longer.
async fn locate<'a>(
    sets: &'a Sets,
    redis: &Projection,
    which: &Which,
) -> Result<(&'a Set, Option<String>)> {
    let set = sets.find(&which.set)?;
    let now = OffsetDateTime::now_utc();
    let bucket = which.bucket.clone().or_else(|| set.present_bucket(now));
    let key = set.key(bucket.as_deref(), &which.group)?;
    if let Some(bucket) = &which.bucket
        && !set.keeps(bucket, now)?
        && matches!(redis.cardinality(set, &key).await?, Answer::Known { value: 0, .. })
    {
        eprintln!("rollcall: unknown: the bucket {bucket} has expired and is not kept any more");
        return Ok((set, None));
    }
    Ok((set, Some(key)))
}

/// What is answered where nobody can tell; why was said on the other stream.
fn say_unknown(output: Output, mut shown: Value) -> Result<Known> {
    shown["unknown"] = json!(true);
    match output.json {
        true => say!("{shown}"),
        false => say!("unknown"),
    }
    Ok(Known::No)
}

async fn count(sets: &Sets, redis: &Projection, which: &Which, output: Output) -> Result<Known> {
    let (set, key) = locate(sets, redis, which).await?;
    let Some(key) = key else { return say_unknown(output, json!({"set": set.name})) };
    let answer = redis.cardinality(set, &key).await?;
    let approximate = set.kind == Kind::Estimated;
    let mut shown = json!({"set": set.name, "key": key, "approximate": approximate});
    tell(answer, output, &mut shown, |cardinality, shown| {
        shown["cardinality"] = json!(cardinality);
        vec![cardinality.to_string()]
    })
}

async fn contains(
    sets: &Sets,
    redis: &Projection,
    which: &Which,
    written: &[String],
    output: Output,
) -> Result<Known> {
    let (set, key) = locate(sets, redis, which).await?;
    let Some(key) = key else { return say_unknown(output, json!({"set": set.name})) };
    // One value for each field of a composite is one member; none of them could be a whole one.
    let split = set.member_fields > 1
        && written.len() == set.member_fields
        && !written.iter().any(|part| part.contains(':'));
    let members = match split {
        true => vec![set.member_of(written)?],
        false => written.iter().map(|one| set.member(one)).collect::<Result<Vec<_>, _>>()?,
    };
    let borrowed: Vec<&str> = members.iter().map(String::as_str).collect();
    let answer = redis.contains(set, &key, &borrowed).await?;
    let mut shown = json!({"set": set.name, "key": key});
    tell(answer, output, &mut shown, |contained, shown| {
        let pairs = || members.iter().zip(&contained);
        shown["members"] = pairs()
            .map(|(member, contained)| json!({"member": member, "contained": contained}))
            .collect();
        let yes_no = |contained: bool| if contained { "yes" } else { "no" };
        match contained.as_slice() {
            [one] => vec![yes_no(*one).to_owned()],
            _ => pairs().map(|(member, is)| format!("{member}\t{}", yes_no(*is))).collect(),
        }
    })
}

/// Prints page by page. SSCAN may give a member twice while the set grows: each is printed once.
async fn members(
    sets: &Sets,
    redis: &Projection,
    which: &Which,
    limit: Option<u64>,
    output: Output,
) -> Result<Known> {
    let (set, key) = locate(sets, redis, which).await?;
    let Some(key) = key else { return Ok(Known::No) };
    let limit = limit.unwrap_or(u64::MAX);
    let terminal = std::io::stdout().is_terminal();
    let mut out = std::io::stdout().lock();
    let mut seen = HashSet::new();
    let mut cursor: Option<String> = None;
    loop {
        let answer = redis.members(set, &key, cursor.as_deref(), PAGE).await?;
        let Answer::Known { value: page, .. } = answer else {
            return Ok(unknown());
        };
        for member in page.members {
            if seen.len() as u64 >= limit {
                return Ok(Known::Yes);
            }
            let line = match output.json {
                true => Value::from(member.as_str()).to_string(),
                // A program gets it as it is; a terminal would obey it.
                false if terminal => escaped(&member),
                false => member.clone(),
            };
            if seen.insert(member) && writeln!(out, "{line}").is_err() {
                // Who reads has had enough (`| head`).
                return Ok(Known::Yes);
            }
        }
        match page.cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(Known::Yes),
        }
    }
}

async fn list(sets: &Sets, redis: &Projection, output: Output) -> Result<Known> {
    let meta = redis.meta().await?;
    let time = |at: Option<OffsetDateTime>| at.map(rfc3339);
    let mut rows = Vec::new();
    for set in sets.iter() {
        rows.push(describe(set, redis).await.with_context(|| format!("set {}", set.name))?);
    }
    let known = meta.generation.is_some();
    // Without a generation the state is of sets that are gone.
    let state = meta.state.filter(|_| known).map(|state| state.as_str());
    if output.json {
        let answer = json!({
            "generation": meta.generation, "state": state,
            "last_event_at": time(meta.last_event_at),
            "last_applied_at": time(meta.last_applied_at),
            "rebuilt_at": time(meta.rebuilt_at), "sets": rows,
        });
        say!("{answer}");
    } else {
        say!("{:<20} {:>12} {:>12}  DEFINITION", "SET", "CARDINALITY", "KEYS");
        for row in &rows {
            let shown = |field: &str| match &row[field] {
                Value::Null => "-".to_owned(),
                value => value.to_string(),
            };
            say!(
                "{:<20} {:>12} {:>12}  {}",
                row["set"].as_str().unwrap_or_default(),
                if known { shown("cardinality") } else { "unknown".to_owned() },
                shown("keys"),
                row["definition"].as_str().unwrap_or_default(),
            );
        }
        say!(
            "state {}, newest event {}, last applied {}",
            state.unwrap_or("unknown"),
            time(meta.last_event_at).as_deref().unwrap_or("-"),
            time(meta.last_applied_at).as_deref().unwrap_or("-"),
        );
    }
    Ok(if known { Known::Yes } else { unknown() })
}

/// One row of `read list`: the cardinality of a plain set, or how many keys a split one has.
async fn describe(set: &Set, redis: &Projection) -> Result<Value, ProjectionError> {
    let mut row = json!({
        "set": set.name, "definition": set.text, "key": set.base_key(),
        "approximate": set.kind == Kind::Estimated, "cardinality": null, "keys": null,
    });
    if set.window.is_none() && set.group_fields == 0 {
        if let Answer::Known { value, .. } = redis.cardinality(set, set.base_key()).await? {
            row["cardinality"] = json!(value);
        }
        return Ok(row);
    }
    let pattern = format!("{}:*", escape_glob(set.base_key()));
    if let Answer::Known { value, .. } = redis.keys_of(&pattern, LIST_KEYS_MAX).await? {
        row["keys"] = json!(value.keys.len());
        row["keys_truncated"] = json!(value.truncated);
    }
    Ok(row)
}

/// Prints an answer: plain lines, or one object with how far to trust it.
fn tell<T>(
    answer: Answer<T>,
    output: Output,
    shown: &mut Value,
    lines: impl FnOnce(T, &mut Value) -> Vec<String>,
) -> Result<Known> {
    let known = match answer {
        Answer::Known { value, generation, last_applied_at, state } => {
            let lines = lines(value, shown);
            shown["generation"] = json!(generation);
            shown["last_applied_at"] = json!(last_applied_at.map(rfc3339));
            shown["state"] = json!(state.map(|state| state.as_str()));
            if !output.json {
                say!("{}", lines.join("\n"));
            }
            Known::Yes
        }
        Answer::Unknown => {
            unknown();
            return say_unknown(output, shown.take());
        }
    };
    if output.json {
        say!("{shown}");
    }
    Ok(known)
}

fn unknown() -> Known {
    eprintln!(
        "rollcall: unknown: Redis holds no generation or not all of this set, and may be half empty"
    );
    Known::No
}
