//! Every figure of a run, by name, as many times as there were rounds. Judges nothing.

use std::collections::BTreeMap;

/// Part, row, and what of it: `("drained", "4 lanes", "events/s")`.
type Name = (&'static str, String, &'static str);

#[derive(Default)]
pub struct Book {
    figures: BTreeMap<Name, Vec<f64>>,
    /// The rows of each part, in the order in which they came.
    rows: Vec<(&'static str, String)>,
}

/// Of the rounds of one figure.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    fn of(rounds: &[f64]) -> Option<Spread> {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Spread {
            least: *sorted.first()?,
            median: *sorted.get((sorted.len() - 1) / 2)?,
            most: *sorted.last()?,
        })
    }
}

impl Book {
    /// What one round gave.
    pub fn note(&mut self, part: &'static str, row: &str, what: &'static str, value: f64) {
        let place = (part, row.to_owned());
        if !self.rows.contains(&place) {
            self.rows.push(place);
        }
        self.figures.entry((part, row.to_owned(), what)).or_default().push(value);
    }

    /// `None`: not measured in this run.
    pub fn get(&self, part: &'static str, row: &str, what: &'static str) -> Option<Spread> {
        Spread::of(self.rounds(part, row, what))
    }

    pub fn median(&self, part: &'static str, row: &str, what: &'static str) -> Option<f64> {
        Some(self.get(part, row, what)?.median)
    }

    /// Round by round: what two figures of one round came to is less noisy than either.
    pub fn rounds(&self, part: &'static str, row: &str, what: &'static str) -> &[f64] {
        self.figures.get(&(part, row.to_owned(), what)).map_or(&[], Vec::as_slice)
    }

    /// One figure over another, round by round.
    pub fn ratio(
        &self,
        above: (&'static str, &str, &'static str),
        below: (&'static str, &str, &'static str),
    ) -> Option<Spread> {
        let above = self.rounds(above.0, above.1, above.2);
        let below = self.rounds(below.0, below.1, below.2);
        let ratios: Vec<f64> = above.iter().zip(below).map(|(a, b)| a / b).collect();
        Spread::of(&ratios)
    }

    pub fn rows(&self, part: &'static str) -> impl Iterator<Item = &str> {
        let of_part = self.rows.iter().filter(move |(of, _)| *of == part);
        of_part.map(|(_, row)| row.as_str())
    }
}
