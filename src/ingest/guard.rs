//! Guards what this process gave to Redis: registers it in the watermark before it gives anything,
//! and where a loss shows, notes it in Postgres, says stale, and registers anew. In that order: the
//! watermark is what bounds a loss, so nothing of it is written over before the note is committed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::Instant;
use uuid::Uuid;

use super::history;
use super::ledger::{Ledger, Loss, Verdict};
use super::servers::Real;
use super::session::SessionError;
use crate::projection::{Applied, KeyAdditions, Mark, ProjectionError, State};
use crate::store::{self, Link, Standing, StoreError, marks};

/// What the lanes, the looks and the keeper of one process share.
pub struct Guard {
    ledger: Arc<Mutex<Ledger>>,
    /// Held while a loss is handled: who sees the same one waits for the first.
    handling: AsyncMutex<()>,
    /// Somebody saw what a look should see at once.
    pub look: Notify,
    /// Something is to be mended.
    pub need: Notify,
}

/// Times that one batch finds its watermark moved: each is a loss of its own. Who sees more of them
/// looks at something else, and waits.
const LOSSES_MAX: usize = 3;

impl Guard {
    pub fn new(ledger: Arc<Mutex<Ledger>>) -> Guard {
        let (handling, look, need) = Default::default();
        Guard { ledger, handling, look, need }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic in between leaves counters that are too low, which is safe.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unique to the life of a process, and short: each command of a lane carries it.
pub fn process_name() -> String {
    // The random end of it.
    Uuid::now_v7().simple().to_string().split_off(20)
}

fn unix_secs() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default()
}

/// Adds a batch, and sees that nothing before it was lost.
pub async fn apply(
    real: &Real,
    lane: usize,
    additions: &[KeyAdditions<'_>],
    mark: &Mark,
) -> Result<Applied, SessionError> {
    let guard = &*real.guard;
    for _ in 0..LOSSES_MAX {
        let (era, tick) = {
            let ledger = guard.ledger();
            (ledger.era(), ledger.tick(lane))
        };
        let Some(tick) = tick else {
            Box::pin(register(real, era, None)).await?;
            continue;
        };
        let applied = real.projection.apply(additions, mark, &tick).await?;
        if applied.generation.is_none() && !real.generation_missing.load(Ordering::Relaxed) {
            guard.look.notify_one();
        }
        if applied.whole {
            guard.ledger().ticked(lane, era);
            take_back(real, applied.told.as_deref()).await?;
            return Ok(applied);
        }
        Box::pin(register(real, era, Some("the watermark went back"))).await?;
    }
    let expected = "the watermark where it was left";
    Err(ProjectionError::Reply { command: "EVAL", expected }.into())
}

/// Registers this process unless somebody has since `era`, and before that notes what is lost.
/// `seen` is what the caller saw of it.
pub async fn register(
    real: &Real,
    era: u64,
    seen: Option<&'static str>,
) -> Result<(), SessionError> {
    let guard = &*real.guard;
    let _one_at_a_time = guard.handling.lock().await;
    let expected = guard.ledger().expected();
    if expected.era != era {
        return Ok(());
    }
    let mut link = Link::open(&real.store.url, real.store.timeout).await?;
    // Before the sighting: rows of later transactions are not in what is seen.
    let xmin = marks::mark(&mut link).await?.xmin;
    let sight = real.projection.sight().await?;
    let loss = {
        let ledger = guard.ledger();
        match ledger.judge(&expected, &sight) {
            Verdict::Lost(loss) => Some(loss),
            Verdict::Forgotten => None,
            Verdict::Whole => seen.map(|reason| Loss { bound: ledger.bound(&sight), reason }),
        }
    };
    // Where nothing is stored nothing is lost: what is stored from here on is added after it.
    if let Some(loss) = &loss
        && !store::is_empty(&real.store).await?
    {
        note(real, &mut link, loss).await?;
    }
    let standing = marks::standing(&mut link, &real.prefix).await?;
    let registration = {
        let mut ledger = guard.ledger();
        let rebuild = standing.rebuild || sight.meta.generation.is_none();
        ledger.hold_down(standing.catch_up_from, rebuild, Instant::now());
        ledger.registration(xmin, loss.as_ref(), &sight.servers, Instant::now(), unix_secs())
    };
    real.projection.register(&registration.fields).await?;
    guard.ledger().registered(registration);
    link.close().await;
    Ok(())
}

/// Committed in Postgres, then told to readers, then mended.
async fn note(real: &Real, link: &mut Link, loss: &Loss) -> Result<(), SessionError> {
    let prefix: &str = &real.prefix;
    let standing = marks::standing(link, prefix).await?;
    // What was taken out since is there again, and no catch-up takes it out.
    let phantoms = |bound: i64| standing.removed_txid.is_some_and(|removed| removed >= bound);
    match loss.bound.filter(|bound| !phantoms(*bound)) {
        Some(bound) => marks::note_missing(link, prefix, bound, loss.reason).await?,
        None => marks::note_rebuild(link, prefix, loss.reason).await?,
    }
    real.metrics.redis_losses.increment(1);
    tracing::warn!(
        reason = loss.reason,
        from_txid = loss.bound,
        "redis may lack what it was given: noted, to be mended from postgres"
    );
    stale(real).await?;
    Ok(())
}

/// Readers are told, and somebody mends it.
pub(super) async fn stale(real: &Real) -> Result<(), ProjectionError> {
    let told = real.projection.set_state(State::Stale).await;
    real.guard.need.notify_one();
    told
}

/// Whether the sets need mending, for one reason or another.
pub struct Looked {
    pub needs_mending: bool,
}

/// One look at a Redis that answers: is everything there, and is anything to be mended?
pub async fn look(real: &Real) -> Result<Looked, SessionError> {
    let guard = &*real.guard;
    let mut link = Link::open(&real.store.url, real.store.timeout).await?;
    let mark = marks::mark(&mut link).await?;
    let standing = marks::standing(&mut link, &real.prefix).await?;
    let expected = guard.ledger().expected();
    let sight = real.projection.sight().await?;
    let rebuild = standing.rebuild || sight.meta.generation.is_none();
    guard.ledger().hold_down(standing.catch_up_from, rebuild, Instant::now());
    let verdict = guard.ledger().judge(&expected, &sight);
    let advance = guard.ledger().advance(mark.xmin, Instant::now(), unix_secs());
    match (verdict, advance) {
        (Verdict::Whole, Some(advance)) => {
            let floor = (advance.field.as_str(), advance.floor);
            match real.projection.advance(&advance.tick, floor).await? {
                true => {
                    guard.ledger().advanced(&advance);
                    real.metrics.found_whole(sight.meta.last_applied_at);
                }
                false => register(real, expected.era, Some("the watermark went back")).await?,
            }
        }
        (Verdict::Lost(loss), _) => register(real, expected.era, Some(loss.reason)).await?,
        (Verdict::Whole | Verdict::Forgotten, _) => register(real, expected.era, None).await?,
    }
    history::look(real, &mut link, &standing, &mark, &sight).await?;
    take_back(real, sight.meta.sets.as_deref()).await?;
    let forgotten = guard.ledger().forgotten(&sight, Instant::now(), unix_secs());
    real.projection.unregister(&forgotten).await?;
    let standing = marks::standing(&mut link, &real.prefix).await?;
    link.close().await;
    let noted = standing.catch_up_from.is_some() || standing.rebuild;
    real.metrics.repair_needed.set(f64::from(u8::from(noted)));
    let Standing { verified_at, verified_missing, verified_phantom, .. } = standing;
    real.metrics.verified(verified_at, verified_missing, verified_phantom);
    let missing = real.generation_missing.load(Ordering::Relaxed);
    let not_fresh = sight.meta.state != Some(State::Fresh);
    Ok(Looked { needs_mending: noted || missing || not_fresh })
}

/// A set that this worker does not keep lacks what it stores: readers must not take it for whole,
/// though somebody made it so. With workers of two minds it is what both keep that counts.
/// Before the ack: what is not acknowledged comes again, and is seen to by somebody else.
async fn take_back(real: &Real, told: Option<&str>) -> Result<(), ProjectionError> {
    let Some(told) = told else { return Ok(()) };
    let taken = real.projection.keep_definitions(told, &real.sets).await?;
    if !taken.is_empty() {
        tracing::warn!(
            sets = taken.join(" "),
            "this worker does not keep these sets: readers are told unknown of them until every \
             worker has them in ROLLCALL_SETS and they are rebuilt"
        );
    }
    Ok(())
}

/// Redis may have evicted members: nobody knows which. Mended when it may no longer.
pub async fn note_evicting(real: &Real) -> Result<(), StoreError> {
    note_rebuild_once(real, "redis may evict").await
}

/// Unless it is noted already: each note begins a rebuild that is under way again.
async fn note_rebuild_once(real: &Real, reason: &str) -> Result<(), StoreError> {
    let mut link = Link::open(&real.store.url, real.store.timeout).await?;
    if !marks::standing(&mut link, &real.prefix).await?.rebuild {
        marks::note_rebuild(&mut link, &real.prefix, reason).await?;
    }
    link.close().await;
    Ok(())
}

/// After the last batch, with all settled.
pub async fn leave(real: &Real) -> Result<(), ProjectionError> {
    take_back(real, real.projection.meta().await?.sets.as_deref()).await?;
    let fields = real.guard.ledger().last_words(Instant::now());
    real.projection.unregister(&fields).await
}
