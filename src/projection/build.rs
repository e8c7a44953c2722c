//! Sets made anew beside the live ones: `rebuild:<token>:{<live key>}`, which is the slot of the
//! live key in a cluster, and put in their place in one step.
//!
//! Nobody reads them before. They expire by themselves if the repairer dies, and the next repairer
//! takes out at once what is left. A counter beside them, `rebuild:<token>:{<prefix>:}`, grows with
//! each write and is compared before each: Redis keeps a prefix of its commands through restart
//! and failover, so where the counter is the last one, all that was added before it is there. It
//! expires no later than any of the sets: where it is there, none of them has expired. Never puts a
//! set in place whose counter is another (in a cluster the counter tells of its own shard alone).

use std::collections::HashSet;
use std::time::Duration;

use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, Value};
use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::client::{Projection, call};
use super::error::ProjectionError;
use super::read::escape_glob;
use super::write::KeyAdditions;

/// How long what a dead repairer left stays, at most.
const TTL: Duration = Duration::from_secs(15 * 60);
/// How often a living one says that it still needs it.
const KEEP_EVERY: Duration = Duration::from_secs(4 * 60);
/// New sets that are known to expire: bounds memory. Of more of them each write says it again.
const EXPIRING_MAX: usize = 100_000;
/// Commands sent before their answers are waited for.
const WAVE: usize = 256;

/// Compares and counts up; the answer is 1 where nothing was lost. Its expiry stays.
const COUNT_UP: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
    redis.call('INCR', KEYS[1]) return 1";

/// In one step, so that no reader sees less than a whole set: see that the new one is whole, give
/// it the life that belongs to it, and put it in place. RENAME would bring the new one's expiry
/// along, and would free the old one while everybody waits.
const SWAP: &str = "if ARGV[1] ~= '' and redis.call('GET', KEYS[3]) ~= ARGV[1] then return 0 end \
    if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end \
    if ARGV[2] == '' then redis.call('PERSIST', KEYS[1]) \
    else redis.call('EXPIREAT', KEYS[1], ARGV[2]) end \
    redis.call('UNLINK', KEYS[2]) \
    if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('RENAME', KEYS[1], KEYS[2]) end \
    return 1";

const COPY: &str = "if redis.call('COPY', KEYS[1], KEYS[2], 'REPLACE') == 0 then return 0 end \
    if ARGV[1] == '' then redis.call('PERSIST', KEYS[2]) \
    else redis.call('EXPIREAT', KEYS[2], ARGV[1]) end \
    return 1";

/// Sets that are being made.
#[derive(Debug)]
pub struct Build {
    /// `rebuild:<token>:`
    stem: String,
    prefix: String,
    counter: u64,
    /// Unix seconds: when the counter expires.
    expires_at: i64,
    /// Live keys whose new sets have an expiry: an EXPIREAT for each SADD would be half of all
    /// commands.
    expiring: HashSet<String>,
    kept: Instant,
}

impl Build {
    fn new(stem: String, prefix: &str) -> Build {
        let mut build = Build {
            stem,
            prefix: prefix.to_owned(),
            counter: 0,
            expires_at: 0,
            expiring: HashSet::new(),
            kept: Instant::now(),
        };
        build.expires_at = build.expires_at();
        build
    }

    pub fn key(&self, live: &str) -> String {
        format!("{}{{{live}}}", self.stem)
    }

    /// The live key of one of ours.
    pub fn live<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(self.stem.as_str())?.strip_prefix('{')?.strip_suffix('}')
    }

    /// Where the estimate that belongs to a live key is made.
    pub fn estimate_key(&self, live: &str) -> String {
        format!("{}{{{live}}}:estimate", self.stem)
    }

    /// Of a set that is begun now, in Unix seconds: not before the counter, whatever the clock
    /// does.
    pub fn expires_at(&self) -> i64 {
        let at = OffsetDateTime::now_utc().unix_timestamp() + TTL.as_secs() as i64;
        at.max(self.expires_at)
    }

    fn counter_key(&self) -> String {
        self.key(&format!("{}:", self.prefix))
    }

    /// Of all keys of this build.
    pub fn pattern(&self) -> String {
        format!("{}{{{}:?*}}", escape_glob(&self.stem), escape_glob(&self.prefix))
    }
}

