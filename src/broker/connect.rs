//! One AMQP connection: its URL, its name, its timeouts.
//!
//! Never logs or returns a URL, and never lets the client recover by itself: after a loss,
//! deliveries of the old connection would go on coming without a mark.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::types::ShortString;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties};

use super::BrokerError;
use crate::config;
use crate::retry::connect_limit;
use crate::tls::{Files, with_or_without};

/// A connection whose other end is silently gone ends 16 to 20 s later: lapin looks every half of
/// this whether it has been twice this. With 2 s to close what is left, that is within 25 s.
const HEARTBEAT_SECS: u16 = 8;
/// RabbitMQ's own default. A message's headers are one frame, as large as its producer's connection
/// allowed, and one that is larger than ours ends the session. Where RabbitMQ has no limit, lapin,
/// which keeps room for 32 frames each way, must have one. A quarter of it saved no memory: draining
/// 250,000 small events a worker took 49 to 53 MiB with these frames, 49 to 51 with 32 KiB.
const FRAME_BYTES_MAX: u32 = 128 * 1024;

/// Runs `operation` for at most `limit`; `tried` names it in an error.
pub(super) async fn timed<T>(
    limit: Duration,
    tried: impl Fn() -> String,
    operation: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(limit, operation).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(BrokerError::amqp(tried(), source)),
        Err(_elapsed) => Err(BrokerError::Timeout { tried: tried(), after: limit }),
    }
}

/// Connects. `role` is what an operator reads in the broker's list of connections.
pub(super) async fn connect(
    config: &config::Broker,
    role: &str,
) -> Result<Connection, BrokerError> {
    let limit = connect_limit(config.timeout);
    let url = config.url.now().map_err(|why| BrokerError::Url { why })?;
    let uri = parse_url(&url, limit)?;
    let tried = connecting_to(&uri);
    let tls = match uri.scheme {
        AMQPScheme::AMQP => None,
        AMQPScheme::AMQPS => {
            let files = Files::of(&url)
                .map_err(|why| BrokerError::Url { why: format!("cannot be used: {why}") })?;
            let client = files
                .client()
                .map_err(|source| BrokerError::Tls { tried: tried.clone(), source })?;
            Some(RustlsConnector::from(client))
        }
    };
    let runtime =
        lapin::runtime::default_runtime().map_err(|source| BrokerError::amqp(&tried, source))?;
    let (host, pid) = (host_name(), std::process::id());
    let properties = ConnectionProperties::default()
        .with_connection_name(format!("rollcall {role} {host}:{pid}").into())
        .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());

    // lapin drives a connection on a thread of its own, which lives on when the future made here
    // is dropped: so the TCP and TLS part gets its own timeout inside that thread, and the line
    // lets a server that accepts but never answers be hung up on.
    let line = Line::default();
    let hang_up = HangUp(line.clone());
    let open = Connection::connector(
        uri,
        runtime,
        async move |uri, runtime| {
            let stream = async {
                let address = (uri.authority.host.clone(), uri.authority.port);
                let address = runtime.to_socket_addrs(address);
                let stream = AsyncTcpStream::connect(&runtime, address).await?;
                match &tls {
                    None => Ok(stream),
                    Some(tls) => stream.into_rustls(tls, &uri.authority.host).await,
                }
            };
            let stream =
                tokio::time::timeout(limit, stream).await.map_err(std::io::Error::from)??;
            let tcp = match &stream {
                AsyncTcpStream::Plain(stream) => Some(stream.get_ref()),
                AsyncTcpStream::Rustls(stream) => Some(stream.get_ref().0.get_ref()),
                _ => None,
            };
            if let Some(tcp) = tcp {
                // Confirms and acks are small: Nagle would hold them for the peer's delayed ACK.
                tcp.set_nodelay(true)?;
                line.connected(socket2::SockRef::from(tcp).try_clone()?)?;
            }
            Ok(stream)
        },
        properties,
    );
    let connection = timed(limit, || tried.clone(), open).await?;
    hang_up.disarm();
    Ok(connection)
}

