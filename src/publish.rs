//! `rollcall publish`: sample events, the lines of a file or the rows of a query, each confirmed by
//! the broker.
//!
//! A message is kept until its confirm arrives and sent again, byte for byte, over a new connection
//! when the old one is lost; so a message can arrive twice, and the worker stores its events once.
//! It must never count as confirmed what is not, and never hold more than a window of messages.

mod feed;
mod left_out;
mod pace;
mod producer;
mod rows;
mod summary;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::broker::{BrokerError, Outgoing, Publisher};
use crate::cli::{self, Outcome};
use crate::config::{self, Config, ConfigErrors};
use crate::progress::Progress;
use crate::retry::{Backoff, Class};
use crate::sample::{Plan, Samples};
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use crate::telemetry::{TRACEPARENT, TraceParent, chain};

use feed::{Feed, Packed, Tally};
use left_out::LeftOut;
use pace::Pace;
pub use producer::Producer;
use rows::Rows;
use summary::Summary;

/// Unconfirmed messages at once. A quorum queue confirms after its fsync, so a few thousand cover
/// any round trip; the publisher bounds their bytes.
const WINDOW_MESSAGES: usize = 2000;

/// Lost connections in a row, without one confirm in between, before giving up. With the waits
/// below that is some four minutes: longer than a broker takes to restart.
const LOSSES_MAX: u32 = 30;
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("publishing stopped")]
    Broker(#[from] BrokerError),
    #[error("publishing was given up after {losses} lost connections in a row")]
    GivenUp { losses: u32, source: BrokerError },
    #[error("reading {}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("reading the events of the query")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error("writing the summary")]
    Answer(#[from] std::io::Error),
}

impl PublishError {
    pub fn class(&self) -> Class {
        match self {
            PublishError::Broker(source) | PublishError::GivenUp { source, .. } => source.class(),
            // The file is the user's to put right.
            PublishError::File { .. } => Class::Data,
            PublishError::Store(source) => source.class(),
            PublishError::Config(source) => source.class(),
            // Whoever read standard output is gone: the same again would fare the same.
            PublishError::Answer(_) => Class::Data,
        }
    }
}

/// Publishes what the arguments ask for and prints a summary, also of what came to an early end.
pub async fn run(
    config: &Config,
    args: &cli::Publish,
    shutdown: &Shutdown,
) -> Result<Outcome, PublishError> {
    let broker = config.broker()?;
    let now = OffsetDateTime::now_utc();
    let plan = Plan {
        // Any number does: it is reported, so that the run can be had again.
        seed: args.seed.unwrap_or(now.unix_timestamp_nanos() as u64 >> 10),
        count: args.count,
        ending_at: args.ending_at.unwrap_or(now),
        spread: time::Duration::hours(i64::from(args.spread_hours)),
        duplicates_pct: args.duplicates,
        bad_pct: args.bad,
    };
    let per_message = args.events_per_message;
    let (mut feed, plan, total) = match (&args.file, &args.from_postgres) {
        (Some(path), _) => (Feed::file(path, per_message).await?, None, None),
        (None, Some(query)) => {
            let rows = Rows::open(config.import()?, query).await?;
            let total = rows.total();
            (Feed::rows(rows, per_message), None, Some(total))
        }
        (None, None) => {
            let feed = Feed::samples(Samples::new(plan), per_message);
            (feed, Some(plan), Some(plan.count))
        }
    };
    let publisher = Publisher::connect(broker, WINDOW_MESSAGES).await?;
    let mut run = Run {
        broker,
        routing_key: &args.routing_key,
        trace_parent: trace_parent(),
        publisher,
        unconfirmed: VecDeque::with_capacity(WINDOW_MESSAGES),
        issued: 0,
        confirmed: Tally::default(),
        messages: 0,
        failed: false,
        losses: 0,
        backoff: Backoff::new(WAIT_MIN, WAIT_MAX),
        progress: Progress::new("published", total),
    };
    let started = Instant::now();
    let result = run.publish_all(&mut feed, Pace::new(args.rate), shutdown).await;
    let elapsed = started.elapsed();
    run.progress.finish();
    let ended = matches!(result, Ok(Outcome::Done));
    let missing = missing(&feed, args, ended && run.issued == 0);
    missing.iter().for_each(|text| run.progress.say(text));
    let result = if missing.is_empty() { result } else { result.map(|_| Outcome::No) };
    let summary = Summary {
        plan,
        issued: run.issued,
        confirmed: run.confirmed,
        messages: run.messages,
        elapsed,
        left_out: feed.left_out().map_or(0, LeftOut::count),
        ended,
        complete: matches!(result, Ok(Outcome::Done)),
    };
    // With something unconfirmed the connection is lost, and its goodbye would wait for confirms.
    if run.unconfirmed.is_empty() {
        run.publisher.close().await;
    }
    summary.print(&mut std::io::stdout().lock(), args.output.json)?;
    result
}

/// What of the input is not there though it was asked for, in words.
fn missing(feed: &Feed, args: &cli::Publish, nothing: bool) -> Vec<String> {
    match (feed.left_out().and_then(LeftOut::told), &args.file) {
        (Some(told), Some(_)) => vec![told],
        (Some(told), None) => {
            let hint = "where that is meant, have the query leave them out: WHERE … IS NOT NULL";
            vec![told, hint.to_owned()]
        }
        // What should have filled it has failed: whoever goes on by our exit code must not.
        (None, Some(path)) if nothing => {
            vec![format!("no event in {}: it is empty, or blank", path.display())]
        }
        (None, _) => Vec::new(),
    }
}

type Confirm = Pin<Box<dyn Future<Output = Result<(), BrokerError>> + Send>>;

struct Sent {
    message: Packed,
    confirm: Confirm,
}

struct Run<'a> {
    broker: &'a config::Broker,
    routing_key: &'a str,
    /// For each message.
    trace_parent: Option<String>,
    publisher: Publisher,
    /// In the order of sending; at most `WINDOW_MESSAGES`.
    unconfirmed: VecDeque<Sent>,
    /// Events handed to a connection at least once.
    issued: u64,
    confirmed: Tally,
    /// Confirmed ones.
    messages: u64,
    /// Nothing more can be sent over this connection.
    failed: bool,
    losses: u32,
    backoff: Backoff,
    progress: Progress,
}

