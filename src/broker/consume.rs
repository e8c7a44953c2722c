//! A lane's consumer: deliveries one by one, and stopping and starting again on one channel.
//!
//! Never settles (see `settle`), and never takes the end of the stream for the end of the work:
//! unless we cancelled, it means that the broker took the consumer away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::protocol::BasicProperties;
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};

use super::connect::{short, timed};
use super::error::BrokerError;
use super::headers;
use super::settle::Token;
use crate::config;
use crate::telemetry::TraceParent;

/// What a session keeps of a lane, to the end of its connection.
pub(super) struct Grip {
    /// A channel closes when its last handle goes.
    pub channel: Channel,
    /// Of the consumer that it has now. The server's choice each time: a quorum queue of 3.10
    /// takes a consumer that comes again under its old tag for the old one, and fails (541).
    pub tag: Arc<Mutex<ShortString>>,
}

/// A delivery: the message, and the right to settle it.
#[derive(Debug)]
pub struct Delivery {
    pub message: Incoming,
    pub token: Token,
}

/// A message as the broker handed it over.
#[derive(Debug)]
pub struct Incoming {
    pub body: Bytes,
    pub content_type: Option<String>,
    /// The `cloudEvents:` headers, prefix taken off, values as text.
    pub cloud_event: Vec<(String, String)>,
    pub redelivered: bool,
    /// How often it was handed out before, as a quorum queue counts; 0 the first time.
    pub delivery_count: u64,
    pub exchange: String,
    pub routing_key: String,
    /// Everything else that came with it, kept for a dead letter.
    pub properties: Properties,
}

/// The message's AMQP properties, as they came. Boxed: 14 fields that next to nobody looks at would
/// be moved about with each delivery.
#[derive(Debug)]
pub struct Properties(pub(super) Box<BasicProperties>);

/// One channel with one consumer. Owned by one task, the only one that settles on the channel:
/// that keeps acks in order.
pub struct LaneConsumer {
    pub(super) id: u64,
    pub(super) channel: Channel,
    pub(super) config: config::Broker,
    /// Tags count deliveries of a channel from 1, across cancel and resume.
    pub(super) delivered_tag: u64,
    pub(super) settled_tag: u64,
    pub(super) publish: Arc<Connection>,
    /// Made for the first dead letter; most lanes never have one.
    pub(super) confirms: Option<Arc<Channel>>,
    consumer: Consumer,
    tag: Arc<Mutex<ShortString>>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Consuming,
    /// Cancelled by us; what was prefetched is still to be read.
    Cancelled,
    /// Cancelled by us and read to the end.
    Drained,
    /// Ended by the broker or an error: a new session is needed.
    Ended,
}

