//! What can go wrong with Postgres. An error must never carry a payload, a password or a type of
//! sqlx (whose `Debug` prints the server's DETAIL, which quotes the payload).

use std::borrow::Cow;
use std::time::Duration;

use super::sqlstate;
use crate::retry::Class;
use crate::tls;

/// A failure of the store as a whole. A row that Postgres refuses is not one: see
/// [`super::Refused`].
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the postgres URL {rule}")]
    Url { rule: String },

    #[error("the query {rule}")]
    Query { rule: &'static str },

    #[error("connect to postgres at {target}")]
    Connect { target: String, source: Cause },

    #[error("{doing} in postgres")]
    Statement { doing: Cow<'static, str>, source: Cause },

    #[error("{doing} in postgres: no answer within {} ms", after.as_millis())]
    Timeout { doing: Cow<'static, str>, after: Duration },

    #[error("the postgres connection was left in the middle of a statement and must be replaced")]
    Broken,

    #[error("postgres at {target} is a standby or read only, not the primary")]
    NotPrimary { target: String },

    #[error("postgres at {target} is no replica of this primary")]
    OtherReplica { target: String },

    #[error("postgres at {target} is not a standby: nothing tells how far it follows")]
    NotReplica { target: String },

    #[error("the postgres replica has not replayed the log for {} s", waited.as_secs())]
    ReplicaBehind { waited: Duration },

    #[error("postgres is version {found}; at least version 14 is needed")]
    ServerTooOld { found: String },

    #[error("the database lacks migrations {missing:?}; run `rollcall manage migrate`")]
    NotMigrated { missing: Vec<i64> },

    #[error(
        "the database has migrations {unknown:?} that this rollcall does not know; use a newer one"
    )]
    SchemaNewer { unknown: Vec<i64> },

    #[error("migration {version} was applied with another text than this rollcall has")]
    MigrationChanged { version: i64 },

    #[error("migration {version} was begun and not finished; repair it by hand")]
    MigrationUnfinished { version: i64 },

    #[error("another process has been migrating for {} s", waited.as_secs())]
    MigrationLocked { waited: Duration },
}

impl StoreError {
    /// Whether trying again helps. `EventStore::insert` never returns one of class data.
    pub fn class(&self) -> Class {
        match self {
            // Somebody has to write another URL.
            StoreError::Url { .. } => Class::Config,
            // Or another query.
            StoreError::Query { .. } => Class::Config,
            // What the server or the network said decides.
            StoreError::Connect { source, .. } | StoreError::Statement { source, .. } => {
                source.class()
            }
            // Overload, a lock or a dead network: all of them pass.
            StoreError::Timeout { .. } => Class::Transient,
            // A new connection is all it takes.
            StoreError::Broken => Class::Transient,
            // A failover under way: the name will lead to the primary again.
            StoreError::NotPrimary { .. } => Class::Transient,
            // The primary is read instead.
            StoreError::NotReplica { .. } | StoreError::ReplicaBehind { .. } => Class::Transient,
            // Somebody has to write another URL.
            StoreError::OtherReplica { .. } => Class::Config,
            // An upgrade does not come by itself.
            StoreError::ServerTooOld { .. } => Class::Config,
            // The same for the schema: a worker never migrates.
            StoreError::NotMigrated { .. }
            | StoreError::SchemaNewer { .. }
            | StoreError::MigrationChanged { .. }
            | StoreError::MigrationUnfinished { .. } => Class::Config,
            // The other migration ends at some time.
            StoreError::MigrationLocked { .. } => Class::Transient,
        }
    }

    /// The server's five characters, where the server spoke.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            StoreError::Connect { source: Cause::Server { sqlstate, .. }, .. }
            | StoreError::Statement { source: Cause::Server { sqlstate, .. }, .. } => {
                Some(sqlstate)
            }
            _ => None,
        }
    }

    /// Nobody answered in time, as against a refusal.
    pub fn is_silence(&self) -> bool {
        let slow = matches!(self, StoreError::Connect { source: Cause::Slow(_), .. });
        slow || matches!(self, StoreError::Timeout { .. })
    }

    /// The row had no partition to go to.
    pub(super) fn is_unrouted(&self) -> bool {
        let StoreError::Statement { source: Cause::Server { sqlstate, unrouted, .. }, .. } = self
        else {
            return false;
        };
        sqlstate == "23514" && *unrouted
    }
}

/// Who said no, stripped of everything that might quote an event.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The server: its primary message; for an error in an event without what it quotes.
    #[error("{message} (SQLSTATE {sqlstate})")]
    Server { sqlstate: String, message: String, unrouted: bool },

    /// The network or the socket.
    #[error(transparent)]
    Io(std::io::Error),

    #[error("{0}")]
    Tls(String),

    /// No answer while connecting.
    #[error("no answer within {} ms", .0.as_millis())]
    Slow(Duration),

    /// The driver lost the thread: an answer out of turn, a type that does not fit.
    #[error("{0}")]
    Driver(String),
}

impl Cause {
    pub fn class(&self) -> Class {
        match self {
            Cause::Server { sqlstate, unrouted, .. } => sqlstate::class(sqlstate, *unrouted),
            // The server or the way to it is down; it comes back.
            Cause::Io(_) | Cause::Slow(_) => Class::Transient,
            // A certificate or a mode that does not fit: stays so until somebody changes it.
            Cause::Tls(_) => Class::Config,
            // The connection is replaced, and with it what had got out of step.
            Cause::Driver(_) => Class::Transient,
        }
    }

    /// Whether the connection is of no more use.
    pub(super) fn ends_connection(&self) -> bool {
        match self {
            Cause::Server { sqlstate, .. } => sqlstate::ends_connection(sqlstate),
            Cause::Io(_) | Cause::Tls(_) | Cause::Slow(_) | Cause::Driver(_) => true,
        }
    }
}

impl From<sqlx::Error> for Cause {
    fn from(error: sqlx::Error) -> Cause {
        match error {
            sqlx::Error::Database(error) => {
                let sqlstate = error.code().unwrap_or_default().into_owned();
                let unrouted = error.constraint().is_none() && error.table().is_some();
                let message = match sqlstate::class(&sqlstate, unrouted) {
                    Class::Data => sqlstate::scrubbed(error.message(), error.constraint()),
                    Class::Transient | Class::Config => sqlstate::bounded(error.message()),
                };
                Cause::Server { sqlstate, message, unrouted }
            }
            sqlx::Error::Io(error) => match tls::refusal(&error.to_string()) {
                Some(why) => Cause::Tls(format!("no TLS: {why}")),
                None => Cause::Io(error),
            },
            sqlx::Error::Tls(error) => Cause::Tls(format!("no TLS: {error}")),
            other => Cause::Driver(sqlstate::bounded(&other.to_string())),
        }
    }
}
