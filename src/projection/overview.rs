//! How much Redis holds, for whoever looks: memory and keys, of all nodes together.

use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, Value};

use super::client::{Projection, call};
use super::error::ProjectionError;

/// Of every node that holds keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub memory_bytes: u64,
    /// 0: no limit.
    pub memory_max_bytes: u64,
    /// Those of others included.
    pub keys: u64,
}

impl Projection {
    pub async fn size(&self) -> Result<Size, ProjectionError> {
        let lease = self.lease(1).await?;
        let mut all = Size::default();
        for node in self.nodes(&lease.client) {
            let one = match node {
                Some(node) => size_of(&lease.client.with_cluster_node(node)).await?,
                None => size_of(&lease.client).await?,
            };
            all.memory_bytes += one.memory_bytes;
            all.memory_max_bytes += one.memory_max_bytes;
            all.keys += one.keys;
        }
        Ok(all)
    }
}

async fn size_of<C: ClientLike>(client: &C) -> Result<Size, ProjectionError> {
    let ask = async |command: &'static str, args: Vec<Value>| {
        let reply = call(client, command, ClusterHash::Random, args).await;
        reply.map_err(|error| ProjectionError::command(command, error))
    };
    let memory = ask("INFO", vec!["memory".into()]).await?.into_string().unwrap_or_default();
    let keys = ask("DBSIZE", Vec::new()).await?.as_u64().unwrap_or_default();
    let value = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
    };
    Ok(Size { memory_bytes: value("used_memory"), memory_max_bytes: value("maxmemory"), keys })
}
