//! A model of RabbitMQ: one quorum queue, its consumers, and the dead letters. It counts returns as
//! 3.10 does, what it was sending to a consumer that is cancelled included.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::dice::Dice;
use super::load::Message;
use super::worker::{HOLD_MAX, Models};
use super::world::{Sim, World};
use crate::broker::{BrokerError, DeadLetter, Delivery, Incoming, Token, Tokens};
use crate::ingest::servers::{Broker, Consumer};

/// Returns before a message is dead-lettered. Far above what the faults of one run can cause.
const DELIVERY_LIMIT: u64 = 30;
/// A hold, and the longest try at its end: a statement that hangs, or a search for bad rows in which
/// each of a hundred statements is slow.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(HOLD_MAX.as_secs() + 80);

pub struct Letter {
    pub reason: &'static str,
    pub body: String,
}

#[derive(Default)]
pub struct Queue {
    ready: VecDeque<Queued>,
    channels: BTreeMap<u64, Channel>,
    pub letters: Vec<Letter>,
    /// Of connections and channels.
    next: u64,
}

struct Queued {
    message: Message,
    returned: u64,
}

struct Channel {
    connection: u64,
    prefetch: usize,
    consuming: bool,
    /// Handed over and not settled: tag, message, since when.
    unsettled: VecDeque<(u64, Queued, Instant)>,
    /// Handed over by the broker, and not read by the worker: how many of the unsettled, from the
    /// end.
    unread: usize,
    last_tag: u64,
    /// The connection is gone; the worker learns of it when it has read what it was sent.
    dead: bool,
    /// The broker took the consumer away.
    revoked: bool,
}

