//! Adds what a batch adds: one variadic SADD or PFADD per key, then the windows' expiry, the mark
//! and the watermark. Adding again changes nothing, so after any doubt the caller runs the same
//! batch again.
//!
//! Two rounds, not one. The mark in `<prefix>:meta` and the EXPIREATs go out only when every
//! addition has been answered: an HSET that follows a refused SADD down the same connection would
//! claim what did not happen, and an EXPIREAT would put an end to a key that is not ours. It costs
//! one more round trip (0.05 ms on loopback, 0.5 ms in a data centre), during which the members
//! are readable already.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::Error as FredError;
use fred::interfaces::{HashesInterface, HyperloglogInterface, KeysInterface, SetsInterface};
use fred::types::Value;
use futures_util::future::{join, join_all, join3};
use time::OffsetDateTime;

use super::client::Projection;
use super::error::{ProjectionError, is_wrong_type};
use super::marker::{State, timestamp};
use super::watermark::Tick;
use crate::sets::Kind;

/// Members of one command. Redis runs a command to its end before the next: 1,000 take under a
/// millisecond, and nobody waits longer than that for us.
const COMMAND_MEMBERS_MAX: usize = 1_000;
/// Bytes of one command: what a hung server's socket must take before fred reads again.
const COMMAND_BYTES_MAX: usize = 512 * 1024;
/// Commands and bytes sent before their answers are waited for.
const WAVE_COMMANDS_MAX: usize = 512;
const WAVE_BYTES_MAX: usize = 1024 * 1024;

/// What a batch adds to one key.
#[derive(Debug)]
pub struct KeyAdditions<'a> {
    pub key: &'a str,
    pub kind: Kind,
    /// Unix seconds, for a window.
    pub expires_at: Option<i64>,
    pub members: Vec<&'a str>,
}

/// What `<prefix>:meta` is to say once a batch is applied.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    pub last_event_at: OffsetDateTime,
    pub last_applied_at: OffsetDateTime,
    /// `None` leaves the state as it is.
    pub state: Option<State>,
}

/// What an `apply` did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Members that exact sets did not have before. Estimated sets do not tell.
    pub members_added: u64,
    pub commands: u64,
    /// Keys that hold another type, each once: set aside, all others were applied. Running the
    /// batch again does not help them; the caller counts and logs them.
    pub wrong_type: Vec<String>,
    /// The watermark was where it was left: nothing before this batch was lost.
    pub whole: bool,
    /// `None`: Redis was emptied, readers are told *unknown*.
    pub generation: Option<String>,
    /// The definitions that readers take for whole, once all members were in; see `Meta::sets`.
    pub told: Option<String>,
}

