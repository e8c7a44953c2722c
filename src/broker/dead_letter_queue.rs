//! The dead letters, for the operator: look, count, publish again, throw away.
//!
//! Takes each letter at most once per run (the number waiting when the first is taken bounds it) and
//! lets what is not asked for go back untouched. Never takes a letter out before its replay is
//! confirmed and routed. Holds no body that the filter does not want.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ExchangeKind};

use super::connect::{self, short, timed};
use super::error::BrokerError;
use super::letter::{self, Filter, Letter};
use super::publish::{self, Confirming, begin, finish};
use crate::config;

/// Replays on their way before their confirms are awaited together.
const REPLAY_GROUP_LETTERS: usize = 64;
const REPLAY_GROUP_BYTES: usize = 8 * 1024 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    pub replayed: u64,
    /// Matched, but no queue took it: still among the dead letters.
    pub unroutable: u64,
    /// Not matched: still among the dead letters.
    pub kept: u64,
}

/// Up to `limit` letters that match, oldest first. All go back.
pub async fn browse(
    config: &config::Broker,
    limit: usize,
    filter: &Filter,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<Letter>, BrokerError> {
    let mut letters = Vec::new();
    let mut queue = Reader::open(config).await?;
    let result = async {
        while letters.len() < limit
            && let Some(taken) = queue.take().await?
        {
            if filter.matches(&taken.letter) {
                letters.push(taken.letter);
            }
            progress(queue.taken, queue.total);
        }
        Ok(())
    };
    let result = result.await;
    queue.close().await;
    result.map(|()| letters)
}

pub async fn count_by_reason(
    config: &config::Broker,
    mut progress: impl FnMut(u64, u64),
) -> Result<BTreeMap<String, u64>, BrokerError> {
    let mut counts = BTreeMap::new();
    let mut queue = Reader::open(config).await?;
    let result = async {
        while let Some(taken) = queue.take().await? {
            *counts.entry(taken.letter.reason).or_insert(0) += 1;
            progress(queue.taken, queue.total);
        }
        Ok(())
    };
    let result = result.await;
    queue.close().await;
    result.map(|()| counts)
}

/// Throws the matching letters away, for good, and says how many.
pub async fn purge(
    config: &config::Broker,
    filter: &Filter,
    mut progress: impl FnMut(u64, u64),
) -> Result<u64, BrokerError> {
    let mut purged = 0;
    let mut queue = Reader::open(config).await?;
    let result = async {
        while let Some(taken) = queue.take().await? {
            if filter.matches(&taken.letter) {
                queue.remove(taken.tag).await?;
                purged += 1;
            }
            progress(queue.taken, queue.total);
        }
        Ok(())
    };
    let result = result.await;
    queue.close().await;
    result.map(|()| purged)
}

/// Publishes the matching letters to where they came from (the configured exchange when nothing
/// says so), and takes each out once its replay is confirmed. A crash in between leaves a letter
/// that was replayed: replaying it twice stores it once.
pub async fn replay(
    config: &config::Broker,
    filter: &Filter,
    mut progress: impl FnMut(u64, u64),
) -> Result<Replayed, BrokerError> {
    let mut queue = Reader::open(config).await?;
    let result = replay_all(&mut queue, filter, &mut progress).await;
    queue.close().await;
    result
}

async fn replay_all(
    queue: &mut Reader<'_>,
    filter: &Filter,
    progress: &mut impl FnMut(u64, u64),
) -> Result<Replayed, BrokerError> {
    let limit = queue.config.timeout;
    let confirms = publish::confirm_channel(&queue.connection, limit).await?;
    let mut run = Replay {
        queue,
        confirms: Arc::new(confirms),
        exchanges: HashMap::new(),
        group: Vec::new(),
        group_bytes: 0,
        result: Replayed::default(),
    };
    while let Some(taken) = run.queue.take().await? {
        if filter.matches(&taken.letter) {
            run.publish(taken).await?;
        } else {
            run.result.kept += 1;
        }
        progress(run.queue.taken, run.queue.total);
    }
    run.finish_group().await?;
    Ok(run.result)
}

struct Replay<'a, 'c> {
    queue: &'a mut Reader<'c>,
    confirms: Arc<Channel>,
    /// Exchanges looked for so far: publishing to one that is gone would close the channel.
    exchanges: HashMap<String, bool>,
    group: Vec<Replaying>,
    group_bytes: usize,
    result: Replayed,
}

struct Replaying {
    tag: u64,
    route: (String, String),
    confirming: Confirming,
}

impl Replay<'_, '_> {
    async fn publish(&mut self, taken: Taken) -> Result<(), BrokerError> {
        let Letter { original_exchange, original_routing_key: routing_key, body, .. } =
            taken.letter;
        let exchange = original_exchange.unwrap_or_else(|| self.queue.config.exchange.clone());
        if !self.exchange_exists(&exchange).await? {
            self.result.unroutable += 1;
            return Ok(());
        }
        self.group_bytes += body.len();
        self.group.push(Replaying {
            tag: taken.tag,
            confirming: begin(
                &self.confirms,
                short("exchange", &exchange)?,
                short("routing key", &routing_key)?,
                body,
                letter::properties_for_replay(&taken.properties),
            ),
            route: (exchange, routing_key),
        });
        if self.group.len() >= REPLAY_GROUP_LETTERS || self.group_bytes >= REPLAY_GROUP_BYTES {
            self.finish_group().await?;
        }
        Ok(())
    }

    /// Awaits every confirm of the group before any letter of it is taken out: lapin may hand a
    /// returned message to a neighbour's confirm, so it is the route that tells whose it is.
    async fn finish_group(&mut self) -> Result<(), BrokerError> {
        self.group_bytes = 0;
        let mut confirmed = Vec::with_capacity(self.group.len());
        let mut returned = HashSet::new();
        for replaying in self.group.drain(..) {
            let tried = || format!("replaying to exchange `{}`", replaying.route.0);
            let limit = self.queue.config.timeout;
            match finish(replaying.confirming, limit, tried).await {
                Ok(()) => {}
                Err(BrokerError::Unroutable { exchange, routing_key }) => {
                    returned.insert((exchange, routing_key));
                }
                Err(error) => return Err(error),
            }
            confirmed.push((replaying.tag, replaying.route));
        }
        for (tag, route) in confirmed {
            if returned.contains(&route) {
                self.result.unroutable += 1;
            } else {
                self.queue.remove(tag).await?;
                self.result.replayed += 1;
            }
        }
        Ok(())
    }

    async fn exchange_exists(&mut self, name: &str) -> Result<bool, BrokerError> {
        // The default exchange always exists and may not be asked for.
        if name.is_empty() {
            return Ok(true);
        }
        if let Some(exists) = self.exchanges.get(name) {
            return Ok(*exists);
        }
        let limit = self.queue.config.timeout;
        let channel = connect::channel(&self.queue.connection, limit).await?;
        let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let kind = ExchangeKind::Topic;
        let name_short = short("exchange", name)?;
        let declare = channel.exchange_declare(name_short, kind, passive, FieldTable::default());
        let tried = || format!("looking for exchange `{name}`");
        let exists = match timed(limit, tried, declare).await {
            Ok(()) => true,
            Err(error) if error.reply().is_some_and(|(code, _)| code == 404) => false,
            Err(error) => return Err(error),
        };
        self.exchanges.insert(name.to_owned(), exists);
        Ok(exists)
    }
}

/// One pass over the queue. Closing it hands back whatever was not removed.
struct Reader<'a> {
    config: &'a config::Broker,
    connection: Connection,
    channel: Channel,
    taken: u64,
    /// Letters waiting when the first was taken: those that come back or arrive later are not for
    /// this pass. 0 until then.
    total: u64,
}

