//! Publishing with confirms: persistent, mandatory, many on their way at once.
//!
//! Never reports success for a message that the broker has not confirmed.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Confirmation, Connection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::connect::{self, short, timed};
use super::error::BrokerError;
use crate::config;

/// Bodies on their way together, whatever the window: lapin's own queue has no bound.
const BYTES_IN_FLIGHT_MAX: u32 = 16 * 1024 * 1024;

/// 2 is persistent.
const PERSISTENT: u8 = 2;

/// The broker's answer to one publish, on its way.
pub(super) type Confirming =
    Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send + 'static>>;

/// A message of a producer.
#[derive(Debug)]
pub struct Outgoing<'a> {
    pub exchange: &'a str,
    pub routing_key: &'a str,
    pub body: Bytes,
    pub content_type: Option<&'a str>,
    /// As text; for a binary CloudEvent the `cloudEvents:` attributes.
    pub headers: &'a [(&'a str, &'a str)],
    pub message_id: Option<&'a str>,
}

/// One connection and channel for publishing. `window` messages may be unconfirmed at once;
/// `publish` waits when it is full, and goes on whether or not the caller looks at the confirms.
pub struct Publisher {
    connection: Connection,
    channel: Arc<Channel>,
    timeout: Duration,
    /// Bounds messages in flight: capacity is the window.
    unconfirmed: mpsc::Sender<Unconfirmed>,
    bytes: Arc<Semaphore>,
    /// Awaits the confirms in order. Awaited by `close`, aborted when dropped.
    confirmer: Option<JoinHandle<()>>,
}

struct Unconfirmed {
    confirming: Confirming,
    exchange: String,
    answer: oneshot::Sender<Result<(), BrokerError>>,
    _bytes: OwnedSemaphorePermit,
}

/// The answer to one publish. Dropping it does not take the message back.
#[must_use = "a publish that is not waited for may have failed"]
pub struct PendingConfirm(oneshot::Receiver<Result<(), BrokerError>>);

impl PendingConfirm {
    /// Whether the broker took the message and routed it to a queue.
    ///
    /// Exact in number, not always in attribution: lapin hands a returned message to whichever
    /// confirm it resolves next, and one multiple-ack resolves several in no order. So with mixed
    /// routes in flight, `Unroutable` names the right route but may come up on a neighbour; who
    /// needs to know which one waits for all that is in flight before believing any.
    pub async fn wait(self) -> Result<(), BrokerError> {
        // The confirmer always answers unless it was aborted with its publisher.
        self.0.await.unwrap_or(Err(BrokerError::PublisherClosed))
    }
}

impl Publisher {
    pub async fn connect(config: &config::Broker, window: usize) -> Result<Self, BrokerError> {
        let connection = connect::connect(config, "publish").await?;
        let channel = confirm_channel(&connection, config.timeout).await?;
        let (unconfirmed, queue) = mpsc::channel(window.max(1));
        Ok(Publisher {
            connection,
            channel: Arc::new(channel),
            timeout: config.timeout,
            unconfirmed,
            bytes: Arc::new(Semaphore::new(BYTES_IN_FLIGHT_MAX as usize)),
            confirmer: Some(tokio::spawn(await_confirms(queue, config.timeout))),
        })
    }

    /// Hands a message to the connection. Waits while the window is full.
    pub async fn publish(&self, message: Outgoing<'_>) -> Result<PendingConfirm, BrokerError> {
        let exchange = short("exchange", message.exchange)?;
        let routing_key = short("routing key", message.routing_key)?;
        let properties = properties(&message)?;
        let weight = u32::try_from(message.body.len()).unwrap_or(u32::MAX);
        let bytes = self.bytes.clone();
        let bytes = bytes.acquire_many_owned(weight.min(BYTES_IN_FLIGHT_MAX));
        let slot = self.unconfirmed.reserve();
        let (Ok(bytes), Ok(slot)) = (bytes.await, slot.await) else {
            return Err(BrokerError::PublisherClosed);
        };
        let (answer, pending) = oneshot::channel();
        slot.send(Unconfirmed {
            confirming: begin(&self.channel, exchange, routing_key, message.body, properties),
            exchange: message.exchange.to_owned(),
            answer,
            _bytes: bytes,
        });
        Ok(PendingConfirm(pending))
    }

