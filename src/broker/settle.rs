//! The one final answer to a delivery: `basic.ack`, many at once, in order.
//!
//! Never acknowledges past a delivery whose token is still out: tokens are settled in runs, each
//! beginning right after the last settled one, so an ack over an unfinished batch cannot be made.

use lapin::options::BasicAckOptions;

use super::connect::timed;
use super::consume::LaneConsumer;
use super::error::BrokerError;

/// The right to settle one delivery, once. Not `Clone`: settling consumes it.
#[derive(Debug)]
#[must_use = "a token that is dropped is a delivery that this session can never settle"]
pub struct Token {
    /// Which lane of which session: a tag means something on its own channel only.
    pub(super) lane: u64,
    pub(super) tag: u64,
}

#[cfg(test)]
impl Token {
    /// For a model of the broker.
    pub fn new(lane: u64, tag: u64) -> Token {
        Token { lane, tag }
    }
}

/// A run of tokens that is settled together.
#[derive(Debug, Default)]
#[must_use = "tokens that are dropped are deliveries that this session can never settle"]
pub struct Tokens {
    run: Option<Run>,
    /// The first token that did not follow: the run is refused as a whole.
    broken: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Run {
    lane: u64,
    first: u64,
    last: u64,
}

impl Tokens {
    /// Adds the next delivery of the same lane. A token out of turn spoils the run: `settle`
    /// refuses it, the session ends and the broker delivers again.
    pub fn push(&mut self, token: Token) {
        match &mut self.run {
            None => {
                self.run = Some(Run { lane: token.lane, first: token.tag, last: token.tag });
            }
            Some(run) if run.lane == token.lane && token.tag == run.last + 1 => run.last += 1,
            Some(run) => {
                self.broken.get_or_insert((run.last + 1, token.tag));
            }
        }
    }

    pub fn len(&self) -> usize {
        let run = self.run.as_ref();
        run.map_or(0, |run| (run.last - run.first + 1) as usize)
    }

    pub fn is_empty(&self) -> bool {
        self.run.is_none()
    }

    /// The last tag of the run, if it is whole and begins right after `settled`.
    pub(crate) fn last_after(&self, lane: u64, settled: u64) -> Result<Option<u64>, BrokerError> {
        let out_of_order = |expected, got| Err(BrokerError::OutOfOrder { expected, got });
        match (&self.broken, &self.run) {
            (Some((expected, got)), _) => out_of_order(*expected, *got),
            (None, None) => Ok(None),
            (None, Some(run)) if run.lane != lane => out_of_order(settled + 1, 0),
            (None, Some(run)) if run.first != settled + 1 => out_of_order(settled + 1, run.first),
            (None, Some(run)) => Ok(Some(run.last)),
        }
    }
}

impl LaneConsumer {
    /// Acknowledges a whole run and returns how many deliveries that settled.
    ///
    /// `Ok` means that the ack was handed to a live connection; if that dies before the broker
    /// reads it, the deliveries come again, which every later step allows for.
    pub async fn settle(&mut self, tokens: Tokens) -> Result<u64, BrokerError> {
        let Some(last) = tokens.last_after(self.id, self.settled_tag)? else {
            return Ok(0);
        };
        // A tag is never 0 here (it is above `settled_tag`), and 0 with `multiple` would mean all.
        let ack = self.channel.basic_ack(last, BasicAckOptions { multiple: true });
        let tried = || format!("acknowledging deliveries of `{}`", self.config.queue);
        timed(self.config.timeout, tried, ack).await?;
        let count = last - self.settled_tag;
        self.settled_tag = last;
        Ok(count)
    }

    /// Deliveries handed out and not settled yet.
    pub fn in_flight(&self) -> u64 {
        self.delivered_tag - self.settled_tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(tags: &[(u64, u64)]) -> Tokens {
        let mut tokens = Tokens::default();
        for &(lane, tag) in tags {
            tokens.push(Token { lane, tag });
        }
        tokens
    }

    #[test]
    fn a_run_that_follows_the_last_settled_tag_is_accepted() {
        let run = tokens(&[(1, 4), (1, 5), (1, 6)]);
        assert_eq!(run.len(), 3);
        assert_eq!(run.last_after(1, 3).unwrap(), Some(6));
        assert_eq!(tokens(&[]).last_after(1, 3).unwrap(), None);
    }

    #[test]
    fn a_gap_before_or_inside_a_run_is_refused() {
        assert!(tokens(&[(1, 5)]).last_after(1, 3).is_err());
        assert!(tokens(&[(1, 3)]).last_after(1, 3).is_err());
        assert!(tokens(&[(1, 4), (1, 6)]).last_after(1, 3).is_err());
        assert!(tokens(&[(1, 4), (1, 4)]).last_after(1, 3).is_err());
    }

    #[test]
    fn tokens_of_another_lane_or_session_are_refused() {
        assert!(tokens(&[(2, 4)]).last_after(1, 3).is_err());
        assert!(tokens(&[(1, 4), (2, 5)]).last_after(1, 3).is_err());
    }
}
