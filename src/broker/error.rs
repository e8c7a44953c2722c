//! What can go wrong with the broker, and whether trying again helps.
//!
//! Never holds a URL or a password: an endpoint is named by user, host, port and virtual host.

use std::fmt;
use std::io;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::retry::Class;
use crate::tls::{self, TlsError};

#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("the broker URL, amqp://user:password@host:port/vhost, {why}")]
    Url { why: String },
    #[error("{tried} failed")]
    Tls {
        tried: String,
        #[source]
        source: TlsError,
    },
    #[error("{what} `{name}` is longer than the 255 bytes AMQP allows")]
    NameTooLong { what: &'static str, name: String },
    #[error("{tried} did not finish within {after:?}")]
    Timeout { tried: String, after: Duration },
    #[error("{tried} failed")]
    Amqp {
        tried: String,
        #[source]
        source: Cause,
    },
    #[error(
        "queue `{queue}` exists with other arguments than configured ({server_says}); either \
         set the configuration to what is there, or drain the queue, delete it and let it be \
         declared again, or name another queue"
    )]
    QueueDiffers { queue: String, server_says: String },
    #[error(
        "exchange `{exchange}` exists with another type or arguments ({server_says}); delete it \
         and let it be declared again, or name another exchange"
    )]
    ExchangeDiffers { exchange: String, server_says: String },
    #[error(
        "{what} `{name}` does not exist and is not to be declared here: run `rollcall manage \
         topology`"
    )]
    Missing { what: &'static str, name: String },
    #[error("the broker cancelled the consumer of `{queue}`")]
    ConsumerCancelled { queue: String },
    #[error("lane broke its order of deliveries: expected tag {expected}, got {got}")]
    OutOfOrder { expected: u64, got: u64 },
    #[error("consuming `{queue}` was resumed before everything prefetched had been read")]
    NotDrained { queue: String },
    #[error("{tried}: the broker answered with a negative confirm")]
    Nacked { tried: String },
    #[error("no queue takes messages of exchange `{exchange}` with routing key `{routing_key}`")]
    Unroutable { exchange: String, routing_key: String },
    #[error("the publisher has ended: an earlier error or its own close")]
    PublisherClosed,
}

/// What lapin said. Its own `Display` nests each error in the next; this says it once.
#[derive(Debug)]
pub struct Cause(lapin::Error);

impl std::error::Error for Cause {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.kind() {
            ErrorKind::ProtocolError(error) => f.write_str(error.get_message().as_str()),
            ErrorKind::IOError(error) => {
                let said = error.to_string();
                f.write_str(tls::refusal(&said).unwrap_or(&said))
            }
            _ => write!(f, "{}", self.0),
        }
    }
}

impl BrokerError {
    /// Whether the same again can help. No error of the broker is ever the event's fault.
    pub fn class(&self) -> Class {
        match self {
            // Written down wrongly: the same text gives the same answer.
            Self::Url { .. } | Self::NameTooLong { .. } => Class::Config,
            // A file that somebody has to put right.
            Self::Tls { .. } => Class::Config,
            // The server or the network may answer next time.
            Self::Timeout { .. } => Class::Transient,
            Self::Amqp { source, .. } => class_of(&source.0),
            // Only a person may delete a queue or exchange, or change what was configured.
            Self::QueueDiffers { .. } | Self::ExchangeDiffers { .. } => Class::Config,
            // Somebody with the right to declare has to do it.
            Self::Missing { .. } => Class::Config,
            // A new session consumes again; if the queue is gone it says so itself.
            Self::ConsumerCancelled { .. } => Class::Transient,
            // Our own order is lost with this session; a new one starts clean from redelivery.
            Self::OutOfOrder { .. } | Self::NotDrained { .. } => Class::Transient,
            // Quorum lost, or a queue that is full: passes.
            Self::Nacked { .. } => Class::Transient,
            // A binding is missing, which does not come by itself.
            Self::Unroutable { .. } => Class::Config,
            // A new publisher is to be made.
            Self::PublisherClosed => Class::Transient,
        }
    }

    /// A publish found no exchange, or no queue behind it.
    pub(super) fn is_missing_route(&self) -> bool {
        matches!(self, Self::Unroutable { .. }) || self.reply().is_some_and(|(code, _)| code == 404)
    }

    pub(super) fn amqp(tried: impl Into<String>, source: lapin::Error) -> Self {
        Self::Amqp { tried: tried.into(), source: Cause(source) }
    }