impl Projection {
    pub async fn begin_build(&self, prefix: &str) -> Result<Build, ProjectionError> {
        // The end of a UUIDv7 is random.
        let token = Uuid::now_v7().simple().to_string();
        let stem = format!("rebuild:{}:", &token[20..]);
        let build = Build::new(stem, prefix);
        let key = build.counter_key();
        let args = vec![key.as_str().into(), "0".into(), "EXAT".into(), build.expires_at.into()];
        self.one("SET", &key, args).await?;
        Ok(build)
    }

    /// Adds to the new sets; keys are the live ones.
    pub async fn add_to_build(
        &self,
        build: &mut Build,
        additions: Vec<KeyAdditions<'_>>,
    ) -> Result<(), ProjectionError> {
        let at = build.expires_at();
        let keys: Vec<String> = additions.iter().map(|addition| build.key(addition.key)).collect();
        let made: Vec<_> = additions
            .into_iter()
            .zip(&keys)
            .map(|(addition, key)| {
                let expires_at = (!build.expiring.contains(addition.key)).then_some(at);
                KeyAdditions { key, expires_at, ..addition }
            })
            .collect();
        self.add_members(&made).await?;
        for given in made.iter().filter(|made| made.expires_at.is_some()) {
            if build.expiring.len() < EXPIRING_MAX
                && let Some(live) = build.live(given.key).map(str::to_owned)
            {
                build.expiring.insert(live);
            }
        }
        self.count_up(build).await?;
        self.tend(build).await
    }

    /// An error where something that was added is gone.
    pub async fn count_up(&self, build: &mut Build) -> Result<(), ProjectionError> {
        let key = build.counter_key();
        let args =
            vec![COUNT_UP.into(), 1.into(), key.as_str().into(), build.counter.to_string().into()];
        if self.one("EVAL", &key, args).await?.as_u64() != Some(1) {
            return Err(ProjectionError::BuildLost);
        }
        build.counter += 1;
        Ok(())
    }

    /// Has all of them live on, if it is time: to be called often.
    pub async fn tend(&self, build: &mut Build) -> Result<(), ProjectionError> {
        if build.kept.elapsed() < KEEP_EVERY {
            return Ok(());
        }
        let (at, began) = (build.expires_at(), Instant::now());
        let mut scan = self.scan_keys(build.pattern()).await?;
        while let Some(keys) = self.next_keys(&mut scan).await? {
            self.each("EXPIREAT", keys, |key| vec![key.into(), at.into()]).await?;
        }
        // Last, and only if it is there and right: until then one of the sets may have expired.
        self.count_up(build).await?;
        let key = build.counter_key();
        self.one("EXPIREAT", &key, vec![key.as_str().into(), at.into()]).await?;
        (build.expires_at, build.kept) = (at, began);
        Ok(())
    }

    /// Puts new sets in the place of live ones: keys are the live ones, with the expiry that they
    /// are to have. An error where one of the new sets is not whole any more.
    pub async fn swap(
        &self,
        build: &Build,
        keys: &[(String, Option<i64>)],
    ) -> Result<(), ProjectionError> {
        let counter_key = build.counter_key();
        for wave in keys.chunks(WAVE) {
            let lease = self.lease(wave.len() as u32).await?;
            let cluster = lease.client.is_clustered();
            let swaps = wave.iter().map(|(live, expires_at)| {
                let new = build.key(live);
                let slot = ClusterHash::from(new.as_str());
                // Another slot in a cluster: there it is compared before and after.
                let (third, counter) = match cluster {
                    true => (new.clone(), String::new()),
                    false => (counter_key.clone(), build.counter.to_string()),
                };
                let args: Vec<Value> = vec![
                    SWAP.into(),
                    3.into(),
                    new.into(),
                    live.as_str().into(),
                    third.into(),
                    counter.into(),
                    expires_at.map(|at| at.to_string()).unwrap_or_default().into(),
                ];
                call(&lease.client, "EVAL", slot, args)
            });
            let replies = join_all(swaps).await;
            self.note(&replies);
            for (reply, (live, _)) in replies.into_iter().zip(wave) {
                let reply =
                    reply.map_err(|error| ProjectionError::on_key("EVAL (swap)", live, error))?;
                if reply.as_u64() != Some(1) {
                    return Err(ProjectionError::BuildLost);
                }
            }
        }
        Ok(())
    }

