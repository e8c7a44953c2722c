//! A look at some instead of all: what some events add must be in Redis, and some members of Redis
//! must have an event. It finds that much is wrong, not that little is.

use std::collections::HashMap;
use std::time::Duration;

use time::OffsetDateTime;

use super::RepairError;
use super::gather::Gather;
use super::pass::Repairer;
use super::support::{Support, members};
use super::verify::Verified;
use crate::event::Rules;
use crate::projection::escape_glob;
use crate::sets::{Kind, Set};
use crate::store::{Member, Piece, StoreError, forget};

/// Pages that the events come from, at least, where there are as many: neighbours are alike.
const PAGES_MIN: u64 = 50;
/// Between a COMMIT and its SADD, where nothing is wrong.
const ADDED_WITHIN: Duration = Duration::from_secs(3);
/// Keys of one set that members are taken from, and members of one key.
const KEYS_MAX: usize = 100;
const MEMBERS_MAX: u64 = 10_000;
/// Pages that are looked at for each event wanted: some are empty.
const PAGES_PER_EVENT_MAX: u64 = 20;

impl Repairer<'_> {
    /// Looks at about `wanted` events.
    pub async fn sample(&mut self, wanted: u64) -> Result<Verified, RepairError> {
        let extents = self.extents().await?;
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
        self.sample_members(wanted, &mut verified).await?;
        Ok(verified)
    }

    /// Looks whether some members of each exact set are supported. Reads the table once, or an
    /// index that `rollcall manage index` made.
    async fn sample_members(
        &mut self,
        wanted: u64,
        verified: &mut Verified,
    ) -> Result<(), RepairError> {
        let projection = self.projection();
        let mut places = HashMap::new();
        let sets: Vec<Set> =
            self.sets.iter().filter(|set| set.kind == Kind::Exact).cloned().collect();
        for set in &sets {
            let keys = self.some_keys(set).await?;
            let of_a_key = (wanted / keys.len().max(1) as u64).clamp(1, MEMBERS_MAX);
            for key in keys {
                let suffix = key[set.base_key().len()..].to_owned();
                for member in projection.random_members(&key, of_a_key).await? {
                    let source = set.source().to_owned();
                    let suffix = suffix.clone();
                    let drift = (key.clone(), member.clone());
                    places.insert(Member { source, suffix, member, expires_at: None }, drift);
                }
            }
        }
        // A snapshot from here on sees the event of each, as workers add after their COMMIT.
        self.mark().await?;
        let asked: Vec<Member> = places.keys().cloned().collect();
        let mut support = Support::new(&asked);
        let retired = forget::retired_among(self.reader.primary(), &asked).await?;
        support.supported(&retired);
        let (filter, sets, limits) = (support.filter(), &self.sets, &self.context.limits);
        let rules = Rules { sets, limits, now: OffsetDateTime::now_utc() };
        let seen = self.reader.matching(&filter, |at, payload| {
            support.seen(members(rules, at, payload));
        });
        seen.await?;
        let alone = support.unsupported();
        let alone = alone.iter().filter_map(|member| places.get(member)).cloned().collect();
        verified.members += asked.len() as u64;
        verified.phantom =
            self.lacking(alone, |key| key.to_owned(), true).await?.into_iter().collect();
        Ok(())
    }

    /// Some keys of a set: all of it where it is one.
    async fn some_keys(&self, set: &Set) -> Result<Vec<String>, RepairError> {
        if set.window.is_none() && set.group_fields == 0 {
            return Ok(vec![set.base_key().to_owned()]);
        }
        let projection = self.projection();
        let pattern = format!("{}:*", escape_glob(set.base_key()));
        let mut scan = projection.scan_keys(pattern).await?;
        let mut some = Vec::new();
        while let Some(keys) = projection.next_keys(&mut scan).await? {
            some.extend(keys);
            if some.len() >= KEYS_MAX {
                break;
            }
        }
        some.truncate(KEYS_MAX);
        let found = projection.look_at(&some).await?;
        let kept = some.into_iter().zip(found).filter(|(_, (found, _))| found.is(set.kind));
        Ok(kept.map(|(key, _)| key).collect())
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
