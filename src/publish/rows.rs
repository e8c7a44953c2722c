//! The events of a query, one by one. It must never hold more than a page of them.

use std::pin::Pin;
use std::vec;

use bytes::Bytes;

use super::PublishError;
use super::feed::LINE_BYTES_MAX;
use crate::config;
use crate::store::{Export, StoreError};

type Page = Result<Vec<Option<String>>, StoreError>;
type Reading = Pin<Box<dyn Future<Output = (Export, Page)>>>;

pub struct Rows {
    total: u64,
    /// Handed over so far.
    number: u64,
    page: vec::IntoIter<Option<String>>,
    /// The page after this one. Kept: `next` may be dropped while it waits, a statement may not.
    /// `None` at the end.
    reading: Option<Reading>,
}

impl Rows {
    pub async fn open(import: &config::Import, query: &str) -> Result<Rows, PublishError> {
        let export = Export::open(&import.url, import.timeout, query).await?;
        let (total, page) = (export.rows() as u64, Vec::new().into_iter());
        Ok(Rows { total, number: 0, page, reading: Some(Box::pin(read(export))) })
    }

    /// How many there are in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, PublishError> {
        loop {
            if let Some(event) = self.page.next() {
                self.number += 1;
                return self.check(event).map(Some);
            }
            let Some(reading) = &mut self.reading else { return Ok(None) };
            let (export, page) = reading.await;
            self.reading = None;
            let page = page?;
            if page.is_empty() {
                export.close().await;
                return Ok(None);
            }
            self.page = page.into_iter();
            self.reading = Some(Box::pin(read(export)));
        }
    }

    fn check(&self, event: Option<String>) -> Result<Bytes, PublishError> {
        let bad = |rule| PublishError::Row { row: self.number, rule };
        let event =
            event.ok_or_else(|| bad("holds no event: null, or a payload that is no object"))?;
        if event.len() > LINE_BYTES_MAX {
            return Err(bad("is larger than 16 MiB"));
        }
        Ok(Bytes::from(event))
    }
}

async fn read(mut export: Export) -> (Export, Page) {
    let page = export.page().await;
    (export, page)
}