    /// Waits for what is in flight, then says goodbye.
    pub async fn close(mut self) {
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.unconfirmed, closed));
        if let Some(confirmer) = self.confirmer.take() {
            // An error here is a panic of the confirmer; every waiter has seen `PublisherClosed`.
            let _ = confirmer.await;
        }
        connect::close(&self.connection, self.timeout).await;
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(confirmer) = &self.confirmer {
            confirmer.abort();
        }
    }
}

/// In order of publishing; the broker confirms out of order, but no later than this needs it.
async fn await_confirms(mut queue: mpsc::Receiver<Unconfirmed>, limit: Duration) {
    while let Some(next) = queue.recv().await {
        let tried = || format!("publishing to `{}`", next.exchange);
        let result = finish(next.confirming, limit, tried).await;
        // After one of these the channel is gone or stuck. Waiting for each of the rest in turn
        // would take the window times the timeout; dropping them answers `PublisherClosed`.
        let lost = matches!(result, Err(BrokerError::Amqp { .. } | BrokerError::Timeout { .. }));
        // Whoever dropped the receiver did not want to know.
        let _ = next.answer.send(result);
        if lost {
            return;
        }
    }
}

pub(super) async fn confirm_channel(
    connection: &Connection,
    limit: Duration,
) -> Result<Channel, BrokerError> {
    let channel = connect::channel(connection, limit).await?;
    let select = channel.confirm_select(ConfirmSelectOptions::default());
    let tried = || "switching publisher confirms on".to_owned();
    timed(limit, tried, select).await?;
    Ok(channel)
}

/// Queues the message's frames at once, in the order of calls, and returns the answer to come.
///
/// Awaiting lapin's publish before the next one would wait for its I/O thread each time.
pub(super) fn begin(
    channel: &Arc<Channel>,
    exchange: ShortString,
    routing_key: ShortString,
    body: Bytes,
    properties: BasicProperties,
) -> Confirming {
    let channel = channel.clone();
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let mut confirming: Confirming = Box::pin(async move {
        let publish = channel.basic_publish(exchange, routing_key, options, &body, properties);
        publish.await?.await
    });
    // The first poll queues the frames; what it leaves is picked up by whoever awaits the rest.
    match (&mut confirming).now_or_never() {
        Some(early) => Box::pin(std::future::ready(early)),
        None => confirming,
    }
}

/// Awaits a confirm and judges it.
pub(super) async fn finish(
    confirming: Confirming,
    limit: Duration,
    tried: impl Fn() -> String,
) -> Result<(), BrokerError> {
    match timed(limit, &tried, confirming).await? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
            Err(BrokerError::Unroutable {
                exchange: returned.exchange.to_string(),
                routing_key: returned.routing_key.to_string(),
            })
        }
        // `NotRequested` cannot be: the channel is in confirm mode. If it were, it is no success.
        Confirmation::Nack(None) | Confirmation::NotRequested => {
            Err(BrokerError::Nacked { tried: tried() })
        }
    }
}

fn properties(message: &Outgoing<'_>) -> Result<BasicProperties, BrokerError> {
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if let Some(content_type) = message.content_type {
        properties = properties.with_content_type(short("content type", content_type)?);
    }
    if let Some(message_id) = message.message_id {
        properties = properties.with_message_id(short("message id", message_id)?);
    }
    if !message.headers.is_empty() {
        let mut headers = FieldTable::default();
        for (name, value) in message.headers {
            let value = AMQPValue::LongString((*value).into());
            headers.insert(short("header", name)?, value);
        }
        properties = properties.with_headers(headers);
    }
    Ok(properties)
}
