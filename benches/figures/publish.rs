//! Events into the queue: as fast as it takes them, or each at its time.
//!
//! Must never let what comes late move what comes after: a paced publisher that waits for an answer
//! measures its own patience.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
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
/// Connections that fill a queue: the client's work for one is on one thread.
const CONNECTIONS: usize = 2;
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
        let bodies = numbers.map(|number| events.message(number, per_message));
        publish(servers, to, content_type(per_message), bodies).await
    };
    // Both on this task: sending is done by threads of the client's own.
    futures_util::future::try_join_all((0..CONNECTIONS as u64).map(part)).await?;
    Ok(())
}

async fn publish(
    servers: &Servers,
    to: To<'_>,
    content_type: &str,
    bodies: impl Iterator<Item = Vec<u8>>,
) -> Result<()> {
    let (connection, channel) = servers.channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let properties = persistent(content_type);
    let mut pending = std::collections::VecDeque::new();
    for body in bodies {
        let confirm = send(&channel, to, &properties, &body).await?;
        pending.push_back(confirm);
        if pending.len() >= WINDOW.min(WINDOW_BYTES / body.len().max(1))
            && let Some(oldest) = pending.pop_front()
        {
            taken(oldest.await?)?;
        }
    }
    for confirm in pending {
        taken(confirm.await?)?;
    }
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
    properties: &BasicProperties,
    body: &[u8],
) -> Result<impl Future<Output = lapin::Result<Confirmation>> + Send + use<>> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let (exchange, key) = (to.exchange.into(), to.key.into());
    Ok(channel.basic_publish(exchange, key, options, body, properties.clone()).await?)
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
        let (connection, channel) = servers.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (owed, mut owing) = tokio::sync::mpsc::channel(OWED_MAX);
        let confirming = tokio::spawn(async move {
            while let Some(confirm) = owing.recv().await {
                taken(confirm.await?)?;
            }
            connection.close(200, "done".into()).await?;
            anyhow::Ok(())
        });
        let runtime = tokio::runtime::Handle::current();
        // tokio's clock ticks in milliseconds, a thread sleeps to 50 microseconds.
        let thread = std::thread::spawn(move || {
            let properties = persistent("application/json");
            for number in 0..count {
                let body = events.get(number).body;
                let early = pace.due(number).saturating_duration_since(Instant::now());
                if !early.is_zero() {
                    std::thread::sleep(early);
                }
                let sent = send(&channel, to, &properties, body.as_bytes());
                owed.blocking_send(runtime.block_on(sent)?).ok().context("confirms ended")?;
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