struct Taken {
    tag: u64,
    letter: Letter,
    properties: lapin::BasicProperties,
}

impl<'a> Reader<'a> {
    async fn open(config: &'a config::Broker) -> Result<Reader<'a>, BrokerError> {
        let connection = connect::connect(config, "dead-letters").await?;
        let channel = connect::channel(&connection, config.timeout).await?;
        Ok(Reader { config, connection, channel, taken: 0, total: 0 })
    }

    async fn take(&mut self) -> Result<Option<Taken>, BrokerError> {
        if self.taken > 0 && self.taken >= self.total {
            return Ok(None);
        }
        let name = short("queue", &self.config.dead_letters)?;
        let get = self.channel.basic_get(name, BasicGetOptions::default());
        let tried = || format!("reading queue `{}`", self.config.dead_letters);
        let got = timed(self.config.timeout, tried, get).await?;
        let Some(BasicGetMessage { delivery, message_count, .. }) = got else { return Ok(None) };
        if self.taken == 0 {
            // The answer to a declaration has a number as well, and that is 0 where a quorum queue
            // has not answered within 250 ms.
            self.total = 1 + u64::from(message_count);
        }
        self.taken += 1;
        Ok(Some(Taken {
            tag: delivery.delivery_tag,
            letter: letter::read(&delivery.properties, Bytes::from(delivery.data)),
            properties: delivery.properties,
        }))
    }

    /// One letter only: the tags before it may belong to letters that are to go back.
    async fn remove(&self, tag: u64) -> Result<(), BrokerError> {
        let ack = self.channel.basic_ack(tag, BasicAckOptions { multiple: false });
        let tried = || format!("removing a letter from `{}`", self.config.dead_letters);
        timed(self.config.timeout, tried, ack).await
    }

    async fn close(self) {
        connect::close(&self.connection, self.config.timeout).await;
    }
}
