//! The least that a consumer can do: take what there is, insert it, add its users, acknowledge. No
//! sets, no watermark, no dead letters, no metrics, nothing made good: what is left of a latency
//! when all of that is taken away is the servers'. Must never become a consumer that anybody would
//! run.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fred::prelude::*;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use sqlx::postgres::PgBindIterExt;
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ceilings::{BATCH, INSERT, LANES, PREFETCH};
use crate::shared::Servers;
use crate::worker::{PREFIX, QUEUE};

const CONNECTED: Duration = Duration::from_secs(10);

/// Whether it uses Postgres as well.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bare {
    Unstored,
    Stored,
}

pub struct Consumer {
    lanes: JoinSet<Result<()>>,
    over: CancellationToken,
}

impl Bare {
    pub async fn consuming(self, servers: &Arc<Servers>) -> Result<Consumer> {
        let mut lanes = JoinSet::new();
        let (ready, over) = (Arc::new(Barrier::new(LANES + 1)), CancellationToken::new());
        for _ in 0..LANES {
            let (servers, ready, over) = (servers.clone(), ready.clone(), over.clone());
            lanes.spawn(async move { self.lane(&servers, &ready, &over).await });
        }
        let connected = tokio::time::timeout(CONNECTED, ready.wait()).await;
        connected.context("the lanes did not connect")?;
        Ok(Consumer { lanes, over })
    }

    async fn lane(
        self,
        servers: &Servers,
        ready: &Barrier,
        over: &CancellationToken,
    ) -> Result<()> {
        let mut database = PgConnection::connect(&servers.database).await?;
        let redis = Builder::from_config(Config::from_url(&servers.redis)?).build()?;
        redis.init().await?;
        let (connection, channel) = servers.channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let mut deliveries =
            channel.basic_consume(QUEUE.into(), "".into(), options, Default::default()).await?;
        ready.wait().await;
        let key = format!("{PREFIX}:users");
        while let Some(first) = over.run_until_cancelled(deliveries.next()).await {
            let mut batch = vec![first.context("the consumer ended")??];
            while batch.len() < BATCH {
                match deliveries.next().now_or_never() {
                    Some(Some(delivery)) => batch.push(delivery?),
                    _ => break,
                }
            }
            let mut rows =
                batch.iter().map(|delivery| Row::of(&delivery.data)).collect::<Result<Vec<_>>>()?;
            rows.sort_unstable_by_key(|row| (row.at, row.id));
            if self == Bare::Stored {
                let (inserted, _): (i64, i64) = sqlx::query_as(INSERT)
                    .bind(rows.iter().map(|row| row.at).bind_iter())
                    .bind(rows.iter().map(|row| row.id).bind_iter())
                    .bind(rows.iter().map(|row| row.body).bind_iter())
                    .fetch_one(&mut database)
                    .await?;
                ensure!(inserted == rows.len() as i64, "{inserted} of {} rows", rows.len());
            }
            let users: Vec<&str> = rows.iter().map(|row| row.user).collect();
            let () = redis.sadd(key.as_str(), users).await?;
            if let Some(last) = batch.last() {
                last.ack(BasicAckOptions { multiple: true }).await?;
            }
        }
        // Whatever is not acknowledged would come again, to who is measured next.
        connection.close(200, "done".into()).await?;
        redis.quit().await?;
        Ok(())
    }
}

impl Consumer {
    /// Once each lane has acknowledged its last batch.
    pub async fn end(mut self) -> Result<()> {
        self.over.cancel();
        while let Some(ended) = self.lanes.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// What is at its place in every body of [`crate::events`].
struct Row<'a> {
    at: OffsetDateTime,
    id: Uuid,
    user: &'a str,
    body: &'a str,
}

impl Row<'_> {
    fn of(body: &[u8]) -> Result<Row<'_>> {
        let body = std::str::from_utf8(body)?;
        let field = |name: &str| {
            let (_, value) = body.split_once(name)?;
            value.strip_prefix("\":\"")?.split('"').next()
        };
        let at = field("occurred_at").context("no time")?;
        Ok(Row {
            at: OffsetDateTime::parse(at, &Rfc3339)?,
            id: field("id").context("no id")?.parse()?,
            user: field("username").context("no user")?,
            body,
        })
    }
}
