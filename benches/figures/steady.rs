//! Publisher and worker together, on the same cores as all servers: the highest rate at which the
//! backlog does not grow.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::events::{Events, PLAIN};
use crate::publish::{Pace, Paced};
use crate::shared::Servers;
use crate::worker::{self, TO, Worker};

/// One step.
const STEP: Duration = Duration::from_secs(5);
/// What may be due and not yet settled at its end. A rate that is 4 % too high gathers it in a
/// step.
const BEHIND_MAX: Duration = Duration::from_millis(200);
/// Looks during the last part of a step; the best one counts, as a checkpoint is no trend.
const LOOKS: u32 = 10;
const STEPS_MAX: u32 = 12;
/// Where the first search begins, and its steps: coarse until it is between two, then finer.
const BEGIN: f64 = 16_000.0;
const COARSE: f64 = 1.25;
const FINE: f64 = 1.06;
const EMPTIED: Duration = Duration::from_secs(60);

/// Events a second, one a message. `near`: where to begin, from an earlier round.
pub async fn highest(servers: &Servers, near: Option<f64>) -> Result<f64> {
    worker::reset(servers).await?;
    let worker = Worker::consuming(servers, 2).await?;
    // The first step of a session holds its connections, statements and a prefetch that widens.
    holds(servers, &worker, 2_000.0).await?;
    let (mut held, mut failed): (Option<f64>, Option<f64>) = (None, None);
    let mut rate = near.unwrap_or(BEGIN);
    let step = if near.is_some() { FINE } else { COARSE };
    for _ in 0..STEPS_MAX {
        if holds(servers, &worker, rate).await? {
            held = Some(rate);
        } else {
            failed = Some(rate);
        }
        rate = match (held, failed) {
            (Some(held), Some(failed)) if failed / held <= FINE * 1.01 => break,
            (Some(held), Some(failed)) => (held * failed).sqrt(),
            (Some(held), None) => held * step,
            (None, Some(failed)) => failed / step,
            (None, None) => rate,
        };
    }
    ensure!(held.is_some(), "no rate held");
    Ok(held.unwrap_or_default())
}

/// Whether so many a second are settled as they come; the queue is empty afterwards.
async fn holds(servers: &Servers, worker: &Worker, rate: f64) -> Result<bool> {
    let before = worker.told()?.acked;
    // Until everything is connected.
    let begin = Instant::now() + Duration::from_millis(200);
    let pace = Pace { begin, per_second: rate as u64 };
    let count = pace.due_by(begin + STEP);
    let publisher = Paced::start(servers, TO, Events::new(PLAIN), pace, count).await?;
    tokio::time::sleep_until((begin + STEP * 9 / 10).into()).await;
    let mut behind = f64::MAX;
    for _ in 0..LOOKS {
        let acked = worker.told()?.acked - before;
        behind = behind.min(pace.due_by(Instant::now()).saturating_sub(acked) as f64);
        tokio::time::sleep(STEP / 10 / LOOKS).await;
    }
    publisher.end().await?;
    let published = Instant::now();
    while worker.told()?.acked - before < count {
        ensure!(published.elapsed() < EMPTIED, "the queue was not emptied within {EMPTIED:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(behind <= rate * BEHIND_MAX.as_secs_f64())
}
