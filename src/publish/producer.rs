//! A producer for programs in Rust: one event after the other, each confirmed before the next.
//!
//! For a service that publishes what happens as it happens. It must never say yes to an event that
//! the broker has not confirmed, nor send other bytes the second time.

use bytes::Bytes;

use super::{LOSSES_MAX, PublishError, WAIT_MAX, WAIT_MIN};
use crate::broker::{BrokerError, Outgoing, Publisher};
use crate::config;
use crate::retry::{Backoff, Class};
use crate::telemetry::TRACEPARENT;

/// Connects when it is needed, and again when the connection was lost.
pub struct Producer {
    broker: config::Broker,
    routing_key: String,
    publisher: Option<Publisher>,
}

impl Producer {
    pub fn new(broker: config::Broker, routing_key: impl Into<String>) -> Producer {
        Producer { broker, routing_key: routing_key.into(), publisher: None }
    }

    /// Returns once RabbitMQ has the event: one JSON object, with its `id` and `occurred_at`.
    ///
    /// A lost connection is made again and the same bytes are sent again, for some four minutes; so
    /// the event can arrive more than once, and counts once.
    ///
    /// # Errors
    /// Of class config where no queue takes the event, or the login or the exchange is wrong. After
    /// any error call it again with the same bytes, and not with an event that is made anew.
    pub async fn publish(&mut self, event: impl Into<Bytes>) -> Result<(), PublishError> {
        self.publish_in(event, None).await
    }

    /// The same, with the `traceparent` of the span that the event belongs to: a worker's span of
    /// the batch will point to it.
    ///
    /// # Errors
    /// As [`Producer::publish`].
    pub async fn publish_in(
        &mut self,
        event: impl Into<Bytes>,
        trace_parent: Option<&str>,
    ) -> Result<(), PublishError> {
        let body = event.into();
        let mut backoff = Backoff::new(WAIT_MIN, WAIT_MAX);
        for _ in 0..LOSSES_MAX {
            match self.try_once(&body, trace_parent).await {
                Ok(()) => return Ok(()),
                Err(error) if error.class() == Class::Transient => {
                    self.publisher = None;
                    let error = crate::telemetry::chain(&error);
                    tracing::warn!(error, "not confirmed: sending the same event again");
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(backoff.next()).await;
        }
        self.try_once(&body, trace_parent)
            .await
            .map_err(|source| PublishError::GivenUp { losses: LOSSES_MAX, source })
    }

    async fn try_once(
        &mut self,
        body: &Bytes,
        trace_parent: Option<&str>,
    ) -> Result<(), BrokerError> {
        let publisher = match &mut self.publisher {
            Some(publisher) => publisher,
            none => none.insert(Publisher::connect(&self.broker, 1).await?),
        };
        let trace = trace_parent.map(|parent| (TRACEPARENT, parent));
        let outgoing = Outgoing {
            exchange: &self.broker.exchange,
            routing_key: &self.routing_key,
            body: body.clone(),
            content_type: Some("application/json"),
            headers: trace.as_slice(),
            message_id: None,
        };
        publisher.publish(outgoing).await?.wait().await
    }

    /// Says goodbye to the broker. Nothing is left to send: each `publish` has waited.
    pub async fn close(self) {
        if let Some(publisher) = self.publisher {
            publisher.close().await;
        }
    }
}
