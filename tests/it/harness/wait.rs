//! The one place that waits: for a condition, with a deadline.

use std::time::{Duration, Instant};

/// For what happens at once on an idle machine: a request, a small batch.
pub const SHORT: Duration = Duration::from_secs(20);
/// For what takes its time: a server's start, a large run, a reconnect after backoff.
pub const LONG: Duration = Duration::from_secs(90);

const POLL: Duration = Duration::from_millis(25);

/// Asks `check` until it says `Ok`, and panics with its last reason when `deadline` has passed.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(why) if start.elapsed() > deadline => {
                panic!("waited {deadline:?} for {what}, but {why}")
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
