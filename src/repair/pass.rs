//! One pass over Postgres: every event, or those of some transactions, and what they add goes where
//! it is told to. A piece that fails is read again; adding twice changes nothing. What is gathered
//! is kept from piece to piece and written when it is much, and at the end of a pass.

use std::collections::HashSet;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::gather::Gather;
use super::{Context, RepairError};
use crate::projection::{Build, Projection, ProjectionError};
use crate::retry::{Backoff, Class};
use crate::sets::Sets;
use crate::store::{Extent, Mark, Piece, Reader, RepairLock, StoreError};

/// What is being done, how far it is, and of how much.
pub type Progress<'a> = dyn FnMut(&'static str, u64, Option<u64>) + 'a;

/// How long one piece is tried for: beyond a failover of Postgres or a restart of Redis.
const TRY_MAX: Duration = Duration::from_secs(300);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Transactions read at once, to begin with.
const WIDTH: i64 = 2_048;
/// A piece that takes longer is too wide: well below the 30 s after which a standby cancels it.
const PIECE_SLOW: Duration = Duration::from_secs(4);
/// How often a partition is read whose rows move.
const MOVES_MAX: u32 = 3;

/// Who has the fleet's lock, with the connections of a repair.
pub struct Repairer<'a> {
    pub(super) context: &'a Context,
    /// The sets that are worked on.
    pub(super) sets: Sets,
    /// None that we keep is left out.
    pub(super) whole: bool,
    /// They were asked for by name: others, of which we may know nothing, are none of our business.
    pub(super) named: bool,
    pub(super) lock: RepairLock,
    pub(super) reader: Reader,
    pub(super) progress: &'a mut Progress<'a>,
}

/// Where members go.
pub(super) enum Target<'t> {
    Live {
        /// Keys that get something are taken out of it.
        untouched: Option<&'t mut HashSet<String>>,
        /// Sets with keys of another type that were told of already.
        told: HashSet<String>,
    },
    Build {
        build: &'t mut Build,
        /// Estimated sets as exact ones, to compare.
        exact: bool,
    },
}

impl Target<'_> {
    pub fn live() -> Target<'static> {
        Target::Live { untouched: None, told: HashSet::new() }
    }

    /// As `live`, and what gets something is no longer untouched.
    pub fn touching(untouched: &mut HashSet<String>) -> Target<'_> {
        Target::Live { untouched: Some(untouched), told: HashSet::new() }
    }

    fn exact(&self) -> bool {
        matches!(self, Target::Build { exact: true, .. })
    }

    async fn add(
        &mut self,
        projection: &Projection,
        gather: &mut Gather<'_>,
    ) -> Result<(), ProjectionError> {
        match self {
            Target::Live { untouched, told } => {
                if let Some(untouched) = untouched {
                    for key in gather.keys() {
                        untouched.remove(key);
                    }
                }
                let applied = projection.add_members(&gather.additions()).await?;
                for set in applied.wrong_type.iter().filter_map(|key| gather.sets().name_of(key)) {
                    if told.insert(set.to_owned()) {
                        tracing::warn!(
                            set,
                            "redis: a key of this set holds another type; verify tells"
                        );
                    }
                }
            }
            Target::Build { build, .. } => {
                projection.add_to_build(build, gather.additions()).await?;
            }
        }
        gather.clear();
        Ok(())
    }

    async fn tend(&mut self, projection: &Projection) -> Result<(), ProjectionError> {
        match self {
            Target::Live { .. } => Ok(()),
            Target::Build { build, .. } => projection.tend(build).await,
        }
    }
}

impl<'a> Repairer<'a> {
    /// `names`: the sets to work on; all where none is named.
    pub async fn begin(
        context: &'a Context,
        names: &[String],
        lock: RepairLock,
        progress: &'a mut Progress<'a>,
    ) -> Result<Self, RepairError> {
        let sets = context.sets.only(names)?;
        let whole = sets.iter().count() == context.sets.iter().count();
        let reader = Reader::open(&context.store).await?;
        Ok(Self { context, sets, whole, named: !names.is_empty(), lock, reader, progress })
    }

