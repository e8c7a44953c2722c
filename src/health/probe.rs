//! `rollcall healthcheck`: asks the ops endpoint of a process on this host. Blocking, short.
//!
//! By default it asks for liveness: a container that is restarted because Postgres is away loses
//! its held batches and gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::config::OpsAddr;
use crate::retry::Class;

const ANSWER_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("there is no ops endpoint to ask: ROLLCALL_OPS_ADDR is off or its port is 0")]
    NoAddress,
    #[error("could not ask {url}")]
    Unreachable {
        url: String,
        #[source]
        source: Box<ureq::Error>,
    },
    #[error("{url} answered {status}")]
    Not { url: String, status: u16 },
}

impl ProbeError {
    pub fn class(&self) -> Class {
        match self {
            // The settings leave nothing to ask.
            ProbeError::NoAddress => Class::Config,
            // It may be starting or ending.
            ProbeError::Unreachable { .. } => Class::Transient,
            // It said so itself, and may say otherwise later.
            ProbeError::Not { .. } => Class::Transient,
        }
    }

    /// 64 for settings, 1 for everything else: what a container runtime takes for unhealthy.
    pub fn exit_code(&self) -> u8 {
        match self.class() {
            Class::Config => 64,
            Class::Transient | Class::Data => 1,
        }
    }
}

/// Asks `/livez`, or `/readyz` when `ready`.
///
/// # Errors
/// There is nobody to ask, no answer within three seconds, or the answer is no.
pub fn probe(ops: OpsAddr, ready: bool) -> Result<(), ProbeError> {
    let addr = ops.addr.filter(|addr| addr.port() != 0).ok_or(ProbeError::NoAddress)?;
    let path = if ready { "readyz" } else { "livez" };
    let url = format!("http://{}/{path}", reachable(addr));
    // Without the proxy that the environment may name: it is on this host.
    let agent = ureq::Agent::new_with_config(
        ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_MAX))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build(),
    );
    match agent.get(&url).call() {
        Ok(answer) if answer.status().as_u16() == 200 => Ok(()),
        Ok(answer) => Err(ProbeError::Not { url, status: answer.status().as_u16() }),
        Err(source) => Err(ProbeError::Unreachable { url, source: Box::new(source) }),
    }
}

/// One can listen on "any address", and cannot connect to it.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}
