//! The one table of settings: name, default, rule and help of each.
//!
//! Reading, the check for unknown names, the start-up dump, `describe` and `.env.example` all go by
//! it, so that none of them can say something else. A setting must never be read past this table.

use std::fmt::{self, Write as _};

/// One environment variable. Each can also be given as `<NAME>_FILE`.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    pub default: Default,
    pub rule: Rule,
    pub help: &'static str,
}

/// What holds while the variable is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// As if this had been written.
    Text(&'static str),
    /// Nothing; what that means is in the help. The example shows the form.
    Unset { example: &'static str },
}

/// What a value must look like, apart from its relations to others.
#[derive(Debug, PartialEq, Eq)]
pub enum Rule {
    /// Digits alone, within the bounds, which are part of it.
    Whole {
        unit: &'static str,
        min: u64,
        max: u64,
    },
    Flag,
    OneOf(&'static [&'static str]),
    /// A URL of one of these schemes, with a host. Always a secret: it may hold a password.
    Url(&'static [&'static str]),
    KeyPrefix,
    /// The name of an exchange or a queue.
    Name,
    Sets,
    Address,
    /// As `Address`, without `off`.
    Socket,
    /// Of a web page: scheme, host and port.
    Origin,
    LogFilter,
}

impl Setting {
    /// Whether the value must never be printed.
    pub fn secret(&self) -> bool {
        matches!(self.rule, Rule::Url(_))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Whole { unit, min, max } => {
                write!(f, "a whole number of {unit} from {min} to {max}")
            }
            Rule::Flag => f.write_str("`true` or `false`"),
            Rule::OneOf(words) => write!(f, "`{}`", words.join("` or `")),
            Rule::Url(schemes) => {
                write!(f, "a URL that starts with {}://", schemes.join(":// or "))
            }
            Rule::KeyPrefix => f.write_str(
                "1 to 64 of the characters A-Z a-z 0-9 _ . -, the first a letter or a digit",
            ),
            Rule::Name => f.write_str(
                "1 to 200 printable ASCII characters without spaces, not starting with `amq.`, no URL",
            ),
            Rule::Sets => f.write_str(
                "sets parted by spaces, each name=field[+field][@group][/hour|day|month][~]",
            ),
            Rule::Address => f.write_str("an IP address and port such as 0.0.0.0:9464, or off"),
            Rule::Socket => f.write_str("an IP address and port such as 0.0.0.0:9465"),
            Rule::Origin => f.write_str("an origin such as https://example.org, or *"),
            Rule::LogFilter => f.write_str("levels by target, such as info,lapin=off"),
        }
    }
}

/// Writes the table once, and from it: a constant for each row, the struct that envy fills, and
/// the way from that struct back to a row. `text` and `unset` are the two kinds of default.
macro_rules! settings {
    (@default text $value:literal) => { Default::Text($value) };
    (@default unset $value:literal) => { Default::Unset { example: $value } };
    ($($raw:ident [$prefix:literal] {
        $($field:ident $name:ident $kind:ident $value:literal, $rule:expr, $help:literal;)*
    })*) => {
        $($(pub const $name: Setting = Setting {
            name: stringify!($name),
            default: settings!(@default $kind $value),
            rule: $rule,
            help: $help,
        };)*)*

        /// Every setting, in the order in which it is listed for people.
        pub const SETTINGS: &[Setting] = &[$($($name),*),*];

        $(
            /// What envy reads: text, so that every mistake is ours to report, and none is lost
            /// behind the first.
            #[derive(serde::Deserialize)]
            pub(super) struct $raw { $($field: Option<String>,)* }

            impl $raw {
                pub(super) const PREFIX: &str = $prefix;

                pub(super) fn into_pairs(self) -> Vec<(&'static str, String)> {
                    [$(($name.name, self.$field)),*]
                        .into_iter()
                        .filter_map(|(name, value)| Some((name, value?)))
                        .collect()
                }
            }
        )*
    };
}

const AMQP: Rule = Rule::Url(&["amqp", "amqps"]);
const POSTGRES: Rule = Rule::Url(&["postgres", "postgresql"]);
/// The only ones: fred takes any other for plain `redis`.
pub const REDIS_SCHEMES: &[&str] =
    &["redis", "rediss", "redis-cluster", "rediss-cluster", "redis-sentinel", "rediss-sentinel"];
