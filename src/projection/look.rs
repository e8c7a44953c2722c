//! Looking at keys as a whole: what they hold, how long they live, which of some members they have.
//! Changes nothing but an expiry.

use fred::types::Value;
use time::OffsetDateTime;

use super::client::Projection;
use super::error::ProjectionError;
use crate::sets::Kind;

/// What is at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Set,
    /// Where a HyperLogLog is; a plain string is told apart only by asking it for its estimate.
    Text,
    Other,
}

impl Found {
    /// Whether a set of this kind can be there.
    pub fn is(self, kind: Kind) -> bool {
        matches!((self, kind), (Found::Set, Kind::Exact) | (Found::Text, Kind::Estimated))
    }
}

impl Projection {
    /// What each of the keys holds, and its expiry in Unix milliseconds where it has one.
    pub async fn look_at(
        &self,
        keys: &[String],
    ) -> Result<Vec<(Found, Option<i64>)>, ProjectionError> {
        let types = self.each("TYPE", keys.to_vec(), |key| vec![key.into()]).await?;
        let now = (OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as i64;
        let lives = self.each("PTTL", keys.to_vec(), |key| vec![key.into()]).await?;
        let found = |value: Value| match value.as_str().as_deref() {
            Some("none") => Found::Nothing,
            Some("set") => Found::Set,
            Some("string") => Found::Text,
            _ => Found::Other,
        };
        // -1: no expiry; -2: no key.
        let expiry = |value: Value| value.as_i64().filter(|left| *left >= 0).map(|left| now + left);
        Ok(types.into_iter().map(found).zip(lives.into_iter().map(expiry)).collect())
    }

    /// Whether each of the keys is there.
    pub async fn exist(&self, keys: Vec<String>) -> Result<Vec<bool>, ProjectionError> {
        let found = self.each("EXISTS", keys, |key| vec![key.into()]).await?;
        Ok(found.into_iter().map(|count| count.as_u64() == Some(1)).collect())
    }

    /// Whether each of the keys holds what only a set of ours can be: an exact set, or a
    /// HyperLogLog, which begins with its name.
    pub async fn are_sets(&self, keys: &[String]) -> Result<Vec<bool>, ProjectionError> {
        let found = self.look_at(keys).await?;
        let mut are = Vec::with_capacity(keys.len());
        for (key, (found, _)) in keys.iter().zip(found) {
            are.push(match found {
                Found::Set => true,
                Found::Text => {
                    let args = vec![key.as_str().into(), 0.into(), 3.into()];
                    self.one("GETRANGE", key, args).await?.as_str().as_deref() == Some("HYLL")
                }
                Found::Nothing | Found::Other => false,
            });
        }
        Ok(are)
    }

    /// Whether each of the members is in an exact set, at most a thousand at once.
    pub async fn has(&self, key: &str, members: &[String]) -> Result<Vec<bool>, ProjectionError> {
        let mut has = Vec::with_capacity(members.len());
        for members in members.chunks(1_000) {
            let mut args = vec![Value::from(key)];
            args.extend(members.iter().map(|member| Value::from(member.as_str())));
            let reply = self.one("SMISMEMBER", key, args).await?;
            has.extend(super::read::bools(reply, members.len())?);
        }
        Ok(has)
    }

    /// Some members of an exact set, at random, each once; none of a key that is gone.
    pub async fn random_members(
        &self,
        key: &str,
        count: u64,
    ) -> Result<Vec<String>, ProjectionError> {
        let args = vec![key.into(), count.to_string().into()];
        let reply = self.one("SRANDMEMBER", key, args).await?;
        let expected = "a list";
        reply.convert().map_err(|_| ProjectionError::Reply { command: "SRANDMEMBER", expected })
    }

    /// How many members an exact set has.
    pub async fn members_of(&self, key: &str) -> Result<u64, ProjectionError> {
        let reply = self.one("SCARD", key, vec![key.into()]).await?;
        reply.as_u64().ok_or(ProjectionError::Reply { command: "SCARD", expected: "a number" })
    }

    /// The estimate of one or more HyperLogLogs of one slot together.
    pub async fn estimate(&self, keys: &[&str]) -> Result<u64, ProjectionError> {
        let key = keys.first().copied().unwrap_or_default();
        let args = keys.iter().map(|key| Value::from(*key)).collect();
        let reply = self.one("PFCOUNT", key, args).await?;
        reply.as_u64().ok_or(ProjectionError::Reply { command: "PFCOUNT", expected: "a number" })
    }

    /// Gives a key its expiry (Unix seconds), or takes it away.
    pub async fn set_expiry(
        &self,
        key: &str,
        expires_at: Option<i64>,
    ) -> Result<(), ProjectionError> {
        match expires_at {
            Some(at) => self.one("EXPIREAT", key, vec![key.into(), at.into()]).await?,
            None => self.one("PERSIST", key, vec![key.into()]).await?,
        };
        Ok(())
    }
}
