//! Takes out what sets that are no longer kept have left.

use super::RepairError;
use crate::projection::{Projection, escape_glob};
use crate::sets::{RESERVED, Sets};

/// What a prune did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// By set name.
    pub keys: std::collections::BTreeMap<String, u64>,
    /// Keys below the prefix that hold something that no set of ours holds: left alone.
    pub foreign: Vec<String>,
}

/// Foreign keys that are named.
const FOREIGN_MAX: usize = 100;

/// The caller has the repairer's lock.
pub async fn prune(
    projection: &Projection,
    sets: &Sets,
    dry_run: bool,
) -> Result<Pruned, RepairError> {
    let mut pruned = Pruned::default();
    if !dry_run {
        projection.remove_builds(sets.prefix()).await?;
        // Until nobody has changed them in between: no set that goes may be told whole.
        while let Some(told) = projection.meta().await?.sets
            && told.split_whitespace().any(|text| sets.iter().all(|set| set.text != text))
        {
            projection.keep_definitions(&told, sets).await?;
        }
    }
    let pattern = format!("{}:*", escape_glob(sets.prefix()));
    let mut scan = projection.scan_keys(pattern).await?;
    while let Some(mut keys) = projection.next_keys(&mut scan).await? {
        keys.retain(|key| sets.of_key(key).is_none() && !is_own(key, sets.prefix()));
        let ours = projection.are_sets(&keys).await?;
        let (ours, foreign): (Vec<_>, Vec<_>) =
            keys.into_iter().zip(ours).partition(|(_, ours)| *ours);
        let room = FOREIGN_MAX - pruned.foreign.len();
        pruned.foreign.extend(foreign.into_iter().map(|(key, _)| key).take(room));
        let gone: Vec<String> = ours.into_iter().map(|(key, _)| key).collect();
        for key in &gone {
            let name = key[sets.prefix().len() + 1..].split(':').next().unwrap_or_default();
            *pruned.keys.entry(name.to_owned()).or_default() += 1;
        }
        if !dry_run {
            projection.unlink(gone).await?;
        }
    }
    Ok(pruned)
}

fn is_own(key: &str, prefix: &str) -> bool {
    key[prefix.len()..].strip_prefix(':').is_some_and(|name| RESERVED.contains(&name))
}
