//! Adds what Redis is known to lack: the events since the mark that was noted, and no others.

use super::pass::{Repairer, Target};
use super::{RepairError, marks};
use crate::projection::State;

/// Passes after which what is still owed is left to the next call.
const PASSES_MAX: u32 = 20;

/// What a catch-up did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaughtUp {
    pub passes: u32,
    pub events: u64,
}

impl Repairer<'_> {
    /// Until nothing is owed.
    pub async fn catch_up(&mut self) -> Result<CaughtUp, RepairError> {
        let (projection, prefix) = (self.projection(), self.prefix());
        let mut done = CaughtUp::default();
        if projection.generation().await?.is_none() {
            return Err(RepairError::NeedsRebuild);
        }
        while done.passes < PASSES_MAX {
            // Its version before the snapshot: whoever notes something later makes it another.
            let standing = marks::standing(self.lock.link(), &prefix).await?;
            if standing.rebuild {
                return Err(RepairError::NeedsRebuild);
            }
            let Some(from) = standing.catch_up_from else {
                // A note that comes now is seen by the next look at it.
                projection.set_state(State::Fresh).await?;
                return Ok(done);
            };
            projection.set_state(State::CatchingUp).await?;
            projection.hold_floor(from).await?;
            let (mark, events) = self.catch_up_from(from, &mut Target::live()).await?;
            marks::caught_up(self.lock.link(), &prefix, standing.version, &mark).await?;
            projection.release_floor().await?;
            done.passes += 1;
            done.events += events;
        }
        let (rows, passes) = (done.events, done.passes);
        Err(RepairError::Outrun { rows, passes })
    }
}
