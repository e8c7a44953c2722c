//! The one Redis connection of a process: made, watched, replaced, closed.
//!
//! A client that lost its server, or is stuck in a big write to a hung one, is replaced by a new one,
//! made as the URL and its files say by then; only to the nodes of a cluster fred reconnects by
//! itself. Never queues a command while there is no connection, never retries one for a caller.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, ConnectHandle, CustomCommand, Value};
use futures_util::FutureExt;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, SemaphorePermit};

use super::error::{ProjectionError, is_timeout};
use super::settings::Settings;
use crate::config;

/// Commands under way at once, all lanes together. Bounds what fred's buffers can hold: 2,048
/// commands, and `write` sends at most 1 MiB of them per lane before it waits.
pub(super) const COMMANDS_IN_FLIGHT_MAX: u32 = 2_048;
/// Rounds of commands that timed out with no reply in between, after which the client is replaced.
/// One is a slow moment; two in a row are a router that waits for a socket nobody reads.
const TIMEOUTS_MAX: u32 = 2;
/// How often a command waiting for a reconnect looks. fred's notice of it can be missed between
/// the look and the wait, so we look again instead.
const RECONNECT_LOOK: Duration = Duration::from_millis(20);

/// One client, cheap to clone. All lanes share it: Redis runs commands one at a time anyway, and
/// one connection lets their commands share packets.
#[derive(Clone)]
pub struct Projection {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    settings: Settings,
    /// `<prefix>:meta`.
    pub(super) meta_key: String,
    /// `<prefix>:wm`.
    pub(super) wm_key: String,
    /// `<prefix>:pipeline`.
    pub(super) pipeline_key: String,
    /// Unix microseconds of the latest event applied by this process: lanes overtake each other,
    /// the mark does not go back.
    pub(super) last_event_micros: AtomicI64,
    link: Mutex<Slot>,
    /// Held while a new client is made, so that of many waiting lanes one does it.
    replacing: AsyncMutex<()>,
    in_flight: Semaphore,
    /// Rounds of commands that timed out since one was answered.
    timeouts: AtomicU32,
}

enum Slot {
    Open(Link),
    /// Before the first client, and between an old one and a new one.
    Empty,
    Closed,
}

/// A client and the task that drives it; they end together.
struct Link {
    client: Client,
    task: ConnectHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Otherwise a caller that gave up while connecting would leave the task behind.
        self.task.abort();
    }
}

/// A connected client and the right to send some commands on it.
pub(super) struct Lease<'a> {
    pub(super) client: Client,
    _permits: SemaphorePermit<'a>,
}

/// What is seen of the link at one moment.
enum Sight {
    Connected(Client),
    Reconnecting,
    Dead,
    Closed,
}

impl Projection {
    /// Connects, or says within `config.timeout` why not.
    pub async fn connect(
        config: &config::Projection,
        prefix: &str,
    ) -> Result<Projection, ProjectionError> {
        let projection = Self::unconnected(config, prefix)?;
        let link = Link::open(&projection.shared.settings).await?;
        *projection.shared.slot() = Slot::Open(link);
        Ok(projection)
    }

    /// Connects when it is first used, and says then why not.
    pub fn unconnected(
        config: &config::Projection,
        prefix: &str,
    ) -> Result<Projection, ProjectionError> {
        Ok(Projection {
            shared: Arc::new(Shared {
                settings: Settings::new(config)?,
                meta_key: format!("{prefix}:meta"),
                wm_key: format!("{prefix}:wm"),
                pipeline_key: format!("{prefix}:{}", crate::pipeline::NAME),
                last_event_micros: AtomicI64::new(i64::MIN),
                link: Mutex::new(Slot::Empty),
                replacing: AsyncMutex::new(()),
                in_flight: Semaphore::new(COMMANDS_IN_FLIGHT_MAX as usize),
                timeouts: AtomicU32::new(0),
            }),
        })
    }

    /// Ends the connection and its task, within `config.timeout`. Commands under way fail, in
    /// every clone; call it when the last flush is done.
    pub async fn close(&self) {
        let slot = std::mem::replace(&mut *self.shared.slot(), Slot::Closed);
        if let Slot::Open(link) = slot {
            link.close(self.shared.settings.timeout).await;
        }
    }

