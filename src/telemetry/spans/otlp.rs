//! The span of a batch, and of its steps: `process <queue>` with `store` and `projection` below it.
//!
//! A step that waits tells of it by [`held`], which finds its span in the context that
//! OpenTelemetry keeps for the task that runs. Whatever is done here is done in memory: the SDK's
//! own thread sends, from a queue that is bounded and drops what is too much. Never waits, but in
//! `close`.

use std::collections::HashSet;
use std::time::Duration;

use opentelemetry::trace::{
    FutureExt as _, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status,
    TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::{client, collector};
use crate::config::redact;
use crate::telemetry::{Label as _, Stage, TraceParent};

/// What the specification takes for a limit of its own. A batch has thousands of messages; as many
/// links would be larger than all else about it, and no viewer shows them.
const LINKS_MAX: usize = 128;

/// The way to a collector, if there is one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Spans(Option<(SdkTracerProvider, SdkTracer)>);

impl Spans {
    /// As OpenTelemetry's own variables say. A mistake in them is told, and stops nothing: spans
    /// are not what a worker is for.
    pub fn start() -> Spans {
        let Some((variable, endpoint)) = collector() else { return Spans::default() };
        let shown = redact::endpoint(&endpoint, &["http", "https"]);
        let exporter = shown.and_then(|shown| Ok((client::exporter(&endpoint)?, shown)));
        let (exporter, shown) = match exporter {
            Ok(both) => both,
            Err(why) => {
                tracing::error!(variable, why, "no spans: the collector's URL is of no use");
                return Spans::default();
            }
        };
        tracing::info!(collector = shown, "spans are sent");
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource())
            .build();
        let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
        Spans(Some((provider, tracer)))
    }

    /// The span of a batch that is about to be written. `links` is not looked at where the span is
    /// not sampled.
    pub fn batch<L: Iterator<Item = TraceParent>>(
        &self,
        queue: &str,
        messages: usize,
        links: L,
    ) -> BatchSpan {
        let Some((_, tracer)) = &self.0 else { return BatchSpan(None) };
        let builder = SpanBuilder::from_name(format!("process {queue}"))
            .with_kind(SpanKind::Consumer)
            .with_attributes([
                KeyValue::new("messaging.system", "rabbitmq"),
                KeyValue::new("messaging.operation.type", "process"),
                KeyValue::new("messaging.operation.name", "process"),
                KeyValue::new("messaging.destination.name", queue.to_owned()),
                KeyValue::new("messaging.batch.message_count", count(messages)),
            ]);
        // A root: a batch has as many parents as messages, and those are links.
        let mut span = tracer.build_with_context(builder, &Context::new());
        if !span.is_recording() {
            return BatchSpan(None);
        }
        let mut known = HashSet::new();
        for link in links.filter(|link| link.sampled) {
            if known.insert(link) && known.len() <= LINKS_MAX {
                span.add_link(context(link), Vec::new());
            }
        }
        let left_out = known.len().saturating_sub(LINKS_MAX);
        span.set_attribute(KeyValue::new("rollcall.links.left_out", count(left_out)));
        BatchSpan(Some((tracer.clone(), Context::new().with_span(span))))
    }

    /// Sends what is left, for no longer than this.
    pub async fn close(&self, limit: Duration) {
        let Some((provider, _)) = self.0.clone() else { return };
        // The SDK waits for its thread. An error is what the client has told already.
        let closed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit));
        let _ = closed.await;
    }
}

/// Ends with the batch. Dropped before the batch was settled it says so.
#[derive(Debug)]
pub struct BatchSpan(Option<(SdkTracer, Context)>);

/// In the context of a step: that of its batch.
struct Whole(Context);

impl BatchSpan {
    /// A step of the batch, as a span below it.
    pub async fn step<F: Future>(&self, stage: Stage, work: F) -> F::Output {
        let Some((tracer, batch)) = &self.0 else { return work.await };
        let builder = SpanBuilder::from_name(stage.as_str()).with_kind(SpanKind::Client);
        let system = match stage {
            Stage::Store => "postgresql",
            Stage::Projection => "redis",
            Stage::Settle => "rabbitmq",
        };
        let builder = builder.with_attributes([KeyValue::new("db.system.name", system)]);
        let span = tracer.build_with_context(builder, batch);
        let step = batch.with_value(Whole(batch.clone())).with_span(span);
        work.with_context(step).await
    }

    /// Work of the batch that is no step of its own, but may be held.
    pub async fn within<F: Future>(&self, work: F) -> F::Output {
        match &self.0 {
            Some((_, batch)) => work.with_context(batch.clone()).await,
            None => work.await,
        }
    }

    pub fn stored(&self, inserted: u64, duplicates: u64) {
        self.note("rollcall.events.stored", inserted as usize);
        self.note("rollcall.events.duplicate", duplicates as usize);
    }

    /// Everything is done.
    pub fn settled(mut self, dead_letters: usize) {
        self.note("rollcall.events.dead_lettered", dead_letters);
        if let Some((_, batch)) = self.0.take() {
            batch.span().end();
        }
    }

    fn note(&self, name: &'static str, value: usize) {
        if let Some((_, batch)) = &self.0 {
            batch.span().set_attribute(KeyValue::new(name, count(value)));
        }
    }
}

impl Drop for BatchSpan {
    fn drop(&mut self) {
        if let Some((_, batch)) = self.0.take() {
            batch.span().set_status(Status::error("given up: it is delivered again"));
            batch.span().end();
        }
    }
}

/// The step that is under way waits for this before it is tried again. Its text is that of the log.
/// A span holds 128 such events at most, and counts the others.
pub fn held(error: &str) {
    Context::map_current(|step| {
        step.span().add_event("held", vec![KeyValue::new("exception.message", error.to_owned())]);
        fail(step, error);
    });
}

/// Redis is away for long, and the batch goes past it.
pub fn skipped() {
    Context::map_current(|step| {
        step.span().set_status(Status::error("skipped: redis is away, to be caught up"));
    });
}

/// On the step, and on its batch.
fn fail(step: &Context, error: &str) {
    step.span().set_status(Status::error(error.to_owned()));
    if let Some(Whole(batch)) = step.get() {
        batch.span().set_status(Status::error(error.to_owned()));
    }
}

fn context(link: TraceParent) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(link.trace_id),
        SpanId::from_bytes(link.span_id),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    )
}

/// Who we are. The name that the environment gives goes before ours.
fn resource() -> Resource {
    let name = Resource::builder().build().get(&Key::from_static_str("service.name"));
    let is_named = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let ours = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { ours.build() } else { ours.with_service_name("rollcall").build() }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
