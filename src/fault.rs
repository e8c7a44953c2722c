//! Points at which a test build dies, to prove what repairs each crash. Nothing in other builds.
//!
//! `FAULT_POINT=after_commit` aborts at that point, `FAULT_POINT=after_commit:3` at the third pass;
//! `FAULT_PANIC` takes the same, and panics; `FAULT_POISON=text` aborts on decoding a message that
//! holds the text. `FAULT_PAUSE=before_swap` with `FAULT_PAUSE_FILE=path` makes `path.reached`
//! there, once, and goes on when there is `path.go`.

/// The crash points, in the order of effects.
pub const POINTS: &[&str] = &[
    "after_delivery",
    "before_commit",
    "after_commit",
    "half_redis",
    "after_redis",
    "after_dead_letters",
    "after_ack",
];

/// Where Redis is away for so long that ingest goes on without it: in the place of `half_redis`.
pub const POINT_WITHOUT_REDIS: &str = "after_note";

/// Those of a rebuild, in the order of its effects.
pub const REBUILD_POINTS: &[&str] = &["before_swap", "half_swap", "after_swap", "before_settle"];

/// Before a terminal is drawn: one that is not given back is of no more use.
pub const POINT_DRAWING: &str = "drawing";

/// Dies here, if the environment says so.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    use std::sync::atomic::AtomicU64;
    static ABORTS: AtomicU64 = AtomicU64::new(0);
    static PANICS: AtomicU64 = AtomicU64::new(0);
    debug_assert!(
        [POINTS, REBUILD_POINTS, &[POINT_WITHOUT_REDIS, POINT_DRAWING]].concat().contains(&name),
        "{name} is not among the points"
    );
    if fires("FAULT_POINT", name, &ABORTS) {
        tracing::error!(point = name, "fault: aborting");
        std::process::abort();
    }
    assert!(!fires("FAULT_PANIC", name, &PANICS), "fault: panicking at {name}");
}

/// Whether this is the pass that the variable names.
#[cfg(feature = "fault-points")]
fn fires(variable: &str, name: &str, passes: &std::sync::atomic::AtomicU64) -> bool {
    let Ok(wanted) = std::env::var(variable) else { return false };
    let (wanted, pass) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    wanted == name && (passes.fetch_add(1, relaxed) + 1).to_string() == pass
}

/// Dies of this message, if the environment says so.
#[cfg(feature = "fault-points")]
pub fn poison(body: &[u8]) {
    let Ok(poison) = std::env::var("FAULT_POISON") else { return };
    if body.windows(poison.len()).any(|window| window == poison.as_bytes()) {
        tracing::error!("fault: aborting on a poisonous message");
        std::process::abort();
    }
}

/// Stands still here, if the environment says so, while the test does something beside it.
#[cfg(feature = "fault-points")]
pub async fn pause(name: &str) {
    use std::sync::atomic::AtomicU64;
    static PAUSES: AtomicU64 = AtomicU64::new(0);
    if !fires("FAULT_PAUSE", name, &PAUSES) {
        return;
    }
    let Ok(file) = std::env::var("FAULT_PAUSE_FILE") else { return };
    let reached = std::fs::write(format!("{file}.reached"), "");
    assert!(reached.is_ok(), "the test's folder can be written");
    while !std::path::Path::new(&format!("{file}.go")).exists() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[cfg(not(feature = "fault-points"))]
pub async fn pause(_: &str) {}

#[cfg(not(feature = "fault-points"))]
pub fn point(_: &str) {}

#[cfg(not(feature = "fault-points"))]
pub fn poison(_: &[u8]) {}
