//! How much is asked at once: requests a second in all, requests under way, streams, and what costs
//! Redis more than a look. Who is too many is told so at once, and for that last within a moment.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout};

use super::problem::Problem;
use crate::config;

/// Redis does nothing else during an intersection, which may take it some tens of milliseconds: so
/// there is one at a time, and after it a pause so many times as long. Workers have the rest.
const HEAVY_PAUSE: u32 = 4;
/// How long one waits for its turn.
const HEAVY_WAIT: Duration = Duration::from_millis(250);

pub struct Gate {
    rate: std::sync::Mutex<Rate>,
    in_flight: Semaphore,
    streams: Arc<Semaphore>,
    /// When the next may begin.
    heavy: Mutex<Instant>,
}

/// Requests that may still come; a second's worth is kept.
struct Rate {
    per_second: f64,
    left: f64,
    at: Instant,
}

/// A stream's place, given back when it is dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    gauge: Gauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gauge.decrement(1);
    }
}

/// Of what is heavy; whoever comes next waits a while after its end.
pub struct Turn<'a> {
    began: Instant,
    free_at: MutexGuard<'a, Instant>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.free_at = Instant::now() + self.began.elapsed() * HEAVY_PAUSE;
    }
}

impl Gate {
    pub fn new(serve: &config::Serve) -> Gate {
        let per_second = f64::from(serve.requests_per_second_max);
        Gate {
            rate: std::sync::Mutex::new(Rate { per_second, left: per_second, at: Instant::now() }),
            in_flight: Semaphore::new(serve.in_flight_max),
            streams: Arc::new(Semaphore::new(serve.streams_max)),
            heavy: Mutex::new(Instant::now()),
        }
    }

    /// # Errors
    /// There have been too many requests in the last second.
    pub fn pass(&self) -> Result<(), Problem> {
        // Whole after each assignment.
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        match rate.take(Instant::now()) {
            true => Ok(()),
            false => Err(Problem::too_many("requests a second")),
        }
    }

    /// # Errors
    /// There are too many requests under way.
    pub fn enter(&self) -> Result<SemaphorePermit<'_>, Problem> {
        self.in_flight.try_acquire().map_err(|_| Problem::too_many("requests under way"))
    }

    /// # Errors
    /// Others are at it.
    pub async fn heavy(&self) -> Result<Turn<'_>, Problem> {
        let turn = async {
            let free_at = self.heavy.lock().await;
            sleep_until(*free_at).await;
            Turn { began: Instant::now(), free_at }
        };
        timeout(HEAVY_WAIT, turn).await.map_err(|_| Problem::too_many("intersections"))
    }

    /// # Errors
    /// There are too many streams.
    pub fn stream(&self, gauge: &Gauge) -> Result<Place, Problem> {
        let permit = self.streams.clone().try_acquire_owned();
        let _permit = permit.map_err(|_| Problem::too_many("streams"))?;
        gauge.increment(1);
        Ok(Place { _permit, gauge: gauge.clone() })
    }
}

impl Rate {
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.per_second);
        self.at = now;
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_heavy_goes_one_at_a_time_with_pauses() {
        let config = config::Config::load(std::iter::empty()).unwrap();
        let gate = Gate::new(&config.serve);
        let turn = gate.heavy().await.unwrap();
        assert!(gate.heavy().await.is_err(), "another is at it");
        // It has taken as long as the other has waited.
        let pause = HEAVY_WAIT * HEAVY_PAUSE;
        drop(turn);
        let ended = Instant::now();
        while gate.heavy().await.is_err() {}
        let waited = ended.elapsed();
        assert!(waited >= pause && waited < pause + HEAVY_WAIT, "{waited:?}");
    }

    #[test]
    fn no_more_than_the_rate_passes_in_any_second_beyond_the_first() {
        let start = Instant::now();
        let mut rate = Rate { per_second: 10.0, left: 10.0, at: start };
        let taken = |rate: &mut Rate, millis: u64, tries: u32| {
            let now = start + Duration::from_millis(millis);
            (0..tries).filter(|_| rate.take(now)).count()
        };
        assert_eq!(taken(&mut rate, 0, 100), 10, "a second's worth at once");
        assert_eq!(taken(&mut rate, 500, 100), 5);
        assert_eq!(taken(&mut rate, 99_000, 100), 10, "silence saves up no more");
    }
}
