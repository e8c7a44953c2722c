//! A batch: deliveries, what was decoded from them, and when it is full. Pure: no I/O, and the
//! clock is an argument. May only classify; settling is the lane's.

use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::broker::{Delivery, Incoming, Tokens};
use crate::event::{self, Event, Rejected, Rules};
use crate::telemetry::Trigger;

/// The bounds of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub events_max: usize,
    /// Half of the widest prefetch: the other half can arrive while this one is written.
    pub deliveries_max: usize,
    pub bytes_max: usize,
    pub age_max: Duration,
}

/// Deliveries of one lane, in order, and the one token that settles them together.
#[derive(Debug, Default)]
pub struct Batch {
    pub tokens: Tokens,
    /// Kept for dead letters; events and rejected ones name theirs by number.
    pub deliveries: Vec<Incoming>,
    pub events: Vec<Taken<Event>>,
    pub rejected: Vec<Taken<Rejected>>,
    /// The bodies and what was made of them, together.
    pub bytes: usize,
    /// The largest body.
    pub largest: usize,
    /// Whether one of the deliveries may be what killed whoever had it before.
    pub suspect: bool,
    /// When the first delivery was put in.
    pub opened: Option<Instant>,
    /// When the first delivery came from the broker, whose patience counts from there; and by the
    /// wall's clock when it was put in.
    pub arrived: Option<Instant>,
    pub first_seen: Option<OffsetDateTime>,
}

/// One element of a message.
#[derive(Debug)]
pub struct Taken<T> {
    /// Its message, among the deliveries.
    pub delivery: usize,
    /// As it came: what a dead letter holds, so that a replay publishes the same again.
    pub element: Bytes,
    pub decoded: T,
}

impl Batch {
    /// Decodes a delivery into the batch. A message of many events is never split: its token is
    /// one, so the batch may end above `events_max` by one message.
    pub fn push(&mut self, taken: Delivery, rules: Rules<'_>, arrived: Instant, now: Instant) {
        let Delivery { message, token } = taken;
        let delivery = self.deliveries.len();
        let (events, rejected) = (&mut self.events, &mut self.rejected);
        let mut added = 0;
        let parts = event::Message {
            body: message.body.clone(),
            content_type: message.content_type.as_deref(),
            cloud_event: &message.cloud_event,
        };
        event::decode(&parts, rules, |element, decoded| match decoded {
            Ok(decoded) => {
                added += decoded.additions.bytes();
                events.push(Taken { delivery, element, decoded });
            }
            Err(decoded) => rejected.push(Taken { delivery, element, decoded }),
        });
        self.bytes += message.body.len() + added;
        self.largest = self.largest.max(message.body.len());
        self.opened.get_or_insert(now);
        self.arrived.get_or_insert(arrived);
        self.first_seen.get_or_insert(rules.now);
        self.deliveries.push(message);
        self.tokens.push(token);
    }

    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Events and rejected ones: what the batch will account for.
    pub fn len(&self) -> usize {
        self.events.len() + self.rejected.len()
    }

    pub fn is_full(&self, bounds: Bounds) -> bool {
        self.len() >= bounds.events_max
            || self.deliveries.len() >= bounds.deliveries_max
            || self.bytes >= bounds.bytes_max
    }

    /// Whether, and why, to close it now. `idle`: no further delivery is at hand.
    pub fn trigger(
        &self,
        bounds: Bounds,
        now: Instant,
        idle: bool,
        draining: bool,
    ) -> Option<Trigger> {
        if self.is_empty() {
            None
        } else if self.bytes >= bounds.bytes_max {
            Some(Trigger::Bytes)
        } else if self.is_full(bounds) {
            Some(Trigger::Size)
        } else if draining && idle {
            Some(Trigger::Drain)
        } else if idle {
            Some(Trigger::Idle)
        } else if self.opened.is_some_and(|opened| now >= opened + bounds.age_max) {
            Some(Trigger::Age)
        } else {
            None
        }
    }
}