/// A second handle of a socket that lapin's thread holds, while the handshake is under way.
#[derive(Clone, Default)]
struct Line(Arc<Mutex<LineState>>);

#[derive(Default)]
enum LineState {
    #[default]
    Connecting,
    Connected(socket2::Socket),
    /// Up, or given up before it was: the handle is not needed any more.
    Over,
}

impl Line {
    fn swap(&self, state: LineState) -> LineState {
        // A panic of another holder cannot leave the state half-written.
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut held, state)
    }

    fn connected(&self, socket: socket2::Socket) -> std::io::Result<()> {
        match self.swap(LineState::Connected(socket)) {
            LineState::Over => Err(std::io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }
}

/// Ends a handshake whose future is dropped: by a timeout, or because a sibling failed.
struct HangUp(Line);

impl HangUp {
    fn disarm(self) {
        self.0.swap(LineState::Over);
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if let LineState::Connected(socket) = self.0.swap(LineState::Over) {
            // Failing to hang up means that the other end already did.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// A fresh channel: every failed operation closes the one it ran on.
pub(super) async fn channel(
    connection: &Connection,
    limit: Duration,
) -> Result<Channel, BrokerError> {
    timed(limit, || "opening a channel".into(), connection.create_channel()).await
}

/// Says goodbye. A connection that is already gone needs none.
pub(super) async fn close(connection: &Connection, limit: Duration) {
    let _ = tokio::time::timeout(limit, connection.close(200, "OK".into())).await;
}

/// `ShortString::from` panics above 255 bytes; names come from configuration and messages.
pub(super) fn short(what: &'static str, name: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(name)
        .map_err(|_| BrokerError::NameTooLong { what, name: name.chars().take(80).collect() })
}

fn parse_url(url: &str, limit: Duration) -> Result<AMQPUri, BrokerError> {
    let mut uri: AMQPUri = url.parse().map_err(|why: String| BrokerError::Url {
        // Two of the parser's messages repeat what they were given, which may hold the password.
        why: match why.starts_with("Invalid") {
            true => "has another scheme or shape".to_owned(),
            false => format!("cannot be read: {why}"),
        },
    })?;
    // The parser takes an IPv6 literal for "no host" and would go to localhost.
    if let Some(host) = ipv6_literal(url) {
        uri.authority.host = host.to_owned();
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECS);
    uri.query.frame_max.get_or_insert(FRAME_BYTES_MAX);
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    uri.query.connection_timeout.get_or_insert(millis);
    Ok(uri)
}

fn ipv6_literal(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    host.strip_prefix('[')?.split_once(']').map(|(host, _)| host)
}

fn connecting_to(uri: &AMQPUri) -> String {
    let AMQPUri { scheme, authority, vhost, .. } = uri;
    let tls = with_or_without(*scheme == AMQPScheme::AMQPS);
    let (host, port, user) = (&authority.host, authority.port, &authority.userinfo.username);
    format!("connecting to rabbitmq at {host}:{port} {tls}, vhost `{vhost}`, as user `{user}`")
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    #[test]
    fn an_error_about_a_url_never_repeats_it() {
        for url in ["guest:hunter2@host", "amqp:hunter2", "http://u:hunter2@h/", "amqp://h:x/"] {
            let error = parse_url(url, LIMIT).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_ipv6_host_is_not_taken_for_localhost() {
        let uri = parse_url("amqp://u:p@[fd00::7]:5673/%2f", LIMIT).unwrap();
        assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("fd00::7", 5673));
        let uri = parse_url("amqp://10.0.0.7/x", LIMIT).unwrap();
        assert_eq!(uri.authority.host, "10.0.0.7");
    }

    #[test]
    fn a_heartbeat_of_the_users_own_stays() {
        let uri = parse_url("amqp://h/?heartbeat=30", LIMIT).unwrap();
        assert_eq!(uri.query.heartbeat, Some(30));
        let uri = parse_url("amqp://h", LIMIT).unwrap();
        assert_eq!(uri.query.heartbeat, Some(HEARTBEAT_SECS));
    }
}
