//! The ops endpoint: /livez, /readyz, /metrics. Read-only, bounded, never a reader's way in.
//!
//! One request a connection and a few seconds for it, so that nobody can hold it up for long.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::Health;
use crate::config::OpsAddr;
use crate::retry::Class;
use crate::telemetry::Metrics;

/// Probes and scrapes are a few a second at most.
const CONNECTIONS_MAX: usize = 64;
const HEADERS_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX_WAIT: Duration = Duration::from_secs(2);
const CONNECTION_MAX: Duration = Duration::from_secs(5);
/// What is open when it ends gets this long to finish.
const STOP_MAX: Duration = Duration::from_secs(1);
/// Histograms gather a few values a flush; five seconds of them are little.
const UPKEEP: Duration = Duration::from_secs(5);
/// After accept() failed: most likely out of file descriptors, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    #[error("could not listen on {addr} for the ops endpoint")]
    Bind {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl OpsError {
    pub fn class(&self) -> Class {
        match self {
            // Somebody asked for just this address, and it is taken or not ours.
            OpsError::Bind { .. } => Class::Config,
        }
    }
}

/// Listens where the settings say; `None` when they say nowhere. If nobody chose the address and
/// it is taken, as by a second worker on the host, a free port has to do.
///
/// # Errors
/// The address cannot be had.
pub async fn bind(ops: OpsAddr) -> Result<Option<TcpListener>, OpsError> {
    let Some(addr) = ops.addr else {
        return Ok(None);
    };
    let failed = |addr| move |source| OpsError::Bind { addr, source };
    let listener = match TcpListener::bind(addr).await {
        Err(error) if error.kind() == ErrorKind::AddrInUse && !ops.explicit => {
            warn!(%addr, "the default ops address is taken, using a free port");
            let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            TcpListener::bind(free).await.map_err(failed(free))?
        }
        other => other.map_err(failed(addr))?,
    };
    let addr = listener.local_addr().map_err(failed(addr))?;
    info!(%addr, "ops endpoint listening");
    Ok(Some(listener))
}

#[derive(Clone)]
struct Told {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// Answers until `until` is done, which should be after the drain, so that it can be watched.
/// Keeps the metrics in shape as well.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    until: impl Future<Output = ()>,
) {
    let told = Told { health, metrics: metrics.clone() };
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(page))
        .route("/resume", post(resume))
        .with_state(told);
    let mut connections = JoinSet::new();
    let mut upkeep = interval(UPKEEP);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut until = std::pin::pin!(until);
    loop {
        // Cancel-safe: accept, join_next and tick each either happen or have changed nothing.
        tokio::select! {
            () = &mut until => break,
            _ = upkeep.tick() => metrics.run_upkeep(),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => drop(connections.spawn(answer(stream, router.clone()))),
                Err(error) => {
                    warn!(%error, "the ops endpoint could not accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // Past it whoever is left is a slow reader; the rest end with the set.
    let _ = timeout(STOP_MAX, async { while connections.join_next().await.is_some() {} }).await;
    connections.shutdown().await;
}

/// Ends the breaker's wait, where there is one.
async fn resume(State(told): State<Told>) -> StatusCode {
    told.health.resume();
    StatusCode::NO_CONTENT
}

async fn answer(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_MAX_WAIT)
        .max_buf_size(HEADERS_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that talks nonsense, is slow or has gone is its own affair.
    let _ = timeout(CONNECTION_MAX, connection).await;
}

async fn livez(State(told): State<Told>) -> Response {
    if told.health.is_alive(Instant::now()) {
        (StatusCode::OK, "alive\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no progress\n").into_response()
    }
}

async fn readyz(State(told): State<Told>) -> Response {
    let report = told.health.report(Instant::now());
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_string(&report) {
        Ok(json) => {
            (status, [(header::CONTENT_TYPE, "application/json")], json + "\n").into_response()
        }
        // Plain strings and numbers, so this does not happen.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn page(State(told): State<Told>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], told.metrics.render()).into_response()
}
