//! What the commands that change what is stored have in common.

use anyhow::Result;

use crate::config;
use crate::retry::Class;
use crate::store::{RepairLock, watch_client};

/// The settings leave nothing to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct NotConfigured {
    pub what: &'static str,
}

impl NotConfigured {
    pub fn class(&self) -> Class {
        // Somebody has to set it.
        Class::Config
    }
}

/// The repairer's lock: no rebuild or verify runs meanwhile. `None`, and it has been said, where
/// one does. Whoever has it works on its connection, so that with the one the other is gone.
pub async fn lock(store: &config::Store) -> Result<Option<RepairLock>> {
    let Some(mut lock) = RepairLock::try_take(store).await? else {
        eprintln!(
            "rollcall: another process rebuilds, verifies, retires or erases: try again later"
        );
        return Ok(None);
    };
    watch_client(lock.link()).await?;
    Ok(Some(lock))
}
