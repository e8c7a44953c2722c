//! `<prefix>:meta`: how far a reader may trust the sets.
//!
//! A wiped Redis answers "not a member" to everything. Only the generation tells that from the
//! truth: it is written when sets begin and goes when they go. Never writes a generation over
//! another: that is a rebuild's, and it has its own way to do it.

use std::fmt;

use fred::clients::Client;
use fred::types::{ClusterHash, Value};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use uuid::Uuid;

use super::client::{Projection, call};
use super::error::ProjectionError;
use crate::sets::{Set, Sets};

/// RFC 3339, UTC, microseconds, always the same width: as Postgres keeps them.
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Both fields in one step, so that no reader sees a generation without its state. The answer is
/// the generation that counts: ours, or the one that was there.
const BEGIN_GENERATION: &str = "if redis.call('HSETNX', KEYS[1], 'generation', ARGV[1]) == 1 then \
    redis.call('HSET', KEYS[1], 'state', ARGV[2], 'sets', ARGV[3]) end \
    return redis.call('HGET', KEYS[1], 'generation')";

/// Unless they are others by now.
const KEEP_DEFINITIONS: &str = "if redis.call('HGET', KEYS[1], 'sets') ~= ARGV[1] then \
    return 0 end redis.call('HSET', KEYS[1], 'sets', ARGV[2]) return 1";

const META_FIELDS: [&str; 6] =
    ["generation", "last_event_at", "last_applied_at", "rebuilt_at", "state", "sets"];

/// How far the sets follow Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They hold what Postgres holds, but for what is under way.
    Fresh,
    /// Members are missing and being added.
    CatchingUp,
    /// They are being made anew.
    Rebuilding,
    /// Members are missing, and nobody is adding them yet.
    Stale,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::CatchingUp => "catching_up",
            Self::Rebuilding => "rebuilding",
            Self::Stale => "stale",
        }
    }

    pub fn parse(text: &str) -> Option<State> {
        [Self::Fresh, Self::CatchingUp, Self::Rebuilding, Self::Stale]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What `<prefix>:meta` says. A field that is absent, or written by someone else in another form,
/// is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// `None`: nothing is known, whatever the sets answer.
    pub generation: Option<String>,
    pub last_event_at: Option<OffsetDateTime>,
    pub last_applied_at: Option<OffsetDateTime>,
    pub rebuilt_at: Option<OffsetDateTime>,
    pub state: Option<State>,
    /// The definitions, parted by spaces, of the sets that hold all of history. `None`: nothing is
    /// said, and the generation speaks for all.
    pub sets: Option<String>,
}

impl Meta {
    /// Whether this set holds all of history: one that was defined later holds what came since.
    pub fn is_whole(&self, set: &Set) -> bool {
        self.generation.is_some()
            && self.sets.as_ref().is_none_or(|sets| sets.split(' ').any(|text| text == set.text))
    }

    /// Whether no other set than these, by name, is said to hold all of history.
    pub fn tells_only_of(&self, sets: &Sets) -> bool {
        let mut told = self.sets.iter().flat_map(|texts| texts.split_whitespace());
        told.all(|text| sets.iter().any(|set| set.name == name_of(text)))
    }
}

/// The generation that counts, and whether this call began it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    pub generation: String,
    pub anew: bool,
}

impl Projection {
    pub async fn generation(&self) -> Result<Option<String>, ProjectionError> {
        Ok(self.meta().await?.generation)
    }

    pub async fn meta(&self) -> Result<Meta, ProjectionError> {
        let lease = self.lease(1).await?;
        let reply = [self.read_meta(&lease.client).await];
        self.note(&reply);
        let [reply] = reply;
        self.parsed_meta(reply)
    }

    /// Begins a generation where there is none, in `state`. Safe to call by many workers at once:
    /// one begins it, all are told the same.
    pub async fn begin_generation_if_absent(
        &self,
        state: State,
        sets: &Sets,
    ) -> Result<Begun, ProjectionError> {
        let ours = Uuid::now_v7().to_string();
        let meta_key = self.shared.meta_key.as_str();
        let args = vec![
            BEGIN_GENERATION.into(),
            1.into(),
            meta_key.into(),
            ours.as_str().into(),
            state.as_str().into(),
            definitions(sets.iter()).into(),
        ];
        let reply = self.one("EVAL", meta_key, args).await?;
        let expected = "the generation";
        let generation =
            reply.into_string().ok_or(ProjectionError::Reply { command: "EVAL", expected })?;
        Ok(Begun { anew: generation == ours, generation })
    }

    pub async fn set_state(&self, state: State) -> Result<(), ProjectionError> {
        let meta_key = self.shared.meta_key.as_str();
        let args = vec![meta_key.into(), "state".into(), state.as_str().into()];
        self.one("HSET", meta_key, args).await.map(|_| ())
    }

