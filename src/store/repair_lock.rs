//! One repairer in the whole fleet: a session's advisory lock on the primary. It goes with its
//! connection, so nobody can free another's and a killed repairer's is free. Not for a pooler in
//! transaction mode.

use super::error::StoreError;
use super::link::Link;
use super::{ADVISORY_CLASS, ADVISORY_REPAIR};
use crate::config;

pub struct RepairLock {
    link: Link,
}

impl RepairLock {
    /// `None` where another process has it.
    pub async fn try_take(store: &config::Store) -> Result<Option<RepairLock>, StoreError> {
        let mut link = Link::open(&store.url, store.timeout).await?;
        super::migrate::read_state(&mut link).await?.required()?;
        let taken: bool = link
            .run("take the repairer's lock", async |conn| {
                sqlx::query_scalar("SELECT pg_try_advisory_lock($1, $2)")
                    .bind(ADVISORY_CLASS)
                    .bind(ADVISORY_REPAIR)
                    .fetch_one(conn)
                    .await
            })
            .await?;
        if taken {
            return Ok(Some(RepairLock { link }));
        }
        link.close().await;
        Ok(None)
    }

    /// Sees that it is still ours: an error where the connection, and the lock with it, is gone.
    /// To be asked before each step that others could see.
    pub async fn held(&mut self) -> Result<(), StoreError> {
        self.link
            .run("see that the repairer's lock is held", async |conn| {
                sqlx::query("SELECT 1").execute(conn).await
            })
            .await?;
        Ok(())
    }

    /// Of the primary: for the short statements of whoever has the lock.
    pub fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    pub async fn release(self) {
        self.link.close().await;
    }
}
