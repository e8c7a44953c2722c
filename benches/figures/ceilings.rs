//! What each server can do when nothing else runs.

use std::time::Instant;

use anyhow::Result;
use fred::prelude::*;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use sqlx::{Connection, Executor, PgConnection};

use crate::load;
use crate::shared::Servers;

const QUEUE: &str = "rollcall.ceiling";
const BATCH: usize = 1000;

pub async fn publish(servers: &Servers, events: u64) -> Result<f64> {
    let (connection, channel) = servers.channel().await?;
    load::fresh_queue(&channel, QUEUE).await?;
    let bodies = (0..events).map(|number| load::event(number).into_bytes());
    let rate =
        crate::rate(events, load::publish(servers, "", QUEUE, "application/json", bodies)).await?;
    connection.close(200, "done".into()).await?;
    Ok(rate)
}

/// Drains what `publish` left.
pub async fn consume(servers: &Servers, events: u64) -> Result<f64> {
    let (connection, channel) = servers.channel().await?;
    channel.basic_qos(4000, BasicQosOptions::default()).await?;
    let started = Instant::now();
    let mut consumer = channel
        .basic_consume(
            QUEUE.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    for number in 1..=events {
        let Some(delivery) = consumer.next().await else { anyhow::bail!("the consumer ended") };
        if number % BATCH as u64 == 0 || number == events {
            let tag = delivery?.delivery_tag;
            channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
        }
    }
    let rate = events as f64 / started.elapsed().as_secs_f64();
    connection.close(200, "done".into()).await?;
    Ok(rate)
}

/// The same statement that the worker sends, two connections side by side.
pub async fn insert(servers: &Servers, events: u64) -> Result<f64> {
    let mut connection = PgConnection::connect(&servers.database).await?;
    connection.execute("DROP TABLE IF EXISTS ceiling").await?;
    connection
        .execute(
            "CREATE TABLE ceiling (occurred_at timestamptz, id uuid, payload jsonb, \
             received_at timestamptz DEFAULT now(), txid bigint DEFAULT txid_current(), \
             PRIMARY KEY (occurred_at, id))",
        )
        .await?;
    let half = |from: u64, to: u64| async move {
        let mut connection = PgConnection::connect(&servers.database).await?;
        let (mut at, mut ids, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for number in from..to {
            at.push(time::OffsetDateTime::now_utc());
            ids.push(uuid::Uuid::now_v7());
            texts.push(load::event(number));
            if ids.len() == BATCH || number + 1 == to {
                sqlx::query(
                    "INSERT INTO ceiling (occurred_at, id, payload) SELECT o, i, p::jsonb \
                     FROM unnest($1::timestamptz[], $2::uuid[], $3::text[]) AS t (o, i, p) \
                     ON CONFLICT DO NOTHING",
                )
                .bind(&at)
                .bind(&ids)
                .bind(&texts)
                .execute(&mut connection)
                .await?;
                at.clear();
                ids.clear();
                texts.clear();
            }
        }
        anyhow::Ok(())
    };
    let both = async {
        let (one, two) = tokio::join!(half(0, events / 2), half(events / 2, events));
        one.and(two)
    };
    let rate = crate::rate(events, both).await?;
    connection.execute("DROP TABLE ceiling").await?;
    Ok(rate)
}

/// Variadic SADDs of a batch's members to two sets.
pub async fn add(servers: &Servers, events: u64) -> Result<f64> {
    let client = Builder::from_config(Config::from_url(&servers.redis)?).build()?;
    client.init().await?;
    let adding = async {
        for batch in 0..events / BATCH as u64 {
            let numbers = batch * BATCH as u64..(batch + 1) * BATCH as u64;
            let cities: Vec<String> = numbers
                .clone()
                .map(|n| format!("S{}:City {}", n % 50, n.wrapping_mul(7919) % 7500))
                .collect();
            let users: Vec<String> =
                numbers.map(|n| format!("user{}", n.wrapping_mul(104_729) % 50_000)).collect();
            let (one, two) = tokio::join!(
                client.sadd::<(), _, _>("ceiling:cities", cities),
                client.sadd::<(), _, _>("ceiling:users", users)
            );
            one.and(two)?;
        }
        Ok(())
    };
    let rate = crate::rate(events, adding).await?;
    client.del::<(), _>(vec!["ceiling:cities", "ceiling:users"]).await?;
    client.quit().await?;
    Ok(rate)
}
