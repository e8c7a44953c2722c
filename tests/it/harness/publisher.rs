//! A producer as it should be: it writes down what it issued and what was confirmed, and publishes
//! the same bytes until they are, through whatever happens to RabbitMQ. Bounded: a broker that is
//! away for longer than `LONG` fails the test.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::amqp::Amqp;
use super::message::Message;
use super::oracle::Oracle;
use super::producer::Rng;
use super::rig::Rig;
use super::stream::{Made, Stream};
use super::wait::{LONG, Patience};

/// Messages on their way at once.
const WINDOW: usize = 500;
/// How often a publisher with a pace is allowed more.
const TICK: Duration = Duration::from_millis(20);

pub struct Publisher {
    stream: Stream,
    allowance: watch::Sender<Allowance>,
    confirmed: Arc<AtomicU64>,
    task: JoinHandle<Ledger>,
    /// Allows more and more.
    pace: Option<JoinHandle<()>>,
}

/// How many events may be issued altogether, and whether that is all there will be.
#[derive(Clone, Copy, Default)]
struct Allowance {
    events: u64,
    last: bool,
}

/// What was issued, and what was confirmed, by the numbers of the messages.
struct Ledger {
    /// All below it were sent at least once.
    issued: u64,
    /// Of these, who is still to be confirmed.
    unconfirmed: BTreeSet<u64>,
    /// Publishes that were answered with anything but an ack, or not at all.
    failures: u64,
}

/// What the ledgers of a run say.
pub struct Published {
    pub messages: u64,
    pub events: u64,
    pub failures: u64,
}

impl Publisher {
    /// Publishes what it is allowed to, or a few events more; `duplicates` per cent of the messages
    /// are followed by an earlier one.
    pub fn start(rig: &Rig, stream: Stream, seed: u64, duplicates: u64) -> Publisher {
        let (allowance, allowed) = watch::channel(Allowance::default());
        let confirmed = Arc::new(AtomicU64::new(0));
        let work = Work {
            url: rig.amqp_url().to_owned(),
            exchange: rig.exchange().to_owned(),
            stream: stream.clone(),
            rng: Rng(seed),
            duplicates,
            allowed,
            confirmed: confirmed.clone(),
            issued_events: 0,
            ledger: Ledger { issued: 0, unconfirmed: BTreeSet::new(), failures: 0 },
            again: VecDeque::new(),
        };
        Publisher { stream, allowance, confirmed, task: tokio::spawn(work.run()), pace: None }
    }

    /// From here on it may issue so many more events a second, until it is told to finish.
    pub fn pace(&mut self, per_second: u64) {
        let allowance = self.allowance.clone();
        let before = allowance.borrow().events;
        self.pace = Some(tokio::spawn(async move {
            let began = Instant::now();
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                let events = before + began.elapsed().as_millis() as u64 * per_second / 1000;
                allowance.send_modify(|allowed| allowed.events = allowed.events.max(events));
            }
        }));
    }

    /// Lets it issue up to this many events altogether.
    pub fn allow(&self, events: u64) {
        self.allowance.send_modify(|allowed| allowed.events = allowed.events.max(events));
    }

    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Lets it come to its end at this many events, or where it is already, and tells the oracle.
    /// All that was issued is then confirmed, so the oracle's rows are both what must be there and
    /// all that may be.
    pub async fn finish(mut self, events: u64, oracle: &mut Oracle) -> Published {
        self.end_pace();
        self.allow(events);
        self.allowance.send_modify(|allowed| allowed.last = true);
        let ledger = (&mut self.task).await.expect("the publisher gets to its end");
        assert!(ledger.unconfirmed.is_empty(), "not confirmed: {:?}", ledger.unconfirmed);
        let mut events = 0;
        for number in 0..ledger.issued {
            let made = self.stream.message(number);
            events += made.events();
            made.tell(oracle);
        }
        Published { messages: ledger.issued, events, failures: ledger.failures }
    }

    fn end_pace(&mut self) {
        if let Some(pace) = self.pace.take() {
            pace.abort();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.end_pace();
    }
}

struct Work {
    url: String,
    exchange: String,
    stream: Stream,
    rng: Rng,
    duplicates: u64,
    allowed: watch::Receiver<Allowance>,
    confirmed: Arc<AtomicU64>,
    issued_events: u64,
    ledger: Ledger,
    /// Sent and not confirmed: first in the next window.
    again: VecDeque<u64>,
}

impl Work {
    async fn run(mut self) -> Ledger {
        let mut amqp = self.connect().await;
        loop {
            let window = self.window().await;
            if window.is_empty() {
                return self.ledger;
            }
            let messages: Vec<Message> = window.iter().map(|(_, m)| m.message.clone()).collect();
            let answers = amqp.offer(&self.exchange, "test", &messages).await;
            let mut lost = false;
            for ((number, made), answer) in window.iter().zip(answers) {
                if answer.is_err() {
                    lost = true;
                    self.ledger.failures += 1;
                } else if self.ledger.unconfirmed.remove(number) {
                    self.confirmed.fetch_add(made.events(), Ordering::Relaxed);
                }
            }
            if lost {
                self.again = self.ledger.unconfirmed.iter().copied().collect();
                amqp = self.connect().await;
            }
        }
    }

    async fn connect(&self) -> Amqp {
        let patience = Patience::new(LONG, "rabbitmq to take the publisher");
        loop {
            match Amqp::connect(&self.url).await {
                Ok(amqp) => return amqp,
                Err(why) => patience.wait(&why).await,
            }
        }
    }

    /// The messages to send next; none when all is confirmed.
    async fn window(&mut self) -> Vec<(u64, Made)> {
        let mut window = Vec::with_capacity(WINDOW);
        while window.len() < WINDOW {
            if let Some(number) = self.again.pop_front() {
                window.push((number, self.stream.message(number)));
                continue;
            }
            let allowed = *self.allowed.borrow();
            if self.issued_events >= allowed.events {
                if !window.is_empty() || allowed.last {
                    break;
                }
                // Its sender is gone with a test that failed.
                let issued = self.issued_events;
                let more = |allowed: &Allowance| allowed.last || allowed.events > issued;
                if self.allowed.wait_for(more).await.is_err() {
                    break;
                }
                continue;
            }
            let number = self.ledger.issued;
            self.ledger.issued += 1;
            self.ledger.unconfirmed.insert(number);
            let made = self.stream.message(number);
            self.issued_events += made.events();
            window.push((number, made));
            if self.rng.percent(self.duplicates) {
                let earlier = self.rng.below(number + 1);
                window.push((earlier, self.stream.message(earlier)));
            }
        }
        window
    }
}
