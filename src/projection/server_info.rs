//! What the server says of itself: which it is, and whether it may evict what it was given. Must
//! never take a server that will not tell for one that is well.

use fred::clients::Client;
use fred::interfaces::{ClientLike, ClusterInterface};
use fred::types::config::Server;
use fred::types::{ClusterHash, Value};
use futures_util::future::join;

use super::client::{Projection, call};
use super::error::ProjectionError;

/// What the server says of itself. In a cluster: of the first node that evicts, else of any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    pub version: Option<String>,
    /// `None` where the server will not tell, as some hosted ones do not.
    pub maxmemory_policy: Option<String>,
}

/// Whether the server keeps what it was given. One that does not is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    Never,
    /// The server will not tell: worth a line in the log.
    Unknown,
}

impl Projection {
    pub async fn server_info(&self) -> Result<ServerInfo, ProjectionError> {
        let lease = self.lease(2).await?;
        let mut info = ServerInfo::default();
        for node in self.nodes(&lease.client) {
            let seen = match node {
                Some(node) => self.info_of(&lease.client.with_cluster_node(node)).await?,
                None => self.info_of(&lease.client).await?,
            };
            let evicts = evicting(&seen).is_some();
            info = seen;
            if evicts {
                break;
            }
        }
        Ok(info)
    }

    /// An error where Redis may evict keys: a set that vanished reads as "nobody was there".
    pub async fn ensure_noeviction(&self) -> Result<Eviction, ProjectionError> {
        let info = self.server_info().await?;
        if let Some(policy) = evicting(&info) {
            return Err(ProjectionError::Evicts { policy: policy.to_owned() });
        }
        Ok(info.maxmemory_policy.map_or(Eviction::Unknown, |_| Eviction::Never))
    }

    /// The nodes that hold keys; `None` is the only one there is.
    pub(super) fn nodes(&self, client: &Client) -> Vec<Option<Server>> {
        match client.cached_cluster_state() {
            Some(state) => state.unique_primary_nodes().into_iter().map(Some).collect(),
            None => vec![None],
        }
    }

    /// INFO tells the policy to users who may not CONFIG; where INFO is cut down, CONFIG may do.
    async fn info_of<C: ClientLike>(&self, client: &C) -> Result<ServerInfo, ProjectionError> {
        let info =
            |section: &'static str| call(client, "INFO", ClusterHash::Random, vec![section.into()]);
        let (server, memory) = join(info("server"), info("memory")).await;
        let replies = [server, memory];
        self.note(&replies);
        let [server, memory] = replies.map(|reply| told(reply, "INFO"));
        let (server, memory) = (server?.unwrap_or_default(), memory?.unwrap_or_default());
        let mut policy = line(&memory, "maxmemory_policy");
        if policy.is_none() {
            let args = vec!["GET".into(), "maxmemory-policy".into()];
            let reply = call(client, "CONFIG", ClusterHash::Random, args).await;
            policy = match reply {
                Ok(reply) => reply.into_array().into_iter().nth(1).and_then(Value::into_string),
                // Forbidden or unknown on hosted servers.
                Err(_) => None,
            };
        }
        let version = line(&server, "valkey_version").or_else(|| line(&server, "redis_version"));
        Ok(ServerInfo { version, maxmemory_policy: policy })
    }
}

/// A refusal is an answer here: `None`.
pub(super) fn told(
    reply: Result<Value, fred::error::Error>,
    command: &'static str,
) -> Result<Option<String>, ProjectionError> {
    match reply.map_err(|error| ProjectionError::command(command, error)) {
        Ok(reply) => Ok(reply.into_string()),
        Err(error) if error.class() == crate::retry::Class::Config => Ok(None),
        Err(error) => Err(error),
    }
}

fn evicting(info: &ServerInfo) -> Option<&str> {
    info.maxmemory_policy.as_deref().filter(|policy| *policy != "noeviction")
}

/// One value of an INFO reply.
pub(super) fn line(info: &str, name: &str) -> Option<String> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_line_is_found_by_its_whole_name() {
        let info = "# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(line(info, "maxmemory_policy").as_deref(), Some("noeviction"));
        assert_eq!(line(info, "policy"), None);
    }

    #[test]
    fn only_noeviction_keeps_sets() {
        let with = |policy: Option<&str>| ServerInfo {
            version: None,
            maxmemory_policy: policy.map(str::to_owned),
        };
        assert_eq!(evicting(&with(Some("volatile-lru"))), Some("volatile-lru"));
        assert_eq!(evicting(&with(Some("noeviction"))), None);
        assert_eq!(evicting(&with(None)), None);
    }
}
