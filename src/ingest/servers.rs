//! What ingest asks of the three servers. The real ones answer here; the simulation has models of
//! them that fail, reorder and lose (`sim`). Decides nothing.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::generation;
use super::guard::{self, Guard};
use super::session::SessionError;
use crate::broker::{self, BrokerError, DeadLetter, Delivery, LaneConsumer, Tokens};
use crate::config;
use crate::projection::{Applied, KeyAdditions, Mark, Projection};
use crate::sets::Sets;
use crate::store::{self, EventStore, Row, StoreError, Stored};
use crate::telemetry::Metrics;

/// The way to all three. Cheap to clone.
pub trait Servers: Clone + Send + Sync + 'static {
    type Broker: Broker;
    type Store: Store;

    /// A lane's own connection to Postgres.
    fn store(&self) -> impl Future<Output = Result<Self::Store, StoreError>> + Send;

    /// That Postgres takes a write.
    fn probe_store(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// That Redis takes a write, keeps what it is given and has not been emptied; and that it is
    /// guarded from here on.
    fn probe_projection(&self) -> impl Future<Output = Result<(), SessionError>> + Send;

    /// Adds a lane's batch to a Redis that has lost nothing of what was noted: see
    /// [`guard::apply`].
    fn apply(
        &self,
        lane: usize,
        additions: &[KeyAdditions<'_>],
        mark: &Mark,
    ) -> impl Future<Output = Result<Applied, SessionError>> + Send;

    /// A new session's connection to RabbitMQ, where the queue is known to be as it should.
    fn broker(&self) -> impl Future<Output = Result<Self::Broker, BrokerError>> + Send;
}

/// One life of the broker's connections.
pub trait Broker: Send + Sync {
    type Consumer: Consumer;

    /// A channel with a consumer that has at most `prefetch` deliveries unsettled.
    fn lane(
        &mut self,
        prefetch: u16,
    ) -> impl Future<Output = Result<Self::Consumer, BrokerError>> + Send;

    /// Messages that wait in the queue.
    fn ready(&self) -> impl Future<Output = Result<u32, BrokerError>> + Send;

    fn close(self) -> impl Future<Output = ()> + Send;
}

/// One channel with its consumer: see [`LaneConsumer`], whose methods these are.
pub trait Consumer: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Result<Option<Delivery>, BrokerError>> + Send;
    fn cancel(&mut self) -> impl Future<Output = Result<(), BrokerError>> + Send;
    fn resume(&mut self, prefetch: u16) -> impl Future<Output = Result<(), BrokerError>> + Send;
    fn condemn(
        &mut self,
        letters: &[DeadLetter<'_>],
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;
    fn settle(&mut self, tokens: Tokens) -> impl Future<Output = Result<u64, BrokerError>> + Send;
    fn in_flight(&self) -> u64;
    fn is_connected(&self) -> bool;
}

/// One connection to Postgres: see [`EventStore`], whose methods these are.
pub trait Store: Send + 'static {
    fn insert(
        &mut self,
        rows: &[Row<'_>],
    ) -> impl Future<Output = Result<Stored, StoreError>> + Send;
    /// Committed when it returns: Redis lacks rows with this txid or a higher one.
    fn note_missing(
        &mut self,
        from: i64,
        reason: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn is_broken(&self) -> bool;
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// The servers of the configuration.
#[derive(Clone)]
pub struct Real {
    pub broker: config::Broker,
    pub store: config::Store,
    pub projection: Projection,
    pub sets: Sets,
    /// Of the keys, and of the row that says what they lack.
    pub prefix: Arc<str>,
    pub guard: Arc<Guard>,
    pub metrics: Arc<Metrics>,
    /// Whether the last look found Redis without a generation.
    pub generation_missing: Arc<AtomicBool>,
    /// Looks at Postgres that had no answer.
    pub silences: Arc<AtomicU64>,
    /// The way to ask the broker of the present session how much waits.
    pub looker: Arc<Mutex<Option<broker::Looker>>>,
}

impl Servers for Real {
    type Broker = broker::Session;
    type Store = RealStore;

    async fn store(&self) -> Result<RealStore, StoreError> {
        let silences = self.silences.load(Ordering::Relaxed);
        let events = EventStore::connect(&self.store).await?;
        let prefix = self.prefix.clone();
        Ok(RealStore { events, prefix, silences, silences_now: self.silences.clone() })
    }

    async fn probe_store(&self) -> Result<(), StoreError> {
        store::probe(&self.store).await
    }

    async fn probe_projection(&self) -> Result<(), SessionError> {
        self.projection.ensure_noeviction().await?;
        generation::look(self).await?;
        self.projection.probe().await?;
        // Before the first insert: what a look finds unregistered it registers.
        Box::pin(guard::look(self)).await.map(drop)
    }

    async fn apply(
        &self,
        lane: usize,
        additions: &[KeyAdditions<'_>],
        mark: &Mark,
    ) -> Result<Applied, SessionError> {
        guard::apply(self, lane, additions, mark).await
    }

    async fn broker(&self) -> Result<broker::Session, BrokerError> {
        broker::topology::ensure(&self.broker).await?;
        let session = broker::Session::open(&self.broker).await?;
        let mut looker = self.looker.lock().unwrap_or_else(PoisonError::into_inner);
        *looker = Some(session.looker());
        Ok(session)
    }
}

impl Broker for broker::Session {
    type Consumer = LaneConsumer;

    async fn lane(&mut self, prefetch: u16) -> Result<LaneConsumer, BrokerError> {
        self.lane(prefetch).await
    }

    async fn ready(&self) -> Result<u32, BrokerError> {
        Ok(self.depth().await?.queue.ready)
    }

    async fn close(self) {
        self.close().await;
    }
}

impl Consumer for LaneConsumer {
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        self.next().await
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.cancel().await
    }

    async fn resume(&mut self, prefetch: u16) -> Result<(), BrokerError> {
        self.resume(prefetch).await
    }

    async fn condemn(&mut self, letters: &[DeadLetter<'_>]) -> Result<(), BrokerError> {
        self.condemn(letters).await
    }

    async fn settle(&mut self, tokens: Tokens) -> Result<u64, BrokerError> {
        self.settle(tokens).await
    }

    fn in_flight(&self) -> u64 {
        self.in_flight()
    }

    fn is_connected(&self) -> bool {
        self.is_connected()
    }
}

/// A connection that is not trusted any more once Postgres had no answer for somebody: what is sent
/// on a dead one is waited for as long as a statement may take, though Postgres answers others.
pub struct RealStore {
    events: EventStore,
    prefix: Arc<str>,
    /// As many silences had there been when it was made.
    silences: u64,
    silences_now: Arc<AtomicU64>,
}

impl Store for RealStore {
    async fn insert(&mut self, rows: &[Row<'_>]) -> Result<Stored, StoreError> {
        self.events.insert(rows).await
    }

    async fn note_missing(&mut self, from: i64, reason: &str) -> Result<(), StoreError> {
        self.events.note_missing(&self.prefix, from, reason).await
    }

    fn is_broken(&self) -> bool {
        self.events.is_broken() || self.silences_now.load(Ordering::Relaxed) != self.silences
    }

    async fn close(self) {
        self.events.close().await;
    }
}
