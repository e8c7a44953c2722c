//! What was asked of the worker, and whether this run shows it. Computed from the book alone.

use crate::book::{Book, Spread};
use crate::drain::{DEFAULT, FOUR_LANES, HUNDRED, MILLION, TWO_PROCESSES};
use crate::plan::{CEILINGS, DRAINED, FLAT, IN_STEP, LATENCY, PEAK, RATE, TABLE, WORKER};
use crate::report::rate;
use crate::shared::words::duration;

/// What people do instead, each a row of this part with its `RATE`.
pub const PEERS: &str = "peers";
pub const DEMO: &str = "the demo's way, Python";
pub const CAREFUL: &str = "a careful consumer, Python";

pub struct Goal {
    pub what: String,
    /// As it came out, with the least and the most of the rounds. `None`: not in this run.
    pub measured: Option<String>,
    pub verdict: &'static str,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn new(what: &str, bound: Bound, spread: Option<Spread>, show: fn(f64) -> String) -> Goal {
        let Some(spread) = spread else {
            return Goal { what: what.to_owned(), measured: None, verdict: "not measured" };
        };
        let Spread { least, median, most } = spread;
        let met = |value: f64| match bound {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        };
        let verdict = match (met(median), met(least) == met(most)) {
            (true, true) => "met",
            (true, false) => "met, not in every round",
            (false, true) => "missed",
            (false, false) => "missed, not in every round",
        };
        let measured = format!("**{}** ({} – {})", show(median), show(least), show(most));
        Goal { what: what.to_owned(), measured: Some(measured), verdict }
    }
}

/// The combined ceiling: of the two ways to measure it the higher one, which is harder to come
/// near.
pub fn combined(book: &Book) -> &'static str {
    let of = |row| book.median(CEILINGS, row, RATE).unwrap_or_default();
    if of(FLAT) > of(IN_STEP) { FLAT } else { IN_STEP }
}

pub fn all(book: &Book) -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    let default = (DRAINED, DEFAULT.name, RATE);
    let drained = |row, what| book.get(DRAINED, row, what);
    let times = |row: &'static str| book.ratio(default, (PEERS, row, RATE));
    let cost = |row| book.ratio(default, (DRAINED, row, RATE));
    let micros = |value: f64| format!("{value:.2} µs");
    let ratio = |value: f64| format!("{value:.2}");
    let mib = |value: f64| format!("{value:.1} MiB");
    let p99 = |row| book.get(LATENCY, row, "p99");
    let seconds = |value: f64| duration(std::time::Duration::from_secs_f64(value));
    let ceiling = book.ratio(default, (CEILINGS, combined(book), RATE));
    let scaled = book.ratio((DRAINED, TWO_PROCESSES, RATE), (DRAINED, FOUR_LANES, RATE));
    let mut goals = vec![
        Goal::new(
            "1 event a message: at least 0.85 of the combined ceiling",
            AtLeast(0.85),
            ceiling,
            ratio,
        ),
        Goal::new("at least 50 times the demo's way", AtLeast(50.0), times(DEMO), ratio),
        Goal::new(
            "at least 3 times a careful Python consumer",
            AtLeast(3.0),
            times(CAREFUL),
            ratio,
        ),
        Goal::new(
            "100 events a message: at least 150,000 events/s",
            AtLeast(150_000.0),
            drained(HUNDRED, RATE),
            rate,
        ),
        Goal::new(
            "worker CPU, 1 event a message: at most 6 µs an event",
            AtMost(6.0),
            drained(DEFAULT.name, WORKER),
            micros,
        ),
        Goal::new(
            "worker CPU, 100 events a message: at most 3 µs an event",
            AtMost(3.0),
            drained(HUNDRED, WORKER),
            micros,
        ),
        Goal::new("p99 at 1,000 events/s: under 10 ms", AtMost(0.010), p99("1000"), seconds),
        Goal::new("p99 at 10,000 events/s: under 50 ms", AtMost(0.050), p99("10000"), seconds),
        Goal::new(
            "peak memory of a worker, 200 B events: under 64 MiB",
            AtMost(64.0),
            drained(DEFAULT.name, PEAK),
            mib,
        ),
        Goal::new(
            "2 processes of 2 lanes: at least the rate of 1 with 4",
            AtLeast(1.0),
            scaled,
            ratio,
        ),
        Goal::new(
            "an event on a table of 1 M rows: at most 1.2 times the time it takes on an empty one",
            AtMost(1.2),
            cost(MILLION),
            ratio,
        ),
    ];
    let sizes: Vec<&str> = book.rows(TABLE).collect();
    if let [empty, full] = sizes[..] {
        let ratios = book.ratio((TABLE, empty, RATE), (TABLE, full, RATE));
        let what = format!("the same, {full}");
        goals.push(Goal::new(&what, AtMost(1.2), ratios, ratio));
    }
    goals
}
