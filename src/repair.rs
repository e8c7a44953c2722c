//! Postgres -> Redis, the second stream: what keeps Redis equal to Postgres.
//!
//! [`mend`] is what a worker calls when something is missing; the commands of `rollcall manage`
//! call the rest. `pass` reads Postgres and adds what it finds, `rebuild` makes sets anew and puts
//! them in place, `verify` compares. All of them go through one walk,
//! [`crate::event::stored_additions`], and all hold the one lock of the fleet, so that nothing is
//! removed beside them. Whatever is killed here can be run again.
//!
//! It rests on one order: a worker adds to Redis only after its COMMIT. So whatever a snapshot does
//! not see is added by its worker later than that snapshot.

mod catch_up;
mod compare;
mod gather;
mod pass;
mod prune;
mod rebuild;
mod sample;
mod support;
mod verify;

use std::time::Duration;

use tokio::time::Instant;

pub use catch_up::CaughtUp;
pub use compare::{Drift, KeyFault};
pub use pass::{Progress, Repairer};
pub use prune::{Pruned, prune};
pub use rebuild::Rebuilt;
pub use support::{Support, members};
pub use verify::{Estimate, Verified};

use crate::config;
use crate::event::Limits;
use crate::projection::{Projection, ProjectionError, State};
use crate::retry::Class;
use crate::sets::{KeyError, Sets};
use crate::store::{self, RepairLock, StoreError, marks};

/// What a repairer works on. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub store: config::Store,
    pub projection: Projection,
    pub sets: Sets,
    pub limits: Limits,
}

#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error(transparent)]
    Set(#[from] KeyError),
    #[error("another process has been repairing for {} s", waited.as_secs())]
    Busy { waited: Duration },
    #[error("the rows of partition {partition} are being moved about: try again when that is over")]
    Moved { partition: String },
    #[error(
        "new events come faster than they are caught up: {rows} in the last of {passes} passes"
    )]
    Outrun { rows: u64, passes: u32 },
    #[error(
        "redis holds no generation, or lacks what no event brings: only a rebuild of all sets helps"
    )]
    NeedsRebuild,
}

impl RepairError {
    pub fn class(&self) -> Class {
        match self {
            Self::Store(error) => error.class(),
            Self::Projection(error) => error.class(),
            // The question must change.
            Self::Set(_) => Class::Config,
            // The other one ends, what moves rows ends, and load does.
            Self::Busy { .. } | Self::Moved { .. } | Self::Outrun { .. } => Class::Transient,
            // Somebody has to say so, where no worker does it by itself.
            Self::NeedsRebuild => Class::Config,
        }
    }
}

/// What a call of [`mend`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// Another process repairs.
    Busy,
    /// Nothing was needed.
    Nothing,
    CaughtUp,
    Rebuilt,
}

/// Looks, under the fleet's lock, what is needed, and does it.
pub async fn mend(context: &Context) -> Result<Mended, RepairError> {
    let Some(lock) = RepairLock::try_take(&context.store).await? else { return Ok(Mended::Busy) };
    let mut silent = |_: &'static str, _: u64, _: Option<u64>| {};
    let mut repairer = Repairer::begin(context, &[], lock, &mut silent).await?;
    let mended = repairer.mend().await;
    repairer.end().await;
    mended
}

impl Repairer<'_> {
    async fn mend(&mut self) -> Result<Mended, RepairError> {
        let projection = self.projection();
        let prefix = self.prefix();
        let meta = projection.meta().await?;
        let standing = marks::standing(self.lock.link(), &prefix).await?;
        let history = marks::mark(self.lock.link()).await?.history;
        let another = standing.history.is_some_and(|before| before != history);
        let empty = meta.generation.is_none() && store::is_empty(&self.context.store).await?;
        if (meta.generation.is_none() && !empty) || standing.rebuild || another {
            self.rebuild().await?;
            return Ok(Mended::Rebuilt);
        }
        if standing.catch_up_from.is_some() {
            // Those of one that was killed.
            projection.remove_builds(&prefix).await?;
            self.catch_up().await?;
            return Ok(Mended::CaughtUp);
        }
        if meta.generation.is_some() && meta.state != Some(State::Fresh) {
            // So it was left by one that was killed: nothing is owed.
            projection.remove_builds(&prefix).await?;
            projection.set_state(State::Fresh).await?;
            return Ok(Mended::CaughtUp);
        }
        Ok(Mended::Nothing)
    }
}

/// How often the lock is asked for while another process has it.
const LOCK_POLL: Duration = Duration::from_millis(250);

/// The fleet's lock, waited for at most `patience`.
pub async fn lock(store: &config::Store, patience: Duration) -> Result<RepairLock, RepairError> {
    let began = Instant::now();
    loop {
        if let Some(lock) = RepairLock::try_take(store).await? {
            return Ok(lock);
        }
        let waited = began.elapsed();
        if waited >= patience {
            return Err(RepairError::Busy { waited });
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
}
