//! What can go wrong with Redis, and what it means for the batch in hand.
//!
//! Redis says what is wrong in the first word of its reply, and fred passes most of those words on
//! as `ErrorKind::Unknown`: the word decides first, fred's kind only where there is none.
//! Never holds a member or a credential: replies are cut before the arguments they quote.

use std::time::Duration;

use fred::error::{Error as FredError, ErrorKind};
use fred::types::config::Server;

use crate::retry::Class;

/// Longer replies say nothing more, and may quote what must not be logged.
const REPLY_CHARS_MAX: usize = 200;

#[derive(Debug, thiserror::Error)]
pub enum ProjectionError {
    #[error("the Redis URL cannot be used: {why}")]
    Url { why: String },
    #[error("could not connect to Redis at {servers}")]
    Connect {
        servers: String,
        #[source]
        source: FredError,
    },
    #[error("Redis at {servers} was not connected within {waited:?}")]
    Away { servers: String, waited: Duration },
    #[error("Redis did not carry out {command}")]
    Command {
        command: &'static str,
        #[source]
        source: FredError,
    },
    #[error("Redis answered {command} with something else than {expected}")]
    Reply { command: &'static str, expected: &'static str },
    #[error("key {key} in Redis holds another type than its set needs")]
    WrongType { key: String },
    #[error(
        "Redis evicts keys when memory is short (maxmemory-policy {policy}), which would empty \
         sets without a trace: set maxmemory-policy to noeviction"
    )]
    Evicts { policy: String },
    #[error("an estimated set cannot answer {what}: only its cardinality is kept")]
    NotSupported { what: &'static str },
    #[error("Redis lost a part of the sets that were being made")]
    BuildLost,
    #[error("the Redis client was closed")]
    Closed,
}

impl ProjectionError {
    pub fn class(&self) -> Class {
        match self {
            // The text of the setting is wrong: it will be so on the next try.
            Self::Url { .. } => Class::Config,
            // Refused and hung pass; a wrong password does not.
            Self::Connect { source, .. } | Self::Command { source, .. } => class_of(source),
            // An outage ends.
            Self::Away { .. } => Class::Transient,
            // A half-restarted proxy answers oddly for a while; asking again harms nothing.
            Self::Reply { .. } => Class::Transient,
            // Another program wrote there: someone must look at it and delete or move it.
            Self::WrongType { .. } => Class::Config,
            // The server's configuration must change.
            Self::Evicts { .. } => Class::Config,
            // The question must change.
            Self::NotSupported { .. } => Class::Config,
            // A restart or a failover: they are made again from the start.
            Self::BuildLost => Class::Transient,
            // Only a shutdown closes: who still has work runs it again in the next process.
            Self::Closed => Class::Transient,
        }
    }

    /// Whether the keys of one command belong to different nodes of a cluster.
    pub(super) fn is_cross_slot(&self) -> bool {
        matches!(self, Self::Command { source, .. } if source.details().starts_with("CROSSSLOT"))
    }

    /// The error of one command, cut so that it can be logged.
    pub(super) fn command(command: &'static str, source: FredError) -> Self {
        Self::Command { command, source: loggable(source) }
    }

    /// As `command`, but a key that holds something else is named.
    pub(super) fn on_key(command: &'static str, key: &str, source: FredError) -> Self {
        if is_wrong_type(&source) {
            Self::WrongType { key: key.to_owned() }
        } else {
            Self::command(command, source)
        }
    }

    pub(super) fn connect(servers: &[Server], source: FredError) -> Self {
        Self::Connect { servers: names(servers), source: loggable(source) }
    }

    pub(super) fn away(servers: &[Server], waited: Duration) -> Self {
        Self::Away { servers: names(servers), waited }
    }
}

