//! The order in which settings are read, what they become, and how they relate to one another.

use std::ffi::OsString;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::error::{ConfigErrors, Problem};
use super::memory::{self, Allowed};
use super::parse::{self, Reader};
#[allow(clippy::wildcard_imports)]
// The names of the table, which is what this file goes through.
use super::setting::*;
use super::{
    Broker, Config, Import, Ingest, LogFormat, PartitionBy, Projection, Secret, Serve, Store,
    source,
};
use crate::event::Limits;
use crate::sets::{Sets, WindowTtl};

impl Config {
    /// Reads every setting from `vars`, usually `std::env::vars_os()`, whatever the role.
    ///
    /// # Errors
    /// All that is wrong, at once. What a role needs and is absent is told by `broker()`,
    /// `store()`, `projection()` and `worker()`.
    pub fn load(vars: impl Iterator<Item = (OsString, OsString)>) -> Result<Config, ConfigErrors> {
        let mut problems = Vec::new();
        let given = source::gather(vars, &mut problems);
        let mut reader = Reader::new(given, problems);
        let draft = read(&mut reader);
        match (reader.finish(), draft) {
            (Ok(shown), Some(config)) => Ok(Config { shown, ..config }),
            (Err(problems), _) => Err(ConfigErrors::new(problems)),
            // Only a set grammar that failed leaves no draft, and it has reported why.
            (Ok(_), None) => {
                Err(ConfigErrors::new(vec![Problem::new(ROLLCALL_SETS.name, "could not be read")]))
            }
        }
    }

    /// RabbitMQ's settings.
    ///
    /// # Errors
    /// `AMQP_URL` is not set.
    pub fn broker(&self) -> Result<&Broker, ConfigErrors> {
        self.broker.as_ref().ok_or_else(|| missing(&[&AMQP_URL]))
    }

    /// Postgres's settings.
    ///
    /// # Errors
    /// `DATABASE_URL` is not set.
    pub fn store(&self) -> Result<&Store, ConfigErrors> {
        self.store.as_ref().ok_or_else(|| missing(&[&DATABASE_URL]))
    }

    /// Redis's settings.
    ///
    /// # Errors
    /// `REDIS_URL` is not set.
    pub fn projection(&self) -> Result<&Projection, ConfigErrors> {
        self.projection.as_ref().ok_or_else(|| missing(&[&REDIS_URL]))
    }

    /// Where `publish --from-postgres` reads.
    ///
    /// # Errors
    /// Neither its own URL nor `DATABASE_URL` is set.
    pub fn import(&self) -> Result<&Import, ConfigErrors> {
        self.import.as_ref().ok_or_else(|| missing(&[&ROLLCALL_IMPORT_DATABASE_URL]))
    }

    /// What a worker needs, so that all that is absent is told at once.
    ///
    /// # Errors
    /// Any of the three URLs is not set.
    /// The memory that it needs is more than what it is allowed.
    pub fn worker(&self) -> Result<(&Broker, &Store, &Projection), ConfigErrors> {
        self.check_memory()?;
        match (&self.broker, &self.store, &self.projection) {
            (Some(broker), Some(store), Some(projection)) => Ok((broker, store, projection)),
            (broker, store, projection) => {
                let absent = [
                    (broker.is_none(), &AMQP_URL),
                    (store.is_none(), &DATABASE_URL),
                    (projection.is_none(), &REDIS_URL),
                ];
                let names: Vec<&Setting> =
                    absent.iter().filter(|(gone, _)| *gone).map(|(_, name)| *name).collect();
                Err(missing(&names))
            }
        }
    }

    /// What a worker takes in the worst case, in bytes.
    pub fn memory_needed(&self) -> usize {
        memory::needed(&self.ingest, self.limits.message_bytes_max)
    }

    fn check_memory(&self) -> Result<(), ConfigErrors> {
        let needed = self.memory_needed();
        let Some(Allowed { bytes, by }) = self.memory.filter(|allowed| allowed.bytes < needed)
        else {
            return Ok(());
        };
        let names = [
            ROLLCALL_LANES.name,
            ROLLCALL_PREFETCH_MAX.name,
            ROLLCALL_PREFETCH_BYTES.name,
            ROLLCALL_BATCH_BYTES_MAX.name,
        ];
        let rule = format!("may take {needed} bytes together, and {by} allows {bytes}");
        let problem = Problem::new(names.join(" and "), rule)
            .hint(format!("lower one of them, or raise {}", ROLLCALL_MEMORY_MAX_BYTES.name));
        Err(ConfigErrors::new(vec![problem]))
    }

    /// One line a setting, as it holds: `NAME=value`, and where it came from. Of a URL only scheme,
    /// host, port and path.
    pub fn redacted(&self) -> &[String] {
        &self.shown
    }
}

fn missing(settings: &[&Setting]) -> ConfigErrors {
    let problem = |setting: &&Setting| {
        let example = match setting.default {
            Default::Unset { example } => example,
            Default::Text(text) => text,
        };
        Problem::new(setting.name, "is required for this role")
            .hint(format!("such as {example}, or {}_FILE", setting.name))
    };
    ConfigErrors::new(settings.iter().map(problem).collect())
}

