//! Walking over keys and members in small steps, with memory for one step. A key or member that was
//! there all the time is given at least once, and maybe more often.

use std::collections::VecDeque;

use fred::types::config::Server;
use fred::types::{ClusterHash, Value};

use super::client::{Projection, call};
use super::error::ProjectionError;
use super::read::{SCAN_START, page};

/// Buckets that one step looks at: about a millisecond of the server's time.
const COUNT: i64 = 1_000;

/// Over all keys that match a glob, node by node.
pub struct KeyScan {
    pattern: String,
    nodes: VecDeque<Option<Server>>,
    cursor: String,
}

impl Projection {
    pub async fn scan_keys(&self, pattern: String) -> Result<KeyScan, ProjectionError> {
        let nodes = self.nodes(&self.lease(1).await?.client).into();
        Ok(KeyScan { pattern, nodes, cursor: SCAN_START.to_owned() })
    }

    /// The next keys, maybe none; `None` after the last.
    pub async fn next_keys(
        &self,
        scan: &mut KeyScan,
    ) -> Result<Option<Vec<String>>, ProjectionError> {
        let Some(node) = scan.nodes.front() else { return Ok(None) };
        let args: Vec<Value> = vec![
            scan.cursor.as_str().into(),
            "MATCH".into(),
            scan.pattern.as_str().into(),
            "COUNT".into(),
            COUNT.into(),
        ];
        let lease = self.lease(1).await?;
        let random = ClusterHash::Random;
        let reply = [match node {
            Some(node) => call(&lease.client.with_cluster_node(node), "SCAN", random, args).await,
            None => call(&lease.client, "SCAN", random, args).await,
        }];
        self.note(&reply);
        let [reply] = reply;
        let reply = reply.map_err(|error| ProjectionError::command("SCAN", error))?;
        let (next, keys) = page(reply, "SCAN")?;
        match next {
            Some(cursor) => scan.cursor = cursor,
            None => {
                scan.nodes.pop_front();
                scan.cursor = SCAN_START.to_owned();
            }
        }
        Ok(Some(keys))
    }

    /// The next members of an exact set; begin with `None`, end where the cursor is `None`.
    pub async fn next_members(
        &self,
        key: &str,
        cursor: Option<&str>,
    ) -> Result<(Option<String>, Vec<String>), ProjectionError> {
        let cursor = cursor.unwrap_or(SCAN_START);
        let args = vec![key.into(), cursor.into(), "COUNT".into(), COUNT.into()];
        page(self.one("SSCAN", key, args).await?, "SSCAN")
    }
}
