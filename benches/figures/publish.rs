//! Events into the queue: as fast as it takes them, or each at its time.
//!
//! Must never let what comes late move what comes after: a paced publisher that waits for an answer
//! measures its own patience.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, TLSConfig};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use crate::events::{Events, content_type};
use crate::shared::Servers;

/// Messages, and bytes of them, that a connection has sent before it awaits the oldest confirm.
const WINDOW: usize = 2_000;
const WINDOW_BYTES: usize = 32 << 20;
/// Producers. The client's work for a connection is on one thread, and RabbitMQ stops reading a
/// channel that has more than 32 publishes on their way into a quorum queue
/// (`quorum_commands_soft_limit`).
const CONNECTIONS: usize = 4;
/// Messages that a paced publisher has being written at once.
const BURST: u64 = 500;
/// Confirms that a paced publisher may be owed before it waits.
const OWED_MAX: usize = 50_000;

impl Servers {
    /// As a worker connects: without Nagle's delay.
    pub async fn connect(&self) -> Result<Connection> {
        let uri: AMQPUri = self.amqp.parse().map_err(anyhow::Error::msg)?;
        let connected = Connection::connector(
            uri,
            lapin::runtime::default_runtime()?,
            async move |uri, runtime| {
                let stream = uri.connect_with_config_async(TLSConfig::default(), &runtime).await?;
                if let AsyncTcpStream::Plain(stream) = &stream {
                    stream.get_ref().set_nodelay(true)?;
                }
                Ok(stream)
            },
            ConnectionProperties::default(),
        );
        Ok(connected.await?)
    }

    pub async fn channel(&self) -> Result<(Connection, Channel)> {
        let connection = self.connect().await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }
}

/// Declares a durable quorum queue, with nothing in it.
pub async fn fresh_queue(channel: &Channel, name: &str) -> Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(name.into(), options, arguments).await?;
    channel.queue_purge(name.into(), Default::default()).await?;
    Ok(())
}

/// Where messages go.
#[derive(Clone, Copy)]
pub struct To<'a> {
    pub exchange: &'a str,
    pub key: &'a str,
}

/// Publishes the first so many events as fast as they are taken, and awaits each confirm.
pub async fn fill(
    servers: &Servers,
    to: To<'_>,
    events: &Events,
    count: u64,
    per_message: u64,
) -> Result<()> {
    let part = |part: u64| async move {
        let numbers = (part..count / per_message).step_by(CONNECTIONS);
        let properties = persistent(content_type(per_message));
        let message = |number| (properties.clone(), events.message(number, per_message));
        publish(servers, to, numbers.map(message)).await
    };
    // Both on this task: sending is done by threads of the client's own.
    futures_util::future::try_join_all((0..CONNECTIONS as u64).map(part)).await?;
    Ok(())
}

/// The same with any messages, on one connection.
pub async fn publish(
    servers: &Servers,
    to: To<'_>,
    messages: impl Iterator<Item = (BasicProperties, Vec<u8>)>,
) -> Result<()> {
    let (connection, channel) = servers.channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut messages = messages.peekable();
    let bytes = messages.peek().map_or(1, |(_, body)| body.len().max(1));
    // A publish alone waits until it has been written: one after the other is a third of the rate.
    let sending = futures_util::stream::iter(messages).map(|(properties, body)| {
        let channel = &channel;
        async move { taken(send(channel, to, properties, &body).await?.await?) }
    });
    let mut confirmed = sending.buffered(WINDOW.min(WINDOW_BYTES / bytes).max(1));
    while confirmed.try_next().await?.is_some() {}
    drop(confirmed);
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// Taken by the broker, and not returned as unroutable.
fn taken(confirmation: Confirmation) -> Result<()> {
    ensure!(confirmation == Confirmation::Ack(None), "a publish was refused or returned");
    Ok(())
}

fn persistent(content_type: &str) -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2).with_content_type(content_type.into())
}

async fn send(
    channel: &Channel,
    to: To<'_>,
    properties: BasicProperties,
    body: &[u8],
) -> Result<impl Future<Output = lapin::Result<Confirmation>> + Send + use<>> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let (exchange, key) = (to.exchange.into(), to.key.into());
    Ok(channel.basic_publish(exchange, key, options, body, properties).await?)
}

/// Event n is due n periods after the beginning, whatever became of those before it.
#[derive(Clone, Copy)]
pub struct Pace {
    pub begin: Instant,
    pub per_second: u64,
}

impl Pace {
    pub fn due(&self, number: u64) -> Instant {
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.per_second);
        self.begin + Duration::from_nanos(nanos as u64)
    }

    /// How many are due by then, the one at the very beginning too.
    pub fn due_by(&self, now: Instant) -> u64 {
        let since = now.checked_duration_since(self.begin);
        since.map_or(0, |since| (since.as_secs_f64() * self.per_second as f64) as u64 + 1)
    }
}

/// A publisher at a pace, on a thread of its own.
pub struct Paced {
    thread: JoinHandle<Result<()>>,
    confirming: tokio::task::JoinHandle<Result<()>>,
}

impl Paced {
    /// One event a message, from now on until so many are published.
    pub async fn start(
        servers: &Servers,
        to: To<'static>,
        events: Events,
        pace: Pace,
        count: u64,
    ) -> Result<Paced> {
        let mut channels = Vec::new();
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let (connection, channel) = servers.channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            connections.push(connection);
            channels.push(channel);
        }
        let (owed, mut owing) = tokio::sync::mpsc::channel(OWED_MAX);
        // The last handle of a channel closes it, and a connection cannot be closed meanwhile.
        let kept = channels.clone();
        let confirming = tokio::spawn(async move {
            while let Some(confirm) = owing.recv().await {
                taken(confirm.await?)?;
            }
            for connection in connections {
                connection.close(200, "done".into()).await?;
            }
            drop(kept);
            anyhow::Ok(())
        });
        let runtime = tokio::runtime::Handle::current();
        // tokio's clock ticks in milliseconds, a thread sleeps to 50 microseconds.
        let thread = std::thread::spawn(move || {
            let properties = persistent("application/json");
            let mut next = 0;
            while next < count {
                // What is due already goes out together: it waits for no answer but the write.
                let due = pace.due_by(Instant::now()).min(count).min(next + BURST);
                let sends = (next..due).map(|number| {
                    let channel = &channels[number as usize % CONNECTIONS];
                    let properties = properties.clone();
                    let body = events.get(number).body;
                    async move { send(channel, to, properties, body.as_bytes()).await }
                });
                let sent = runtime.block_on(futures_util::future::try_join_all(sends))?;
                for confirm in sent {
                    owed.blocking_send(confirm).ok().context("confirms ended")?;
                }
                next = due.max(next);
                std::thread::sleep(pace.due(next).saturating_duration_since(Instant::now()));
            }
            anyhow::Ok(())
        });
        Ok(Paced { thread, confirming })
    }

    /// Once all are confirmed.
    pub async fn end(self) -> Result<()> {
        self.confirming.await??;
        match self.thread.join() {
            Ok(ended) => ended,
            Err(_) => anyhow::bail!("the publisher panicked"),
        }
    }
}