    /// Waits until Redis is connected and there is room for `commands` more, each wait within
    /// `config.timeout`. Nothing is handed to fred while it has no connection: it would queue it.
    pub(super) async fn lease(&self, commands: u32) -> Result<Lease<'_>, ProjectionError> {
        let shared = &*self.shared;
        let away = || ProjectionError::away(&shared.settings.servers, shared.settings.timeout);
        let permits = shared.in_flight.acquire_many(commands.min(COMMANDS_IN_FLIGHT_MAX));
        let permits = tokio::time::timeout(shared.settings.timeout, permits)
            .await
            .map_err(|_| away())?
            // The semaphore is never closed; if it were, so would be the client.
            .map_err(|_| ProjectionError::Closed)?;
        let client = match shared.sight() {
            Sight::Connected(client) => client,
            _ => match tokio::time::timeout(shared.settings.timeout, shared.connected()).await {
                Ok(connected) => connected?,
                Err(_) => {
                    if matches!(shared.sight(), Sight::Reconnecting) {
                        // fred keeps to itself why it does not get in. A new client tells.
                        shared.timeouts.store(TIMEOUTS_MAX, Ordering::Relaxed);
                    }
                    return Err(away());
                }
            },
        };
        Ok(Lease { client, _permits: permits })
    }

    /// Keeps count of rounds without any answer; see `TIMEOUTS_MAX`.
    pub(super) fn note<T>(&self, replies: &[Result<T, FredError>]) {
        let hung = |reply: &Result<T, FredError>| matches!(reply, Err(e) if is_timeout(e));
        if replies.iter().any(|reply| !hung(reply)) {
            self.shared.timeouts.store(0, Ordering::Relaxed);
        } else if !replies.is_empty() {
            self.shared.timeouts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One command on one key.
    pub(super) async fn one(
        &self,
        command: &'static str,
        key: &str,
        args: Vec<Value>,
    ) -> Result<Value, ProjectionError> {
        let lease = self.lease(1).await?;
        let reply = [call(&lease.client, command, ClusterHash::from(key), args).await];
        self.note(&reply);
        let [reply] = reply;
        reply.map_err(|error| ProjectionError::on_key(command, key, error))
    }
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Nothing panics while it is held; a poisoned slot is whole all the same.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sight(&self) -> Sight {
        match &*self.slot() {
            Slot::Closed => Sight::Closed,
            Slot::Empty => Sight::Dead,
            // Its router ended: fred would answer "client is not initialized" for ever.
            Slot::Open(link) if link.task.is_finished() => Sight::Dead,
            Slot::Open(_) if self.timeouts.load(Ordering::Relaxed) >= TIMEOUTS_MAX => Sight::Dead,
            Slot::Open(link) if link.client.is_connected() => Sight::Connected(link.client.clone()),
            Slot::Open(_) => Sight::Reconnecting,
        }
    }

    async fn connected(&self) -> Result<Client, ProjectionError> {
        loop {
            match self.sight() {
                Sight::Connected(client) => return Ok(client),
                Sight::Reconnecting => tokio::time::sleep(RECONNECT_LOOK).await,
                Sight::Dead => self.replace().await?,
                Sight::Closed => return Err(ProjectionError::Closed),
            }
        }
    }

    /// Puts a new client in the place of a dead one. Cancel-safe: whoever is dropped here leaves
    /// the slot empty, and the next caller fills it.
    async fn replace(&self) -> Result<(), ProjectionError> {
        let _one_at_a_time = self.replacing.lock().await;
        if !matches!(self.sight(), Sight::Dead) {
            return Ok(());
        }
        let old = {
            let mut slot = self.slot();
            match std::mem::replace(&mut *slot, Slot::Empty) {
                Slot::Open(link) => Some(link),
                Slot::Empty => None,
                Slot::Closed => {
                    *slot = Slot::Closed;
                    return Err(ProjectionError::Closed);
                }
            }
        };
        if let Some(link) = old {
            // That a connection was lost its commands' callers say.
            if !link.task.is_finished() {
                let timeouts = self.timeouts.load(Ordering::Relaxed);
                tracing::warn!(timeouts, "redis connection is stuck, making a new one");
            }
            link.abort().await;
        }
        let link = Link::open(&self.settings).await?;
        self.timeouts.store(0, Ordering::Relaxed);
        let mut slot = self.slot();
        if !matches!(*slot, Slot::Closed) {
            *slot = Slot::Open(link);
        }
        Ok(())
    }
}

impl Link {
    async fn open(settings: &Settings) -> Result<Link, ProjectionError> {
        let config = settings.config()?;
        let tls = config.uses_tls();
        let client = Client::new(
            config,
            Some(settings.performance.clone()),
            Some(settings.connection.clone()),
            settings.policy.clone(),
        );
        let failed = |source| ProjectionError::connect(&settings.servers, tls, source);
        let mut connected = Box::pin(client.wait_for_connect());
        // Polled once before the task starts, so that it listens before there is news.
        let early = (&mut connected).now_or_never();
        debug_assert!(early.is_none());
        let mut link = Link { client: client.clone(), task: client.connect() };
        let outcome = tokio::select! {
            outcome = &mut connected => outcome,
            // With `fail_fast` the task ends at the first failure. Only polled until it is done.
            ended = &mut link.task => Err(match ended {
                Ok(Err(error)) => error,
                _ => FredError::new(ErrorKind::Canceled, "the connection task ended"),
            }),
            _ = tokio::time::sleep(settings.timeout) => {
                let waited = format!("no answer within {:?}", settings.timeout);
                Err(FredError::new(ErrorKind::Timeout, waited))
            }
        };
        match outcome {
            Ok(()) => Ok(link),
            Err(error) => {
                if !link.task.is_finished() {
                    link.abort().await;
                }
                Err(failed(error))
            }
        }
    }

    /// QUIT, then the end of the task; by force where the server does not take part.
    async fn close(mut self, timeout: Duration) {
        let graceful = async {
            // Nothing is under way: whether QUIT was answered changes nothing.
            let _ = self.client.quit().await;
            let _ = (&mut self.task).await;
        };
        if tokio::time::timeout(timeout, graceful).await.is_err() {
            self.abort().await;
        }
    }

    /// Ends the task without a word to the server. It stops at its next await, so this is short.
    async fn abort(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

/// One command that is not part of a batch: fred flushes it at once.
pub(super) async fn call<C: ClientLike>(
    client: &C,
    command: &'static str,
    slot: ClusterHash,
    args: Vec<Value>,
) -> Result<Value, FredError> {
    client.custom(CustomCommand::new_static(command, slot, false), args).await
}
