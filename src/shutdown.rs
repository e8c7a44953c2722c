//! The wish to stop, from a signal to everyone who must hear of it.
//!
//! `Shutdown` is handed down as a parameter; it never ends anything by itself. Only a second signal
//! does, at once: nothing that was not settled is lost, as RabbitMQ delivers it again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Whether to drain: consume nothing more, finish what is in hand, leave. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Starts the drain; more than once is the same as once.
    pub fn begin(&self) {
        self.0.cancel();
    }

    pub fn is_draining(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns once the drain has begun. Cancel-safe.
    pub async fn draining(&self) {
        self.0.cancelled().await;
    }

    /// The output of `fut`, or `None` when the drain began first; `fut` is dropped then. A `fut`
    /// that is ready wins, so that nothing that was already received is thrown away.
    pub async fn run_until_drain<F: Future>(&self, fut: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = fut => Some(output),
            () = self.draining() => None,
        }
    }

    /// From here on SIGTERM and SIGINT begin the drain, and the second of them ends the process.
    ///
    /// # Errors
    /// The handlers could not be installed.
    pub fn listen(&self) -> io::Result<Signals> {
        self.listen_to(&STOPS)
    }

    /// Of whoever holds a terminal: that it went, and Ctrl-\ at another one, as well.
    ///
    /// # Errors
    /// As of `listen`.
    pub fn listen_at_terminal(&self) -> io::Result<Signals> {
        self.listen_to(&[&STOPS[..], &STOPS_OF_TERMINAL].concat())
    }

    fn listen_to(&self, stops: &[Stop]) -> io::Result<Signals> {
        let stops = Stops::listen(stops)?;
        let exit = |code| std::process::exit(code);
        Ok(Signals(tokio::spawn(attend(self.clone(), stops, exit))))
    }
}

/// The task that waits for signals; ends when this is dropped.
#[derive(Debug)]
#[must_use = "signals are heard only while this is held"]
pub struct Signals(JoinHandle<()>);

impl Drop for Signals {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Name and number.
type Stop = (&'static str, i32);

const STOPS: [Stop; 2] = [("SIGTERM", 15), ("SIGINT", 2)];
const STOPS_OF_TERMINAL: [Stop; 2] = [("SIGHUP", 1), ("SIGQUIT", 3)];

struct Stops(Vec<(Stop, Signal)>);

impl Stops {
    fn listen(stops: &[Stop]) -> io::Result<Stops> {
        let listen = |stop: &Stop| Ok((*stop, signal(SignalKind::from_raw(stop.1))?));
        stops.iter().map(listen).collect::<io::Result<_>>().map(Stops)
    }

    /// The next one.
    async fn next(&mut self) -> Stop {
        // Signal::recv is cancel-safe, and yields for as long as the process lives.
        let heard = self.0.iter_mut().map(|(stop, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *stop
            })
        });
        futures_util::future::select_all(heard).await.0
    }
}

/// `exit` is an argument for the tests alone.
async fn attend(shutdown: Shutdown, mut stops: Stops, exit: impl Fn(i32)) {
    let (name, _) = stops.next().await;
    info!(signal = name, "draining; a second signal ends at once");
    shutdown.begin();
    let (name, number) = stops.next().await;
    warn!(signal = name, "ending at once; what is not settled will be delivered again");
    // What a shell reports for a process that a signal ended: 130 or 143.
    exit(128 + number);
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn send_to_self(signal: &str) {
        let own = std::process::id().to_string();
        assert!(Command::new("kill").args([signal, &own]).status().unwrap().success());
    }

    #[tokio::test]
    async fn the_first_signal_drains_and_the_second_ends() {
        let shutdown = Shutdown::new();
        let stops = Stops::listen(&STOPS).unwrap();
        let (codes, mut ended) = mpsc::unbounded_channel();
        let exit = move |code| codes.send(code).unwrap();
        let task = tokio::spawn(attend(shutdown.clone(), stops, exit));

        assert!(!shutdown.is_draining());
        send_to_self("-TERM");
        timeout(DEADLINE, shutdown.draining()).await.unwrap();
        assert!(ended.try_recv().is_err(), "one signal must not end the process");

        send_to_self("-INT");
        assert_eq!(timeout(DEADLINE, ended.recv()).await.unwrap(), Some(130));
        task.await.unwrap();
    }

    #[tokio::test]
    async fn work_runs_until_the_drain() {
        let shutdown = Shutdown::new();
        let parameter = shutdown.clone();
        assert_eq!(parameter.run_until_drain(async { 7 }).await, Some(7));
        shutdown.begin();
        assert_eq!(parameter.run_until_drain(std::future::pending::<()>()).await, None);
        // What is ready is not thrown away.
        assert_eq!(parameter.run_until_drain(async { 7 }).await, Some(7));
    }
}
