//! Every name that the suite takes from the contract, once.

pub const OPS_ADDR: &str = "ROLLCALL_OPS_ADDR";
pub const SETS: &str = "ROLLCALL_SETS";
pub const KEY_PREFIX: &str = "ROLLCALL_KEY_PREFIX";
pub const EXCHANGE: &str = "ROLLCALL_EXCHANGE";
pub const QUEUE: &str = "ROLLCALL_QUEUE";
pub const DEAD_LETTERS: &str = "ROLLCALL_DEAD_LETTERS";
pub const LANES: &str = "ROLLCALL_LANES";
pub const BATCH_EVENTS_MAX: &str = "ROLLCALL_BATCH_EVENTS_MAX";
pub const PREFETCH_BYTES: &str = "ROLLCALL_PREFETCH_BYTES";
pub const BATCH_BYTES_MAX: &str = "ROLLCALL_BATCH_BYTES_MAX";
pub const MEMORY_MAX_BYTES: &str = "ROLLCALL_MEMORY_MAX_BYTES";
pub const PREFETCH_MAX: &str = "ROLLCALL_PREFETCH_MAX";
pub const DRAIN_SECS: &str = "ROLLCALL_DRAIN_SECS";
pub const MESSAGE_BYTES_MAX: &str = "ROLLCALL_MESSAGE_BYTES_MAX";
pub const EVENT_AGE_MAX_DAYS: &str = "ROLLCALL_EVENT_AGE_MAX_DAYS";
pub const CLOCK_SKEW_MAX_SECS: &str = "ROLLCALL_CLOCK_SKEW_MAX_SECS";
pub const WINDOW_HOUR_TTL_DAYS: &str = "ROLLCALL_WINDOW_HOUR_TTL_DAYS";
pub const WINDOW_DAY_TTL_DAYS: &str = "ROLLCALL_WINDOW_DAY_TTL_DAYS";
pub const WINDOW_MONTH_TTL_DAYS: &str = "ROLLCALL_WINDOW_MONTH_TTL_DAYS";
pub const BREAKER_EVENTS: &str = "ROLLCALL_BREAKER_EVENTS";
pub const DELIVERY_LIMIT: &str = "ROLLCALL_DELIVERY_LIMIT";
pub const PARTITION_BY: &str = "ROLLCALL_PARTITION_BY";
pub const PARTITIONS_AHEAD: &str = "ROLLCALL_PARTITIONS_AHEAD";
pub const HOLD_MAX_SECS: &str = "ROLLCALL_HOLD_MAX_SECS";
pub const DECLARE_TOPOLOGY: &str = "ROLLCALL_DECLARE_TOPOLOGY";
pub const AMQP_TIMEOUT_SECS: &str = "ROLLCALL_AMQP_TIMEOUT_SECS";
pub const WATCHDOG_SECS: &str = "ROLLCALL_WATCHDOG_SECS";
pub const RETRY_MAX_SECS: &str = "ROLLCALL_RETRY_MAX_SECS";
pub const REDIS_HOLD_SECS: &str = "ROLLCALL_REDIS_HOLD_SECS";
pub const STORE_TIMEOUT_SECS: &str = "ROLLCALL_STORE_TIMEOUT_SECS";
pub const REDIS_TIMEOUT_MS: &str = "ROLLCALL_REDIS_TIMEOUT_MS";
pub const RETRY_MIN_MS: &str = "ROLLCALL_RETRY_MIN_MS";
pub const LOG_FORMAT: &str = "ROLLCALL_LOG_FORMAT";

pub const SERVE_ADDR: &str = "ROLLCALL_SERVE_ADDR";
pub const SERVE_CONNECTIONS_MAX: &str = "ROLLCALL_SERVE_CONNECTIONS_MAX";
pub const SERVE_REQUESTS_PER_SECOND_MAX: &str = "ROLLCALL_SERVE_REQUESTS_PER_SECOND_MAX";
pub const SERVE_STREAMS_MAX: &str = "ROLLCALL_SERVE_STREAMS_MAX";
pub const SERVE_TIMEOUT_MS: &str = "ROLLCALL_SERVE_TIMEOUT_MS";
pub const SERVE_CORS_ORIGIN: &str = "ROLLCALL_SERVE_CORS_ORIGIN";

/// Keys below the prefix that hold no set: hashes of Rollcall's own.
pub fn is_reserved(key: &str) -> bool {
    [":meta", ":wm", ":pipeline"].iter().any(|name| key.ends_with(name))
}

/// Header of a dead letter that says why.
pub const HEADER_REASON: &str = "reason";

pub const GENERATION_MISSING: &str = "rollcall_generation_missing";
pub const REDIS_LOSSES: &str = "rollcall_redis_losses_total";
pub const REDIS_EVICTS: &str = "rollcall_redis_evicts";
pub const SKIPPED: &str = "rollcall_projection_skipped_events_total";
pub const DELIVERIES: &str = "rollcall_deliveries_total";
pub const SETTLEMENTS: &str = "rollcall_settlements_total";
pub const EVENTS_STORED: &str = "rollcall_events_stored_total";
pub const DUPLICATES: &str = "rollcall_duplicates_total";
pub const REDELIVERIES: &str = "rollcall_redeliveries_total";
pub const SESSIONS: &str = "rollcall_sessions_total";
pub const SESSION_ERRORS: &str = "rollcall_session_errors_total";
pub const SUSPECTS: &str = "rollcall_suspects_total";
pub const RETRIES: &str = "rollcall_retries_total";
pub const BREAKER_TRIPS: &str = "rollcall_breaker_trips_total";
pub const IN_FLIGHT: &str = "rollcall_deliveries_in_flight";

/// The log line that tells the port of health and metrics, in its field `addr`.
pub const LISTENING: &str = "ops endpoint listening";
/// The same of the readers' address.
pub const SERVING: &str = "serving readers";
