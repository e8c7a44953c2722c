//! What a page or a terminal shows: all that Redis tells at one moment, as one value.
//!
//! [`Asker`] asks Redis, [`Looker`] keeps the last hour in memory and puts the two together;
//! `groups` walks over the keys beside them, slowly, to know the busiest groups. Reads alone: it
//! is given a [`Reader`], which has no way to write. Where Redis cannot tell, a count is `None`,
//! never 0.

mod ask;
mod groups;
mod history;

use std::convert::Infallible;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use ask::{Asker, Found, Trouble, from_first_that_holds};
pub use groups::{Busy, Groups};

use crate::pipeline::Pipeline;
use crate::projection::Reader;
use crate::sets::Sets;
use crate::telemetry::rfc3339;
use history::History;

/// The groups of a set that are shown.
pub const GROUPS_SHOWN_MAX: usize = 10;
/// The buckets of a set that are shown.
pub const BUCKETS_SHOWN_MAX: usize = 31;

/// While Redis does not answer it is told so again and again.
const IMPATIENT: Duration = Duration::from_secs(1);

/// One moment. Times are RFC 3339 in UTC.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    pub at: String,
    pub redis: RedisSeen,
    /// Whether there is a generation; without one no count is known.
    pub known: bool,
    pub generation: Option<String>,
    /// fresh, catching_up, rebuilding or stale.
    pub state: Option<&'static str>,
    pub last_event_at: Option<String>,
    pub last_applied_at: Option<String>,
    /// Since `last_applied_at`. Grows while nothing is published, too.
    pub age_seconds: Option<f64>,
    /// In the order of the configuration.
    pub sets: Vec<SetSeen>,
    /// `None` where no worker has told anything for a minute.
    pub pipeline: Option<Pipeline>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RedisSeen {
    pub ok: bool,
    pub error: Option<String>,
    /// It did not answer at all: whoever asks now hears nothing either.
    #[serde(skip)]
    pub silent: bool,
}

impl RedisSeen {
    pub fn well() -> RedisSeen {
        RedisSeen { ok: true, error: None, silent: false }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SetSeen {
    pub name: String,
    /// exact or estimated.
    pub kind: &'static str,
    /// `None`: unknown, or of a grouped set, which has a count for each group. Of a windowed set it
    /// is that of the present bucket.
    pub cardinality: Option<u64>,
    pub grouped: bool,
    /// hour, day or month.
    pub window: Option<&'static str>,
    /// The busiest, of the present bucket where there are buckets.
    pub groups: Option<Vec<GroupSeen>>,
    /// There are more groups than were looked at.
    pub groups_truncated: bool,
    /// Newest first, without those before the first that holds something.
    pub buckets: Option<Vec<BucketSeen>>,
    /// Unix seconds and what the cardinality was then, oldest first: the last hour, as far as this
    /// process has seen it. It is kept in memory alone.
    pub history: Vec<(i64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupSeen {
    pub group: String,
    pub cardinality: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BucketSeen {
    pub bucket: String,
    pub cardinality: u64,
}

/// Makes snapshots, one after another.
pub struct Looker {
    asker: Asker,
    history: History,
}

impl Looker {
    /// Knows groups only while somebody runs [`Asker::walk`] or has called
    /// [`Asker::walk_once`].
    pub fn new(redis: Reader, sets: Sets) -> Looker {
        let history = History::new(sets.iter().count());
        Looker { asker: Asker::new(redis, sets), history }
    }

    /// Cheap to clone, and to be used beside this.
    pub fn asker(&self) -> &Asker {
        &self.asker
    }

    /// One look at Redis, within its timeouts. One that does not answer is told as such.
    pub async fn look(&mut self) -> Snapshot {
        let found = self.asker.ask().await;
        self.tell(found.map_err(|error| Trouble::of(&error)), OffsetDateTime::now_utc())
    }

    /// Looks again and again, and tells each time. A Redis that does not answer within `patience`
    /// is told as away; the look goes on, as the Redis client mends its connection only for who
    /// waits.
    pub async fn follow(
        mut self,
        every: Duration,
        patience: Duration,
        mut told: impl FnMut(Snapshot),
    ) -> Infallible {
        let asker = self.asker.clone();
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut impatient = interval(every.min(IMPATIENT));
        impatient.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let began = Instant::now();
            let asking = asker.ask();
            tokio::pin!(asking);
            let found = loop {
                // Cancel-safe: the look is pinned and goes on, a tick has changed nothing.
                tokio::select! {
                    found = &mut asking => break found,
                    _ = impatient.tick() => {
                        let waited = began.elapsed();
                        if waited >= patience {
                            let trouble = Trouble::silent(waited);
                            told(self.tell(Err(trouble), OffsetDateTime::now_utc()));
                        }
                    }
                }
            };
            let found = found.map_err(|error| Trouble::of(&error));
            told(self.tell(found, OffsetDateTime::now_utc()));
        }
    }

    /// A snapshot of what was found, or of a Redis that did not answer, and why.
    pub fn tell(&mut self, found: Result<Found, Trouble>, now: OffsetDateTime) -> Snapshot {
        let found = match found {
            Ok(found) => found,
            Err(trouble) => return self.away(trouble, now),
        };
        let meta = &found.meta;
        let known = meta.generation.is_some();
        let mut sets = found.sets;
        for (number, set) in sets.iter_mut().enumerate() {
            if let Some(cardinality) = set.cardinality {
                self.history.note(number, now, cardinality);
            }
            set.history = self.history.of(number, now);
        }
        let age = meta.last_applied_at.map(|at| (now - at).as_seconds_f64().max(0.0));
        Snapshot {
            at: rfc3339(now),
            redis: RedisSeen::well(),
            known,
            generation: meta.generation.clone(),
            // Without a generation the rest is of sets that are gone.
            state: meta.state.filter(|_| known).map(|state| state.as_str()),
            last_event_at: meta.last_event_at.filter(|_| known).map(rfc3339),
            last_applied_at: meta.last_applied_at.filter(|_| known).map(rfc3339),
            age_seconds: age.filter(|_| known),
            sets,
            pipeline: crate::pipeline::sum(found.reports.iter(), now),
        }
    }

    fn away(&mut self, trouble: Trouble, now: OffsetDateTime) -> Snapshot {
        let sets = self.asker.sets().iter().enumerate();
        Snapshot {
            at: rfc3339(now),
            redis: RedisSeen { ok: false, error: Some(trouble.why), silent: !trouble.refuses },
            known: false,
            generation: None,
            state: None,
            last_event_at: None,
            last_applied_at: None,
            age_seconds: None,
            sets: sets
                .map(|(number, set)| SetSeen {
                    history: self.history.of(number, now),
                    ..SetSeen::unknown(set)
                })
                .collect(),
            pipeline: None,
        }
    }
}

impl Snapshot {
    /// Leaves the newest points of the histories alone: those of the last so many seconds.
    pub fn forget_before(&mut self, span: Duration) {
        for set in &mut self.sets {
            let newest = set.history.last().map_or(0, |(at, _)| *at);
            let from = newest.saturating_sub_unsigned(span.as_secs());
            set.history.retain(|(at, _)| *at >= from);
        }
    }
}

impl SetSeen {
    /// What can be said without Redis.
    pub fn unknown(set: &crate::sets::Set) -> SetSeen {
        SetSeen {
            name: set.name.clone(),
            kind: set.kind.as_str(),
            cardinality: None,
            grouped: set.group_fields > 0,
            window: set.window.map(crate::sets::Window::name),
            groups: None,
            groups_truncated: false,
            buckets: None,
            history: Vec::new(),
        }
    }
}