enum Step {
    Stop,
    Answer(Result<(), BrokerError>),
    Next(Result<Option<Packed>, PublishError>),
}

impl Run<'_> {
    async fn publish_all(
        &mut self,
        feed: &mut Feed,
        mut pace: Pace,
        shutdown: &Shutdown,
    ) -> Result<Outcome, PublishError> {
        // What ended the feed before its end, to be told once everything sent is confirmed.
        let mut broken = None;
        let (mut ended, mut stopped, mut cut_short) = (false, false, false);
        while !(ended && self.unconfirmed.is_empty()) {
            let room = self.unconfirmed.len() < WINDOW_MESSAGES && !self.failed;
            // Each branch is cancel-safe: a confirm stays in its place in the window until it has
            // answered, and the feed keeps what it has read.
            let step = tokio::select! {
                biased;
                () = shutdown.draining(), if !stopped => Step::Stop,
                answer = first(&mut self.unconfirmed), if !self.unconfirmed.is_empty() => {
                    Step::Answer(answer)
                }
                next = next_due(feed, &pace), if room && !ended => Step::Next(next),
            };
            let lost = match step {
                Step::Stop => {
                    (cut_short, ended, stopped) = (!ended, true, true);
                    self.progress.say("stopping; waiting for what is on its way");
                    None
                }
                Step::Answer(answer) => answer.map(|()| self.count_first()).err(),
                Step::Next(Ok(Some(message))) => {
                    pace.sent(message.tally.events);
                    self.issued += message.tally.events;
                    self.send(message).await;
                    None
                }
                Step::Next(Ok(None)) => {
                    ended = true;
                    None
                }
                Step::Next(Err(error)) => {
                    ended = true;
                    broken = Some(error);
                    None
                }
            };
            if let Some(error) = lost {
                if stopped {
                    return Err(error.into());
                }
                if self.recover(error, shutdown).await? {
                    cut_short = true;
                    break;
                }
            }
        }
        match broken {
            Some(error) => Err(error),
            None if cut_short => Ok(Outcome::No),
            None => Ok(Outcome::Done),
        }
    }

    fn count_first(&mut self) {
        if let Some(sent) = self.unconfirmed.pop_front() {
            self.confirmed.add(sent.message.tally);
            self.messages += 1;
            self.progress.at(self.confirmed.events);
            if self.losses > 0 {
                self.losses = 0;
                self.backoff.reset();
            }
        }
    }

    /// Sends a message and keeps it, also where sending failed. The failure is then its answer,
    /// which is heard after those of the messages before it: theirs tell the cause.
    async fn send(&mut self, message: Packed) {
        let confirm = match self.begin(&message).await {
            Ok(confirm) => confirm,
            Err(error) => {
                self.failed = true;
                Box::pin(std::future::ready(Err(error)))
            }
        };
        self.unconfirmed.push_back(Sent { message, confirm });
    }

    /// A new connection, with everything unconfirmed sent over it again. True where the wish to
    /// stop came first.
    async fn recover(
        &mut self,
        mut error: BrokerError,
        shutdown: &Shutdown,
    ) -> Result<bool, PublishError> {
        loop {
            self.losses += 1;
            if error.class() != Class::Transient {
                return Err(error.into());
            }
            if self.losses > LOSSES_MAX {
                return Err(PublishError::GivenUp { losses: LOSSES_MAX, source: error });
            }
            let wait = self.backoff.next();
            let why = chain(&error);
            self.progress.say(&format!("{why}; trying again in {:.1} s", wait.as_secs_f64()));
            if shutdown.run_until_drain(tokio::time::sleep(wait)).await.is_none() {
                return Ok(true);
            }
            match self.send_again().await {
                Ok(()) => return Ok(false),
                Err(next) => error = next,
            }
        }
    }

    async fn send_again(&mut self) -> Result<(), BrokerError> {
        self.publisher = Publisher::connect(self.broker, WINDOW_MESSAGES).await?;
        for at in 0..self.unconfirmed.len() {
            let confirm = self.begin(&self.unconfirmed[at].message).await?;
            self.unconfirmed[at].confirm = confirm;
        }
        self.failed = false;
        Ok(())
    }

    async fn begin(&self, message: &Packed) -> Result<Confirm, BrokerError> {
        let trace = self.trace_parent.as_deref().map(|parent| (TRACEPARENT, parent));
        let outgoing = Outgoing {
            exchange: &self.broker.exchange,
            routing_key: self.routing_key,
            body: message.body.clone(),
            content_type: Some(message.content_type),
            headers: trace.as_slice(),
            message_id: None,
        };
        Ok(Box::pin(self.publisher.publish(outgoing).await?.wait()))
    }
}

/// Of whoever started us, by the variable that is in use for it. What is none is nobody's mistake
/// but theirs, and no reason to publish nothing.
fn trace_parent() -> Option<String> {
    let given = std::env::var("TRACEPARENT").ok()?;
    TraceParent::parse(given.as_bytes()).map(|_| given)
}

/// The answer to the oldest message. Never called on an empty window.
async fn first(unconfirmed: &mut VecDeque<Sent>) -> Result<(), BrokerError> {
    match unconfirmed.front_mut() {
        Some(sent) => sent.confirm.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn next_due(feed: &mut Feed, pace: &Pace) -> Result<Option<Packed>, PublishError> {
    pace.due().await;
    feed.next().await
}