impl LaneConsumer {
    pub(super) async fn start(
        channel: Channel,
        publish: Arc<Connection>,
        config: &config::Broker,
        prefetch: u16,
    ) -> Result<LaneConsumer, BrokerError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let consumer = consume(&channel, &config.queue, prefetch, config.timeout).await?;
        Ok(LaneConsumer {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            channel,
            config: config.clone(),
            delivered_tag: 0,
            settled_tag: 0,
            publish,
            confirms: None,
            tag: Arc::new(Mutex::new(consumer.tag())),
            consumer,
            stage: Stage::Consuming,
        })
    }

    /// The next delivery; `None` only after `cancel`, once everything prefetched has been read.
    ///
    /// Waits as long as the queue is empty: it is the heartbeat that notices a dead connection.
    /// Cancel-safe: a delivery leaves the client's buffer only in the poll that returns it.
    pub async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        match self.stage {
            Stage::Consuming | Stage::Cancelled => {}
            Stage::Drained => return Ok(None),
            Stage::Ended => return Err(self.cancelled_by_broker()),
        }
        let delivery = match self.consumer.next().await {
            Some(Ok(delivery)) => delivery,
            Some(Err(source)) => {
                self.stage = Stage::Ended;
                let tried = format!("consuming `{}`", self.config.queue);
                return Err(BrokerError::amqp(tried, source));
            }
            None if self.stage == Stage::Cancelled => {
                self.stage = Stage::Drained;
                return Ok(None);
            }
            None => {
                self.stage = Stage::Ended;
                return Err(self.cancelled_by_broker());
            }
        };
        let expected = self.delivered_tag + 1;
        if delivery.delivery_tag != expected {
            // Settling by "all up to" is right only without gaps.
            self.stage = Stage::Ended;
            return Err(BrokerError::OutOfOrder { expected, got: delivery.delivery_tag });
        }
        self.delivered_tag = expected;
        Ok(Some(Delivery {
            message: Incoming::from_lapin(delivery),
            token: Token { lane: self.id, tag: expected },
        }))
    }

    /// Stops the flow. `next` then yields what was prefetched, and after that `None`.
    pub async fn cancel(&mut self) -> Result<(), BrokerError> {
        if self.stage != Stage::Consuming {
            return Ok(());
        }
        // First, so that the end of the stream is ours even if this future is dropped half-way.
        self.stage = Stage::Cancelled;
        let cancel = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        let tried = || format!("cancelling the consumer of `{}`", self.config.queue);
        let result = timed(self.config.timeout, tried, cancel).await;
        if result.is_err() {
            self.stage = Stage::Ended;
        }
        result
    }

    /// Consumes again on the same channel, with another prefetch; tags go on where they were.
    pub async fn resume(&mut self, prefetch: u16) -> Result<(), BrokerError> {
        if self.stage != Stage::Drained {
            return Err(BrokerError::NotDrained { queue: self.config.queue.clone() });
        }
        self.stage = Stage::Ended;
        let config::Broker { queue, timeout, .. } = &self.config;
        self.consumer = consume(&self.channel, queue, prefetch, *timeout).await?;
        *self.tag.lock().unwrap_or_else(PoisonError::into_inner) = self.consumer.tag();
        self.stage = Stage::Consuming;
        Ok(())
    }

    pub(super) fn grip(&self) -> Grip {
        Grip { channel: self.channel.clone(), tag: self.tag.clone() }
    }

    fn cancelled_by_broker(&self) -> BrokerError {
        BrokerError::ConsumerCancelled { queue: self.config.queue.clone() }
    }
}

/// The limit comes before the consumer it is for: a quorum queue knows no limit per channel.
async fn consume(
    channel: &Channel,
    queue: &str,
    prefetch: u16,
    limit: Duration,
) -> Result<Consumer, BrokerError> {
    let tried = || format!("consuming from `{queue}`");
    // 0 would mean "no limit", and prefetch is the only bound on what the client holds.
    let qos = channel.basic_qos(prefetch.max(1), BasicQosOptions { global: false });
    timed(limit, tried, qos).await?;
    let consume = channel.basic_consume(
        short("queue", queue)?,
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    timed(limit, tried, consume).await
}

impl Incoming {
    /// For a model of the broker: JSON, and nothing else to it.
    #[cfg(test)]
    pub fn bare(body: Bytes, delivery_count: u64) -> Incoming {
        Incoming {
            body,
            content_type: None,
            cloud_event: Vec::new(),
            redelivered: delivery_count > 0,
            delivery_count,
            exchange: String::new(),
            routing_key: String::new(),
            properties: Properties(Box::default()),
        }
    }

    /// Where its producer was in a trace. Read when it is asked for: next to nobody does.
    pub fn trace_parent(&self) -> Option<TraceParent> {
        headers::trace_parent(&self.properties.0)
    }

    fn from_lapin(delivery: lapin::message::Delivery) -> Incoming {
        let properties = delivery.properties;
        let content_type = properties.content_type().as_ref();
        Incoming {
            content_type: content_type.map(|text| text.as_str().to_owned()),
            cloud_event: headers::cloud_event(&properties),
            // The broker's word, and not what a producer or a shovel wrote there.
            delivery_count: match delivery.redelivered {
                true => headers::delivery_count(&properties),
                false => 0,
            },
            redelivered: delivery.redelivered,
            exchange: delivery.exchange.into(),
            routing_key: delivery.routing_key.into(),
            body: Bytes::from(delivery.data),
            properties: Properties(Box::new(properties)),
        }
    }
}

impl Grip {
    /// Returns when the broker hands no more to this lane.
    pub async fn cancel(&self) {
        let tag = self.tag.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Where it fails, the channel has no consumer any more.
        let _ = self.channel.basic_cancel(tag, BasicCancelOptions::default()).await;
    }
}
