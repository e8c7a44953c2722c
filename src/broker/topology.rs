//! What must exist in the broker: checked always, declared where allowed.
//!
//! Never changes or deletes what is there. A queue that exists with other arguments is an error
//! with instructions, not something to work around: the arguments carry the promises.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ExchangeKind, Queue};

use super::connect::{self, short, timed};
use super::error::BrokerError;
use crate::config;

/// RabbitMQ 4 gives every quorum queue a limit of 20, and each look at the dead letters returns
/// them, which counts. This one is never reached.
const DEAD_LETTERS_DELIVERY_LIMIT: i64 = 1_000_000_000;

const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;

/// What `ensure` found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopologyReport {
    pub declared: Vec<String>,
    pub present: Vec<String>,
    /// What could not be checked, and why.
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueDepth {
    /// Waiting, without those handed out and not yet settled.
    pub ready: u32,
    pub consumers: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    pub queue: QueueDepth,
    pub dead_letters: QueueDepth,
}

/// Checks that everything is there as configured, and declares what is missing if
/// `declare_topology` says so. Running it again changes nothing.
pub async fn ensure(config: &config::Broker) -> Result<TopologyReport, BrokerError> {
    let connection = connect::connect(config, "topology").await?;
    let result = ensure_on(&connection, config).await;
    connect::close(&connection, config.timeout).await;
    result
}

/// What waits in the queue and among the dead letters, over a connection of its own.
pub async fn depth(config: &config::Broker) -> Result<Depth, BrokerError> {
    let connection = connect::connect(config, "depth").await?;
    let result = depth_on(&connection, config).await;
    connect::close(&connection, config.timeout).await;
    result
}

pub(super) async fn depth_on(
    connection: &Connection,
    config: &config::Broker,
) -> Result<Depth, BrokerError> {
    let server = Server { connection, config };
    let depth = |queue: Queue| QueueDepth {
        ready: queue.message_count(),
        consumers: queue.consumer_count(),
    };
    Ok(Depth {
        queue: depth(server.find_queue(&config.queue).await?),
        dead_letters: depth(server.find_queue(&config.dead_letters).await?),
    })
}

async fn ensure_on(
    connection: &Connection,
    config: &config::Broker,
) -> Result<TopologyReport, BrokerError> {
    // The dead letters first: the queue never exists without the place its letters go to.
    let mut report = ensure_dead_letters(connection, config).await?;
    let server = Server { connection, config };
    let (exchange, queue) = (&config.exchange, &config.queue);
    server.exchange(&mut report, exchange, ExchangeKind::Topic).await?;
    server.queue(&mut report, queue, queue_arguments(config)).await?;
    server.bind(&mut report, queue, exchange, "#").await?;
    Ok(report)
}

/// Their part alone, on a connection that is there.
pub(super) async fn ensure_dead_letters(
    connection: &Connection,
    config: &config::Broker,
) -> Result<TopologyReport, BrokerError> {
    let server = Server { connection, config };
    let mut report = TopologyReport::default();
    let dead = &config.dead_letters;
    server.exchange(&mut report, dead, ExchangeKind::Fanout).await?;
    server.queue(&mut report, dead, dead_letters_arguments()).await?;
    server.bind(&mut report, dead, dead, "").await?;
    Ok(report)
}

/// At-least-once dead-lettering needs exactly these, and `reject-publish`.
fn queue_arguments(config: &config::Broker) -> FieldTable {
    arguments(&[
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongLongInt(i64::from(config.delivery_limit))),
        ("x-dead-letter-exchange", text(&config.dead_letters)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ])
}

fn dead_letters_arguments() -> FieldTable {
    arguments(&[
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongLongInt(DEAD_LETTERS_DELIVERY_LIMIT)),
    ])
}

fn arguments(pairs: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// The broker under inspection. Each operation has a channel of its own, as a failure closes it.
struct Server<'a> {
    connection: &'a Connection,
    config: &'a config::Broker,
}