impl Queue {
    pub fn publish(&mut self, message: Message) {
        self.ready.push_back(Queued { message, returned: 0 });
    }

    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
            && self.channels.values().all(|one| one.dead || one.unsettled.is_empty())
    }

    pub fn describe(&self) -> String {
        let unsettled: usize = self.channels.values().map(|one| one.unsettled.len()).sum();
        format!("{} messages ready, {unsettled} unsettled", self.ready.len())
    }

    /// Hands out what there is, in turn.
    pub fn dispatch(&mut self) {
        loop {
            let mut moved = false;
            for channel in self.channels.values_mut() {
                if !channel.consuming || channel.dead || channel.unsettled.len() >= channel.prefetch
                {
                    continue;
                }
                let Some(queued) = self.ready.pop_front() else { return };
                channel.last_tag += 1;
                channel.unsettled.push_back((channel.last_tag, queued, Instant::now()));
                channel.unread += 1;
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    /// Back to the front of the queue, in order, or to the dead letters.
    fn give_back(&mut self, returned: impl DoubleEndedIterator<Item = Queued>) -> u64 {
        let mut given_up = 0;
        for mut queued in returned.rev() {
            queued.returned += 1;
            if queued.returned > DELIVERY_LIMIT {
                given_up += 1;
                let body = String::from_utf8_lossy(&queued.message.body).into_owned();
                self.letters.push(Letter { reason: "broker", body });
            } else {
                self.ready.push_front(queued);
            }
        }
        given_up
    }

    /// How long the longest has been kept of what a connection has not settled.
    fn kept(&self, connection: u64) -> Duration {
        let channels = self.channels.values();
        let live = channels.filter(|one| one.connection == connection && !one.dead);
        live.flat_map(|one| &one.unsettled)
            .map(|(.., since)| since.elapsed())
            .max()
            .unwrap_or_default()
    }

    fn cut(&mut self, connection: u64) -> u64 {
        let mut returned = Vec::new();
        for channel in self.channels.values_mut().filter(|one| one.connection == connection) {
            channel.dead = true;
            channel.consuming = false;
            // Read or not: the worker may still work on them, and settles nothing any more.
            let kept = channel.unsettled.iter().map(|(tag, queued, since)| {
                (
                    *tag,
                    Queued { message: queued.message.clone(), returned: queued.returned },
                    *since,
                )
            });
            let kept: VecDeque<_> = kept.collect();
            let all = std::mem::replace(&mut channel.unsettled, kept);
            returned.extend(all.into_iter().map(|(_, queued, _)| queued));
        }
        let given_up = self.give_back(returned.into_iter());
        self.dispatch();
        given_up
    }

    /// Some connection, if there is one.
    pub fn cut_one(&mut self, dice: &mut Dice) -> bool {
        let live: Vec<u64> =
            self.channels.values().filter(|one| !one.dead).map(|one| one.connection).collect();
        if live.is_empty() {
            return false;
        }
        let connection = dice.pick(&live);
        self.cut(connection);
        true
    }

    fn channel(&mut self, id: u64) -> &mut Channel {
        self.channels.get_mut(&id).expect("a channel lives as long as its consumer")
    }
}

impl World {
    fn cut_connection(&mut self, connection: u64) {
        let kept = self.broker.kept(connection);
        if kept > HOLD_MAX {
            self.count("held too long");
        }
        self.judge_patience(kept);
        for _ in 0..self.broker.cut(connection) {
            self.count("given up by the broker");
        }
    }

    /// Acknowledges all up to `last`. Done only where the connection stands.
    fn acknowledge(&mut self, id: u64, last: u64) {
        let channel = self.broker.channel(id);
        if channel.dead {
            return;
        }
        if !channel.unsettled.iter().any(|(tag, ..)| *tag == last) {
            self.violate(format!("406: unknown delivery tag {last}"));
            return;
        }
        let mut settled = Vec::new();
        while channel.unsettled.front().is_some_and(|(tag, ..)| *tag <= last) {
            settled.extend(channel.unsettled.pop_front());
        }
        for (_, queued, since) in settled {
            self.judge_ack(&queued.message);
            self.judge_patience(since.elapsed());
        }
    }

    fn judge_patience(&mut self, kept: Duration) {
        if kept > CONSUMER_TIMEOUT {
            self.violate(format!("a delivery was kept for {kept:?}"));
        }
    }
}

/// A worker's connection; a crash is its end as well.
pub struct Connection {
    models: Models,
    id: u64,
}

pub async fn connect(models: &Models) -> Result<Connection, BrokerError> {
    models.sim.take_time(20).await;
    let mut world = models.sim.lock();
    let rate = world.faults.broker;
    if world.fails(rate) {
        return Err(lost("connecting"));
    }
    world.broker.next += 1;
    let id = world.broker.next;
    Ok(Connection { models: models.clone(), id })
}

fn lost(tried: &str) -> BrokerError {
    BrokerError::Timeout { tried: tried.to_owned(), after: Duration::from_secs(10) }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let sim = &self.models.sim;
        // A lane that panicked holds no lock, but what it found must not be hidden by a second.
        sim.lock().cut_connection(self.id);
        sim.changed();
    }
}

impl Broker for Connection {
    type Consumer = SimConsumer;

    async fn lane(&self, prefetch: u16) -> Result<SimConsumer, BrokerError> {
        let sim = &self.models.sim;
        sim.take_time(5).await;
        let mut world = sim.lock();
        let rate = world.faults.broker;
        if world.fails(rate) {
            return Err(lost("consuming"));
        }
        world.broker.next += 1;
        let id = world.broker.next;
        let channel = Channel {
            connection: self.id,
            prefetch: prefetch.into(),
            consuming: true,
            unsettled: VecDeque::new(),
            unread: 0,
            last_tag: 0,
            dead: false,
            revoked: false,
        };
        world.broker.channels.insert(id, channel);
        world.broker.dispatch();
        drop(world);
        sim.changed();
        Ok(SimConsumer { models: self.models.clone(), id, settled: 0, read: 0, cancelled: false })
    }

    async fn ready(&self) -> Result<u32, BrokerError> {
        Ok(self.models.sim.lock().broker.ready.len() as u32)
    }

    async fn close(self) {
        self.models.sim.take_time(5).await;
    }
}

/// One channel's consumer.
pub struct SimConsumer {
    models: Models,
    id: u64,
    settled: u64,
    read: u64,
    cancelled: bool,
}

impl SimConsumer {
    /// What there is to return now; `None` is to wait.
    fn poll(&mut self) -> Option<Result<Option<Delivery>, BrokerError>> {
        let mut world = self.models.sim.lock();
        let rate = world.faults.broker;
        if world.fails(rate / 20) {
            world.count("cancelled by the broker");
            let channel = world.broker.channel(self.id);
            channel.revoked = true;
            channel.consuming = false;
        }
        let channel = world.broker.channel(self.id);
        if channel.unread == 0 {
            return match () {
                () if channel.dead => Some(Err(lost("consuming"))),
                () if channel.revoked => {
                    Some(Err(BrokerError::ConsumerCancelled { queue: "model".to_owned() }))
                }
                () if self.cancelled => Some(Ok(None)),
                () => None,
            };
        }
        let at = channel.unsettled.len() - channel.unread;
        channel.unread -= 1;
        let (tag, Queued { message, returned }, _) = &channel.unsettled[at];
        let (tag, returned, message) = (*tag, *returned, message.clone());
        self.read += 1;
        assert_eq!(self.read, tag, "the model counts its tags");
        if returned > 0 {
            world.count("redelivery");
        }
        if returned >= 4 {
            world.count("suspect");
        }
        if message.poison {
            world.killed[self.models.worker].notify_one();
        }
        drop(world);
        let incoming = Incoming::bare(message.body, returned);
        Some(Ok(Some(Delivery { message: incoming, token: Token::new(self.id, tag) })))
    }

    async fn step(&mut self, tried: &str) -> Result<(), BrokerError> {
        let sim = self.models.sim.clone();
        sim.take_time(5).await;
        let mut world = sim.lock();
        let rate = world.faults.broker;
        if world.fails(rate) {
            let connection = world.broker.channel(self.id).connection;
            world.cut_connection(connection);
            world.count("connection cut");
        }
        let dead = world.broker.channel(self.id).dead;
        drop(world);
        sim.changed();
        if dead { Err(lost(tried)) } else { Ok(()) }
    }
}

impl Consumer for SimConsumer {
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        let sim: Sim = self.models.sim.clone();
        loop {
            let changed = sim.change().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(next) = self.poll() {
                return next;
            }
            changed.await;
        }
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.cancelled = true;
        self.step("cancelling").await?;
        let mut world = self.models.sim.lock();
        let on_the_way = world.dice.permille(300);
        let channel = world.broker.channel(self.id);
        channel.consuming = false;
        if on_the_way && channel.unread > 0 {
            // The last of them never leave the broker, and count as returned.
            let kept = channel.unsettled.len() - channel.unread.div_ceil(2);
            channel.unread -= channel.unread.div_ceil(2);
            let returned = channel.unsettled.split_off(kept);
            channel.last_tag -= returned.len() as u64;
            world.count("consumer cancelled with messages on the way");
            world.broker.give_back(returned.into_iter().map(|(_, queued, _)| queued));
            world.broker.dispatch();
        }
        Ok(())
    }

    async fn resume(&mut self, prefetch: u16) -> Result<(), BrokerError> {
        self.step("consuming").await?;
        self.cancelled = false;
        let mut world = self.models.sim.lock();
        let channel = world.broker.channel(self.id);
        channel.prefetch = prefetch.into();
        channel.consuming = true;
        world.broker.dispatch();
        Ok(())
    }

    async fn condemn(&mut self, letters: &[DeadLetter<'_>]) -> Result<(), BrokerError> {
        if letters.is_empty() {
            return Ok(());
        }
        self.step("condemning").await?;
        for letter in letters {
            let mut world = self.models.sim.lock();
            let rate = world.faults.broker;
            if world.fails(rate) {
                return Err(BrokerError::Nacked { tried: "condemning".to_owned() });
            }
            let body = String::from_utf8_lossy(&letter.body).into_owned();
            world.broker.letters.push(Letter { reason: letter.reason, body });
        }
        self.step("condemning").await
    }

    async fn settle(&mut self, tokens: Tokens) -> Result<u64, BrokerError> {
        let Some(last) = tokens.last_after(self.id, self.settled)? else { return Ok(0) };
        let count = last - self.settled;
        self.settled = last;
        let mut world = self.models.sim.lock();
        let rate = world.faults.broker;
        if world.fails(rate) {
            // Written to a socket whose other end is gone.
            let connection = world.broker.channel(self.id).connection;
            world.cut_connection(connection);
            world.count("ack lost");
        } else {
            world.acknowledge(self.id, last);
            world.broker.dispatch();
        }
        drop(world);
        self.models.sim.say(format!("channel {} settled up to {last}", self.id));
        self.models.sim.changed();
        Ok(count)
    }

    fn in_flight(&self) -> u64 {
        self.read - self.settled
    }

    fn is_connected(&self) -> bool {
        !self.models.sim.lock().broker.channel(self.id).dead
    }
}