/// Everything in the order of the table. `None` only where the sets could not be read.
fn read(r: &mut Reader) -> Option<Config> {
    let amqp_url = r.url(&AMQP_URL);
    let database_url = r.url(&DATABASE_URL);
    let database_replica_url = r.url(&DATABASE_REPLICA_URL);
    let redis_url = r.url(&REDIS_URL);
    let log_filter = r.grammar(&RUST_LOG, |text| {
        let check = EnvFilter::builder().parse(text);
        check.map(|_| text.to_owned()).map_err(|error| vec![error.to_string()])
    });
    let key_prefix = r.name(&ROLLCALL_KEY_PREFIX);
    let ttl = WindowTtl {
        hour: r.days(&ROLLCALL_WINDOW_HOUR_TTL_DAYS),
        day: r.days(&ROLLCALL_WINDOW_DAY_TTL_DAYS),
        month: r.days(&ROLLCALL_WINDOW_MONTH_TTL_DAYS),
    };
    let sets = r.grammar(&ROLLCALL_SETS, |text| Sets::parse(&key_prefix, text, ttl));
    let broker = broker(r, amqp_url.clone());
    let ingest = ingest(r);
    let memory = match r.whole_or_none(&ROLLCALL_MEMORY_MAX_BYTES) {
        Some(bytes) => Some(Allowed { bytes, by: ROLLCALL_MEMORY_MAX_BYTES.name }),
        None => memory::allowed(),
    };
    let retention = r.whole_or_none(&ROLLCALL_RETENTION_DAYS).map(parse::days);
    let limits = limits(r, &ingest, retention);
    let store_timeout = r.secs(&ROLLCALL_STORE_TIMEOUT_SECS);
    let store = store(r, database_url.clone(), database_replica_url.clone(), store_timeout);
    let import_url = r.url(&ROLLCALL_IMPORT_DATABASE_URL).or(database_url.clone());
    let timeout = r.millis(&ROLLCALL_REDIS_TIMEOUT_MS);
    let redis_hold = r.secs(&ROLLCALL_REDIS_HOLD_SECS);
    Some(Config {
        import: import_url.map(|url| Import { url, timeout: store_timeout }),
        projection: redis_url.clone().map(|url| Projection { url, timeout }),
        amqp_url,
        database_url,
        database_replica_url,
        redis_url,
        key_prefix,
        limits,
        ingest,
        memory,
        retention,
        redis_hold,
        ops: r.address(&ROLLCALL_OPS_ADDR),
        serve: serve(r),
        log_format: r.word(&ROLLCALL_LOG_FORMAT).map(|word| match word {
            "human" => LogFormat::Human,
            _ => LogFormat::Json,
        }),
        log_filter: log_filter.unwrap_or_default(),
        broker,
        store,
        shown: Vec::new(),
        sets: sets?,
    })
}

fn broker(r: &mut Reader, url: Option<Secret>) -> Option<Broker> {
    let exchange = r.name(&ROLLCALL_EXCHANGE);
    let queue = r.name(&ROLLCALL_QUEUE);
    let dead_letters = r.name(&ROLLCALL_DEAD_LETTERS);
    r.relation(
        &[&ROLLCALL_EXCHANGE, &ROLLCALL_DEAD_LETTERS],
        exchange != dead_letters,
        "must differ",
        "or dead letters would be consumed as events",
    );
    r.relation(
        &[&ROLLCALL_QUEUE, &ROLLCALL_DEAD_LETTERS],
        queue != dead_letters,
        "must differ",
        "or dead letters would be consumed as events",
    );
    let delivery_limit = r.whole(&ROLLCALL_DELIVERY_LIMIT);
    let declare_topology = r.flag(&ROLLCALL_DECLARE_TOPOLOGY);
    let timeout = r.secs(&ROLLCALL_AMQP_TIMEOUT_SECS);
    url.map(|url| Broker {
        url,
        exchange,
        queue,
        dead_letters,
        delivery_limit,
        declare_topology,
        timeout,
    })
}

