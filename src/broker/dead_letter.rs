//! Condemning: a bad message or element goes to the dead letters, with the reason, before the ack
//! of its batch covers it.
//!
//! Never returns success before the broker confirmed every letter *and* routed it to a queue: an
//! unroutable message is confirmed too.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lapin::Channel;
use time::OffsetDateTime;

use super::connect::short;
use super::consume::{Incoming, LaneConsumer};
use super::error::BrokerError;
use super::letter;
use super::publish::{self, Confirming, begin, finish};
use super::topology;
use crate::config;

/// Letters on their way at once: a confirm takes as long as the broker's fsync, whatever their
/// number. With 64 a flood of bad events spent most of its time waiting.
const WINDOW: usize = 1024;
/// Their bodies together, as lapin buffers them; a letter of its own may be larger.
const WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// One condemned message, or one element of a message that carried many events.
#[derive(Debug)]
pub struct DeadLetter<'a> {
    pub incoming: &'a Incoming,
    /// What a replay publishes again: the whole body, or the one bad element.
    pub body: Bytes,
    /// Machine-readable, from a closed set.
    pub reason: &'static str,
    /// For people; cut at 500 characters.
    pub detail: &'a str,
    /// `decode` or `store`.
    pub stage: &'static str,
    pub sqlstate: Option<&'a str>,
    /// When this worker first saw it.
    pub first_seen: OffsetDateTime,
}

impl LaneConsumer {
    /// Publishes every letter, persistent and mandatory, and awaits every confirm.
    ///
    /// On an error some may have arrived; call it again with the same, on a new channel. Where the
    /// dead letters' queue is gone, it is there again by then if it may be declared here.
    pub async fn condemn(&mut self, letters: &[DeadLetter<'_>]) -> Result<(), BrokerError> {
        if letters.is_empty() {
            return Ok(());
        }
        let published = self.publish_letters(letters).await;
        if let Err(error) = &published {
            // What is on its way there belongs to the failed try.
            self.confirms = None;
            if error.is_missing_route() && self.config.declare_topology {
                // If it fails, so does the next try, which says why.
                let ensured = topology::ensure_dead_letters(&self.publish, &self.config).await;
                let declared = ensured.map(|report| report.declared).unwrap_or_default();
                tracing::warn!(?declared, "the dead letters had no place to go to");
            }
        }
        published
    }

    /// Whether trying to condemn or settle again can help: else a new session is needed.
    pub fn is_connected(&self) -> bool {
        self.publish.status().connected() && self.channel.status().connected()
    }

    async fn publish_letters(&mut self, letters: &[DeadLetter<'_>]) -> Result<(), BrokerError> {
        let channel = self.confirm_channel().await?;
        let config::Broker { dead_letters, timeout, .. } = &self.config;
        let exchange = short("exchange", dead_letters)?;
        let frame_max = self.publish.configuration().frame_max() as usize;
        let tried = || format!("publishing a dead letter to `{dead_letters}`");
        let mut window: VecDeque<(Confirming, usize)> =
            VecDeque::with_capacity(WINDOW.min(letters.len()));
        let mut bytes = 0;
        for letter in letters {
            while (window.len() == WINDOW || bytes + letter.body.len() > WINDOW_BYTES)
                && let Some((oldest, size)) = window.pop_front()
            {
                finish(oldest, *timeout, tried).await?;
                bytes -= size;
            }
            bytes += letter.body.len();
            let confirming = begin(
                &channel,
                exchange.clone(),
                // The fanout exchange does not look at it; an operator's own binding may.
                letter.reason.into(),
                letter.body.clone(),
                letter::properties_of(letter, frame_max),
            );
            window.push_back((confirming, letter.body.len()));
        }
        for (confirming, _) in window {
            finish(confirming, *timeout, tried).await?;
        }
        Ok(())
    }

    async fn confirm_channel(&mut self) -> Result<Arc<Channel>, BrokerError> {
        if let Some(channel) = &self.confirms {
            return Ok(channel.clone());
        }
        let channel = publish::confirm_channel(&self.publish, self.config.timeout).await?;
        Ok(self.confirms.insert(Arc::new(channel)).clone())
    }
}