    /// The server's AMQP reply code and text, where it gave one.
    pub(super) fn reply(&self) -> Option<(u16, &str)> {
        match self {
            Self::Amqp { source, .. } => {
                let error = protocol_error(&source.0)?;
                Some((error.get_id(), error.get_message().as_str()))
            }
            _ => None,
        }
    }
}

fn protocol_error(error: &lapin::Error) -> Option<&AMQPError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error),
        _ => None,
    }
}

fn class_of(error: &lapin::Error) -> Class {
    match error.kind() {
        ErrorKind::ProtocolError(error) => class_of_reply(error),
        // rustls reports what it does not take as invalid data, and what the server does not.
        ErrorKind::IOError(error) if error.kind() == io::ErrorKind::InvalidData => Class::Config,
        // The other end does not speak AMQP 0.9.1, or not this way of logging in.
        ErrorKind::InvalidProtocolVersion(_) | ErrorKind::AuthProviderError(_) => Class::Config,
        // The server's channel_max is too low for the lanes asked for.
        ErrorKind::ChannelsLimitReached => Class::Config,
        // Everything else is the life and death of a connection. The enum is open, and taking
        // an unknown error for a passing one only costs another try.
        _ => Class::Transient,
    }
}

/// By code, and where RabbitMQ uses one code for two things, by its text.
fn class_of_reply(error: &AMQPError) -> Class {
    let says = error.get_message().as_str();
    match error.kind() {
        AMQPErrorKind::Soft(soft) => match soft {
            // User, password or permission.
            AMQPSoftError::ACCESSREFUSED => Class::Config,
            // 404 is also what a quorum queue without a leader answers: that passes.
            AMQPSoftError::NOTFOUND if says.contains("no queue") => Class::Config,
            AMQPSoftError::NOTFOUND if says.contains("no exchange") => Class::Config,
            AMQPSoftError::NOTFOUND => Class::Transient,
            // 406 is also the consumer timeout, and an ack that came twice.
            AMQPSoftError::PRECONDITIONFAILED if says.contains("timed out") => Class::Transient,
            AMQPSoftError::PRECONDITIONFAILED if says.contains("delivery tag") => Class::Transient,
            AMQPSoftError::PRECONDITIONFAILED => Class::Config,
            // The server's max_message_size.
            AMQPSoftError::CONTENTTOOLARGE => Class::Config,
            // Another connection holds it, or nobody listens right now.
            AMQPSoftError::RESOURCELOCKED | AMQPSoftError::NOROUTE | AMQPSoftError::NOCONSUMERS => {
                Class::Transient
            }
        },
        AMQPErrorKind::Hard(hard) => match hard {
            // 530 is a missing or forbidden vhost, but also a limit reached or a vhost down.
            AMQPHardError::NOTALLOWED if says.contains("limit") || says.contains("is down") => {
                Class::Transient
            }
            AMQPHardError::NOTALLOWED => Class::Config,
            // The server cannot do what the topology asks for.
            AMQPHardError::NOTIMPLEMENTED => Class::Config,
            // Ended by an operator, by the server's own trouble, or by a slip on the wire: a new
            // connection starts clean.
            AMQPHardError::CONNECTIONFORCED
            | AMQPHardError::INVALIDPATH
            | AMQPHardError::FRAMEERROR
            | AMQPHardError::SYNTAXERROR
            | AMQPHardError::COMMANDINVALID
            | AMQPHardError::CHANNELERROR
            | AMQPHardError::UNEXPECTEDFRAME
            | AMQPHardError::RESOURCEERROR
            | AMQPHardError::INTERNALERROR => Class::Transient,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16, text: &str) -> Class {
        let error = AMQPError::from_id(code, text.into()).unwrap();
        BrokerError::amqp("trying", ErrorKind::ProtocolError(error).into()).class()
    }

    #[test]
    fn one_reply_code_with_two_meanings_is_told_apart_by_its_text() {
        assert_eq!(reply(404, "NOT_FOUND - no queue 'q' in vhost '/'"), Class::Config);
        assert_eq!(reply(404, "NOT_FOUND - queue 'q' process is stopped"), Class::Transient);
        assert_eq!(reply(406, "PRECONDITION_FAILED - inequivalent arg"), Class::Config);
        assert_eq!(
            reply(406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out"),
            Class::Transient
        );
        assert_eq!(reply(530, "NOT_ALLOWED - vhost x not found"), Class::Config);
        assert_eq!(reply(530, "NOT_ALLOWED - connection limit (2) is reached"), Class::Transient);
        assert_eq!(reply(320, "CONNECTION_FORCED - bye"), Class::Transient);
        assert_eq!(reply(403, "ACCESS_REFUSED - Login was refused"), Class::Config);
    }
}
