//! What there is of spans in a build without the feature `otlp`: nothing that takes time or room,
//! and one warning where somebody expects them.

use std::time::Duration;

use super::collector;
use crate::telemetry::{Stage, TraceParent};

#[derive(Clone, Copy, Debug, Default)]
pub struct Spans;

#[derive(Clone, Copy, Debug)]
pub struct BatchSpan;

impl Spans {
    pub fn start() -> Spans {
        if let Some((variable, _)) = collector() {
            tracing::warn!(
                "{variable} is set, and this build sends no spans: it was built without the \
                 feature otlp"
            );
        }
        Spans
    }

    pub fn batch<L: Iterator<Item = TraceParent>>(
        &self,
        _queue: &str,
        _messages: usize,
        _links: L,
    ) -> BatchSpan {
        BatchSpan
    }

    pub async fn close(&self, _limit: Duration) {}
}

impl BatchSpan {
    pub fn step<F: Future>(&self, _stage: Stage, work: F) -> F {
        work
    }

    pub fn within<F: Future>(&self, work: F) -> F {
        work
    }

    pub fn stored(&self, _inserted: u64, _duplicates: u64) {}

    pub fn settled(self, _dead_letters: usize) {}
}

pub fn held(_error: &str) {}

pub fn skipped() {}
