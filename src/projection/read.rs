//! What readers ask. Three-valued: where there is no generation, Redis was emptied or never filled,
//! and the answer is *unknown*, not zero.
//!
//! The value is asked for first and the generation after it, in the same round trip: a Redis that
//! is emptied in between then answers "unknown". The other way round, its zero would be believed.
//! Never reads Postgres, never writes.

use std::collections::BTreeSet;

use fred::types::{ClusterHash, Value};
use futures_util::future::join;
use time::OffsetDateTime;

use super::client::{Lease, Projection, call};
use super::error::ProjectionError;
use super::marker::{Meta, State};
use crate::sets::{Kind, Set};

/// Members asked about in one SMISMEMBER.
const ASKED_MAX: usize = 1_000;
/// The cursor that begins a scan, and that says it is over.
pub(super) const SCAN_START: &str = "0";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    Known {
        value: T,
        generation: String,
        last_applied_at: Option<OffsetDateTime>,
        /// Anything but fresh: the value may lack members.
        state: Option<State>,
    },
    /// No generation, or the set is not filled from all history: Redis cannot tell.
    Unknown,
}

/// Some members of a set. A set that changes or grows while it is read may give a member twice,
/// never leave out one that was there from the first page to the last: whoever needs them distinct
/// keeps those seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// May be empty while there are more.
    pub members: Vec<String>,
    /// What to ask for next; `None` after the last page.
    pub cursor: Option<String>,
}

/// Keys by their text, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    pub keys: Vec<String>,
    /// There were more than the limit, and these are some of them.
    pub truncated: bool,
}

impl Projection {
    /// Distinct members: O(1). Of an estimated set within 0.81 %.
    pub async fn cardinality(&self, set: &Set, key: &str) -> Result<Answer<u64>, ProjectionError> {
        let command = match set.kind {
            Kind::Exact => "SCARD",
            Kind::Estimated => "PFCOUNT",
        };
        let lease = self.lease(2).await?;
        let (reply, meta) = self.last(&lease, command, key, vec![key.into()]).await?;
        let value = reply.as_u64().ok_or(odd(command, "a number"))?;
        Ok(answer(value, meta, Some(set)))
    }

    /// Whether each of the members is in the set, in the order asked: O(1) each.
    pub async fn contains(
        &self,
        set: &Set,
        key: &str,
        members: &[&str],
    ) -> Result<Answer<Vec<bool>>, ProjectionError> {
        exact(set.kind, "whether it contains a member")?;
        let mut value = Vec::with_capacity(members.len());
        let mut chunks = members.chunks(ASKED_MAX).peekable();
        while let Some(chunk) = chunks.next() {
            let mut args = Vec::with_capacity(1 + chunk.len());
            args.push(Value::from(key));
            args.extend(chunk.iter().map(|member| Value::from(*member)));
            if chunks.peek().is_some() {
                value.extend(bools(self.one("SMISMEMBER", key, args).await?, chunk.len())?);
                continue;
            }
            let lease = self.lease(2).await?;
            let (reply, meta) = self.last(&lease, "SMISMEMBER", key, args).await?;
            value.extend(bools(reply, chunk.len())?);
            return Ok(answer(value, meta, Some(set)));
        }
        // Nothing was asked.
        Ok(answer(value, self.meta().await?, Some(set)))
    }

    /// One page of about `count` members; `cursor` is `None` for the first, then the page's.
    pub async fn members(
        &self,
        set: &Set,
        key: &str,
        cursor: Option<&str>,
        count: u32,
    ) -> Result<Answer<Page>, ProjectionError> {
        exact(set.kind, "who its members are")?;
        let cursor = cursor.unwrap_or(SCAN_START);
        let args = vec![key.into(), cursor.into(), "COUNT".into(), i64::from(count.max(1)).into()];
        let lease = self.lease(2).await?;
        let (reply, meta) = self.last(&lease, "SSCAN", key, args).await?;
        let (cursor, members) = page(reply, "SSCAN")?;
        Ok(answer(Page { members, cursor }, meta, Some(set)))
    }

    /// The keys that match a glob, sorted, at most `limit`. Walks over every key of the server, in
    /// small steps: for people, not for a request path.
    pub async fn keys_of(
        &self,
        pattern: &str,
        limit: usize,
    ) -> Result<Answer<Keys>, ProjectionError> {
        let mut scan = self.scan_keys(pattern.to_owned()).await?;
        // A key may come more than once.
        let mut keys = BTreeSet::new();
        while let Some(found) = self.next_keys(&mut scan).await? {
            keys.extend(found);
            if keys.len() > limit {
                break;
            }
        }
        let truncated = keys.len() > limit;
        let keys = Keys { keys: keys.into_iter().take(limit).collect(), truncated };
        Ok(answer(keys, self.meta().await?, None))
    }

