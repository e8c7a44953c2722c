//! How spans leave the process: OTLP, protobuf over HTTP/1.1, from the SDK's own thread, where a
//! request may block.
//!
//! Every request is bounded in time and its answer in size. Never logs more than once a minute,
//! whatever the collector does, and never a header or an answer: either may hold a credential.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::telemetry::chain;

/// OpenTelemetry's own variables and default, in milliseconds.
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer says at most how many spans were refused.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

const SAY_EVERY: Duration = Duration::from_secs(60);

/// # Errors
/// Why the variables are of no use, in words that hold nothing of them.
pub(super) fn exporter(endpoint: &str) -> Result<SpanExporter, &'static str> {
    let timeout = timeout();
    let client = Client { agent: agent(endpoint, timeout), state: Mutex::default() };
    SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_timeout(timeout)
        .build()
        // Its text holds the URL, and that may hold a password.
        .map_err(|_| "OpenTelemetry's SDK does not take the settings of the exporter")
}

fn timeout() -> Duration {
    let given = |name: &&str| std::env::var(name).ok()?.parse().ok().filter(|ms: &u64| *ms > 0);
    TIMEOUTS.iter().find_map(given).map_or(TIMEOUT, Duration::from_millis)
}

fn agent(endpoint: &str, timeout: Duration) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("rollcall/", env!("CARGO_PKG_VERSION")));
    if endpoint.starts_with("https") {
        let trusted = rustls_native_certs::load_native_certs().certs;
        let trusted = trusted.iter().map(|der| Certificate::from_der(der).to_owned());
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::Specific(Arc::new(trusted.collect())));
        config = config.tls_config(tls.build());
    }
    ureq::Agent::new_with_config(config.build())
}

struct Client {
    agent: ureq::Agent,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was said last was that nothing is taken.
    failing: bool,
    said_at: Option<Instant>,
}

impl Client {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(head, &*body))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(head, Bytes::from(body)))
    }

    fn tell(&self, sent: &Result<Response<Bytes>, HttpError>) {
        let failure = match sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status().as_u16())),
            Err(error) => Some(chain(error.as_ref())),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            None if state.failing => {
                state.failing = false;
                tracing::info!("the collector takes spans again");
            }
            Some(why) if !state.failing && state.may_say() => {
                state.failing = true;
                state.said_at = Some(Instant::now());
                tracing::warn!(why, "the collector does not take spans: they are dropped");
            }
            None | Some(_) => {}
        }
    }
}

impl State {
    fn may_say(&self) -> bool {
        self.said_at.is_none_or(|at| at.elapsed() > SAY_EVERY)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl HttpClient for Client {
    /// Blocks: the thread that asks has nothing else to do. Written out, as the attribute that
    /// the trait was made with is one crate more.
    fn send_bytes<'life, 'future>(
        &'life self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        let sent = self.send(request);
        self.tell(&sent);
        Box::pin(std::future::ready(sent))
    }
}
