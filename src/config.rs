//! Every setting: its name, unit, bound and default. Read once, at start, and never written again.
//!
//! `setting` holds the table, `source` reads the environment, `parse` makes types of it, `redact`
//! decides what may be shown. Nothing here opens a connection or prints.

mod error;
mod load;
pub mod memory;
mod parse;
pub mod redact;
pub mod setting;
mod source;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use error::{ConfigErrors, Problem};

use crate::event::Limits;
use crate::sets::Sets;

/// What all roles read. What only some need, and may be absent, is behind `broker()`, `store()`
/// and `projection()`.
#[derive(Clone, Debug)]
pub struct Config {
    pub amqp_url: Option<Secret>,
    pub database_url: Option<Secret>,
    pub database_replica_url: Option<Secret>,
    pub redis_url: Option<Secret>,
    pub sets: Sets,
    pub key_prefix: String,
    pub limits: Limits,
    pub ingest: Ingest,
    /// What a worker may take, and by whose word; `None`: nobody says.
    pub memory: Option<memory::Allowed>,
    /// How long events stay in Postgres; `None` is for ever.
    pub retention: Option<Duration>,
    /// How long a lane holds a batch for Redis before ingest goes on without it.
    pub redis_hold: Duration,
    pub ops: OpsAddr,
    pub serve: Serve,
    /// `None`: human on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
    pub log_filter: String,
    broker: Option<Broker>,
    store: Option<Store>,
    import: Option<Import>,
    projection: Option<Projection>,
    /// What holds, a line a setting, without secrets.
    shown: Vec<String>,
}

/// Where the ops endpoint listens; `None` is nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpsAddr {
    pub addr: Option<SocketAddr>,
    /// Whether somebody asked for just this one. Else a busy port is no reason to stop.
    pub explicit: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

/// RabbitMQ: where, and the names of what is there.
#[derive(Clone, Debug)]
pub struct Broker {
    /// `amqp://` or `amqps://`, with the user and password: never log it.
    pub url: Secret,
    pub exchange: String,
    pub queue: String,
    /// The dead letters' exchange and queue share this name.
    pub dead_letters: String,
    /// Deliveries of one message before the broker itself dead-letters it.
    pub delivery_limit: u32,
    /// Whether a worker may declare what is missing.
    pub declare_topology: bool,
    /// For declaring and each confirm; connecting gets a part of it.
    pub timeout: Duration,
}

/// Postgres: the primary, and a replica where there is one.
#[derive(Clone, Debug)]
pub struct Store {
    pub url: Secret,
    pub replica_url: Option<Secret>,
    pub partition_by: PartitionBy,
    /// Partitions made ahead of the one that holds now.
    pub partitions_ahead: u32,
    /// For each statement; connecting gets a part of it.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionBy {
    Day,
    Month,
}

/// Somebody's Postgres, to read events from.
#[derive(Clone, Debug)]
pub struct Import {
    pub url: Secret,
    /// Connecting gets a part of it.
    pub timeout: Duration,
}

/// Redis. The key prefix is part of `Sets`.
#[derive(Clone, Debug)]
pub struct Projection {
    /// `redis://`, `rediss://`, `redis-cluster://` or `redis-sentinel://`.
    pub url: Secret,
    /// For connecting and each command.
    pub timeout: Duration,
}

/// The worker's own bounds.
#[derive(Clone, Debug)]
pub struct Ingest {
    pub lanes: u16,
    /// Unacknowledged deliveries of one lane, once it runs warm.
    pub prefetch_max: u16,
    /// What the prefetched bodies of one lane may weigh together, judged by those seen.
    pub prefetch_bytes: usize,
    pub batch_events_max: usize,
    pub batch_bytes_max: usize,
    pub batch_age_max: Duration,
    /// How long a lane holds a batch for a store that is away before it gives the session up.
    pub hold_max: Duration,
    /// Share of condemned events, in per cent, above which the worker stops consuming; 0: never.
    pub breaker_percent: u8,
    /// Events that share is judged by.
    pub breaker_events: u64,
    /// Until it consumes again by itself.
    pub breaker_wait: Duration,
    /// How long a session may be given nothing while messages are ready.
    pub watchdog: Duration,
    pub drain: Duration,
    pub retry_min: Duration,
    pub retry_max: Duration,
}

/// The query role's own bounds, of one process.
#[derive(Clone, Debug)]
pub struct Serve {
    pub addr: SocketAddr,
    pub connections_max: usize,
    /// Requests that are worked on at once.
    pub in_flight_max: usize,
    pub requests_per_second_max: u32,
    /// Streams of snapshots that are open at once, each on a connection.
    pub streams_max: usize,
    /// For one answer.
    pub timeout: Duration,
    /// The one origin whose pages may read the answers, or `*`; `None`: only our own page.
    pub cors_origin: Option<String>,
}

/// A URL that must not be printed: it may hold a password. `Debug` writes `***`.
#[derive(Clone)]
pub struct Secret {
    at_start: String,
    /// Where it came from, and with which schemes it is usable.
    file: Option<(PathBuf, &'static [&'static str])>,
}

impl Secret {
    /// One that does not change.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret { at_start: text.into(), file: None }
    }

    /// What was read at the start.
    pub fn at_start(&self) -> &str {
        &self.at_start
    }

    /// What holds now: its file is read anew, so that a password that was replaced counts from the
    /// next connection on.
    ///
    /// # Errors
    /// Why the file is of no use now, in words that hold nothing of it.
    pub fn now(&self) -> Result<Cow<'_, str>, String> {
        let Some((path, schemes)) = &self.file else {
            return Ok(Cow::Borrowed(&self.at_start));
        };
        let usable = source::read(path).and_then(|text| match redact::endpoint(&text, schemes) {
            Ok(_) => Ok(text),
            Err(why) => Err(why.to_owned()),
        });
        usable.map(Cow::Owned).map_err(|why| format!("in {} is of no use: {why}", path.display()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
