//! `<prefix>:wm`: how a loss of Redis is noticed. One hash of whole numbers, and one name:
//!
//! | field | value |
//! |---|---|
//! | `<process>/<lane>` | grows with each batch of the lane |
//! | `<process>/seen` | grows with each look, Unix seconds |
//! | `<process>/floor` | every later batch of the process has rows with a txid of at least this |
//! | `repair/floor`, `repair/seen` | the same of a repair under way |
//! | `server` | run and replication ids of the servers that the hash was last found whole on |
//! | `postgres` | the table that a look last saw beside it, and a txid that was reached by then |
//!
//! Redis keeps a prefix of its command order through a restart and a failover, so a field that went
//! back proves loss, and the floors that are left bound it. Only carries out: what it means is for
//! `ingest/ledger` to say. Never moves a field that is not where it was left.

use std::collections::{BTreeSet, HashMap};

use fred::clients::Client;
use fred::error::Error as FredError;
use fred::interfaces::{ClientLike, ClusterInterface};
use fred::types::{ClusterHash, Value};
use futures_util::future::{join, join_all};
use time::OffsetDateTime;

use super::client::{Projection, call};
use super::error::ProjectionError;
use super::marker::Meta;
use super::server_info::{line, told};

pub const SERVER: &str = "server";
pub const POSTGRES: &str = "postgres";

/// A repairer's own floor, as if it were a process.
const REPAIR_FLOOR: &str = "repair/floor";
const REPAIR_SEEN: &str = "repair/seen";
/// How long it counts, where the repairer dies and no other comes: beyond any repair.
const REPAIR_SECS_MAX: i64 = 24 * 60 * 60;

/// Moves a field on, and sets another with it, if the first is where it was left. Where the answer
/// to an earlier try was lost it may be one further.
const MOVE: &str = "if ARGV[2] ~= '' then local found = redis.call('HGET', KEYS[1], ARGV[1]) \
    if found ~= ARGV[2] and found ~= ARGV[3] then return 0 end end \
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) \
    if ARGV[4] then redis.call('HSET', KEYS[1], ARGV[4], ARGV[5]) end return 1";

/// One step of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    pub field: String,
    /// Where it was left; `None`: wherever it is.
    pub from: Option<u64>,
    pub to: u64,
}

/// What Redis shows of itself at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sighting {
    /// Run and replication ids of all servers that hold keys; empty where they do not tell.
    pub servers: BTreeSet<String>,
    /// The watermark's shard is one of several: it says nothing of the others.
    pub clustered: bool,
    pub watermark: HashMap<String, String>,
    pub meta: Meta,
}

