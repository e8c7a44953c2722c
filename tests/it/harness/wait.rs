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
    let patience = Patience::new(deadline, what);
    loop {
        match check().await {
            Ok(value) => return value,
            Err(why) => patience.wait(&why).await,
        }
    }
}

/// The same by hand, for a task of its own: an async closure that borrows is not `Send` enough.
pub struct Patience<'a> {
    start: Instant,
    deadline: Duration,
    what: &'a str,
}

impl<'a> Patience<'a> {
    pub fn new(deadline: Duration, what: &'a str) -> Patience<'a> {
        Patience { start: Instant::now(), deadline, what }
    }

    pub fn is_over(&self) -> bool {
        self.start.elapsed() > self.deadline
    }

    /// Until it is worth asking again; panics when the deadline has passed.
    pub async fn wait(&self, why: &str) {
        self.check(why);
        tokio::time::sleep(POLL).await;
    }

    /// The same on a thread that may block.
    pub fn wait_blocking(&self, why: &str) {
        self.check(why);
        std::thread::sleep(POLL);
    }

    fn check(&self, why: &str) {
        let Patience { deadline, what, .. } = self;
        assert!(!self.is_over(), "waited {deadline:?} for {what}, but {why}");
    }
}