    pub async fn end(self) {
        self.reader.close().await;
        self.lock.release().await;
    }

    pub(super) fn prefix(&self) -> String {
        self.sets.prefix().to_owned()
    }

    pub(super) fn projection(&self) -> Projection {
        self.context.projection.clone()
    }

    /// A mark of the primary that the reading side has come to.
    pub(super) async fn mark(&mut self) -> Result<Mark, RepairError> {
        let mut tries = Tries::new();
        loop {
            match self.reader.mark().await {
                Ok(mark) => return Ok(mark),
                Err(error) => tries.again(error.into(), &mut self.reader).await?,
            }
        }
    }

    /// All partitions, as the reading side has them.
    pub(super) async fn extents(&mut self) -> Result<Vec<Extent>, RepairError> {
        let mut tries = Tries::new();
        loop {
            match self.reader.extents().await {
                Ok(extents) => return Ok(extents),
                Err(error) => tries.again(error.into(), &mut self.reader).await?,
            }
        }
    }

    /// Every event and every retired member.
    pub(super) async fn scan(
        &mut self,
        doing: &'static str,
        target: &mut Target<'_>,
    ) -> Result<u64, RepairError> {
        let sets = self.sets.clone();
        let mut gather = Gather::new(&sets, &self.context.limits, target.exact());
        let extents = self.extents().await?;
        let pages = extents.iter().map(|extent| extent.pages.max(0) as u64).sum();
        let (mut rows, mut done) = (0, 0);
        for extent in &extents {
            rows += self.scan_extent(doing, extent, (done, pages), &mut gather, target).await?;
            done += extent.pages.max(0) as u64;
            (self.progress)(doing, done, Some(pages));
        }
        let mut tries = Tries::new();
        loop {
            match self.retired(&mut gather, target).await {
                Ok(retired) => {
                    self.write(&mut gather, target).await?;
                    return Ok(rows + retired);
                }
                Err(error) => tries.again(error, &mut self.reader).await?,
            }
        }
    }

    /// What has been gathered and not written.
    async fn write(
        &mut self,
        gather: &mut Gather<'_>,
        target: &mut Target<'_>,
    ) -> Result<(), RepairError> {
        let mut tries = Tries::new();
        loop {
            match target.add(&self.context.projection, gather).await {
                Ok(()) => return Ok(()),
                Err(error) => tries.again(error.into(), &mut self.reader).await?,
            }
        }
    }

    async fn scan_extent(
        &mut self,
        doing: &'static str,
        extent: &Extent,
        (done, pages): (u64, u64),
        gather: &mut Gather<'_>,
        target: &mut Target<'_>,
    ) -> Result<u64, RepairError> {
        let mut extent = extent.clone();
        for _ in 0..MOVES_MAX {
            let mut rows = 0;
            for (at, piece) in extent.pieces().enumerate() {
                rows += self.piece(&piece, gather, target).await?;
                let read = (at as u64 + 1) * Extent::PIECE_PAGES;
                (self.progress)(doing, (done + read).min(pages), Some(pages));
            }
            let now = self.extents().await?;
            match now.into_iter().find(|other| other.replaces(&extent)) {
                // Or it was dropped, and its rows with it.
                None => return Ok(rows),
                Some(now) => extent = now,
            }
        }
        Err(RepairError::Moved { partition: extent.name().to_owned() })
    }

