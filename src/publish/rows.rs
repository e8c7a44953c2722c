//! The events of a query, one by one. It must never hold more than a page of them.

use std::pin::Pin;
use std::vec;

use bytes::Bytes;

use super::PublishError;
use super::feed::LINE_BYTES_MAX;
use super::left_out::LeftOut;
use crate::config;
use crate::store::{Export, StoreError};

type Page = Result<Vec<Option<String>>, StoreError>;
type Reading = Pin<Box<dyn Future<Output = (Export, Page)>>>;

pub struct Rows {
    total: u64,
    /// Of the row that was looked at last, from 1.
    number: u64,
    left_out: LeftOut,
    page: vec::IntoIter<Option<String>>,
    /// The page after this one. Kept: `next` may be dropped while it waits, a statement may not.
    /// `None` at the end.
    reading: Option<Reading>,
}

impl Rows {
    pub async fn open(import: &config::Import, query: &str) -> Result<Rows, PublishError> {
        let export = Export::open(&import.url, import.timeout, query).await?;
        let (total, page) = (export.rows() as u64, Vec::new().into_iter());
        let left_out = LeftOut::new("rows of the query");
        Ok(Rows { total, number: 0, left_out, page, reading: Some(Box::pin(read(export))) })
    }

    /// How many there are in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// The next event; a row without one is left out, so that those behind it are not. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, PublishError> {
        loop {
            if let Some(event) = self.page.next() {
                self.number += 1;
                match check(event) {
                    Ok(event) => return Ok(Some(event)),
                    Err(why) => self.left_out.add(self.number, why),
                }
                continue;
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
}

fn check(event: Option<String>) -> Result<Bytes, &'static str> {
    let event = event.ok_or("no event: null, or a payload that is no object")?;
    if event.len() > LINE_BYTES_MAX {
        return Err("larger than 16 MiB");
    }
    // As a message it would be several events, and as a line of several none.
    if event.trim_ascii_start().starts_with('[') {
        return Err("an array, and a row is one event: see jsonb_array_elements");
    }
    Ok(Bytes::from(event))
}

async fn read(mut export: Export) -> (Export, Page) {
    let page = export.page().await;
    (export, page)
}