const REDIS: Rule = Rule::Url(REDIS_SCHEMES);

const fn whole(unit: &'static str, min: u64, max: u64) -> Rule {
    Rule::Whole { unit, min, max }
}

// The table. A row: envy's field, the variable, its default, its rule, its help. A bound whose
// reason is not plain carries it.
settings! {
Plain [""] {
amqp_url AMQP_URL unset "amqp://rollcall:change-me@127.0.0.1:5672/%2f", AMQP,
    "RabbitMQ, user and virtual host too. TLS by amqps; sslrootcert, sslcert, sslkey name files.";
database_url DATABASE_URL unset "postgres://rollcall:change-me@127.0.0.1:5432/rollcall", POSTGRES,
    "Postgres, the primary. TLS by ?sslmode=verify-full; sslrootcert, sslcert, sslkey name files.";
database_replica_url DATABASE_REPLICA_URL
    unset "postgres://rollcall:change-me@127.0.0.1:5433/rollcall", POSTGRES,
    "A Postgres replica for long reads; without it they go to the primary.";
redis_url REDIS_URL unset "redis://rollcall:change-me@127.0.0.1:6379/0", REDIS,
    "Redis or Valkey: one server, a cluster or sentinels. TLS by rediss; files as for AMQP_URL.";
rust_log RUST_LOG text "info,lapin=off,fred=warn,sqlx=warn", Rule::LogFilter,
    "What workers, serve and repairs log; other commands say all that they have to say.";
}
Prefixed ["ROLLCALL_"] {
sets ROLLCALL_SETS text "cities=state+city users=username", Rule::Sets,
    "The sets that are kept.";
key_prefix ROLLCALL_KEY_PREFIX text "rollcall", Rule::KeyPrefix,
    "What every Redis key starts with.";

exchange ROLLCALL_EXCHANGE text "rollcall", Rule::Name,
    "The topic exchange that producers publish to.";
queue ROLLCALL_QUEUE text "rollcall.events", Rule::Name,
    "The quorum queue that workers consume.";
dead_letters ROLLCALL_DEAD_LETTERS text "rollcall.dead-letters", Rule::Name,
    "The exchange and the queue of the dead letters.";
// 1 would dead-letter what was only interrupted.
delivery_limit ROLLCALL_DELIVERY_LIMIT text "50", whole("deliveries", 2, 1_000_000),
    "Deliveries before RabbitMQ itself dead-letters a message. Fixed once the queue exists.";
declare_topology ROLLCALL_DECLARE_TOPOLOGY text "true", Rule::Flag,
    "Whether a worker declares the exchanges and queues that are missing.";
amqp_timeout_secs ROLLCALL_AMQP_TIMEOUT_SECS text "10", whole("seconds", 1, 300),
    "Limit for declares and each confirm; connecting gets 5 s, or a quarter of it if that is more.";

lanes ROLLCALL_LANES text "2", whole("lanes", 1, 16),
    "Lanes of one worker: each a channel, a consumer and a Postgres connection.";
// AMQP's prefetch count is 16 bits, and 0 would mean no limit.
prefetch_max ROLLCALL_PREFETCH_MAX text "4000", whole("deliveries", 1, 65_535),
    "Unacknowledged deliveries of one lane, once it runs warm.";
prefetch_bytes ROLLCALL_PREFETCH_BYTES text "25165824", whole("bytes", 65_536, 1 << 32),
    "What the prefetched messages of one lane may weigh in all.";
memory_max_bytes ROLLCALL_MEMORY_MAX_BYTES
    unset "268435456", whole("bytes", 1 << 26, 1 << 40),
    "Memory that a worker may take; unless set, what its control group or the machine allows.";
batch_events_max ROLLCALL_BATCH_EVENTS_MAX text "4000", whole("events", 1, 20_000),
    "A batch closes at this many events, or at half of the prefetch.";
batch_bytes_max ROLLCALL_BATCH_BYTES_MAX text "4194304", whole("bytes", 1024, 1 << 28),
    "A batch closes at this weight.";
batch_age_max_ms ROLLCALL_BATCH_AGE_MAX_MS text "20", whole("milliseconds", 0, 10_000),
    "A batch closes at this age.";
// RabbitMQ ends a channel that leaves a delivery unacknowledged for 1800 s; 100 s stay to close.
hold_max_secs ROLLCALL_HOLD_MAX_SECS text "600", whole("seconds", 1, 1700),
    "How long a lane holds a batch for a store that is away before the session is given up.";
breaker_percent ROLLCALL_BREAKER_PERCENT text "50", whole("per cent", 0, 100),
    "Stop consuming when more than this share of what arrives is condemned; 0: never.";
breaker_events ROLLCALL_BREAKER_EVENTS text "1000", whole("events", 1, 10_000_000),
    "How many events that share is judged by.";
breaker_wait_secs ROLLCALL_BREAKER_WAIT_SECS text "300", whole("seconds", 1, 86_400),
    "When it consumes again by itself; POST /resume on the ops endpoint makes it do so at once.";
watchdog_secs ROLLCALL_WATCHDOG_SECS text "60", whole("seconds", 1, 86_400),
    "A session that receives nothing for this long while messages are ready is replaced.";
drain_secs ROLLCALL_DRAIN_SECS text "25", whole("seconds", 1, 1699),
    "The time to finish after SIGTERM. Keep it below the stop timeout of what runs Rollcall.";
retry_min_ms ROLLCALL_RETRY_MIN_MS text "100", whole("milliseconds", 1, 60_000),
    "The shortest wait before trying again.";
retry_max_secs ROLLCALL_RETRY_MAX_SECS text "5", whole("seconds", 1, 300),
    "The longest wait before trying again.";

// RabbitMQ 4 refuses messages above 16 MiB, and a dead letter carries the whole body.
message_bytes_max ROLLCALL_MESSAGE_BYTES_MAX text "1048576", whole("bytes", 1024, 1 << 24),
    "A larger message is dead-lettered.";
message_events_max ROLLCALL_MESSAGE_EVENTS_MAX text "10000", whole("events", 1, 1_000_000),
    "A message with more events is dead-lettered.";
// serde_json stops at 128 of its own accord, with a less useful reason.
nesting_max ROLLCALL_NESTING_MAX text "64", whole("levels", 1, 100),
    "An event nested more deeply is dead-lettered.";
// 36: a UUID as text must always fit.
id_bytes_max ROLLCALL_ID_BYTES_MAX text "128", whole("bytes", 36, 1024),
    "An event with a longer id is dead-lettered.";
member_bytes_max ROLLCALL_MEMBER_BYTES_MAX text "1024", whole("bytes", 16, 65_536),
    "An event with a longer member or group, once encoded, is dead-lettered.";
event_members_max ROLLCALL_EVENT_MEMBERS_MAX text "1000", whole("members", 1, 100_000),
    "An event that adds more members is dead-lettered.";
event_age_max_days ROLLCALL_EVENT_AGE_MAX_DAYS text "1826", whole("days", 1, 36_500),
    "An older event is dead-lettered. Unless set, a shorter retention counts instead.";
clock_skew_max_secs ROLLCALL_CLOCK_SKEW_MAX_SECS text "3600", whole("seconds", 0, 86_400),
    "An event that is further in the future is dead-lettered.";

import_database_url ROLLCALL_IMPORT_DATABASE_URL
    unset "postgres://reader:change-me@127.0.0.1:5432/shop", POSTGRES,
    "The Postgres that publish --from-postgres reads; DATABASE_URL unless set.";

retention_days ROLLCALL_RETENTION_DAYS unset "400", whole("days", 1, 36_500),
    "How long events stay in Postgres; for ever unless set.";
partition_by ROLLCALL_PARTITION_BY text "month", Rule::OneOf(&["month", "day"]),
    "The time range of one partition.";
partitions_ahead ROLLCALL_PARTITIONS_AHEAD text "3", whole("partitions", 1, 60),
    "Partitions made ahead of the one that holds now.";
// With the longest hold this stays below RabbitMQ's 1800 s.
store_timeout_secs ROLLCALL_STORE_TIMEOUT_SECS text "20", whole("seconds", 1, 90),
    "Limit for each statement; connecting gets 5 s, or a quarter of it if that is more.";

redis_timeout_ms ROLLCALL_REDIS_TIMEOUT_MS text "5000", whole("milliseconds", 50, 60_000),
    "Limit for connecting to Redis and for each command.";
redis_hold_secs ROLLCALL_REDIS_HOLD_SECS text "60", whole("seconds", 0, 1700),
    "How long a lane holds for Redis; then ingest goes on, and sets are caught up from Postgres.";
window_hour_ttl_days ROLLCALL_WINDOW_HOUR_TTL_DAYS text "7", whole("days", 1, 36_500),
    "How long the set of one hour stays in Redis.";
window_day_ttl_days ROLLCALL_WINDOW_DAY_TTL_DAYS text "90", whole("days", 2, 36_500),
    "How long the set of one day stays in Redis.";
window_month_ttl_days ROLLCALL_WINDOW_MONTH_TTL_DAYS text "1100", whole("days", 32, 36_500),
    "How long the set of one month stays in Redis.";

ops_addr ROLLCALL_OPS_ADDR text "127.0.0.1:9464", Rule::Address,
    "Where /livez, /readyz and /metrics are served. Port 0 takes a free one, off serves none.";
serve_addr ROLLCALL_SERVE_ADDR text "127.0.0.1:9465", Rule::Socket,
    "Where `rollcall serve` listens, in plain HTTP: TLS and logins are for a proxy.";
serve_connections_max ROLLCALL_SERVE_CONNECTIONS_MAX
    text "256", whole("connections", 2, 10_000),
    "Connections to `rollcall serve` at once; who comes later waits.";
serve_in_flight_max ROLLCALL_SERVE_IN_FLIGHT_MAX text "64", whole("requests", 1, 1_000),
    "Requests that are worked on at once; more are refused with 429.";
serve_requests_per_second_max ROLLCALL_SERVE_REQUESTS_PER_SECOND_MAX
    text "1000", whole("requests", 1, 1_000_000),
    "Requests a second in all, of one process; more are refused with 429.";
serve_streams_max ROLLCALL_SERVE_STREAMS_MAX text "64", whole("streams", 1, 5_000),
    "Listeners to /api/live at once, fewer than connections; more are refused with 429.";
serve_timeout_ms ROLLCALL_SERVE_TIMEOUT_MS text "2000", whole("milliseconds", 50, 60_000),
    "Limit for one answer; then it is 503.";
serve_cors_origin ROLLCALL_SERVE_CORS_ORIGIN unset "https://example.org", Rule::Origin,
    "Whose web pages may read the answers: one origin, or *. Unless set, only its own page.";
log_format ROLLCALL_LOG_FORMAT unset "json", Rule::OneOf(&["human", "json"]),
    "How log lines look; human on a terminal and json elsewhere unless set.";
}
}

