//! A model of RabbitMQ as a worker's connection sees it: it is lost, refuses, takes a consumer
//! away, swallows an ack. What it was sending to a consumer that is cancelled counts as returned.

use std::collections::VecDeque;
use std::time::Duration;

use super::queue::{Channel, Letter, Queued};
use super::worker::Models;
use super::world::Sim;
use crate::broker::{BrokerError, DeadLetter, Delivery, Incoming, Token, Tokens};
use crate::ingest::servers::{Broker, Consumer};

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

    async fn lane(&mut self, prefetch: u16) -> Result<SimConsumer, BrokerError> {
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