    /// The last command of a question, with the generation right behind it.
    pub(super) async fn last(
        &self,
        lease: &Lease<'_>,
        command: &'static str,
        key: &str,
        args: Vec<Value>,
    ) -> Result<(Value, Meta), ProjectionError> {
        let asked = call(&lease.client, command, ClusterHash::from(key), args);
        let (reply, meta) = join(asked, self.read_meta(&lease.client)).await;
        let replies = [reply, meta];
        self.note(&replies);
        let [reply, meta] = replies;
        let reply = reply.map_err(|error| ProjectionError::on_key(command, key, error))?;
        Ok((reply, self.parsed_meta(meta)?))
    }
}

/// Takes the glob's own characters out of a key's text, for use in a pattern.
pub fn escape_glob(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn exact(kind: Kind, what: &'static str) -> Result<(), ProjectionError> {
    match kind {
        Kind::Exact => Ok(()),
        Kind::Estimated => Err(ProjectionError::NotSupported { what }),
    }
}

/// Of a set that was defined after the sets were last whole nothing is known either: it holds what
/// came since.
fn answer<T>(value: T, meta: Meta, set: Option<&Set>) -> Answer<T> {
    if set.is_some_and(|set| !meta.is_whole(set)) {
        return Answer::Unknown;
    }
    let Meta { generation, last_applied_at, state, .. } = meta;
    match generation {
        Some(generation) => Answer::Known { value, generation, last_applied_at, state },
        None => Answer::Unknown,
    }
}

fn odd(command: &'static str, expected: &'static str) -> ProjectionError {
    ProjectionError::Reply { command, expected }
}

/// `[1, 0, …]`, one for each that was asked.
pub(super) fn bools(reply: Value, asked: usize) -> Result<Vec<bool>, ProjectionError> {
    let flags: Option<Vec<bool>> =
        reply.into_array().into_iter().map(|flag| Some(flag.as_u64()? == 1)).collect();
    flags.filter(|flags| flags.len() == asked).ok_or(odd("SMISMEMBER", "a flag for each member"))
}

/// `[cursor, [text, …]]`. What is not UTF-8 was not written by us, and is shown as far as it is.
pub(super) fn page(
    reply: Value,
    command: &'static str,
) -> Result<(Option<String>, Vec<String>), ProjectionError> {
    let expected = "a cursor and a list";
    let mut parts = reply.into_array().into_iter();
    let (Some(cursor), Some(Value::Array(texts))) = (parts.next(), parts.next()) else {
        return Err(odd(command, expected));
    };
    let cursor = cursor.into_string().ok_or(odd(command, expected))?;
    let texts = texts
        .iter()
        .map(|text| text.as_bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
        .collect::<Option<Vec<_>>>()
        .ok_or(odd(command, expected))?;
    Ok(((cursor != SCAN_START).then_some(cursor), texts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_generation_nothing_is_known() {
        assert_eq!(answer(7, Meta::default(), None), Answer::Unknown);
        let meta = Meta { generation: Some("g".to_owned()), ..Meta::default() };
        assert!(matches!(answer(7, meta, None), Answer::Known { value: 7, .. }));
    }

    #[test]
    fn of_a_set_that_was_defined_later_nothing_is_known() {
        let day = std::time::Duration::from_secs(86_400);
        let ttl = crate::sets::WindowTtl { hour: day, day, month: day };
        let sets = crate::sets::Sets::parse("r", "users=username cities=city", ttl).unwrap();
        let known = |said: Option<&str>, name| {
            let generation = Some("g".to_owned());
            let meta = Meta { generation, sets: said.map(str::to_owned), ..Meta::default() };
            answer(7, meta, Some(sets.find(name).unwrap())) != Answer::Unknown
        };
        assert!(known(None, "users"), "nothing is said of sets: the generation speaks for all");
        assert!(known(Some("users=username"), "users"));
        assert!(!known(Some("users=username"), "cities"));
        assert!(!known(Some("users=name"), "users"), "another definition");
    }

    #[test]
    fn escaped_text_matches_only_itself() {
        assert_eq!(escape_glob(r"a*b?[c]\d:e"), r"a\*b\?\[c\]\\d:e");
    }

    #[test]
    fn a_page_ends_where_its_cursor_is_zero() {
        let reply = |cursor: &str| {
            Value::Array(vec![cursor.into(), Value::Array(vec!["a".into(), "b".into()])])
        };
        let members = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(page(reply("0"), "SSCAN").unwrap(), (None, members.clone()));
        assert_eq!(page(reply("17"), "SSCAN").unwrap(), (Some("17".to_owned()), members));
        assert!(page(Value::Null, "SSCAN").is_err());
    }

    #[test]
    fn a_short_reply_is_refused() {
        let reply = || Value::Array(vec![1.into(), 0.into()]);
        assert_eq!(bools(reply(), 2).unwrap(), [true, false]);
        assert!(bools(reply(), 3).is_err());
    }
}