impl Projection {
    /// Adds all members, then sets the windows' expiry, the mark and the watermark. An error means
    /// that some may have been added and the mark was not moved for them: run it again. The same
    /// where `whole` is false, as what was added may be lost with the rest.
    pub async fn apply(
        &self,
        additions: &[KeyAdditions<'_>],
        mark: &Mark,
        tick: &Tick,
    ) -> Result<Applied, ProjectionError> {
        self.write(additions, Some((mark, tick))).await
    }

    /// The same without a mark: what a repair adds says nothing of how far ingest is.
    pub async fn add_members(
        &self,
        additions: &[KeyAdditions<'_>],
    ) -> Result<Applied, ProjectionError> {
        self.write(additions, None).await
    }

    async fn write(
        &self,
        additions: &[KeyAdditions<'_>],
        mark: Option<(&Mark, &Tick)>,
    ) -> Result<Applied, ProjectionError> {
        let mut applied = Applied::default();
        let adds = Add::of(additions);
        let mut adds = adds.as_slice();
        while !adds.is_empty() {
            let (wave, rest) = adds.split_at(wave_len(adds));
            self.add(wave, &mut applied).await?;
            adds = rest;
        }
        if mark.is_some() {
            crate::fault::point("half_redis");
        }
        let windows: Vec<(&str, i64)> = additions
            .iter()
            .filter(|addition| !applied.wrong_type.iter().any(|key| key == addition.key))
            .filter_map(|addition| Some((addition.key, addition.expires_at?)))
            .collect();
        let mut windows = windows.as_slice();
        while let Some((wave, rest)) = windows.split_at_checked(WAVE_COMMANDS_MAX) {
            self.finish(wave, None, &mut applied).await?;
            windows = rest;
        }
        self.finish(windows, mark, &mut applied).await?;
        Ok(applied)
    }

    async fn add(&self, wave: &[Add<'_>], applied: &mut Applied) -> Result<(), ProjectionError> {
        let lease = self.lease(wave.len() as u32).await?;
        let replies = join_all(wave.iter().map(|add| add.send(&lease.client))).await;
        self.note(&replies);
        applied.commands += replies.len() as u64;
        let mut failed = None;
        for (add, reply) in wave.iter().zip(replies) {
            match reply {
                Ok(added) if add.kind == Kind::Exact => applied.members_added += added,
                Ok(_) => {}
                Err(error) if is_wrong_type(&error) => {
                    if !applied.wrong_type.iter().any(|key| key == add.key) {
                        applied.wrong_type.push(add.key.to_owned());
                    }
                }
                Err(error) => failed = failed.or(Some((add.name(), error))),
            }
        }
        failed.map_or(Ok(()), |(name, error)| Err(ProjectionError::command(name, error)))
    }

    /// The expiries of one wave, and after the last wave the mark: all members are in by now.
    async fn finish(
        &self,
        windows: &[(&str, i64)],
        marks: Option<(&Mark, &Tick)>,
        applied: &mut Applied,
    ) -> Result<(), ProjectionError> {
        // The mark, the watermark and the generation.
        let commands = windows.len() + if marks.is_some() { 3 } else { 0 };
        if commands == 0 {
            return Ok(());
        }
        let lease = self.lease(commands as u32).await?;
        let client = &lease.client;
        let expiries = windows.iter().map(|(key, at)| client.expire_at::<(), _>(*key, *at, None));
        let marking = async {
            let (mark, tick) = marks?;
            Some(self.mark(client, mark, tick).await)
        };
        let (replies, marked) = join(join_all(expiries), marking).await;
        self.note(&replies);
        applied.commands += commands as u64;
        for ((key, _), reply) in windows.iter().zip(replies) {
            reply.map_err(|error| ProjectionError::on_key("EXPIREAT", key, error))?;
        }
        if let Some(marked) = marked {
            (applied.whole, applied.generation, applied.told) = marked?;
        }
        Ok(())
    }

    /// Beside each other: `<prefix>:meta` and `<prefix>:wm` need not be of one cluster slot.
    async fn mark(
        &self,
        client: &Client,
        mark: &Mark,
        tick: &Tick,
    ) -> Result<(bool, Option<String>, Option<String>), ProjectionError> {
        let meta_key = self.shared.meta_key.as_str();
        let (marked, moved, told) = join3(
            client.hset::<Value, _, _>(meta_key, self.fields(mark)),
            self.moving(client, tick, None),
            client.hmget::<Value, _, _>(meta_key, vec!["generation", "sets"]),
        )
        .await;
        let replies = [marked, moved, told];
        self.note(&replies);
        let [marked, moved, told] = replies;
        marked.map_err(|error| ProjectionError::on_key("HSET", meta_key, error))?;
        let told = told.map_err(|error| ProjectionError::on_key("HMGET", meta_key, error))?;
        let mut told = told.into_array().into_iter().map(Value::into_string);
        let (generation, sets) = (told.next().flatten(), told.next().flatten());
        Ok((self.moved(moved)?, generation, sets))
    }

    fn fields(&self, mark: &Mark) -> Vec<(&'static str, String)> {
        let micros = (mark.last_event_at.unix_timestamp_nanos() / 1_000) as i64;
        let latest = self.shared.last_event_micros.fetch_max(micros, Ordering::Relaxed);
        let latest =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(latest.max(micros)) * 1_000)
                // Another mark's own time, so it is in range.
                .unwrap_or(mark.last_event_at);
        let mut fields = vec![
            ("last_event_at", timestamp(latest)),
            ("last_applied_at", timestamp(mark.last_applied_at)),
        ];
        fields.extend(mark.state.map(|state| ("state", state.as_str().to_owned())));
        fields
    }
}

/// One SADD or PFADD, within the limits of one command.
struct Add<'a> {
    key: &'a str,
    kind: Kind,
    members: &'a [&'a str],
    bytes: usize,
}

impl<'a> Add<'a> {
    fn of(additions: &'a [KeyAdditions<'a>]) -> Vec<Add<'a>> {
        let mut adds = Vec::with_capacity(additions.len());
        for &KeyAdditions { key, kind, ref members, .. } in additions {
            let mut rest = members.as_slice();
            while let Some((count, bytes)) = fitting(rest) {
                let (members, later) = rest.split_at(count);
                adds.push(Add { key, kind, members, bytes });
                rest = later;
            }
        }
        adds
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Exact => "SADD",
            Kind::Estimated => "PFADD",
        }
    }

    async fn send(&self, client: &Client) -> Result<u64, FredError> {
        let members = self.members();
        match self.kind {
            Kind::Exact => client.sadd(self.key, members).await,
            Kind::Estimated => client.pfadd(self.key, members).await,
        }
    }

    /// The members as slices of one buffer: one allocation and a count each, where a `String`
    /// each would be a thousand allocations, freed on another thread.
    fn members(&self) -> Value {
        let mut buffer = Vec::with_capacity(self.bytes);
        for member in self.members {
            buffer.extend_from_slice(member.as_bytes());
        }
        let buffer = Bytes::from(buffer);
        let mut start = 0;
        let slices = self.members.iter().map(|member| {
            let end = start + member.len();
            let slice = buffer.slice(start..end);
            start = end;
            Value::Bytes(slice)
        });
        Value::Array(slices.collect())
    }
}

