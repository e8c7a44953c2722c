//! What the commands that change what is stored have in common.

use std::time::Duration;

use anyhow::Result;

use crate::cli::Turn;
use crate::retry::Class;
use crate::store::{RepairLock, watch_client};
use crate::{config, repair};

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

/// The repairer's lock: no rebuild or verify runs meanwhile. Whoever has it works on its
/// connection, so that with the one the other is gone.
pub async fn lock(store: &config::Store, turn: Turn) -> Result<RepairLock> {
    let patience = Duration::from_secs(u64::from(turn.wait));
    let mut lock = repair::lock(store, patience).await?;
    watch_client(lock.link()).await?;
    Ok(lock)
}
