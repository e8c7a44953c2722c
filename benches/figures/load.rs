//! Events to load the servers with.

use anyhow::Result;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::shared::Servers;

/// Confirms awaited together.
const WINDOW: usize = 2000;

impl Servers {
    pub async fn channel(&self) -> Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.amqp, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }
}

/// An event of some 200 bytes: 7,500 cities, 50,000 users, two of them new in every thousand.
pub fn event(number: u64) -> String {
    let at =
        time::OffsetDateTime::now_utc() - time::Duration::milliseconds((number % 3_600_000) as i64);
    let at = at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    format!(
        r#"{{"id":"{}","occurred_at":"{at}","state":"S{}","city":"City {}","username":"user{}","text":"{:0>40}"}}"#,
        uuid::Uuid::now_v7(),
        number % 50,
        number.wrapping_mul(7919) % 7500,
        number.wrapping_mul(104_729) % 50_000,
        number,
    )
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

/// Publishes, and awaits each confirm.
pub async fn publish(
    servers: &Servers,
    exchange: &str,
    key: &str,
    content_type: &str,
    bodies: impl Iterator<Item = Vec<u8>>,
) -> Result<()> {
    let (connection, channel) = servers.channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let properties =
        BasicProperties::default().with_delivery_mode(2).with_content_type(content_type.into());
    let mut pending = std::collections::VecDeque::new();
    for body in bodies {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let confirm = channel
            .basic_publish(exchange.into(), key.into(), options, &body, properties.clone())
            .await?;
        pending.push_back(confirm);
        if pending.len() >= WINDOW
            && let Some(oldest) = pending.pop_front()
        {
            anyhow::ensure!(oldest.await?.is_ack(), "a publish was refused");
        }
    }
    for confirm in pending {
        anyhow::ensure!(confirm.await?.is_ack(), "a publish was refused");
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}
