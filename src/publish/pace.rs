//! When the next message is due. It must never let a pause be made up for in one burst.

use std::time::Duration;

use tokio::time::Instant;

/// Sleeps overshoot by a millisecond or so; up to this much is made up for.
const BURST: Duration = Duration::from_millis(100);

pub struct Pace {
    per_event: Option<Duration>,
    due: Instant,
}

impl Pace {
    /// `rate` in events a second; `None` is as fast as it goes.
    pub fn new(rate: Option<f64>) -> Pace {
        Pace {
            per_event: rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            due: Instant::now(),
        }
    }

    /// Returns once the next message may go. Cancel-safe.
    pub async fn due(&self) {
        if self.per_event.is_some() {
            tokio::time::sleep_until(self.due).await;
        }
    }

    pub fn sent(&mut self, events: u64) {
        if let Some(per_event) = self.per_event {
            let now = Instant::now();
            let from = self.due.max(now.checked_sub(BURST).unwrap_or(now));
            // A message of 10,000 events at the lowest rate is a matter of years, not of overflow.
            self.due = from + per_event * u32::try_from(events).unwrap_or(u32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(pace: &Pace) -> Duration {
        pace.due.saturating_duration_since(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_of_many_events_holds_up_the_next_for_as_long_as_they_take() {
        let mut pace = Pace::new(Some(10.0));
        assert_eq!(ahead(&pace), Duration::ZERO);
        pace.sent(50);
        assert_eq!(ahead(&pace), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_made_up_for() {
        let mut pace = Pace::new(Some(10.0));
        pace.due = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        pace.sent(2);
        assert_eq!(ahead(&pace), Duration::from_millis(200) - BURST);
    }
}