/// How many of the members go into the next command, and their bytes. At least one, whatever its
/// size: the limit on a member's length is the grammar's.
fn fitting(members: &[&str]) -> Option<(usize, usize)> {
    let (mut count, mut bytes) = (1, members.first()?.len());
    for member in members.iter().take(COMMAND_MEMBERS_MAX).skip(1) {
        if bytes + member.len() > COMMAND_BYTES_MAX {
            break;
        }
        count += 1;
        bytes += member.len();
    }
    Some((count, bytes))
}

/// How many of the commands to send before waiting for answers: at least one.
fn wave_len(adds: &[Add<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |add: &&Add<'_>| {
        bytes += add.bytes;
        bytes <= WAVE_BYTES_MAX
    };
    adds.iter().take(WAVE_COMMANDS_MAX).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addition(members: Vec<&str>) -> KeyAdditions<'_> {
        KeyAdditions { key: "k", kind: Kind::Exact, expires_at: None, members }
    }

    #[test]
    fn every_member_goes_into_one_command_in_order_and_within_the_limits() {
        let long = "x".repeat(200 * 1024);
        for members in
            [vec!["a"; 2_501], vec![long.as_str(); 7], vec!["a", &long, "b", &long, &long]]
        {
            let additions = [addition(members.clone())];
            let adds = Add::of(&additions);
            for add in &adds {
                assert!(add.members.len() <= COMMAND_MEMBERS_MAX);
                assert!(add.bytes <= COMMAND_BYTES_MAX);
                assert_eq!(add.bytes, add.members.iter().map(|member| member.len()).sum::<usize>());
            }
            let sent: Vec<&str> = adds.iter().flat_map(|add| add.members).copied().collect();
            assert_eq!(sent, members);
        }
    }

    #[test]
    fn a_member_over_the_limit_of_a_command_still_goes() {
        let long = "x".repeat(COMMAND_BYTES_MAX + 1);
        assert_eq!(Add::of(&[addition(vec!["a", &long, "b"])]).len(), 3);
        assert_eq!(Add::of(&[addition(vec![])]).len(), 0);
    }

    #[test]
    fn waves_are_bounded_and_lose_nothing() {
        let long = "x".repeat(300 * 1024);
        let additions: Vec<_> = (0..1_300)
            .map(|at| addition(if at % 100 == 0 { vec![&long, &long] } else { vec!["a"] }))
            .collect();
        let adds = Add::of(&additions);
        let mut adds = adds.as_slice();
        let mut sent = 0;
        while !adds.is_empty() {
            let (wave, rest) = adds.split_at(wave_len(adds));
            adds = rest;
            assert!((1..=WAVE_COMMANDS_MAX).contains(&wave.len()));
            assert!(wave.iter().map(|add| add.bytes).sum::<usize>() <= WAVE_BYTES_MAX);
            sent += wave.len();
        }
        assert_eq!(sent, 1_313);
    }

    #[test]
    fn members_are_sent_as_they_are() {
        let additions = [addition(vec!["CA:Fresno", "", "\u{e9}"])];
        let values = Add::of(&additions)[0].members().into_array();
        let texts: Vec<_> = values.iter().map(|value| value.as_bytes().unwrap()).collect();
        assert_eq!(texts, [b"CA:Fresno".as_slice(), b"", "\u{e9}".as_bytes()]);
    }
}