    /// Says that these sets were made anew; with a state, that they are all there are: then a new
    /// generation begins. The caller has the repairer's lock, so nobody else changes `sets`.
    pub async fn rebuilt(&self, sets: &Sets, all: Option<State>) -> Result<(), ProjectionError> {
        let meta_key = self.shared.meta_key.as_str();
        let mut args = vec![
            Value::from(meta_key),
            "rebuilt_at".into(),
            timestamp(OffsetDateTime::now_utc()).into(),
        ];
        match all {
            Some(state) => {
                args.extend(["state".into(), state.as_str().into()]);
                args.extend(["generation".into(), Uuid::now_v7().to_string().into()]);
                args.extend(["sets".into(), definitions(sets.iter()).into()]);
            }
            None => {
                if let Some(before) = self.meta().await?.sets {
                    let made = |text: &str| sets.iter().any(|set| set.name == name_of(text));
                    let others = before.split(' ').filter(|text| !made(text));
                    let texts: Vec<&str> =
                        others.chain(sets.iter().map(|set| set.text.as_str())).collect();
                    args.extend(["sets".into(), texts.join(" ").into()]);
                }
            }
        }
        self.one("HSET", meta_key, args).await.map(|_| ())
    }

    /// Takes back what `meta` tells of sets that are not kept, or not so: from here on they lack
    /// what comes. What somebody else wrote meanwhile stays. The definitions that were taken back.
    pub async fn keep_definitions(
        &self,
        before: &str,
        sets: &Sets,
    ) -> Result<Vec<String>, ProjectionError> {
        let told = before.split_whitespace().map(str::to_owned);
        let (kept, gone): (Vec<String>, Vec<String>) =
            told.partition(|text| sets.iter().any(|set| set.text == *text));
        if gone.is_empty() {
            return Ok(gone);
        }
        let meta_key = self.shared.meta_key.as_str();
        let args = vec![
            KEEP_DEFINITIONS.into(),
            1.into(),
            meta_key.into(),
            before.into(),
            kept.join(" ").into(),
        ];
        let changed = self.one("EVAL", meta_key, args).await?.as_u64() == Some(1);
        Ok(if changed { gone } else { Vec::new() })
    }

    /// Sees that Redis takes writes, without writing where a state is kept already.
    pub async fn probe(&self) -> Result<(), ProjectionError> {
        let meta_key = self.shared.meta_key.as_str();
        // Where it is missing nobody knows better: stale claims nothing.
        let args = vec![meta_key.into(), "state".into(), State::Stale.as_str().into()];
        self.one("HSETNX", meta_key, args).await.map(|_| ())
    }

    pub(super) async fn read_meta(&self, client: &Client) -> Result<Value, fred::error::Error> {
        let mut args = vec![Value::from(self.shared.meta_key.as_str())];
        args.extend(META_FIELDS.map(Value::from));
        call(client, "HMGET", ClusterHash::FirstKey, args).await
    }

    pub(super) fn parsed_meta(
        &self,
        reply: Result<Value, fred::error::Error>,
    ) -> Result<Meta, ProjectionError> {
        let meta_key = &self.shared.meta_key;
        let reply = reply.map_err(|error| ProjectionError::on_key("HMGET", meta_key, error))?;
        let fields: Vec<Option<String>> =
            reply.into_array().into_iter().map(Value::into_string).collect();
        let [generation, last_event_at, last_applied_at, rebuilt_at, state, sets] =
            <[Option<String>; 6]>::try_from(fields)
                .map_err(|_| ProjectionError::Reply { command: "HMGET", expected: "six fields" })?;
        let time = |text: Option<String>| OffsetDateTime::parse(&text?, &Rfc3339).ok();
        Ok(Meta {
            generation,
            last_event_at: time(last_event_at),
            last_applied_at: time(last_applied_at),
            rebuilt_at: time(rebuilt_at),
            state: state.and_then(|text| State::parse(&text)),
            sets,
        })
    }
}

/// The name in `name=field...`.
fn name_of(definition: &str) -> &str {
    definition.split('=').next().unwrap_or_default()
}

fn definitions<'s>(sets: impl Iterator<Item = &'s Set>) -> String {
    sets.map(|set| set.text.as_str()).collect::<Vec<_>>().join(" ")
}

/// As written to Redis.
pub(super) fn timestamp(at: OffsetDateTime) -> String {
    // Only years past 9999 have no such form, and `event` refuses them; the epoch is then plainly
    // wrong, not half right.
    at.to_offset(time::UtcOffset::UTC)
        .format(TIMESTAMP)
        .unwrap_or_else(|_| "1970-01-01T00:00:00.000000Z".to_owned())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn timestamps_are_utc_with_microseconds_and_read_back_the_same() {
        let at = datetime!(2026-11-23 11:00:00.000_120 +01:00);
        assert_eq!(timestamp(at), "2026-11-23T10:00:00.000120Z");
        assert_eq!(OffsetDateTime::parse(&timestamp(at), &Rfc3339).unwrap(), at);
    }

    #[test]
    fn states_read_back_as_written() {
        for state in [State::Fresh, State::CatchingUp, State::Rebuilding, State::Stale] {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        assert_eq!(State::parse("Fresh"), None);
    }
}
