//! What a retired member was made from, read back: `member[@group][/window]`. Pure.
//!
//! A source outlives the set that it was written for, so it is read without the configuration.

use super::encode;

/// The parts of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source<'a> {
    pub member: Vec<&'a str>,
    pub group: Vec<&'a str>,
    pub windowed: bool,
}

/// Where a field's value stands: a component of the member or of the suffix, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Member(i32),
    Suffix(i32),
}

impl<'a> Source<'a> {
    pub fn read(text: &'a str) -> Source<'a> {
        let (text, windowed) = match text.split_once('/') {
            Some((text, _)) => (text, true),
            None => (text, false),
        };
        let (member, group) = text.split_once('@').unwrap_or((text, ""));
        let fields = |text: &'a str| text.split('+').filter(|field| !field.is_empty()).collect();
        Source { member: fields(member), group: fields(group), windowed }
    }

    /// All places of a field; none where it is not among the fields.
    pub fn places(&self, field: &str) -> Vec<Place> {
        // The suffix begins with a colon, so its first component is empty; then comes the bucket.
        let skipped = 1 + usize::from(self.windowed);
        let number = |at: usize| i32::try_from(at + 1).unwrap_or(i32::MAX);
        let in_member = |(at, name): (usize, &&str)| (*name == field).then(|| number(at));
        let member = self.member.iter().enumerate().filter_map(in_member).map(Place::Member);
        let group = self.group.iter().enumerate().filter_map(in_member);
        let group = group.map(|at| Place::Suffix(at + skipped as i32));
        member.chain(group).collect()
    }

    /// The values of the fields, those of the group first: what the member was made of.
    pub fn values(&self, suffix: &str, member: &str) -> Vec<String> {
        let skipped = 1 + usize::from(self.windowed);
        let group = suffix.split(':').skip(skipped).take(self.group.len());
        group.chain(member.split(':')).map(encode::decode).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_wherever_it_stands() {
        let source = Source::read("user.id+state@state+city/day");
        assert_eq!(source.member, ["user.id", "state"]);
        assert_eq!(source.group, ["state", "city"]);
        assert!(source.windowed);
        assert_eq!(source.places("state"), [Place::Member(2), Place::Suffix(3)]);
        assert_eq!(source.places("user"), []);
        let values = source.values(":2026-11-23:C%3AA:Fresno", "7:C%3AA");
        assert_eq!(values, ["C:A", "Fresno", "7", "C:A"]);
        let plain = Source::read("username");
        assert_eq!(plain.places("username"), [Place::Member(1)]);
        assert_eq!(plain.values("", "a%3Ab"), ["a:b"]);
        assert_eq!(Source::read("username@city").places("city"), [Place::Suffix(2)]);
    }
}
