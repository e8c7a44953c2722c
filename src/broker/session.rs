//! One life of the broker's connections: opened, used by its lanes, closed. Never repaired.
//!
//! Two connections, because a blocked one (memory or disk alarm) writes nothing at all, acks
//! included: publishing a dead letter must not be able to block settling.

use std::sync::{Arc, Weak};

use futures_util::future::join_all;
use lapin::Connection;

use super::connect;
use super::consume::{Grip, LaneConsumer};
use super::error::BrokerError;
use super::topology::{self, Depth};
use crate::config;

pub struct Session {
    consume: Connection,
    /// Shared with the lanes, which open their confirm channel on it when they first need it.
    publish: Arc<Connection>,
    /// Also of lanes that have ended: what a closed channel returns is handed to the next lane,
    /// which returns it once more.
    lanes: Vec<Grip>,
    config: config::Broker,
}

/// Asks a session's broker how much waits, for as long as there is the session.
#[derive(Clone)]
pub struct Looker {
    publish: Weak<Connection>,
    config: config::Broker,
}

impl Looker {
    /// `None` once the session has ended. No answer comes under an alarm, when the broker reads
    /// nothing of a connection that publishes: an error, within the timeout.
    pub async fn depth(&self) -> Option<Result<Depth, BrokerError>> {
        let connection = self.publish.upgrade().filter(|it| it.status().connected())?;
        Some(topology::depth_on(&connection, &self.config).await)
    }
}

impl Session {
    pub async fn open(config: &config::Broker) -> Result<Session, BrokerError> {
        let (consume, publish) = tokio::try_join!(
            connect::connect(config, "worker consume"),
            connect::connect(config, "worker publish"),
        )?;
        let (publish, lanes) = (Arc::new(publish), Vec::new());
        Ok(Session { consume, publish, lanes, config: config.clone() })
    }

    /// A channel with a consumer that has at most `prefetch` deliveries unsettled.
    pub async fn lane(&mut self, prefetch: u16) -> Result<LaneConsumer, BrokerError> {
        let channel = connect::channel(&self.consume, self.config.timeout).await?;
        let publish = self.publish.clone();
        let lane = LaneConsumer::start(channel, publish, &self.config, prefetch).await?;
        self.lanes.push(lane.grip());
        Ok(lane)
    }

    pub fn looker(&self) -> Looker {
        Looker { publish: Arc::downgrade(&self.publish), config: self.config.clone() }
    }

    /// What waits in the queue and among the dead letters.
    pub async fn depth(&self) -> Result<Depth, BrokerError> {
        topology::depth_on(&self.publish, &self.config).await
    }

    /// Whether both connections still stand, as far as this side knows.
    pub fn is_connected(&self) -> bool {
        self.consume.status().connected() && self.publish.status().connected()
    }

    /// Says goodbye to the broker. What is not settled by now will be delivered again, and its
    /// delivery count grows by one: no lane takes any more before the first of them returns
    /// what it had.
    pub async fn close(self) {
        join_all(self.lanes.iter().map(Grip::cancel)).await;
        tokio::join!(
            connect::close(&self.consume, self.config.timeout),
            connect::close(&self.publish, self.config.timeout),
        );
    }
}