/// `rollcall settings`: every variable with its rule, default and help.
pub fn describe() -> String {
    let mut out = String::from(
        "Each variable can also be given as NAME_FILE, the path of a file that holds the value.\n\
         An empty value counts as not set.\n",
    );
    for setting in SETTINGS {
        let default = match setting.default {
            Default::Text(text) => format!("default {text}"),
            Default::Unset { .. } => "no default".to_owned(),
        };
        // Writing to a String cannot fail; the same below.
        let _ = write!(
            out,
            "\n{}\n    {}\n    {}; {default}\n",
            setting.name, setting.help, setting.rule
        );
    }
    out
}

/// The text of `.env.example`: every variable, commented out, with its default or an example.
pub fn env_example() -> String {
    let mut out = String::from(
        "# Every setting of Rollcall. A commented line shows the default, or an example where\n\
         # there is none. Each can also be given as NAME_FILE, the path of a file that holds\n\
         # the value. A test keeps this page equal to the code.\n",
    );
    for setting in SETTINGS {
        let (value, note) = match setting.default {
            Default::Text(text) => (text, ""),
            Default::Unset { example } => (example, " No default."),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.:/-+=,@%".contains(c);
        let quote = if value.chars().all(plain) { "" } else { "\"" };
        let _ = write!(
            out,
            "\n# {}\n# {}.{note}\n#{}={quote}{value}{quote}\n",
            setting.help,
            sentence(&setting.rule.to_string()),
            setting.name
        );
    }
    out
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
