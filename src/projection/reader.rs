//! The way to Redis of whoever only reads: no method here sends a command that writes, so nothing
//! that is built on it can.

use super::client::Projection;
use super::counts::{Common, Counts};
use super::error::ProjectionError;
use super::read::{Answer, Page};
use super::scan::KeyScan;
use crate::config;
use crate::pipeline::Report;
use crate::sets::{Kind, Set};

/// Cheap to clone. What each method does is told where [`Projection`] has it.
#[derive(Clone)]
pub struct Reader(Projection);

impl Reader {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// The URL is unusable.
    pub fn unconnected(
        config: &config::Projection,
        prefix: &str,
    ) -> Result<Reader, ProjectionError> {
        Projection::unconnected(config, prefix).map(Reader)
    }

    pub async fn close(&self) {
        self.0.close().await;
    }

    pub async fn counts(&self, keys: &[(Kind, String)]) -> Result<Counts, ProjectionError> {
        self.0.counts(keys).await
    }

    pub async fn contains(
        &self,
        set: &Set,
        key: &str,
        members: &[&str],
    ) -> Result<Answer<Vec<bool>>, ProjectionError> {
        self.0.contains(set, key, members).await
    }

    pub async fn members(
        &self,
        set: &Set,
        key: &str,
        cursor: Option<&str>,
        count: u32,
    ) -> Result<Answer<Page>, ProjectionError> {
        self.0.members(set, key, cursor, count).await
    }

    pub async fn common(
        &self,
        sets: &[(&Set, String)],
        looked_at_max: u64,
    ) -> Result<Common, ProjectionError> {
        self.0.common(sets, looked_at_max).await
    }

    /// What workers say of themselves.
    pub async fn reports(&self) -> Result<Vec<Report>, ProjectionError> {
        Ok(self.0.reports().await?.into_values().collect())
    }

    pub async fn scan_keys(&self, pattern: String) -> Result<KeyScan, ProjectionError> {
        self.0.scan_keys(pattern).await
    }

    pub async fn next_keys(
        &self,
        scan: &mut KeyScan,
    ) -> Result<Option<Vec<String>>, ProjectionError> {
        self.0.next_keys(scan).await
    }
}
