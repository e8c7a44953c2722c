//! Spans: one a batch, with a link to the trace of each message, sent to an OpenTelemetry collector
//! by a build with the feature `otlp`. In any other build all of this is nothing, at no cost.
//!
//! Never a span an event, never anything of a payload, a member or a credential, and never in the
//! way of a batch: what a collector does not take in time is dropped.

#[cfg(feature = "otlp")]
mod client;
#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod otlp;

#[cfg(not(feature = "otlp"))]
pub use off::{BatchSpan, Spans, held, skipped};
#[cfg(feature = "otlp")]
pub use otlp::{BatchSpan, Spans, held, skipped};

/// OpenTelemetry's own variables, the first one the more particular.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// The variable that names a collector, and what it says; `None` where nobody wants spans.
fn collector() -> Option<(&'static str, String)> {
    let value = |name: &str| std::env::var(name).unwrap_or_default();
    let is_off = value("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true")
        || value("OTEL_TRACES_EXPORTER") == "none";
    if is_off {
        return None;
    }
    ENDPOINTS.iter().map(|name| (*name, value(name))).find(|(_, value)| !value.is_empty())
}
