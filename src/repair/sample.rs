//! A look at some events instead of all: what they add must be in Redis. Cheap at any table size;
//! it finds that much is missing, not that little is.

use std::time::Duration;

use time::OffsetDateTime;

use super::RepairError;
use super::gather::Gather;
use super::pass::Repairer;
use super::verify::Verified;
use crate::sets::Kind;
use crate::store::{Piece, StoreError};

/// Pages that the events come from, at least, where there are as many: neighbours are alike.
const PAGES_MIN: u64 = 50;
/// Between a COMMIT and its SADD, where nothing is wrong.
const ADDED_WITHIN: Duration = Duration::from_secs(3);
/// Pages that are looked at for each event wanted: some are empty.
const PAGES_PER_EVENT_MAX: u64 = 20;

impl Repairer<'_> {
    /// Looks at about `wanted` events.
    pub async fn sample(&mut self, wanted: u64) -> Result<Verified, RepairError> {
        let extents = self.reader.extents().await?;
        let pages: i64 = extents.iter().map(|extent| extent.pages).sum();
        let mut verified = Verified::default();
        let of_a_page = (wanted / PAGES_MIN).max(1);
        for _ in 0..wanted.saturating_mul(PAGES_PER_EVENT_MAX) {
            if pages == 0 || verified.events >= wanted {
                break;
            }
            let mut page = rand::random_range(0..pages);
            let Some(extent) = extents.iter().find(|extent| {
                let here = page < extent.pages;
                page -= if here { 0 } else { extent.pages };
                here
            }) else {
                break;
            };
            let piece = Piece::Pages { of: extent, from: page, to: page + 1 };
            let left = of_a_page.min(wanted - verified.events);
            self.sample_page(&piece, left, &mut verified).await?;
            (self.progress)("looking at events", verified.events, Some(wanted));
        }
        if !verified.missing.is_empty() {
            // Its worker may have been about to add it.
            tokio::time::sleep(ADDED_WITHIN).await;
            let missing = std::mem::take(&mut verified.missing).into_iter().collect();
            let missing = self.lacking(missing, |key| key.to_owned(), false).await?;
            verified.missing = missing.into_iter().collect();
        }
        Ok(verified)
    }

    async fn sample_page(
        &mut self,
        piece: &Piece<'_>,
        most: u64,
        verified: &mut Verified,
    ) -> Result<(), RepairError> {
        let projection = self.projection();
        let mut gather = Gather::new(&self.sets, &self.context.limits, false);
        let now = OffsetDateTime::now_utc();
        // Any of the page's with the same chance: at most some 200 fit into one.
        let (mut events, mut seen) = (Vec::new(), 0);
        let read = self.reader.read(piece, async |event| -> Result<(), StoreError> {
            seen += 1;
            if (events.len() as u64) < most {
                events.push(event);
            } else if let Some(place) = events.get_mut(rand::random_range(0..seen)) {
                *place = event;
            }
            Ok(())
        });
        read.await?;
        for event in &events {
            gather.event(event, now);
        }
        verified.events += events.len() as u64;
        for addition in gather.additions() {
            if addition.kind == Kind::Estimated {
                continue;
            }
            let members: Vec<String> =
                addition.members.iter().map(|member| (*member).to_owned()).collect();
            let has = projection.has(addition.key, &members).await?;
            verified.members += members.len() as u64;
            let lacked = members.into_iter().zip(has).filter(|(_, has)| !has);
            let lacked = lacked.map(|(member, _)| (addition.key.to_owned(), member));
            verified.missing.extend(lacked);
        }
        Ok(())
    }
}
