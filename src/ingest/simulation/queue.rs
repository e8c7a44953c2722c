//! A model of a quorum queue: who has what, what comes back, and the dead letters. It counts
//! returns as 3.10 does.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::dice::Dice;
use super::load::Message;
use super::worker::HOLD_MAX;
use super::world::World;

/// Returns before a message is dead-lettered. Far above what the faults of one run can cause.
const DELIVERY_LIMIT: u64 = 30;
/// A hold, and the longest try at its end: a statement that hangs, or a search for bad rows in
/// which each of a hundred statements is slow.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(HOLD_MAX.as_secs() + 80);

pub struct Letter {
    pub reason: &'static str,
    pub body: String,
}

#[derive(Default)]
pub struct Queue {
    pub ready: VecDeque<Queued>,
    pub channels: BTreeMap<u64, Channel>,
    pub letters: Vec<Letter>,
    /// Of connections and channels.
    pub next: u64,
}

pub struct Queued {
    pub message: Message,
    pub returned: u64,
}

pub struct Channel {
    pub connection: u64,
    pub prefetch: usize,
    pub consuming: bool,
    /// Handed over and not settled: tag, message, since when.
    pub unsettled: VecDeque<(u64, Queued, Instant)>,
    /// Handed over by the broker, and not read by the worker: how many of the unsettled, from the
    /// end.
    pub unread: usize,
    pub last_tag: u64,
    /// The connection is gone; the worker learns of it when it has read what it was sent.
    pub dead: bool,
    /// The broker took the consumer away.
    pub revoked: bool,
}

impl Queue {
    pub fn publish(&mut self, message: Message) {
        self.ready.push_back(Queued { message, returned: 0 });
    }

    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
            && self.channels.values().all(|one| one.dead || one.unsettled.is_empty())
    }

    pub fn describe(&self) -> String {
        let unsettled: usize = self.channels.values().map(|one| one.unsettled.len()).sum();
        format!("{} messages ready, {unsettled} unsettled", self.ready.len())
    }

    /// Hands out what there is, in turn.
    pub fn dispatch(&mut self) {
        loop {
            let mut moved = false;
            for channel in self.channels.values_mut() {
                if !channel.consuming || channel.dead || channel.unsettled.len() >= channel.prefetch
                {
                    continue;
                }
                let Some(queued) = self.ready.pop_front() else { return };
                channel.last_tag += 1;
                channel.unsettled.push_back((channel.last_tag, queued, Instant::now()));
                channel.unread += 1;
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    /// Back to the front of the queue, in order, or to the dead letters.
    pub fn give_back(&mut self, returned: impl DoubleEndedIterator<Item = Queued>) -> u64 {
        let mut given_up = 0;
        for mut queued in returned.rev() {
            queued.returned += 1;
            if queued.returned > DELIVERY_LIMIT {
                given_up += 1;
                let body = String::from_utf8_lossy(&queued.message.body).into_owned();
                self.letters.push(Letter { reason: "broker", body });
            } else {
                self.ready.push_front(queued);
            }
        }
        given_up
    }

    /// How long the longest has been kept of what a connection has not settled.
    fn kept(&self, connection: u64) -> Duration {
        let channels = self.channels.values();
        let live = channels.filter(|one| one.connection == connection && !one.dead);
        live.flat_map(|one| &one.unsettled)
            .map(|(.., since)| since.elapsed())
            .max()
            .unwrap_or_default()
    }

    fn cut(&mut self, connection: u64) -> u64 {
        let mut returned = Vec::new();
        for channel in self.channels.values_mut().filter(|one| one.connection == connection) {
            channel.dead = true;
            channel.consuming = false;
            // Read or not: the worker may still work on them, and settles nothing any more.
            let kept = channel.unsettled.iter().map(|(tag, queued, since)| {
                (
                    *tag,
                    Queued { message: queued.message.clone(), returned: queued.returned },
                    *since,
                )
            });
            let kept: VecDeque<_> = kept.collect();
            let all = std::mem::replace(&mut channel.unsettled, kept);
            returned.extend(all.into_iter().map(|(_, queued, _)| queued));
        }
        let given_up = self.give_back(returned.into_iter());
        self.dispatch();
        given_up
    }

    /// Some connection, if there is one.
    pub fn cut_one(&mut self, dice: &mut Dice) -> bool {
        let live: Vec<u64> =
            self.channels.values().filter(|one| !one.dead).map(|one| one.connection).collect();
        if live.is_empty() {
            return false;
        }
        let connection = dice.pick(&live);
        self.cut(connection);
        true
    }

    pub fn channel(&mut self, id: u64) -> &mut Channel {
        self.channels.get_mut(&id).expect("a channel lives as long as its consumer")
    }
}

impl World {
    pub fn cut_connection(&mut self, connection: u64) {
        let kept = self.broker.kept(connection);
        if kept > HOLD_MAX {
            self.count("held too long");
        }
        self.judge_patience(kept);
        for _ in 0..self.broker.cut(connection) {
            self.count("given up by the broker");
        }
    }

    /// Acknowledges all up to `last`. Done only where the connection stands.
    pub fn acknowledge(&mut self, id: u64, last: u64) {
        let channel = self.broker.channel(id);
        if channel.dead {
            return;
        }
        if !channel.unsettled.iter().any(|(tag, ..)| *tag == last) {
            self.violate(format!("406: unknown delivery tag {last}"));
            return;
        }
        let mut settled = Vec::new();
        while channel.unsettled.front().is_some_and(|(tag, ..)| *tag <= last) {
            settled.extend(channel.unsettled.pop_front());
        }
        for (_, queued, since) in settled {
            self.judge_ack(&queued.message);
            self.judge_patience(since.elapsed());
        }
    }

    fn judge_patience(&mut self, kept: Duration) {
        if kept > CONSUMER_TIMEOUT {
            self.violate(format!("a delivery was kept for {kept:?}"));
        }
    }
}