impl Server<'_> {
    async fn exchange(
        &self,
        report: &mut TopologyReport,
        name: &str,
        kind: ExchangeKind,
    ) -> Result<(), BrokerError> {
        let label = format!("exchange `{name}`");
        let passive = self.declare_exchange(name, kind.clone(), true).await;
        let exists = exists(passive)?;
        if !exists && !self.config.declare_topology {
            return Err(missing("exchange", name));
        }
        // On an existing exchange a declare can only compare.
        match self.declare_exchange(name, kind, false).await {
            Ok(()) => report.found(label, exists),
            Err(error) => match error.reply() {
                Some((PRECONDITION_FAILED, says)) => {
                    return Err(BrokerError::ExchangeDiffers {
                        exchange: name.to_owned(),
                        server_says: says.to_owned(),
                    });
                }
                Some((ACCESS_REFUSED, _)) if exists => {
                    report.unchecked(label, "this user may not declare it")
                }
                _ => return Err(error),
            },
        }
        Ok(())
    }

    async fn queue(
        &self,
        report: &mut TopologyReport,
        name: &str,
        arguments: FieldTable,
    ) -> Result<(), BrokerError> {
        let label = format!("queue `{name}`");
        let passive = self.declare_queue(name, FieldTable::default(), true).await;
        let exists = exists(passive)?;
        if !exists && !self.config.declare_topology {
            return Err(missing("queue", name));
        }
        match self.declare_queue(name, arguments, false).await {
            Ok(_) => report.found(label, exists),
            Err(error) => match error.reply() {
                Some((PRECONDITION_FAILED, says)) => {
                    return Err(BrokerError::QueueDiffers {
                        queue: name.to_owned(),
                        server_says: says.to_owned(),
                    });
                }
                Some((ACCESS_REFUSED, _)) if exists => {
                    report.unchecked(label, "this user may not declare it")
                }
                _ => return Err(error),
            },
        }
        Ok(())
    }

    /// A binding cannot be looked for, only made; making it again changes nothing.
    async fn bind(
        &self,
        report: &mut TopologyReport,
        queue: &str,
        exchange: &str,
        routing_key: &str,
    ) -> Result<(), BrokerError> {
        let label = format!("binding of queue `{queue}` to exchange `{exchange}`");
        if !self.config.declare_topology {
            report.unchecked(label, "declaring is switched off");
            return Ok(());
        }
        let channel = connect::channel(self.connection, self.config.timeout).await?;
        let bind = channel.queue_bind(
            short("queue", queue)?,
            short("exchange", exchange)?,
            routing_key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        let tried = || format!("binding queue `{queue}` to exchange `{exchange}`");
        match timed(self.config.timeout, tried, bind).await {
            Ok(()) => report.present.push(label),
            Err(error) => match error.reply() {
                Some((ACCESS_REFUSED, _)) => {
                    report.unchecked(label, "this user may not declare it")
                }
                _ => return Err(error),
            },
        }
        Ok(())
    }

    async fn find_queue(&self, name: &str) -> Result<Queue, BrokerError> {
        let found = self.declare_queue(name, FieldTable::default(), true).await;
        found.map_err(|error| match error.reply() {
            Some((NOT_FOUND, says)) if says.contains("no queue") => missing("queue", name),
            _ => error,
        })
    }

    async fn declare_exchange(
        &self,
        name: &str,
        kind: ExchangeKind,
        passive: bool,
    ) -> Result<(), BrokerError> {
        let channel = connect::channel(self.connection, self.config.timeout).await?;
        let options =
            ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
        let name_short = short("exchange", name)?;
        let declare = channel.exchange_declare(name_short, kind, options, FieldTable::default());
        timed(self.config.timeout, || tried("exchange", name, passive), declare).await
    }

    async fn declare_queue(
        &self,
        name: &str,
        arguments: FieldTable,
        passive: bool,
    ) -> Result<Queue, BrokerError> {
        let channel = connect::channel(self.connection, self.config.timeout).await?;
        let options =
            QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
        let declare = channel.queue_declare(short("queue", name)?, options, arguments);
        timed(self.config.timeout, || tried("queue", name, passive), declare).await
    }
}

impl TopologyReport {
    fn found(&mut self, label: String, existed: bool) {
        match existed {
            true => self.present.push(label),
            false => self.declared.push(label),
        }
    }

    fn unchecked(&mut self, label: String, why: &str) {
        self.notes.push(format!("{label} could not be checked: {why}"));
    }
}

fn tried(what: &str, name: &str, passive: bool) -> String {
    let verb = if passive { "looking for" } else { "declaring" };
    format!("{verb} {what} `{name}`")
}

fn missing(what: &'static str, name: &str) -> BrokerError {
    BrokerError::Missing { what, name: name.to_owned() }
}

/// Reads a passive declare: only a plain "there is none" means absent.
fn exists<T>(passive: Result<T, BrokerError>) -> Result<bool, BrokerError> {
    match passive {
        Ok(_) => Ok(true),
        Err(error) => match error.reply() {
            Some((NOT_FOUND, says)) if says.contains("no queue") => Ok(false),
            Some((NOT_FOUND, says)) if says.contains("no exchange") => Ok(false),
            _ => Err(error),
        },
    }
}
