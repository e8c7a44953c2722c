//! Adds what Redis is known to lack: the events since the mark that was noted, and no others.

use super::pass::{Repairer, Target};
use super::{RepairError, marks};
use crate::projection::State;
use crate::store::StoreError;

/// Passes after which what is still owed is left to the next call.
const PASSES_MAX: u32 = 20;

/// What a catch-up did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaughtUp {
    pub passes: u32,
    pub events: u64,
    /// Readers are told of sets that this process does not know: what those lack stays noted.
    pub others: bool,
}

impl Repairer<'_> {
    /// Until nothing is owed, to the sets that this process knows: where there are others, the note
    /// stays for whoever knows them.
    pub async fn catch_up(&mut self) -> Result<CaughtUp, RepairError> {
        self.catch_up_but_for(None).await
    }

    /// As `catch_up`; a note of this version is of the sets that this process knows alone.
    pub(super) async fn catch_up_but_for(
        &mut self,
        own: Option<i64>,
    ) -> Result<CaughtUp, RepairError> {
        let (projection, prefix) = (self.projection(), self.prefix());
        let mut done = CaughtUp::default();
        let meta = projection.meta().await?;
        if meta.generation.is_none() {
            return Err(RepairError::NeedsRebuild);
        }
        let all = meta.tells_only_of(&self.context.sets);
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
            projection.release_floor().await?;
            done.passes += 1;
            done.events += events;
            if !all && own != Some(standing.version) {
                done.others = true;
                projection.set_state(State::Stale).await?;
                return Ok(done);
            }
            marks::caught_up(self.lock.link(), &prefix, standing.version, &mark, all).await?;
        }
        let (rows, passes) = (done.events, done.passes);
        Err(RepairError::Outrun { rows, passes })
    }

    /// Notes that what comes from here on may be missing in the sets that are worked on, durably
    /// and before anything is taken out. The note's version, where nothing else was owed.
    pub(super) async fn note_own(
        &mut self,
        from: i64,
        reason: &str,
    ) -> Result<Option<i64>, StoreError> {
        let prefix = self.prefix();
        let before = marks::standing(self.lock.link(), &prefix).await?;
        marks::note_missing(self.lock.link(), &prefix, from, reason).await?;
        marks::note_removal(self.lock.link(), &prefix).await?;
        let noted = before.version + 1;
        Ok((before.catch_up_from.is_none() && !before.rebuild).then_some(noted))
    }
}
