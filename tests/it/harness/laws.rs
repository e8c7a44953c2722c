//! The laws: what must be true of a world once its queue is empty, whatever was done to it.

use std::collections::BTreeSet;

use super::names;
use super::oracle::Oracle;
use super::redis::Redis;
use super::rig::Rig;
use super::wait::{SHORT, eventually};

impl Rig {
    /// Rows, sets and dead letters are what the oracle says and nothing else; the queue is empty.
    /// Only with no worker running: a delivery that one still holds is in no queue's count.
    pub async fn assert_laws(&self, oracle: &Oracle) {
        self.assert_rows(oracle).await;
        self.assert_sets(oracle).await;
        self.assert_dead_letters(oracle).await;
        let left = self.amqp().await.ready(self.queue()).await.unwrap();
        assert_eq!(left, 0, "messages left in the queue");
    }

    async fn assert_rows(&self, oracle: &Oracle) {
        let mut pg = self.pg().await;
        let (missing, surplus) = pg.difference(&oracle.occurred_at, &oracle.payloads).await;
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "rows missing: {missing:#?}\nrows too many: {surplus:#?}"
        );
        assert_eq!(pg.wrong_ids().await, Vec::<String>::new(), "ids that do not follow");
    }

    pub async fn assert_sets(&self, oracle: &Oracle) {
        let mut redis = self.redis().await;
        let prefix = self.prefix();
        let found = redis.texts(&["KEYS", &format!("{prefix}:*")]).await.unwrap();
        let found: BTreeSet<&String> =
            found.iter().filter(|key| !names::is_reserved(key)).collect();
        let wanted: BTreeSet<&String> =
            oracle.exact.keys().chain(oracle.estimated.keys()).collect();
        assert_eq!(found, wanted, "keys found, keys wanted");

        for (key, wanted) in &oracle.exact {
            let found = redis.texts(&["SMEMBERS", key]).await.unwrap();
            let found: BTreeSet<String> = found.into_iter().collect();
            let missing: Vec<_> = wanted.difference(&found).take(10).collect();
            let phantom: Vec<_> = found.difference(wanted).take(10).collect();
            assert!(
                missing.is_empty() && phantom.is_empty(),
                "{key}: members missing {missing:?}, phantom {phantom:?}"
            );
        }
        for (key, wanted) in &oracle.estimated {
            self.assert_estimated(&mut redis, key, wanted).await;
        }
    }

    /// Redis and Postgres agree both ways, whatever was issued: the sets are what the rows that are
    /// there add, each member once. Not where a bucket has expired, as its rows stay.
    pub async fn assert_sets_are_the_distinct_values(&self) {
        let mut recomputed = self.oracle();
        for (occurred_at, payload) in self.pg().await.stored().await {
            let fields = serde_json::from_str(&payload).expect("jsonb is JSON");
            recomputed.adds(&occurred_at, &fields);
        }
        self.assert_sets(&recomputed).await;
    }

    /// With workers running: nothing waits, and no delivery is held by anybody.
    pub async fn wait_idle(&self) {
        let columns = ["list_queues", "-q", "name", "messages_ready", "messages_unacknowledged"];
        let wanted = format!("{}\t0\t0", self.queue());
        let amqp = self.amqp().await;
        eventually(SHORT, "nothing to be ready or unacknowledged", async || {
            // What rabbitmqctl lists is some seconds old.
            match amqp.ready(self.queue()).await? {
                0 => {}
                n => return Err(format!("{n} are ready")),
            }
            let listed = self.rabbitmqctl(&columns);
            let of_queue = listed.lines().find(|line| line.starts_with(self.queue()));
            match of_queue {
                Some(line) if line == wanted => Ok(()),
                other => Err(format!("rabbitmqctl says {other:?}")),
            }
        })
        .await;
    }

    /// A HyperLogLog follows from its members alone: it must be the one that Redis itself makes
    /// of the members wanted. Two that differ somewhere differ from their union as well.
    async fn assert_estimated(&self, redis: &mut Redis, key: &str, wanted: &BTreeSet<String>) {
        let reference = format!("oracle-{key}");
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        for some in wanted.chunks(1000) {
            redis.int(&[&["PFADD", reference.as_str()], some].concat()).await;
        }
        let found = redis.int(&["PFCOUNT", key]).await;
        let made = redis.int(&["PFCOUNT", &reference]).await;
        let both = redis.int(&["PFCOUNT", key, &reference]).await;
        redis.int(&["DEL", &reference]).await;
        assert!(
            found == made && both == made,
            "{key}: {found} estimated, {made} for the {} members wanted, {both} together",
            wanted.len()
        );
    }

    pub async fn assert_dead_letters(&self, oracle: &Oracle) {
        let letters = self.dead_letters().await;
        let show = |reason: &str, body: &[u8]| {
            let shown = &body[..body.len().min(160)];
            format!("{reason}: {} ({} bytes)", String::from_utf8_lossy(shown), body.len())
        };
        let mut found: Vec<(String, Vec<u8>)> = letters
            .iter()
            .map(|letter| {
                let reason = letter.header(names::HEADER_REASON).unwrap_or("(none)");
                (reason.to_owned(), letter.body.clone())
            })
            .collect();
        let mut wanted = oracle.dead.clone();
        found.sort();
        wanted.sort();
        if oracle.dead_may_repeat {
            found.dedup();
            wanted.dedup();
        }
        if found != wanted {
            let list = |all: &[(String, Vec<u8>)], except: &[(String, Vec<u8>)]| -> Vec<String> {
                let mut except = except.to_vec();
                let mut rest = Vec::new();
                for one in all {
                    match except.iter().position(|other| other == one) {
                        Some(at) => drop(except.swap_remove(at)),
                        None => rest.push(show(&one.0, &one.1)),
                    }
                }
                rest
            };
            panic!(
                "dead letters missing: {:#?}\ntoo many: {:#?}",
                list(&wanted, &found),
                list(&found, &wanted)
            );
        }
        for letter in &letters {
            assert_eq!(letter.delivery_mode, Some(2), "a dead letter is persistent");
        }
    }
}