    /// Puts a copy of something that was made in the place of a live key. Redis copies while
    /// everybody waits, half a second for a million members: for a key that is wrong as a whole.
    pub async fn copy_over(
        &self,
        made: &str,
        live: &str,
        expires_at: Option<i64>,
    ) -> Result<(), ProjectionError> {
        let args = vec![
            COPY.into(),
            2.into(),
            made.into(),
            live.into(),
            expires_at.map(|at| at.to_string()).unwrap_or_default().into(),
        ];
        if self.one("EVAL", live, args).await?.as_u64() != Some(1) {
            return Err(ProjectionError::BuildLost);
        }
        Ok(())
    }

    /// Takes out what is left of it.
    pub async fn end_build(&self, build: Build) -> Result<(), ProjectionError> {
        self.unlink_matching(format!("{}*", escape_glob(&build.stem))).await
    }

    /// The same for all of a prefix, whoever made them. The caller has the repairer's lock, so they
    /// are dead.
    pub async fn remove_builds(&self, prefix: &str) -> Result<(), ProjectionError> {
        self.unlink_matching(format!("rebuild:*:{{{}:*", escape_glob(prefix))).await
    }

    async fn unlink_matching(&self, pattern: String) -> Result<(), ProjectionError> {
        let mut scan = self.scan_keys(pattern).await?;
        while let Some(keys) = self.next_keys(&mut scan).await? {
            self.unlink(keys).await?;
        }
        Ok(())
    }

    /// Deletes keys without making anybody wait for their memory to be freed.
    pub async fn unlink(&self, keys: Vec<String>) -> Result<(), ProjectionError> {
        self.each("UNLINK", keys, |key| vec![key.into()]).await.map(drop)
    }

    /// One command on each of the keys.
    pub(super) async fn each(
        &self,
        command: &'static str,
        keys: Vec<String>,
        args: impl Fn(&str) -> Vec<Value>,
    ) -> Result<Vec<Value>, ProjectionError> {
        let mut values = Vec::with_capacity(keys.len());
        for wave in keys.chunks(WAVE) {
            let lease = self.lease(wave.len() as u32).await?;
            let calls = wave.iter().map(|key| {
                call(&lease.client, command, ClusterHash::from(key.as_str()), args(key))
            });
            let replies = join_all(calls).await;
            self.note(&replies);
            for (reply, key) in replies.into_iter().zip(wave) {
                let failed = |error| ProjectionError::on_key(command, key, error);
                values.push(reply.map_err(failed)?);
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_set_has_the_slot_of_the_live_one_and_tells_its_key() {
        let stem = "rebuild:abc:".to_owned();
        let build = Build::new(stem, "roll");
        let live = "roll:users_by_city:CA:Fresno";
        let key = build.key(live);
        assert_eq!(key, "rebuild:abc:{roll:users_by_city:CA:Fresno}");
        assert_eq!(build.live(&key), Some(live));
        assert_eq!(build.live("rebuild:other:{roll:users}"), None);
        // fred and Redis both take the text between the first braces.
        assert_eq!(
            fred::util::redis_keyslot(key.as_bytes()),
            fred::util::redis_keyslot(live.as_bytes())
        );
    }
}
