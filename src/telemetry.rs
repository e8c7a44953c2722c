//! Logs, metrics and spans: how they leave the process.
//!
//! Never logs or labels with a payload, a member or a credential. Metrics are handles made once,
//! in `metrics`; nobody registers a series elsewhere.

mod labels;
mod metrics;
mod serve;
pub mod spans;
mod tally;
mod trace_parent;

use std::io::IsTerminal as _;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterFn, ParseError};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, fmt};

pub use labels::{ByLabel, Dependency, Drift, Label, Outcome, Stage, Trigger};
pub use metrics::{Exporter, Metrics};
pub use serve::ServeMetrics;
pub use spans::{BatchSpan, Spans};
pub use trace_parent::{TRACEPARENT, TraceParent};

use crate::config::LogFormat;
use crate::retry::Class;

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("could not understand the log filter")]
    Filter(#[from] ParseError),
    #[error("could not start logging")]
    Init(#[from] TryInitError),
}

impl TelemetryError {
    pub fn class(&self) -> Class {
        match self {
            // RUST_LOG is wrong; the settings check should have said so.
            TelemetryError::Filter(_) => Class::Config,
            // Called twice: no retry and no event can change that.
            TelemetryError::Init(_) => Class::Config,
        }
    }
}

/// Sends logs to stderr, as `format` says, or by whether stderr is a terminal.
///
/// # Errors
/// The filter cannot be read, or logging was started before.
pub fn init(format: Option<LogFormat>, filter: &str) -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Human } else { LogFormat::Json });
    let logs = fmt::layer()
        .with_writer(std::io::stderr)
        // On a closed stderr it would report the failure to stderr, and panic on that.
        .log_internal_errors(false);
    let told = Registry::default().with(filter).with(FilterFn::new(is_fit_to_tell));
    match format {
        LogFormat::Human => told.with(logs.with_ansi(terminal)).try_init()?,
        LogFormat::Json => {
            let json = logs.with_ansi(false).json().flatten_event(true).with_span_list(false);
            told.with(json).try_init()?;
        }
    }
    Ok(())
}

/// What the clients say below a warning holds what they send and receive, whatever RUST_LOG asks
/// for: events, members, and passwords when they log in. lapin warns with the whole of a message that
/// came back; what there is to know of it our own errors say.
fn is_fit_to_tell(metadata: &Metadata<'_>) -> bool {
    const CLIENTS: [&str; 9] = [
        "amq_protocol",
        "async_rs",
        "fred",
        "opentelemetry",
        "redis_protocol",
        "rustls",
        "sqlx",
        "tcp_stream",
        "ureq",
    ];
    let of_client = || CLIENTS.iter().any(|client| metadata.target().starts_with(client));
    !metadata.target().starts_with("lapin") && (*metadata.level() <= Level::WARN || !of_client())
}

/// An error and its causes on one line. Its own texts must hold no secrets; they never do.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// UTC, as every time is printed.
pub fn rfc3339(at: time::OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    // Fails for years beyond 9999 alone, which no decoder lets in.
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}
