//! What a server may have to say: snapshots of the contract, made up.

use serde_json::{Value, json};

use super::stub::before;

/// What an attacker would have a page do: each would show in the title, or as an element.
pub const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'\
    </script></td></table><style>*{display:none}</style>";

/// Ready figures of one worker.
fn pipeline() -> Value {
    json!({
        "workers": 1, "published_per_second": 7.5, "received_per_second": 11.0,
        "stored_per_second": 11.0, "applied_per_second": 11.0, "drained_per_second": 11.0,
        "queue_ready": 0, "queue_growth_per_second": 0.0, "unacked": 0,
        "time_to_empty_seconds": 0.0, "lag_store_seconds": 0.0121, "lag_apply_seconds": 0.0153,
        "dead_letters": {"json": 3, "id_conflict": 1}, "updated_at": before(0),
    })
}

/// With a history that a slow test does not push out of the last hour.
pub fn set(name: &str, cardinality: impl Into<Value>) -> Value {
    let start = time::OffsetDateTime::now_utc().unix_timestamp() - 3000;
    let history: Vec<_> = (0..300).map(|n| json!([start + n * 10, 100 + n])).collect();
    json!({
        "name": name, "kind": "exact", "cardinality": cardinality.into(), "grouped": false,
        "window": null, "groups": null, "groups_truncated": false, "buckets": null,
        "history": history,
    })
}

pub fn snapshot(sets: Vec<Value>) -> Value {
    json!({
        "redis": {"ok": true, "error": null}, "known": true, "generation": "g", "state": "fresh",
        "last_event_at": before(1), "last_applied_at": before(1), "age_seconds": 1.0,
        "sets": sets, "pipeline": pipeline(),
    })
}

/// One set of each kind.
pub fn ordinary() -> Value {
    let mut grouped = set("users_by_city", Value::Null);
    grouped["grouped"] = json!(true);
    grouped["groups"] = json!([
        {"group": "CA:Fresno", "cardinality": 400}, {"group": "NY:New York", "cardinality": 300},
    ]);
    let mut daily = set("users_daily", 60);
    daily["window"] = json!("day");
    daily["buckets"] = (1..=20)
        .map(|day| json!({"bucket": format!("2026-11-{:02}", 21 - day), "cardinality": day}))
        .collect();
    let mut estimated = set("agents", 123_456);
    estimated["kind"] = json!("estimated");
    snapshot(vec![set("cities", 449), set("users", 1234), estimated, grouped, daily])
}

/// What the wire may hold at worst.
pub fn hostile() -> Value {
    let long = "x".repeat(500);
    let mut grouped = set(&long, Value::Null);
    grouped["grouped"] = json!(true);
    grouped["groups"] = json!([
        {"group": HOSTILE, "cardinality": 1_000_000_000_000_000_u64},
        {"group": long, "cardinality": 2}, {"group": "", "cardinality": 1},
        {"group": "\u{202e}desrever", "cardinality": 1},
    ]);
    let mut daily = set("__proto__", 9_007_199_254_740_991_u64);
    daily["window"] = json!(HOSTILE);
    daily["buckets"] = json!([{"bucket": HOSTILE, "cardinality": 1},
        {"bucket": "2026-99-99", "cardinality": 1}]);
    let mut all = snapshot(vec![set(HOSTILE, 18_000_000_000_000_000_000_u64), grouped, daily]);
    all["state"] = json!(HOSTILE);
    all["generation"] = json!(HOSTILE);
    all["pipeline"]["dead_letters"] = json!({HOSTILE: 5, "__proto__": 1});
    all["pipeline"]["published_per_second"] = json!(1e15);
    all["pipeline"]["queue_ready"] = json!(100_000_000_000_000_u64);
    all["pipeline"]["time_to_empty_seconds"] = json!(1e12);
    all
}
