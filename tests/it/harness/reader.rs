//! A reader of one set, as the contract wants a reader to be, fifty times a second: the values
//! first and the generation after them, in one round trip. It keeps what was wrong: a *no* for a
//! member that was there, or a count that went back, while there was a generation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::producer::Rng;
use super::redis::{Redis, Reply};
use super::wait::{SHORT, eventually};

const EVERY: Duration = Duration::from_millis(20);
/// Members asked about each time.
const ASKED: usize = 20;
/// What is wrong is wrong at once; the rest of it tells nothing new.
const WRONG_MAX: usize = 10;

pub struct Reader {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Answers with a generation, without one, and none at all.
    pub known: u64,
    pub unknown: u64,
    pub away: u64,
    /// The most that was ever counted with a generation.
    pub most: i64,
    /// Members that were denied, and counts that went back, with a generation. A rebuild may let
    /// the newest members be absent for a moment, so there only the first is always wrong.
    pub denied: Vec<String>,
    pub shrunk: Vec<String>,
    pub generation: Option<String>,
    pub state: Option<String>,
    /// Since `begin`: when a state other than fresh was first read, or another generation.
    pub noticed: Option<Instant>,
    before: Option<String>,
}

impl Reader {
    /// Reads the set `key` and asks about these members, all of which are in it.
    pub fn start(url: &str, prefix: &str, set: &str, members: Vec<String>, seed: u64) -> Reader {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let work = Work {
            url: url.to_owned(),
            key: format!("{prefix}:{set}"),
            meta: format!("{prefix}:meta"),
            members,
            rng: Rng(seed),
            seen: seen.clone(),
        };
        Reader { seen, task: tokio::spawn(work.run()) }
    }

    pub fn seen(&self) -> Seen {
        locked(&self.seen).clone()
    }

    /// What is there now: the second of two answers was asked for after this began.
    pub async fn look(&self) -> Seen {
        let answers = |seen: &Seen| seen.known + seen.unknown;
        let wanted = answers(&self.seen()) + 2;
        self.wait(SHORT, "a reader to look again", |seen| answers(seen) >= wanted).await
    }

    /// What comes from here on is noticed anew.
    pub fn begin(&self) {
        let mut seen = locked(&self.seen);
        seen.noticed = None;
        seen.before = seen.generation.clone();
    }

    /// Until what it sees is as wanted.
    pub async fn wait(
        &self,
        deadline: Duration,
        what: &str,
        wanted: impl Fn(&Seen) -> bool,
    ) -> Seen {
        eventually(deadline, what, async || match self.seen() {
            seen if wanted(&seen) => Ok(seen),
            seen => Err(format!("the reader sees {seen:?}")),
        })
        .await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Work {
    url: String,
    key: String,
    meta: String,
    members: Vec<String>,
    rng: Rng,
    seen: Arc<Mutex<Seen>>,
}

impl Work {
    async fn run(mut self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut connection: Option<Redis> = None;
        loop {
            ticks.tick().await;
            let answer = match &mut connection {
                Some(redis) => self.ask(redis).await,
                None => Redis::connect(&self.url).await.map(|redis| {
                    connection = Some(redis);
                }),
            };
            if answer.is_err() {
                connection = None;
                locked(&self.seen).away += 1;
            }
        }
    }

    async fn ask(&mut self, redis: &mut Redis) -> Result<(), String> {
        let asked: Vec<&str> = (0..ASKED).map(|_| self.rng.pick(&self.members).as_str()).collect();
        let smismember = [&["SMISMEMBER", self.key.as_str()], asked.as_slice()].concat();
        let commands: [&[&str]; 3] =
            [&["SCARD", &self.key], &smismember, &["HMGET", &self.meta, "generation", "state"]];
        let replies = redis.ask_all(&commands).await?;
        let [Reply::Int(count), Reply::List(members), Reply::List(meta)] = replies.as_slice()
        else {
            return Err(format!("{replies:?}"));
        };
        let text = |at: usize| match meta.get(at) {
            Some(Reply::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let lacking: Vec<_> =
            asked.iter().zip(members).filter(|(_, is)| **is != Reply::Int(1)).collect();
        locked(&self.seen).note(*count, &lacking, text(0), text(1));
        Ok(())
    }
}

impl Seen {
    fn note(
        &mut self,
        count: i64,
        lacking: &[(&&str, &Reply)],
        generation: Option<String>,
        state: Option<String>,
    ) {
        let stale = state.as_deref().is_some_and(|state| state != "fresh");
        let another = generation.is_some() && self.before.is_some() && generation != self.before;
        if stale || another {
            self.noticed.get_or_insert_with(Instant::now);
        }
        match &generation {
            None => self.unknown += 1,
            Some(generation) => {
                self.known += 1;
                let said = format!("generation {generation}, {state:?}: {count} members");
                if !lacking.is_empty() && self.denied.len() < WRONG_MAX {
                    self.denied.push(format!("{said}, lacking {lacking:?}"));
                }
                if count < self.most && self.shrunk.len() < WRONG_MAX {
                    self.shrunk.push(format!("{said}, {} had been counted", self.most));
                }
                self.most = self.most.max(count);
            }
        }
        (self.generation, self.state) = (generation, state);
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
