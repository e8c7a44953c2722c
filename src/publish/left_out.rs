//! The rows or lines that hold nothing to publish: counted, and the first few of them named. It
//! must never grow with their number.

/// So many are named: enough to look at, and to see what they have in common.
const NAMED_MAX: usize = 10;

pub struct LeftOut {
    /// What they are, as in "rows of the query".
    what: String,
    count: u64,
    /// Their numbers, from 1, and what is wrong with each.
    first: Vec<(u64, &'static str)>,
}

impl LeftOut {
    pub fn new(what: impl Into<String>) -> LeftOut {
        LeftOut { what: what.into(), count: 0, first: Vec::new() }
    }

    pub fn add(&mut self, number: u64, why: &'static str) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push((number, why));
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// For a person; `None` where nothing was.
    pub fn told(&self) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let mut named = String::new();
        for run in self.first.chunk_by(|one, next| one.1 == next.1) {
            let numbers: Vec<String> = run.iter().map(|(number, _)| number.to_string()).collect();
            let comma = if named.is_empty() { "" } else { ", " };
            named += &format!("{comma}{} ({})", numbers.join(", "), run[0].1);
        }
        let first = if self.count > NAMED_MAX as u64 { "the first: " } else { "" };
        Some(format!("left out of the {}: {}; {first}{named}", self.what, self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_named_with_what_is_wrong_and_the_rest_counted() {
        let mut left_out = LeftOut::new("rows of the query");
        assert_eq!(left_out.told(), None);
        left_out.add(3, "null");
        left_out.add(5, "null");
        left_out.add(8, "too large");
        let told = left_out.told().unwrap();
        assert_eq!(told, "left out of the rows of the query: 3; 3, 5 (null), 8 (too large)");
        (9..=100).for_each(|number| left_out.add(number, "null"));
        let told = left_out.told().unwrap();
        assert_eq!(
            told,
            "left out of the rows of the query: 95; the first: 3, 5 (null), 8 (too large), \
             9, 10, 11, 12, 13, 14, 15 (null)"
        );
        assert_eq!(left_out.first.len(), NAMED_MAX);
    }
}
