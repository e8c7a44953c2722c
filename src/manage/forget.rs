//! `rollcall manage forget`: erasure. The events that hold a value go from Postgres, and from Redis
//! exactly the members that nothing supports any more.
//!
//! The order, and what repairs a crash at each point:
//! 1. Events are deleted and their members noted, in one transaction each time. Killed in between:
//!    the next run deletes the rest.
//! 2. The same for retired members that name the value.
//! 3. Of the members noted, those that no row and no retired member supports are taken out of
//!    Redis; then what was stored meanwhile is looked at once more, and what it supports is put
//!    back. What that look does not see is added by the worker that stores it, as workers write to
//!    Redis after their commit. Killed before the end: the notes are there, the next run goes on.
//! 4. The notes go.
//!
//! What is in the queue, in a worker's hands or among the dead letters is not touched.

mod answer;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result};
use time::OffsetDateTime;

use self::answer::Answer;

use super::upkeep;
use crate::cli::{ForgetArgs, Outcome};
use crate::config::Config;
use crate::event::Rules;
use crate::progress::Progress;
use crate::projection::Projection;
use crate::repair::{Support, members};
use crate::sets::{Kind, Set};
use crate::store::forget::{self, Erased, Target};
use crate::store::walk::{self, Filter, Leaf, Walk};
use crate::store::{Link, Member, marks};

/// For one step: it reads 32 MiB at most, or waits for a lock.
const STEP_MAX: Duration = Duration::from_secs(10 * 60);
/// Members that are decided upon together; each round can read the whole table once.
const PAGE: i64 = 50_000;
/// Distinct members that a dry run holds in memory.
const DRY_MEMBERS_MAX: usize = 500_000;

/// What all steps need.
struct Forgetting<'a> {
    config: &'a Config,
    rules: Rules<'a>,
    target: Target,
    filter: Filter,
}

pub async fn run(config: &Config, args: &ForgetArgs) -> Result<Outcome> {
    let store = config.store()?;
    let now = OffsetDateTime::now_utc();
    let target = Target { field: args.what.field.clone(), value: args.what.value.clone() };
    let run = Forgetting {
        config,
        rules: Rules { sets: &config.sets, limits: &config.limits, now },
        filter: target.filter(),
        target,
    };
    if args.dry_run {
        let mut link = Link::open(&store.url, store.timeout).await?;
        let answer = run.dry(&mut link).await;
        link.close().await;
        answer?.tell(args)?;
        return Ok(Outcome::Done);
    }
    // Before anything is deleted: what is noted is not for long then.
    let redis = Projection::connect(config.projection()?, config.sets.prefix()).await?;
    let mut lock = upkeep::lock(store, args.turn).await?;
    let answer = run.forget(lock.link(), &redis).await;
    lock.release().await;
    redis.close().await;
    answer?.tell(args)?;
    Ok(Outcome::Done)
}

/// Between a COMMIT and its SADD, where nothing is wrong.
const ADDED_WITHIN: Duration = Duration::from_secs(3);

