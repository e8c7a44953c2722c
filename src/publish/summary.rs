//! What a run of `publish` came to, for people and for programs.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{HumanCount, HumanFloatCount};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use super::feed::Tally;
use crate::sample::Plan;

pub struct Summary {
    /// `None` for the lines of a file: nobody knows how many are good.
    pub plan: Option<Plan>,
    /// Events handed to a connection at least once.
    pub issued: u64,
    pub confirmed: Tally,
    /// Confirmed ones.
    pub messages: u64,
    pub elapsed: Duration,
    /// Rows or lines that held nothing to publish.
    pub left_out: u64,
    /// All that there was to publish is confirmed.
    pub ended: bool,
    /// And so is everything that was asked for.
    pub complete: bool,
}

/// Kinds are counted among the confirmed events, so that a program can compare with what arrives.
#[derive(Serialize)]
struct Answer {
    complete: bool,
    issued: u64,
    confirmed: u64,
    messages: u64,
    left_out: u64,
    good: Option<u64>,
    duplicates: Option<u64>,
    bad: Option<u64>,
    seed: Option<u64>,
    ending_at: Option<String>,
    seconds: f64,
    events_per_second: f64,
}

impl Summary {
    pub fn print(&self, out: &mut impl Write, json: bool) -> io::Result<()> {
        if json {
            let answer = serde_json::to_string(&self.answer()).map_err(io::Error::from)?;
            return writeln!(out, "{answer}");
        }
        let of = match self.confirmed.events == self.issued {
            true => "all confirmed".to_owned(),
            false => format!("{} issued", HumanCount(self.issued)),
        };
        let left_out = match self.left_out {
            0 => String::new(),
            n => format!("; {} left out", HumanCount(n)),
        };
        let early = if self.ended { "" } else { "; stopped before the end" };
        writeln!(
            out,
            "{} events in {} messages confirmed ({of}) in {:.1} s: {} events/s{left_out}{early}",
            HumanCount(self.confirmed.events),
            HumanCount(self.messages),
            self.elapsed.as_secs_f64(),
            HumanFloatCount(self.per_second().round()),
        )?;
        if let Some(plan) = &self.plan {
            let Tally { good, duplicates, bad, .. } = self.confirmed;
            writeln!(
                out,
                "{} good, {} duplicates, {} bad; --seed {} --ending-at {} makes them again",
                HumanCount(good),
                HumanCount(duplicates),
                HumanCount(bad),
                plan.seed,
                ending_at(plan).unwrap_or_default(),
            )?;
        }
        out.flush()
    }

    fn per_second(&self) -> f64 {
        // Below a microsecond the figure would mean nothing.
        self.confirmed.events as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }

    fn answer(&self) -> Answer {
        let known = |count: u64| self.plan.map(|_| count);
        Answer {
            complete: self.complete,
            issued: self.issued,
            confirmed: self.confirmed.events,
            messages: self.messages,
            left_out: self.left_out,
            good: known(self.confirmed.good),
            duplicates: known(self.confirmed.duplicates),
            bad: known(self.confirmed.bad),
            seed: self.plan.map(|plan| plan.seed),
            ending_at: self.plan.as_ref().and_then(ending_at),
            seconds: (self.elapsed.as_secs_f64() * 1e6).round() / 1e6,
            events_per_second: self.per_second().round(),
        }
    }
}

fn ending_at(plan: &Plan) -> Option<String> {
    plan.ending_at.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn summary(plan: Option<Plan>) -> Summary {
        Summary {
            plan,
            issued: 12_000,
            confirmed: Tally { events: 12_000, good: 11_000, duplicates: 700, bad: 300 },
            messages: 120,
            elapsed: Duration::from_millis(1500),
            left_out: 0,
            ended: true,
            complete: true,
        }
    }

    fn printed(summary: &Summary, json: bool) -> String {
        let mut out = Vec::new();
        summary.print(&mut out, json).unwrap();
        String::from_utf8(out).unwrap()
    }

    const PLAN: Plan = Plan {
        seed: 7,
        count: 12_000,
        ending_at: datetime!(2026-11-23 10:00 UTC),
        spread: time::Duration::HOUR,
        duplicates_pct: 0.0,
        bad_pct: 0.0,
    };

    #[test]
    fn a_person_reads_what_was_confirmed_and_how_to_have_it_again() {
        assert_eq!(
            printed(&summary(Some(PLAN)), false),
            "12,000 events in 120 messages confirmed (all confirmed) in 1.5 s: 8,000 events/s\n\
             11,000 good, 700 duplicates, 300 bad; \
             --seed 7 --ending-at 2026-11-23T10:00:00Z makes them again\n"
        );
        let stopped = Summary { issued: 13_000, ended: false, complete: false, ..summary(None) };
        assert!(printed(&stopped, false).contains("(13,000 issued)"));
        assert!(printed(&stopped, false).ends_with("stopped before the end\n"));
        let lacking = Summary { left_out: 2000, complete: false, ..summary(None) };
        assert!(printed(&lacking, false).ends_with("8,000 events/s; 2,000 left out\n"));
    }

    #[test]
    fn a_program_reads_one_object() {
        let answer: serde_json::Value =
            serde_json::from_str(&printed(&summary(Some(PLAN)), true)).unwrap();
        assert_eq!(answer["confirmed"], 12_000);
        assert_eq!(answer["bad"], 300);
        assert_eq!(answer["seconds"], 1.5);
        assert_eq!(answer["complete"], true);
        let of_file: serde_json::Value =
            serde_json::from_str(&printed(&summary(None), true)).unwrap();
        assert!(of_file["good"].is_null() && of_file["seed"].is_null());
    }
}
