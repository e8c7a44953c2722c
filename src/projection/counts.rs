//! Many counts at once, and what sets have in common. Reads alone.

use fred::types::{ClusterHash, Value};
use futures_util::future::join_all;

use super::client::{Projection, call};
use super::error::{ProjectionError, is_wrong_type};
use super::marker::Meta;
use crate::sets::{Kind, Set};

/// Commands sent together.
const WAVE: usize = 500;

/// What keys hold, and what is behind it.
#[derive(Clone, Debug)]
pub struct Counts {
    /// In the order asked; `None` of a key that holds another type.
    pub counts: Vec<Option<u64>>,
    /// Read when all counts had been: without a generation here none of them says anything, and of
    /// a set that is not whole its own says nothing.
    pub meta: Meta,
}

/// What sets have in common.
#[derive(Clone, Debug)]
pub enum Common {
    Members(u64, Meta),
    /// The smallest has more members than the caller wants to have looked at.
    TooMany,
    /// A cluster keeps them on different nodes, or may come to.
    Apart,
    /// No generation, or one of them is not filled from history.
    Unknown,
}

impl Projection {
    /// The cardinality of each key.
    pub async fn counts(&self, keys: &[(Kind, String)]) -> Result<Counts, ProjectionError> {
        let mut counts = Vec::with_capacity(keys.len());
        for wave in keys.chunks(WAVE) {
            let lease = self.lease(wave.len() as u32).await?;
            let calls = wave.iter().map(|(kind, key)| {
                let command = counting(*kind);
                let slot = ClusterHash::from(key.as_str());
                call(&lease.client, command, slot, vec![key.as_str().into()])
            });
            let replies = join_all(calls).await;
            self.note(&replies);
            for (reply, (kind, _)) in replies.into_iter().zip(wave) {
                let command = counting(*kind);
                counts.push(match reply {
                    Ok(reply) => {
                        let expected = "a number";
                        let odd = ProjectionError::Reply { command, expected };
                        Some(reply.as_u64().ok_or(odd)?)
                    }
                    Err(error) if is_wrong_type(&error) => None,
                    Err(error) => return Err(ProjectionError::command(command, error)),
                });
            }
        }
        // In a round trip of its own: sent along, nothing would say that it is carried out last.
        Ok(Counts { counts, meta: self.meta().await? })
    }

    /// How many members all of these exact sets have. Costs the server a look at each member of the
    /// smallest set, of which there may be `looked_at_max`.
    pub async fn common(
        &self,
        sets: &[(&Set, String)],
        looked_at_max: u64,
    ) -> Result<Common, ProjectionError> {
        let keys: Vec<_> = sets.iter().map(|(set, key)| (set.kind, key.clone())).collect();
        let before = self.counts(&keys).await?;
        if sets.iter().any(|(set, _)| !before.meta.is_whole(set)) {
            return Ok(Common::Unknown);
        }
        let wrong = before.counts.iter().position(Option::is_none);
        if let Some(key) = wrong.and_then(|at| keys.get(at)) {
            return Err(ProjectionError::WrongType { key: key.1.clone() });
        }
        if before.counts.iter().flatten().min().is_some_and(|least| *least > looked_at_max) {
            return Ok(Common::TooMany);
        }
        let mut args: Vec<Value> = vec![i64::try_from(keys.len()).unwrap_or(i64::MAX).into()];
        args.extend(keys.iter().map(|(_, key)| Value::from(key.as_str())));
        let first = keys.first().map(|(_, key)| key.as_str()).unwrap_or_default();
        let lease = self.lease(2).await?;
        let (reply, meta) = match self.last(&lease, "SINTERCARD", first, args).await {
            Err(error) if error.is_cross_slot() => return Ok(Common::Apart),
            told => told?,
        };
        if sets.iter().any(|(set, _)| !meta.is_whole(set)) {
            return Ok(Common::Unknown);
        }
        let expected = "a number";
        let odd = ProjectionError::Reply { command: "SINTERCARD", expected };
        Ok(Common::Members(reply.as_u64().ok_or(odd)?, meta))
    }
}

fn counting(kind: Kind) -> &'static str {
    match kind {
        Kind::Exact => "SCARD",
        Kind::Estimated => "PFCOUNT",
    }
}