/// As the watermark keeps them.
pub fn joined(servers: &BTreeSet<String>) -> String {
    servers.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

impl Projection {
    pub async fn sight(&self) -> Result<Sighting, ProjectionError> {
        // Who it is before what it holds: the other way round a server that took over in between
        // would be taken for the one that held it.
        let servers = self.server_ids().await?;
        let lease = self.lease(2).await?;
        let wm_key = self.shared.wm_key.as_str();
        let hash = call(&lease.client, "HGETALL", ClusterHash::FirstKey, vec![wm_key.into()]);
        let (hash, meta) = join(hash, self.read_meta(&lease.client)).await;
        let replies = [hash, meta];
        self.note(&replies);
        let [hash, meta] = replies;
        let hash = hash.map_err(|error| ProjectionError::on_key("HGETALL", wm_key, error))?;
        let reply = ProjectionError::Reply { command: "HGETALL", expected: "fields and values" };
        let watermark: HashMap<String, String> = hash.convert().map_err(|_| reply)?;
        let meta = self.parsed_meta(meta)?;
        let clustered = lease.client.cached_cluster_state().is_some();
        Ok(Sighting { servers, clustered, watermark, meta })
    }

    /// Moves `tick` and sets `floor`. Whether the field was where it was left.
    pub async fn advance(&self, tick: &Tick, floor: (&str, i64)) -> Result<bool, ProjectionError> {
        let lease = self.lease(1).await?;
        let reply = [self.moving(&lease.client, tick, Some(floor)).await];
        self.note(&reply);
        let [reply] = reply;
        self.moved(reply)
    }

    /// Writes fields wherever they are.
    pub async fn register(&self, fields: &[(String, String)]) -> Result<(), ProjectionError> {
        let wm_key = self.shared.wm_key.as_str();
        let mut args = vec![Value::from(wm_key)];
        for (field, value) in fields {
            args.extend([Value::from(field.as_str()), Value::from(value.as_str())]);
        }
        self.one("HSET", wm_key, args).await.map(drop)
    }

    /// Takes fields out: of a process that ended.
    pub async fn unregister(&self, fields: &[String]) -> Result<(), ProjectionError> {
        if fields.is_empty() {
            return Ok(());
        }
        let wm_key = self.shared.wm_key.as_str();
        let mut args = vec![Value::from(wm_key)];
        args.extend(fields.iter().map(|field| Value::from(field.as_str())));
        self.one("HDEL", wm_key, args).await.map(drop)
    }

    /// Before a repair adds rows with `txid >= floor`: a Redis that goes back meanwhile may lack
    /// them.
    pub async fn hold_floor(&self, floor: i64) -> Result<(), ProjectionError> {
        let until = OffsetDateTime::now_utc().unix_timestamp() + REPAIR_SECS_MAX;
        let fields = [(REPAIR_FLOOR, floor), (REPAIR_SEEN, until)];
        self.register(&fields.map(|(field, value)| (field.to_owned(), value.to_string()))).await
    }

    /// After it has.
    pub async fn release_floor(&self) -> Result<(), ProjectionError> {
        self.unregister(&[REPAIR_FLOOR.to_owned(), REPAIR_SEEN.to_owned()]).await
    }

    /// All sets are whole on the servers that are there now.
    pub async fn register_servers(&self) -> Result<(), ProjectionError> {
        let servers: Vec<String> = self.server_ids().await?.into_iter().collect();
        self.register(&[(SERVER.to_owned(), servers.join(","))]).await
    }

    pub(super) async fn moving(
        &self,
        client: &Client,
        tick: &Tick,
        floor: Option<(&str, i64)>,
    ) -> Result<Value, FredError> {
        let wm_key = self.shared.wm_key.as_str();
        let from = tick.from.map_or(String::new(), |from| from.to_string());
        let mut args: Vec<Value> = vec![MOVE.into(), 1.into(), wm_key.into()];
        args.extend([tick.field.as_str().into(), from.into(), tick.to.to_string().into()]);
        if let Some((field, txid)) = floor {
            args.extend([Value::from(field), txid.to_string().into()]);
        }
        call(client, "EVAL", ClusterHash::from(wm_key), args).await
    }

    pub(super) fn moved(&self, reply: Result<Value, FredError>) -> Result<bool, ProjectionError> {
        let wm_key = self.shared.wm_key.as_str();
        let reply = reply.map_err(|error| ProjectionError::on_key("EVAL", wm_key, error))?;
        let expected = "0 or 1";
        let moved = reply.as_i64().ok_or(ProjectionError::Reply { command: "EVAL", expected })?;
        Ok(moved == 1)
    }

    async fn server_ids(&self) -> Result<BTreeSet<String>, ProjectionError> {
        let lease = self.lease(2).await?;
        let nodes = self.nodes(&lease.client);
        let ids = join_all(nodes.into_iter().map(async |node| match node {
            Some(node) => self.id_of(&lease.client.with_cluster_node(node)).await,
            None => self.id_of(&lease.client).await,
        }));
        let ids: Result<Vec<Option<String>>, ProjectionError> = ids.await.into_iter().collect();
        Ok(ids?.into_iter().flatten().collect())
    }

    /// The replication id as well: a master that was a replica for a while holds another's data.
    async fn id_of<C: ClientLike>(&self, client: &C) -> Result<Option<String>, ProjectionError> {
        let info =
            |section: &'static str| call(client, "INFO", ClusterHash::Random, vec![section.into()]);
        let (server, replication) = join(info("server"), info("replication")).await;
        let replies = [server, replication];
        self.note(&replies);
        let [server, replication] = replies.map(|reply| told(reply, "INFO"));
        let (server, replication) = (server?.unwrap_or_default(), replication?.unwrap_or_default());
        let run = line(&server, "run_id");
        let history = line(&replication, "master_replid").unwrap_or_default();
        Ok(run.map(|run| format!("{run}.{history}")))
    }
}
