//! `rollcall manage index`: the expression indexes that people's GROUP BYs and lookups by the
//! fields of a set need. Nothing of Rollcall's own depends on one being there.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;

use crate::cli::{IndexArgs, Outcome};
use crate::config;
use crate::progress::Progress;
use crate::sets::Sets;
use crate::store::{FieldIndex, Indexer};

/// What a set needs, and which others need the same.
struct Wanted {
    index: FieldIndex,
    sets: Vec<String>,
}

pub async fn run(config: &config::Store, sets: &Sets, args: &IndexArgs) -> Result<Outcome> {
    for name in &args.sets {
        sets.find(name)?;
    }
    let all = wanted(sets);
    let Some(mut indexer) = Indexer::begin(config).await? else {
        eprintln!("rollcall: another process is making indexes: try again later");
        return Ok(Outcome::TryLater);
    };
    let result = make(&mut indexer, &all, args).await;
    indexer.end().await;
    result
}

/// One index for each distinct list of fields, in the order of the sets.
fn wanted(sets: &Sets) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    for set in sets.iter() {
        let index = FieldIndex::of(sets.paths(set));
        match all.iter_mut().find(|wanted| wanted.index == index) {
            Some(wanted) => wanted.sets.push(set.name.clone()),
            None => all.push(Wanted { index, sets: vec![set.name.clone()] }),
        }
    }
    all
}

async fn make(indexer: &mut Indexer, all: &[Wanted], args: &IndexArgs) -> Result<Outcome> {
    let chosen = |wanted: &&Wanted| {
        args.sets.is_empty() || wanted.sets.iter().any(|set| args.sets.contains(set))
    };
    let mut made = BTreeMap::new();
    for wanted in all.iter().filter(chosen) {
        let mut progress: Option<Progress> = None;
        let result = indexer
            .ensure(&wanted.index, |done, total| {
                let total = total as u64;
                let bar = || Progress::new("partitions indexed", Some(total));
                progress.get_or_insert_with(bar).at(done as u64);
            })
            .await;
        if let Some(progress) = &progress {
            progress.finish();
        }
        made.insert(wanted.index.name.clone(), result?);
    }
    let unneeded = |name: &str| all.iter().all(|wanted| wanted.index.name != name);
    let mut dropped = Vec::new();
    for found in indexer.found().await?.into_iter().filter(|found| unneeded(&found.name)) {
        if args.prune {
            indexer.drop(&found.name).await?;
            dropped.push(found.name);
        }
    }
    let found = indexer.found().await?;
    let mut rows = Vec::new();
    let mut whole = true;
    for wanted in all.iter().filter(chosen) {
        let Wanted { index, sets } = wanted;
        let valid = found.iter().any(|one| one.name == index.name && one.valid);
        whole &= valid;
        let made = made.get(&index.name);
        let built = made.map(|made| made.built.clone()).unwrap_or_default();
        let columns: Vec<usize> = (1..=index.fields.len()).collect();
        let columns: Vec<String> = columns.iter().map(usize::to_string).collect();
        rows.push(json!({
            "name": index.name, "sets": sets, "fields": index.fields, "valid": valid,
            "partitions_built": built, "leftovers_dropped": made.map_or(0, |made| made.cleaned),
            "group_by": format!(
                "SELECT {}, count(*) FROM events GROUP BY {}",
                index.expressions.join(", "),
                columns.join(", ")
            ),
        }));
    }
    let unused = found
        .iter()
        .filter(|found| unneeded(&found.name))
        .map(|found| json!({"name": found.name, "fields": found.fields, "bytes": found.bytes}));
    let unused: Vec<_> = unused.collect();
    let answer = json!({"indexes": rows, "unused": unused, "dropped": dropped});
    tell(&answer, args)?;
    Ok(if whole { Outcome::Done } else { Outcome::No })
}

fn tell(answer: &serde_json::Value, args: &IndexArgs) -> Result<()> {
    if args.output.json {
        say!("{answer}");
        return Ok(());
    }
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &serde_json::Value| {
        let items = value.as_array().into_iter().flatten();
        items.map(text).collect::<Vec<_>>().join(" ")
    };
    for row in answer["indexes"].as_array().into_iter().flatten() {
        let built = row["partitions_built"].as_array().map_or(0, Vec::len);
        let state = match (row["valid"].as_bool(), built) {
            (Some(true), 0) => "there already".to_owned(),
            (Some(true), built) => format!("built on {built} partition(s)"),
            _ => "not whole: run it again".to_owned(),
        };
        say!("index     {}: {state}, for {}", text(&row["name"]), list(&row["sets"]));
        say!("          {}", text(&row["group_by"]));
    }
    for row in answer["unused"].as_array().into_iter().flatten() {
        say!("unused    {} (no set needs it: --prune drops it)", text(&row["name"]));
    }
    for name in answer["dropped"].as_array().into_iter().flatten() {
        say!("dropped   {}", text(name));
    }
    Ok(())
}
