//! The generation: what tells readers that the sets are whole. Begun beside an empty table, and
//! missed where Redis was emptied beside one that is not. Never begun on a guess.

use std::sync::atomic::Ordering;

use super::servers::Real;
use super::session::SessionError;
use crate::projection::State;
use crate::store::{self, Link, marks};

/// Begins a generation where there is none and nothing to miss. A Redis that lacks what Postgres
/// has gets none: readers go on being told *unknown*, and the loss is said once and shown by a
/// gauge until somebody fills the sets again.
pub async fn look(servers: &Real) -> Result<(), SessionError> {
    let missing = !begin(servers).await?;
    servers.metrics.generation_missing.set(f64::from(u8::from(missing)));
    let was_missing = servers.generation_missing.swap(missing, Ordering::Relaxed);
    match (was_missing, missing) {
        (false, true) => tracing::error!(
            "redis holds no generation though postgres holds events: readers are told unknown \
             until a worker has made the sets anew from postgres"
        ),
        (true, false) => tracing::info!("redis holds a generation again: readers believe the sets"),
        (false, false) | (true, true) => {}
    }
    Ok(())
}

/// Whether there is one now.
async fn begin(servers: &Real) -> Result<bool, SessionError> {
    let Real { projection, .. } = servers;
    if projection.generation().await?.is_some() {
        return Ok(true);
    }
    if store::is_empty(&servers.store).await? {
        let mut link = Link::open(&servers.store.url, servers.store.timeout).await?;
        marks::begin_history(&mut link, &servers.prefix).await?;
        link.close().await;
        projection.begin_generation_if_absent(State::Fresh, &servers.sets).await?;
        return Ok(true);
    }
    // Another worker may have begun it, and stored events, since the first look.
    if projection.generation().await?.is_some() {
        return Ok(true);
    }
    // Whoever mends it says so: that is not written over.
    if !matches!(projection.meta().await?.state, Some(State::Rebuilding | State::CatchingUp)) {
        projection.set_state(State::Stale).await?;
    }
    Ok(false)
}
