//! Sets made anew from Postgres while ingest goes on. The order of effects, on one page.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::pass::{Repairer, Target};
use super::{RepairError, marks};
use crate::projection::{Build, ProjectionError, State};
use crate::retry::Class;
use crate::store::Mark;

/// How often it is begun again because Redis lost what was being made.
const ATTEMPTS_MAX: u32 = 5;
/// A pass that brought fewer events was short: what came during it is soon read.
const SHORT: u64 = 10_000;
/// Passes into the new sets. Where none is short, events come faster than they are read.
const PASSES_MAX: u32 = 20;
/// Between two such catch-ups: about how long a member that came during the last pass is absent.
const PAUSE: Duration = Duration::from_millis(200);
/// Keys of no event that are handled at once: bounds memory.
const STALE_MAX: usize = 100_000;

/// What a rebuild did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    pub events: u64,
    /// Keys put in place.
    pub keys: u64,
    /// Keys taken out, as no event supports them.
    pub keys_removed: u64,
    /// Times that it was begun again.
    pub restarts: u32,
}

impl Repairer<'_> {
    /// Makes the sets anew. Of all sets it ends with a new generation; of some, by name, readers
    /// keep what they were told of the others.
    pub async fn rebuild(&mut self) -> Result<Rebuilt, RepairError> {
        let projection = self.projection();
        let before = projection.meta().await?;
        // A process that is told of one set alone must not speak for those that others keep.
        self.whole &= !self.named || before.tells_only_of(&self.sets);
        let mut restarts = 0;
        loop {
            projection.set_state(State::Rebuilding).await?;
            let mut build = self.begin_build().await?;
            let made = self.make(&mut build).await;
            // Whatever came of it, nobody needs these any more; else they expire.
            let cleaned = projection.end_build(build).await;
            match made {
                Ok(mut rebuilt) => {
                    cleaned?;
                    rebuilt.restarts = restarts;
                    return Ok(rebuilt);
                }
                Err(RepairError::Projection(ProjectionError::BuildLost))
                    if restarts < ATTEMPTS_MAX =>
                {
                    tracing::warn!("redis lost the sets that were being made: beginning again");
                    restarts += 1;
                }
                Err(error) => {
                    // The live sets are what they were.
                    if error.class() != Class::Transient
                        && let Some(state) = before.state
                    {
                        let _ = projection.set_state(state).await;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Nothing else of this prefix is being made: whoever left something is dead.
    pub(super) async fn begin_build(&mut self) -> Result<Build, RepairError> {
        let (projection, prefix) = (self.projection(), self.prefix());
        projection.remove_builds(&prefix).await?;
        Ok(projection.begin_build(&prefix).await?)
    }

    async fn make(&mut self, build: &mut Build) -> Result<Rebuilt, RepairError> {
        let (projection, prefix) = (self.projection(), self.prefix());
        let servers = projection.sight().await?.servers;
        // A crash anywhere up to the swap: nobody has seen anything, and what was made expires.
        let (mark, events) = self.fill(build, false).await?;
        let mut rebuilt = Rebuilt { events, ..Rebuilt::default() };
        let mut stale = self.stale(build).await?;
        crate::fault::pause("after_stale").await;
        // What came while that was looked for: the less is left to the look after the swap, the
        // shorter a member that is there already is absent.
        let mut target = Target::Build { build, exact: false };
        let (mark, _) = self.catch_up_from(mark.xmin, &mut target).await?;
        crate::fault::point("before_swap");
        crate::fault::pause("before_swap").await;

        // Durable before the first set is put in place: a crash between that and the last look
        // leaves sets that lack what workers added to the old ones after the last pass.
        let own = self.note_own(mark.xmin, "a rebuild").await?;
        projection.hold_floor(mark.xmin).await?;
        // Whoever lost the lock must not be seen any more.
        self.lock.held().await?;
        rebuilt.keys = self.swap(build, &mark, &mut stale).await?;
        crate::fault::point("after_swap");

        // What is noted from here on may not be seen by the snapshot that follows.
        let version = marks::standing(self.lock.link(), &prefix).await?.version;
        // A snapshot taken after the swap. What it does not see is added by its worker after its
        // COMMIT, so to the new sets.
        let (mut mark, _) =
            self.catch_up_from(mark.xmin, &mut Target::touching(&mut stale)).await?;
        if !stale.is_empty() {
            // No event up to that snapshot has these keys. Taken out, and looked once more: an
            // event stored meanwhile, and added before they were taken out, is added again.
            crate::fault::pause("before_removal").await;
            self.lock.held().await?;
            rebuilt.keys_removed = stale.len() as u64;
            projection.unlink(stale.into_iter().collect()).await?;
            (mark, _) = self.catch_up_from(mark.xmin, &mut Target::live()).await?;
        }
        crate::fault::point("before_settle");
        // Whether Redis went back meanwhile, and lost what was put in place.
        projection.count_up(build).await?;
        if projection.sight().await?.servers != servers {
            // In a cluster the counter tells of one shard.
            return Err(ProjectionError::BuildLost.into());
        }
        self.settle(version, own, &mark).await?;
        Ok(rebuilt)
    }

    /// Reads every event into the new sets, and then what came meanwhile, until that is little.
    pub(super) async fn fill(
        &mut self,
        build: &mut Build,
        exact: bool,
    ) -> Result<(Mark, u64), RepairError> {
        let mut mark = self.mark().await?;
        let mut target = Target::Build { build, exact };
        let mut events = self.scan("reading events", &mut target).await?;
        for _ in 0..PASSES_MAX {
            let (next, rows) = self.catch_up_from(mark.xmin, &mut target).await?;
            mark = next;
            events += rows;
            if rows < SHORT {
                return Ok((mark, events));
            }
        }
        Err(RepairError::Outrun { rows: events, passes: PASSES_MAX })
    }

    /// Live keys of our sets for which nothing was made.
    async fn stale(&mut self, build: &Build) -> Result<HashSet<String>, RepairError> {
        let projection = self.projection();
        let mut stale = HashSet::new();
        let mut scan = projection.scan_keys(self.live_pattern()).await?;
        while let Some(mut keys) = projection.next_keys(&mut scan).await? {
            keys.retain(|key| self.sets.of_key(key).is_some());
            let made: Vec<String> = keys.iter().map(|key| build.key(key)).collect();
            let found = projection.exist(made).await?;
            let without = keys.into_iter().zip(found).filter(|(_, exists)| !exists);
            stale.extend(without.map(|(key, _)| key));
            if stale.len() >= STALE_MAX {
                // The next rebuild takes out more.
                break;
            }
        }
        Ok(stale)
    }

    pub(super) fn live_pattern(&self) -> String {
        format!("{}:*", crate::projection::escape_glob(self.sets.prefix()))
    }

    /// Puts every new set in place. Where that takes a while, what workers added to the old sets
    /// since the last pass is brought over in between.
    async fn swap(
        &mut self,
        build: &mut Build,
        mark: &Mark,
        stale: &mut HashSet<String>,
    ) -> Result<u64, RepairError> {
        let projection = self.projection();
        let mut scan = projection.scan_keys(build.pattern()).await?;
        let (mut swapped, mut since, mut pause) = (0, Instant::now(), PAUSE);
        while let Some(keys) = projection.next_keys(&mut scan).await? {
            projection.tend(build).await?;
            // A scan may give a key again that has been put in place.
            let made = projection.exist(keys.clone()).await?;
            let keys = keys.iter().zip(made).filter(|(_, made)| *made);
            let live = keys.filter_map(|(key, _)| build.live(key));
            let live: Vec<_> =
                live.filter_map(|key| Some((key.to_owned(), self.expiry(key)?))).collect();
            projection.swap(build, &live).await?;
            for (key, _) in &live {
                // Made by the pass after it was found to be of no event.
                stale.remove(key);
            }
            crate::fault::point("half_swap");
            swapped += live.len() as u64;
            (self.progress)("putting in place", swapped, None);
            if since.elapsed() > pause {
                let began = Instant::now();
                self.catch_up_from(mark.xmin, &mut Target::touching(stale)).await?;
                since = Instant::now();
                // On a slow server no more than half of the time goes into it.
                pause = PAUSE.max(began.elapsed());
            }
        }
        Ok(swapped)
    }

    /// When the key is to expire; `None` where no event makes such a key.
    pub(super) fn expiry(&self, key: &str) -> Option<Option<i64>> {
        let (set, suffix) = self.sets.of_key(key)?;
        self.sets.get(set).suffix_expires_at(suffix)
    }

    /// Says what Redis is now, in Postgres first: what was noted meanwhile stays noted.
    async fn settle(
        &mut self,
        version: i64,
        own: Option<i64>,
        mark: &Mark,
    ) -> Result<(), RepairError> {
        let (projection, prefix) = (self.projection(), self.prefix());
        if !self.whole {
            // The others lack nothing by this; but what was noted of them is not settled by it.
            projection.rebuilt(&self.sets, None).await?;
            self.sets = self.context.sets.clone();
            return match self.catch_up_but_for(own).await {
                // Filled, and not yet told to readers: the other sets are missing.
                Err(RepairError::NeedsRebuild) => Ok(projection.set_state(State::Stale).await?),
                caught_up => caught_up.map(drop),
            };
        }
        let nothing_left = marks::rebuilt(self.lock.link(), &prefix, version, mark).await?;
        let state = if nothing_left { State::Fresh } else { State::Stale };
        projection.rebuilt(&self.sets, Some(state)).await?;
        projection.register_servers().await?;
        projection.release_floor().await?;
        match nothing_left {
            true => Ok(()),
            // Noted while it ran.
            false => self.catch_up().await.map(drop),
        }
    }
}