impl Forgetting<'_> {
    async fn forget(&self, link: &mut Link, redis: &Projection) -> Result<Answer> {
        link.allow(STEP_MAX).await?;
        let mut answer =
            Answer { earlier: !forget::pending(link, 1).await?.is_empty(), ..Answer::default() };
        self.erase(link, &mut answer).await?;
        answer.retired = forget::erase_retired(link, &self.target).await?;
        if answer.recent > 0 {
            // A worker may have stored one and be about to add its members: after us, they would be
            // phantoms.
            tokio::time::sleep(ADDED_WITHIN).await;
        }
        self.settle(link, redis, &mut answer).await.context(
            "the events are erased and Redis is not right yet: run the same command again",
        )?;
        Ok(answer)
    }

    /// Deletes the events, partition by partition.
    async fn erase(&self, link: &mut Link, answer: &mut Answer) -> Result<()> {
        let mut progress = Blocks::begin(link, "blocks searched").await?;
        for leaf in progress.leaves.clone() {
            let Some(mut walk) = Walk::begin(link, &leaf).await? else { continue };
            let mut erased = Erased::default();
            let recent = self.config.ingest.hold_max;
            while forget::erase_step(
                link,
                &mut walk,
                &self.filter,
                recent,
                &mut erased,
                |at, payload, found| found.extend(members(self.rules, at, payload)),
            )
            .await?
            {
                progress.at(&walk);
            }
            progress.past(&walk);
            answer.erased(&leaf, erased);
        }
        progress.finish();
        Ok(())
    }

    /// Makes Redis right about all members that are noted, also by runs that were killed.
    async fn settle(&self, link: &mut Link, redis: &Projection, answer: &mut Answer) -> Result<()> {
        loop {
            let page = forget::pending(link, PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            // What is stored from here on is looked at after the members are out.
            let mark = marks::mark(link).await?.xmin;
            let mut support = Support::new(&page);
            support.supported(&forget::retired_among(link, &page).await?);
            self.search(link, &mut support, &Filter::all()).await?;
            let gone = support.unsupported();
            answer.checked += page.len() as u64;
            self.remove(link, redis, &gone, answer).await?;
            self.look_once_more(link, redis, support, mark, answer).await?;
            forget::settled(link, &page).await?;
        }
    }

    /// Reads the events that might support a member, until all are supported or all is read.
    async fn search(&self, link: &mut Link, support: &mut Support, among: &Filter) -> Result<()> {
        let mut progress = Blocks::begin(link, "blocks checked").await?;
        let mut filter = support.filter().and(among);
        let mut left = support.len();
        for leaf in progress.leaves.clone() {
            let Some(mut walk) = Walk::begin(link, &leaf).await? else { continue };
            while !support.is_empty()
                && walk
                    .step(link, &filter, |at, payload| {
                        support.seen(members(self.rules, at, payload));
                    })
                    .await?
                    .is_some()
            {
                // Most members are supported by many events, and soon found to be.
                if support.len() < left / 2 || support.len() < left.min(100) {
                    left = support.len();
                    filter = support.filter().and(among);
                }
                progress.at(&walk);
            }
            progress.past(&walk);
        }
        progress.finish();
        Ok(())
    }

    async fn remove(
        &self,
        link: &mut Link,
        redis: &Projection,
        gone: &[Member],
        answer: &mut Answer,
    ) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let prefix = self.config.sets.prefix();
        marks::note_removal(link, prefix).await?;
        for other in forget::other_prefixes(link, prefix).await? {
            marks::note_rebuild(link, &other, "events were erased").await?;
            answer.rebuild_owed.insert(other);
        }
        for (set, keys) in self.by_key(gone) {
            if set.kind == Kind::Estimated {
                marks::note_rebuild(link, prefix, "members of an estimated set were erased")
                    .await?;
                answer.estimated.insert(set.name.clone());
                continue;
            }
            for (key, (members, _)) in keys {
                let removed = redis.remove(&key, &members).await?;
                *answer.removed.entry(set.name.clone()).or_default() += removed;
            }
        }
        Ok(())
    }

    /// Puts back what an event supports that was stored since the mark.
    async fn look_once_more(
        &self,
        link: &mut Link,
        redis: &Projection,
        mut support: Support,
        mark: i64,
        answer: &mut Answer,
    ) -> Result<()> {
        if support.is_empty() {
            return Ok(());
        }
        let filter = support.filter();
        let mut back = HashSet::new();
        walk::rows_since(link, mark, &filter, |at, payload| {
            back.extend(support.seen(members(self.rules, at, payload)));
        })
        .await?;
        let back: Vec<Member> = back.into_iter().collect();
        for (set, keys) in self.by_key(&back) {
            if set.kind == Kind::Estimated {
                continue;
            }
            for (key, (members, expires_at)) in keys {
                redis.put_back(&key, &members, expires_at).await?;
                answer.put_back += members.len() as u64;
            }
        }
        Ok(())
    }

    /// The keys that hold these members, of every set that is made from their sources.
    fn by_key<'m>(&self, all: &'m [Member]) -> Vec<(&Set, Keys<'m>)> {
        let sets = self.config.sets.iter().map(|set| {
            let mut keys = Keys::new();
            for member in all.iter().filter(|member| member.source == set.source()) {
                let key = set.key_with_suffix(&member.suffix);
                let key = keys.entry(key).or_insert((Vec::new(), member.expires_at));
                key.0.push(&member.member);
            }
            (set, keys)
        });
        sets.filter(|(_, keys)| !keys.is_empty()).collect()
    }

    /// What `forget` would do, from reading alone.
    async fn dry(&self, link: &mut Link) -> Result<Answer> {
        link.allow(STEP_MAX).await?;
        let mut answer = Answer { dry: true, ..Answer::default() };
        let mut noted: HashSet<Member> = HashSet::new();
        let mut progress = Blocks::begin(link, "blocks searched").await?;
        for leaf in progress.leaves.clone() {
            let Some(mut walk) = Walk::begin(link, &leaf).await? else { continue };
            let mut found = Erased::default();
            while let Some(rows) = walk
                .step(link, &self.filter, |at, payload| {
                    if noted.len() < DRY_MEMBERS_MAX {
                        noted.extend(members(self.rules, at, payload));
                    }
                })
                .await?
            {
                found.events += rows;
                progress.at(&walk);
            }
            progress.past(&walk);
            answer.erased(&leaf, found);
        }
        progress.finish();
        let retired = forget::retired_with(link, &self.target, DRY_MEMBERS_MAX).await?;
        answer.retired = retired.len() as u64;
        noted.extend(retired);
        answer.at_least = noted.len() >= DRY_MEMBERS_MAX;
        let noted: Vec<Member> = noted.into_iter().collect();
        answer.checked = noted.len() as u64;
        let mut support = Support::new(&noted);
        // Those that name the value go themselves, and support nothing.
        let mut kept = forget::retired_among(link, &noted).await?;
        kept.retain(|member| !self.target.is_in(member));
        support.supported(&kept);
        self.search(link, &mut support, &self.filter.clone().negated()).await?;
        for (set, keys) in self.by_key(&support.unsupported()) {
            let members = keys.values().map(|(members, _)| members.len() as u64).sum();
            match set.kind {
                Kind::Exact => drop(answer.removed.insert(set.name.clone(), members)),
                Kind::Estimated => drop(answer.estimated.insert(set.name.clone())),
            }
        }
        Ok(answer)
    }
}

/// key -> members, and when the key expires.
type Keys<'m> = BTreeMap<String, (Vec<&'m str>, Option<i64>)>;

/// How far a walk through all partitions is.
struct Blocks {
    leaves: Vec<Leaf>,
    progress: Progress,
    before: u64,
}

impl Blocks {
    async fn begin(link: &mut Link, what: &'static str) -> Result<Blocks> {
        let leaves = walk::leaves(link).await?;
        let mut total = 0;
        for leaf in &leaves {
            total += Walk::begin(link, leaf).await?.map_or(0, |walk| walk.done().1);
        }
        Ok(Blocks { leaves, progress: Progress::new(what, Some(total)), before: 0 })
    }

    fn at(&mut self, walk: &Walk) {
        self.progress.at(self.before + walk.done().0);
    }

    fn past(&mut self, walk: &Walk) {
        self.before += walk.done().1;
    }

    fn finish(&self) {
        self.progress.finish();
    }
}
