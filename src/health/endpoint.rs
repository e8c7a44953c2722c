//! The ops endpoint: /livez, /readyz, /metrics, and POST /resume, all that it changes. Bounded,
//! never a reader's way in.
//!
//! One request a connection and a few seconds for it, so that nobody can hold it up for long.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::Health;
use crate::config::OpsAddr;
use crate::http::{self, BindError, Bounds};
use crate::telemetry::Exporter;

/// Probes and scrapes are a few a second at most.
const BOUNDS: Bounds = Bounds {
    connections_max: 64,
    head_bytes_max: 16 * 1024,
    head_max_wait: Duration::from_secs(2),
    write_max_wait: Duration::from_secs(5),
    keep_alive: false,
    connection_max: Duration::from_secs(5),
    finish_max: Some(Duration::ZERO),
    stop_max: Duration::from_secs(1),
};
/// Histograms gather a few values a flush; five seconds of them are little.
const UPKEEP: Duration = Duration::from_secs(5);

/// Listens where the settings say; `None` when they say nowhere. If nobody chose the address and
/// it is taken, as by a second worker on the host, a free port has to do.
///
/// # Errors
/// The address cannot be had.
pub async fn bind(ops: OpsAddr) -> Result<Option<TcpListener>, BindError> {
    const WHAT: &str = "the ops endpoint";
    let Some(asked) = ops.addr else {
        return Ok(None);
    };
    let listener = match http::bind(asked, WHAT).await {
        Err(BindError::Bind { source, .. })
            if source.kind() == ErrorKind::AddrInUse && !ops.explicit =>
        {
            warn!(addr = %asked, "the default ops address is taken, using a free port");
            http::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), WHAT).await?
        }
        other => other?,
    };
    let addr = listener.local_addr();
    let addr = addr.map_err(|source| BindError::Bind { addr: asked, what: WHAT, source })?;
    info!(%addr, "ops endpoint listening");
    Ok(Some(listener))
}

#[derive(Clone)]
struct Told {
    health: Arc<Health>,
    exporter: Exporter,
}

/// Answers until `until` is done, which should be after the drain, so that it can be watched.
/// Keeps the metrics in shape as well.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    exporter: Exporter,
    until: impl Future<Output = ()>,
) {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(page))
        .route("/resume", post(resume))
        .with_state(Told { health, exporter: exporter.clone() });
    let upkeep = async {
        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            upkeep.tick().await;
            exporter.run_upkeep();
        }
    };
    let service = TowerToHyperService::new(router);
    tokio::select! {
        () = http::serve(listener, service, BOUNDS, |_| {}, until) => {}
        () = upkeep => {}
    }
}

/// Ends the breaker's wait, where there is one.
async fn resume(State(told): State<Told>) -> StatusCode {
    told.health.resume();
    StatusCode::NO_CONTENT
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
    ([(header::CONTENT_TYPE, kind)], told.exporter.render()).into_response()
}
