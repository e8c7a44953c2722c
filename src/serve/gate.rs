//! How much is asked at once: requests a second in all, requests under way, streams, and what costs
//! Redis more than a look. Who is too many is told so at once; nobody waits in line.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::problem::Problem;
use crate::config;

/// Intersections at once: each may keep Redis for some tens of milliseconds.
const HEAVY_MAX: usize = 2;

pub struct Gate {
    rate: Mutex<Rate>,
    in_flight: Semaphore,
    streams: Arc<Semaphore>,
    heavy: Semaphore,
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

impl Gate {
    pub fn new(serve: &config::Serve) -> Gate {
        let per_second = f64::from(serve.requests_per_second_max);
        Gate {
            rate: Mutex::new(Rate { per_second, left: per_second, at: Instant::now() }),
            in_flight: Semaphore::new(serve.in_flight_max),
            streams: Arc::new(Semaphore::new(serve.streams_max)),
            heavy: Semaphore::new(HEAVY_MAX),
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

    /// Waits, within the request's own time.
    pub async fn heavy(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed.
        self.heavy.acquire().await.ok()
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
    use std::time::Duration;

    use super::*;

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