fn names(servers: &[Server]) -> String {
    servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `ERR unknown command 'X', with args beginning with: …` quotes keys and members: cut there.
fn loggable(error: FredError) -> FredError {
    let details = error.details();
    let told = details.split(", with args").next().unwrap_or_default();
    if told.len() == details.len() && details.len() <= REPLY_CHARS_MAX {
        return error;
    }
    let told: String = told.chars().take(REPLY_CHARS_MAX).collect();
    FredError::new(error.kind().clone(), told)
}

pub(super) fn is_wrong_type(error: &FredError) -> bool {
    error.details().starts_with("WRONGTYPE")
}

pub(super) fn is_timeout(error: &FredError) -> bool {
    *error.kind() == ErrorKind::Timeout
}

fn class_of(error: &FredError) -> Class {
    let details = error.details();
    match details.split_whitespace().next().unwrap_or_default() {
        // Starting, failing over or resharding: another moment or node will take it.
        "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" => {
            Class::Transient
        }
        // Full, cannot persist, too few replicas, busy with a script: ends when someone makes
        // room, and what is refused meanwhile is held, not lost.
        "OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" => Class::Transient,
        // Who we are or what we may do is wrong.
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" | "NOPROTO" => Class::Config,
        // Not a set, or keys that do not share a slot: what is there must be changed.
        "WRONGTYPE" | "CROSSSLOT" => Class::Config,
        "ERR" if is_lasting_err(details) => Class::Config,
        // "max number of clients reached", a proxy's troubles: unknown, so try again.
        "ERR" => Class::Transient,
        _ => class_of_kind(error),
    }
}

/// Replies of the general kind that are the same on each try.
fn is_lasting_err(details: &str) -> bool {
    const LASTING: [&str; 7] = [
        "unknown command",
        "unknown subcommand",
        "wrong number of arguments",
        "syntax error",
        "invalid password",
        "DB index is out of range",
        "cluster support disabled",
    ];
    // AUTH to a server without a password: "ERR AUTH <password> called without any …".
    details.starts_with("ERR AUTH") || LASTING.iter().any(|text| details.contains(text))
}

fn class_of_kind(error: &FredError) -> Class {
    match error.kind() {
        // A certificate that is not trusted arrives as an I/O error, and stays untrusted.
        ErrorKind::IO if error.details().contains("InvalidCertificate") => Class::Config,
        // The network or the server is away or slow.
        ErrorKind::IO | ErrorKind::Timeout => Class::Transient,
        // The connection went while the command was under way, or was replaced.
        ErrorKind::Canceled | ErrorKind::Unknown => Class::Transient,
        // The topology is changing.
        ErrorKind::Cluster | ErrorKind::Routing | ErrorKind::Sentinel => Class::Transient,
        // Too much at once: later there is room.
        ErrorKind::Backpressure => Class::Transient,
        // Garbage on the line; a new connection starts clean.
        ErrorKind::Protocol | ErrorKind::Parse | ErrorKind::NotFound => Class::Transient,
        // Credentials, settings or commands this server will not take, now or later.
        ErrorKind::Auth | ErrorKind::Config | ErrorKind::Url | ErrorKind::Tls => Class::Config,
        ErrorKind::InvalidCommand | ErrorKind::InvalidArgument => Class::Config,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(details: &'static str) -> Class {
        class_of(&FredError::new(ErrorKind::Unknown, details))
    }

    #[test]
    fn the_first_word_of_a_reply_decides() {
        for word in [
            "LOADING Redis is loading the dataset in memory",
            "READONLY You can't write against a read only replica.",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "MISCONF Redis is configured to save RDB snapshots",
            "NOREPLICAS Not enough good replicas to write.",
            "CLUSTERDOWN Hash slot not served",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "MASTERDOWN Link with MASTER is down",
            "BUSY Redis is busy running a script.",
            "ERR max number of clients reached",
        ] {
            assert_eq!(unknown(word), Class::Transient, "{word}");
        }
        for word in [
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "NOPERM this user has no permissions to run the 'sadd' command",
            "ERR unknown command 'SMISMEMBER', with args beginning with: 'k' 'm'",
            "ERR AUTH <password> called without any password configured for the default user.",
        ] {
            assert_eq!(unknown(word), Class::Config, "{word}");
        }
    }

    #[test]
    fn a_lost_connection_is_transient() {
        for kind in [ErrorKind::IO, ErrorKind::Timeout, ErrorKind::Canceled] {
            assert_eq!(class_of(&FredError::new(kind, "")), Class::Transient);
        }
    }

    #[test]
    fn a_reply_never_quotes_members() {
        let reply = "ERR unknown command 'SADD', with args beginning with: 'k' 'secret member' ";
        let error = ProjectionError::command("SADD", FredError::new(ErrorKind::Unknown, reply));
        assert!(!format!("{error:?}").contains("secret member"));
    }
}