fn ingest(r: &mut Reader) -> Ingest {
    let ingest = Ingest {
        lanes: r.whole(&ROLLCALL_LANES),
        prefetch_max: r.whole(&ROLLCALL_PREFETCH_MAX),
        prefetch_bytes: r.whole(&ROLLCALL_PREFETCH_BYTES),
        batch_events_max: r.whole(&ROLLCALL_BATCH_EVENTS_MAX),
        batch_bytes_max: r.whole(&ROLLCALL_BATCH_BYTES_MAX),
        batch_age_max: r.millis(&ROLLCALL_BATCH_AGE_MAX_MS),
        hold_max: r.secs(&ROLLCALL_HOLD_MAX_SECS),
        breaker_percent: r.whole(&ROLLCALL_BREAKER_PERCENT),
        breaker_events: r.whole(&ROLLCALL_BREAKER_EVENTS),
        breaker_wait: r.secs(&ROLLCALL_BREAKER_WAIT_SECS),
        watchdog: r.secs(&ROLLCALL_WATCHDOG_SECS),
        drain: r.secs(&ROLLCALL_DRAIN_SECS),
        retry_min: r.millis(&ROLLCALL_RETRY_MIN_MS),
        retry_max: r.secs(&ROLLCALL_RETRY_MAX_SECS),
    };
    r.relation(
        &[&ROLLCALL_DRAIN_SECS, &ROLLCALL_HOLD_MAX_SECS],
        ingest.drain < ingest.hold_max,
        "must rise: a drain is shorter than the longest hold",
        "lower the first or raise the second",
    );
    r.relation(
        &[&ROLLCALL_RETRY_MIN_MS, &ROLLCALL_RETRY_MAX_SECS],
        ingest.retry_min <= ingest.retry_max,
        "must rise: the shortest wait is not above the longest",
        "the first is in milliseconds, the second in seconds",
    );
    ingest
}

fn limits(r: &mut Reader, ingest: &Ingest, retention: Option<Duration>) -> Limits {
    let mut age = r.days(&ROLLCALL_EVENT_AGE_MAX_DAYS);
    match retention {
        Some(retention) if r.given(&ROLLCALL_EVENT_AGE_MAX_DAYS) => r.relation(
            &[&ROLLCALL_EVENT_AGE_MAX_DAYS, &ROLLCALL_RETENTION_DAYS],
            age <= retention,
            "must rise: an event older than the retention would be dropped at once",
            "lower the first, or leave it unset to take the retention",
        ),
        Some(retention) if retention < age => {
            age = retention;
            let days = retention.as_secs() / 86_400;
            r.note(&ROLLCALL_EVENT_AGE_MAX_DAYS, &format!("{days} (the retention)"));
        }
        Some(_) => {}
        None => {}
    }
    let message_bytes_max = r.whole(&ROLLCALL_MESSAGE_BYTES_MAX);
    r.relation(
        &[&ROLLCALL_MESSAGE_BYTES_MAX, &ROLLCALL_BATCH_BYTES_MAX],
        message_bytes_max <= ingest.batch_bytes_max,
        "must rise: a batch holds at least one message of the largest size",
        "lower the first or raise the second",
    );
    r.relation(
        &[&ROLLCALL_MESSAGE_BYTES_MAX, &ROLLCALL_PREFETCH_BYTES],
        message_bytes_max <= ingest.prefetch_bytes,
        "must rise: at least one message of the largest size is prefetched",
        "lower the first or raise the second",
    );
    Limits {
        message_bytes_max,
        message_events_max: r.whole(&ROLLCALL_MESSAGE_EVENTS_MAX),
        nesting_max: r.whole(&ROLLCALL_NESTING_MAX),
        id_bytes_max: r.whole(&ROLLCALL_ID_BYTES_MAX),
        member_bytes_max: r.whole(&ROLLCALL_MEMBER_BYTES_MAX),
        event_members_max: r.whole(&ROLLCALL_EVENT_MEMBERS_MAX),
        event_age_max: signed(age),
        clock_skew_max: signed(r.secs(&ROLLCALL_CLOCK_SKEW_MAX_SECS)),
    }
}

fn store(
    r: &mut Reader,
    url: Option<Secret>,
    replica_url: Option<Secret>,
    timeout: Duration,
) -> Option<Store> {
    let partition_by = match r.word(&ROLLCALL_PARTITION_BY) {
        Some("day") => PartitionBy::Day,
        _ => PartitionBy::Month,
    };
    let partitions_ahead = r.whole(&ROLLCALL_PARTITIONS_AHEAD);
    url.map(|url| Store { url, replica_url, partition_by, partitions_ahead, timeout })
}

fn serve(r: &mut Reader) -> Serve {
    let serve = Serve {
        addr: r.socket(&ROLLCALL_SERVE_ADDR),
        connections_max: r.whole(&ROLLCALL_SERVE_CONNECTIONS_MAX),
        in_flight_max: r.whole(&ROLLCALL_SERVE_IN_FLIGHT_MAX),
        requests_per_second_max: r.whole(&ROLLCALL_SERVE_REQUESTS_PER_SECOND_MAX),
        streams_max: r.whole(&ROLLCALL_SERVE_STREAMS_MAX),
        timeout: r.millis(&ROLLCALL_SERVE_TIMEOUT_MS),
        cors_origin: r.origin(&ROLLCALL_SERVE_CORS_ORIGIN),
    };
    r.relation(
        &[&ROLLCALL_SERVE_STREAMS_MAX, &ROLLCALL_SERVE_CONNECTIONS_MAX],
        serve.streams_max < serve.connections_max,
        "must rise in this order: streams leave connections for requests",
        "lower the first or raise the second",
    );
    serve
}

/// The same span of time; the bounds of the table are centuries below where it would not fit.
fn signed(span: Duration) -> time::Duration {
    time::Duration::seconds(i64::try_from(span.as_secs()).unwrap_or(i64::MAX))
}
