//! fred's settings, from ours.
//!
//! Its defaults wait for ever, notice no hung server and queue without bound; every one that
//! matters is set here, with its reason. Never prints the URL: it holds the password.

use std::time::Duration;

use fred::socket2::TcpKeepalive;
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectError, ReconnectPolicy, Server,
    TcpConfig, UnresponsiveConfig,
};

use super::client::COMMANDS_IN_FLIGHT_MAX;
use super::error::ProjectionError;
use crate::config::setting::REDIS_SCHEMES;
use crate::config::{self, Secret};
use crate::tls::Files;

/// fred's queue to its router. Twice what we let in, for it also carries commands that timed out
/// during an outage and fred's own reconnects: a full queue would end its router.
const COMMAND_QUEUE_LEN: usize = 2 * COMMANDS_IN_FLIGHT_MAX as usize;
/// A server that leaves a frame unanswered for this long is hung, however patient a command is.
const UNRESPONSIVE_MAX: Duration = Duration::from_secs(8);
/// fred's waits between tries to reach the nodes of a cluster, in ms. Short at first (a restart takes
/// a second), and never longer than an operator watching a recovery will bear.
const RECONNECT_MIN_MS: u32 = 50;
const RECONNECT_MAX_MS: u32 = 2_000;

/// fred's settings, made once from ours, but for what is read anew.
pub(super) struct Settings {
    url: Secret,
    pub(super) performance: PerformanceConfig,
    pub(super) connection: ConnectionConfig,
    /// Of a cluster, whose other nodes go on while one is away. Of one server none: a client that
    /// lost it ends, and the next one is made as the URL and its files say by then.
    pub(super) policy: Option<ReconnectPolicy>,
    /// The addresses, for messages: never the credentials.
    pub(super) servers: Vec<Server>,
    pub(super) timeout: Duration,
}

impl Settings {
    pub(super) fn new(from: &config::Projection) -> Result<Settings, ProjectionError> {
        let timeout = from.timeout;
        let server = parse_url(from.url.at_start())?.server;
        let performance =
            PerformanceConfig { default_command_timeout: timeout, ..Default::default() };
        let mut policy = ReconnectPolicy::new_exponential(0, RECONNECT_MIN_MS, RECONNECT_MAX_MS, 2);
        policy.set_jitter(RECONNECT_MIN_MS);
        Ok(Settings {
            url: from.url.clone(),
            performance,
            connection: connection(timeout),
            policy: server.is_clustered().then_some(policy),
            servers: server.hosts(),
            timeout,
        })
    }

    /// Where to and as whom, as the URL and its files say now.
    pub(super) fn config(&self) -> Result<Config, ProjectionError> {
        let url = self.url.now().map_err(|why| ProjectionError::Url { why })?;
        let mut config = parse_url(&url)?;
        // A first connection that fails is told at once; retrying is the caller's.
        config.fail_fast = true;
        if url.starts_with("rediss") {
            let files = Files::of(&url)
                .map_err(|why| ProjectionError::Url { why: format!("cannot be used: {why}") })?;
            config.tls = Some(files.client()?.into());
        }
        Ok(config)
    }
}

fn connection(timeout: Duration) -> ConnectionConfig {
    let unresponsive = timeout.min(UNRESPONSIVE_MAX);
    ConnectionConfig {
        connection_timeout: timeout,
        internal_command_timeout: timeout,
        max_command_buffer_len: COMMAND_QUEUE_LEN,
        // By default fred sends what a lost connection left unanswered twice more. Retrying is the
        // caller's, who counts it, shows it and knows when to give up.
        max_command_attempts: 1,
        unresponsive: UnresponsiveConfig {
            max_timeout: Some(unresponsive),
            // Looked at four times within the limit, so it is overrun by a quarter at most.
            interval: (unresponsive / 4).max(Duration::from_millis(10)),
        },
        tcp: TcpConfig {
            // A batch is several small writes; none may wait for the other side's delayed ack.
            nodelay: Some(true),
            // Finds a peer that vanished while the connection is idle: 10 s + 3 × 5 s.
            keepalive: Some(
                TcpKeepalive::new()
                    .with_time(Duration::from_secs(10))
                    .with_interval(Duration::from_secs(5))
                    .with_retries(3),
            ),
            // The same for one that vanished while bytes of ours were under way.
            user_timeout: Some(timeout),
            ..Default::default()
        },
        // A node that is not (or no longer) the one to write to: connect anew and find the right
        // one, which after a failover may be behind the same name.
        reconnect_errors: vec![
            ReconnectError::ReadOnly,
            ReconnectError::Loading,
            ReconnectError::ClusterDown,
            ReconnectError::MasterDown,
        ],
        ..Default::default()
    }
}

/// Takes the schemes we document, and no others: fred takes any unknown one for plain `redis`.
fn parse_url(url: &str) -> Result<Config, ProjectionError> {
    let unusable = |why: String| ProjectionError::Url { why: format!("cannot be used: {why}") };
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    if !REDIS_SCHEMES.contains(&scheme) {
        return Err(unusable(format!("its scheme must be one of {}", REDIS_SCHEMES.join(", "))));
    }
    // With TLS fred would read the system's CAs itself, and fail where one of them is broken.
    let plain = url.replacen("rediss", "redis", 1);
    // fred's words for it name the part at fault ("InvalidPort"), never its text.
    Config::from_url(&plain).map_err(|error| unusable(error.details().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> Result<Settings, ProjectionError> {
        Settings::new(&config::Projection {
            url: Secret::new(url),
            timeout: Duration::from_secs(5),
        })
    }

    #[test]
    fn every_documented_scheme_is_understood() {
        let single = settings("redis://ann:p%40ss@127.0.0.1:7001/3").unwrap().config().unwrap();
        assert!(single.server.is_centralized());
        assert_eq!(single.password.as_deref(), Some("p@ss"));
        assert_eq!(single.database, Some(3));
        let cluster = settings("redis-cluster://127.0.0.1:7001?node=127.0.0.1:7002").unwrap();
        assert!(cluster.config().unwrap().server.is_clustered());
        assert_eq!(cluster.servers.len(), 2);
        assert_eq!(
            cluster.policy.map(|policy| policy.max_attempts()),
            Some(0),
            "it never gives up"
        );
        let sentinel = "redis-sentinel://127.0.0.1:26379?sentinelServiceName=main";
        assert!(settings(sentinel).unwrap().config().unwrap().server.is_sentinel());
    }

    #[test]
    fn an_unusable_url_is_a_config_error_that_does_not_print_it() {
        for url in [
            "http://u:hunter2@h",
            "hunter2",
            "unix:///hunter2",
            "redis://u:hunter2@h:99999",
            "redis://u:hunter2@h/hunter2",
            "redis-sentinel://u:hunter2@h:26379",
            "",
        ] {
            let error = settings(url).err().unwrap();
            assert_eq!(error.class(), crate::retry::Class::Config, "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn nothing_waits_for_ever() {
        let settings = settings("redis://127.0.0.1").unwrap();
        assert_eq!(settings.performance.default_command_timeout, Duration::from_secs(5));
        let unresponsive = settings.connection.unresponsive;
        assert!(
            unresponsive.max_timeout.unwrap() + unresponsive.interval < UNRESPONSIVE_MAX * 5 / 4
        );
        assert_eq!(settings.connection.max_command_buffer_len, COMMAND_QUEUE_LEN);
        assert_eq!(settings.connection.max_command_attempts, 1);
    }
}
