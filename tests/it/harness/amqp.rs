//! RabbitMQ as a producer and as the one who counts at the end.

use futures_util::future::join_all;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};

use super::message::Message;
use super::wait::{LONG, SHORT, eventually};

pub struct Amqp {
    connection: Connection,
    channel: Channel,
}

/// A consumer that settles nothing.
pub struct Sitting {
    channel: Channel,
    _consumer: Consumer,
}

impl Sitting {
    /// Whether the broker has closed its channel.
    pub fn is_closed(&self) -> bool {
        !self.channel.status().connected()
    }
}

/// What a user may or may not do; the names are of exchanges and queues.
#[derive(Clone, Copy, Debug)]
pub enum Act<'a> {
    Publish(&'a str),
    Get(&'a str),
    Purge(&'a str),
    /// A queue without arguments, that is there or not.
    Declare(&'a str),
    Delete(&'a str),
    DeleteExchange(&'a str),
    /// The queue, and the exchange that it is bound to.
    Bind(&'a str, &'a str),
}

/// A dead letter as it lies in its queue.
#[derive(Clone, Debug)]
pub struct Letter {
    pub body: Vec<u8>,
    pub content_type: Option<String>,
    pub delivery_mode: Option<u8>,
    pub headers: Vec<(String, String)>,
}

impl Letter {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Confirms awaited together: enough to keep the broker busy, few enough to hold in memory.
const WINDOW: usize = 1000;

impl Amqp {
    pub async fn connect(url: &str) -> Result<Amqp, String> {
        let said = |error| format!("rabbitmq: {error}");
        let connection =
            Connection::connect(url, ConnectionProperties::default()).await.map_err(said)?;
        let channel = connection.create_channel().await.map_err(said)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(said)?;
        Ok(Amqp { connection, channel })
    }

    /// Publishes persistently and mandatorily; every confirm is awaited and must be an ack.
    pub async fn publish(&self, exchange: &str, messages: &[Message]) {
        self.publish_as(exchange, "test", messages).await;
    }

    /// Straight into a queue, by the default exchange.
    pub async fn publish_to_queue(&self, queue: &str, message: &Message) {
        self.publish_as("", queue, std::slice::from_ref(message)).await;
    }

    async fn publish_as(&self, exchange: &str, routing_key: &str, messages: &[Message]) {
        for window in messages.chunks(WINDOW) {
            for answer in self.offer(exchange, routing_key, window).await {
                answer.expect("the broker takes the message");
            }
        }
    }

    /// Publishes the same way, and tells of each whether it was confirmed. One that was not may
    /// have arrived all the same.
    pub async fn offer(
        &self,
        exchange: &str,
        routing_key: &str,
        messages: &[Message],
    ) -> Vec<Result<(), String>> {
        let mut confirms = Vec::with_capacity(messages.len());
        for message in messages {
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let sent = self.channel.basic_publish(
                exchange.into(),
                routing_key.into(),
                options,
                &message.body,
                properties(message),
            );
            // What cannot be sent is answered as what was not confirmed.
            let sent = sent.await;
            confirms.push(async move {
                match tokio::time::timeout(LONG, async { sent?.await }).await {
                    Ok(Ok(Confirmation::Ack(None))) => Ok(()),
                    other => Err(format!("a publish was answered with {other:?}")),
                }
            });
        }
        join_all(confirms).await
    }

    /// A message that the broker takes out of its queue at once, as a dead letter.
    pub async fn publish_that_expires(&self, exchange: &str, body: &[u8]) {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let properties =
            BasicProperties::default().with_delivery_mode(2).with_expiration("1".into());
        let sent =
            self.channel.basic_publish(exchange.into(), "test".into(), options, body, properties);
        sent.await.expect("sent").await.expect("confirmed");
    }

    /// Messages ready in a queue that must exist.
    pub async fn ready(&self, queue: &str) -> Result<u32, String> {
        // A passive declare of a queue that is not there closes the channel: use one of its own.
        let channel = self.connection.create_channel().await.map_err(|e| e.to_string())?;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        let count = declared.map(|q| q.message_count()).map_err(|e| format!("{queue}: {e}"))?;
        channel.close(200, "done".into()).await.map_err(|e| e.to_string())?;
        Ok(count)
    }

    /// What is ready, where it is known that it is not nothing: of a quorum queue that is busy the
    /// broker says 0.
    pub async fn surely_ready(&self, queue: &str) -> u32 {
        eventually(SHORT, "the queue to say what is ready", async || {
            match self.ready(queue).await? {
                0 => Err("it says 0".to_owned()),
                n => Ok(n),
            }
        })
        .await
    }

    /// Takes what is in a queue and never settles any of it.
    pub async fn sit_on(&self, queue: &str) -> Sitting {
        let channel = self.connection.create_channel().await.expect("a channel opens");
        let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(queue.into(), "".into(), options, table).await;
        Sitting { channel, _consumer: consumer.expect("the queue is there") }
    }

    /// Everything in a queue, which stays there: what was got goes back when the channel closes.
    pub async fn peek(&self, queue: &str) -> Vec<Letter> {
        let channel = self.connection.create_channel().await.expect("a channel opens");
        let mut letters = Vec::new();
        loop {
            let got = channel.basic_get(queue.into(), BasicGetOptions::default()).await;
            let Some(message) = got.expect("the queue can be read") else {
                break;
            };
            let message = message.delivery;
            let properties = &message.properties;
            letters.push(Letter {
                content_type: properties.content_type().as_ref().map(|text| text.to_string()),
                delivery_mode: *properties.delivery_mode(),
                headers: properties.headers().as_ref().map(texts).unwrap_or_default(),
                body: message.data,
            });
        }
        channel.close(200, "done".into()).await.expect("the channel closes");
        letters
    }

    /// The code with which the broker refuses it, on a channel of its own.
    pub async fn refusal(&self, act: Act<'_>) -> Option<u16> {
        let channel = self.connection.create_channel().await.expect("a channel opens");
        let table = FieldTable::default();
        let done = async {
            match act {
                Act::Publish(exchange) => {
                    let options = BasicPublishOptions::default();
                    let of = BasicProperties::default();
                    // The refusal closes the channel, and is the answer to what waits for a
                    // confirm.
                    channel.confirm_select(ConfirmSelectOptions::default()).await?;
                    let sent =
                        channel.basic_publish(exchange.into(), "x".into(), options, b"{}", of);
                    sent.await?.await.map(drop)
                }
                Act::Get(queue) => {
                    let got = channel.basic_get(queue.into(), BasicGetOptions::default());
                    got.await.map(drop)
                }
                Act::Purge(queue) => {
                    let purge = channel.queue_purge(queue.into(), QueuePurgeOptions::default());
                    purge.await.map(drop)
                }
                Act::Declare(queue) => {
                    let options = QueueDeclareOptions { durable: true, ..Default::default() };
                    channel.queue_declare(queue.into(), options, table).await.map(drop)
                }
                Act::Delete(queue) => {
                    let delete = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
                    delete.await.map(drop)
                }
                Act::DeleteExchange(exchange) => {
                    let options = ExchangeDeleteOptions::default();
                    channel.exchange_delete(exchange.into(), options).await
                }
                Act::Bind(queue, exchange) => {
                    let options = QueueBindOptions::default();
                    channel
                        .queue_bind(queue.into(), exchange.into(), "#".into(), options, table)
                        .await
                }
            }
        };
        match done.await {
            // A letter that was got goes back with its channel.
            Ok(()) => channel.close(200, "done".into()).await.map(|()| None).expect("it closes"),
            Err(error) => match error.kind() {
                lapin::ErrorKind::ProtocolError(reply) => Some(reply.get_id()),
                _ => panic!("{act:?}: {error}"),
            },
        }
    }

    pub async fn declare_queue(&self, queue: &str, arguments: &[(&str, AMQPValue)]) {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        self.channel.queue_declare(queue.into(), options, table).await.expect("declared");
    }

    pub async fn delete_queue(&self, queue: &str) {
        let options = QueueDeleteOptions::default();
        self.channel.queue_delete(queue.into(), options).await.expect("deleted");
    }

    pub async fn delete_exchange(&self, exchange: &str) {
        let options = ExchangeDeleteOptions::default();
        self.channel.exchange_delete(exchange.into(), options).await.expect("deleted");
    }

    pub async fn exchange_exists(&self, exchange: &str) -> bool {
        let channel = self.connection.create_channel().await.expect("a channel opens");
        let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
        let kind = lapin::ExchangeKind::Topic;
        channel
            .exchange_declare(exchange.into(), kind, options, FieldTable::default())
            .await
            .is_ok()
    }
}

fn properties(message: &Message) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        headers.insert(name.as_str().into(), AMQPValue::LongString(value.as_str().into()));
    }
    for (name, value) in &message.odd_headers {
        headers.insert(name.as_str().into(), value.clone());
    }
    let mut properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    if let Some(content_type) = &message.content_type {
        properties = properties.with_content_type(content_type.as_str().into());
    }
    properties
}

fn texts(table: &FieldTable) -> Vec<(String, String)> {
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::LongLongInt(n) => n.to_string(),
        AMQPValue::LongInt(n) => n.to_string(),
        AMQPValue::Timestamp(n) => n.to_string(),
        other => format!("{other:?}"),
    };
    table.inner().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