    /// The events that a snapshot with this xmin did not see, and maybe some that it did; up to a
    /// new mark, which is returned with their number.
    pub(super) async fn catch_up_from(
        &mut self,
        xmin: i64,
        target: &mut Target<'_>,
    ) -> Result<(Mark, u64), RepairError> {
        let sets = self.sets.clone();
        let mut gather = Gather::new(&sets, &self.context.limits, target.exact());
        let mark = self.mark().await?;
        let (mut from, mut width, mut rows) = (xmin, WIDTH, 0);
        let transactions = u64::try_from(mark.xmax - xmin).unwrap_or_default();
        let mut tries = Tries::new();
        while from < mark.xmax {
            // The last one has no end: what a replica has seen beyond the mark harms nothing.
            let to = Some(from.saturating_add(width)).filter(|to| *to < mark.xmax);
            let began = Instant::now();
            match self.read(&Piece::Transactions { from, to }, &mut gather, target).await {
                Ok(read) => rows += read,
                Err(error) => {
                    tries.again(error, &mut self.reader).await?;
                    width = (width / 4).max(1);
                    continue;
                }
            }
            tries = Tries::new();
            let Some(to) = to else { break };
            from = to;
            width = match began.elapsed() {
                took if took > PIECE_SLOW => (width / 2).max(1),
                took if took < PIECE_SLOW / 4 => width.saturating_mul(2),
                _ => width,
            };
            let done = u64::try_from(from - xmin).unwrap_or_default();
            (self.progress)("catching up", done, Some(transactions));
        }
        // All of it is there before anybody goes on from the mark.
        self.write(&mut gather, target).await?;
        Ok((mark, rows))
    }

    async fn piece(
        &mut self,
        piece: &Piece<'_>,
        gather: &mut Gather<'_>,
        target: &mut Target<'_>,
    ) -> Result<u64, RepairError> {
        let mut tries = Tries::new();
        loop {
            match self.read(piece, gather, target).await {
                Ok(rows) => return Ok(rows),
                Err(error) => tries.again(error, &mut self.reader).await?,
            }
        }
    }

    async fn read(
        &mut self,
        piece: &Piece<'_>,
        gather: &mut Gather<'_>,
        target: &mut Target<'_>,
    ) -> Result<u64, RepairError> {
        let projection = &self.context.projection;
        let now = OffsetDateTime::now_utc();
        let rows = self.reader.read(piece, async |event| -> Result<(), RepairError> {
            // Rows come many at once: the lanes of a worker that mends get their turn between them.
            tokio::task::consume_budget().await;
            gather.event(&event, now);
            if gather.is_full() {
                target.add(projection, gather).await?;
            }
            Ok(())
        });
        let rows = rows.await?;
        // Where there is little to write, what was made must not expire meanwhile.
        target.tend(projection).await?;
        Ok(rows)
    }

    async fn retired(
        &mut self,
        gather: &mut Gather<'_>,
        target: &mut Target<'_>,
    ) -> Result<u64, RepairError> {
        let projection = &self.context.projection;
        let now = OffsetDateTime::now_utc();
        let sources = self.sets.iter().map(|set| set.source().to_owned()).collect();
        let rows = self.reader.read_retired(sources, async |member| -> Result<(), RepairError> {
            gather.retired(&member, now);
            if gather.is_full() {
                target.add(projection, gather).await?;
            }
            Ok(())
        });
        rows.await
    }
}

/// Tries of one piece.
struct Tries {
    began: Instant,
    backoff: Backoff,
}

impl Tries {
    fn new() -> Self {
        Self { began: Instant::now(), backoff: Backoff::new(RETRY_MIN, RETRY_MAX) }
    }

    /// Waits and makes new connections, or gives the error back: it is no use, or was long enough.
    async fn again(&mut self, error: RepairError, reader: &mut Reader) -> Result<(), RepairError> {
        // What was lost must be made again from the start.
        let lost = matches!(error, RepairError::Projection(ProjectionError::BuildLost));
        if lost || error.class() != Class::Transient || self.began.elapsed() >= TRY_MAX {
            return Err(error);
        }
        let text = crate::telemetry::chain(&error);
        tracing::debug!(error = text, "a piece could not be read: reading it again");
        loop {
            tokio::time::sleep(self.backoff.next()).await;
            match reader.reopen().await {
                Ok(()) => return Ok(()),
                Err(error) if self.gives_up(&error) => return Err(error.into()),
                Err(_) => {}
            }
        }
    }

    fn gives_up(&self, error: &StoreError) -> bool {
        error.class() != Class::Transient || self.began.elapsed() >= TRY_MAX
    }
}
