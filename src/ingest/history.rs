//! Whether Postgres is the one that the sets go with. One that was restored, failed over or made anew
//! may lack what Redis has, and its txids say nothing of what was noted.
//!
//! Postgres has the history that the sets were made from, the watermark has the table that was last
//! seen beside it and how far its txids were: what is put back from a copy of its files or from a
//! dump knows its old history, and not that. Never judges by a mark from before what it is compared
//! with, nor writes over what it was seen by before the note is committed.

use super::guard;
use super::servers::Real;
use super::session::SessionError;
use crate::projection::{POSTGRES, Sighting};
use crate::store::marks::Mark;
use crate::store::{Link, Standing, marks};

/// Notes it where Postgres is another, and says in the watermark which one is there now.
pub async fn look(
    real: &Real,
    link: &mut Link,
    standing: &Standing,
    mark: &Mark,
    sight: &Sighting,
) -> Result<(), SessionError> {
    let mut now = mark.clone();
    let mut other = other_history(standing, mark, sight);
    if let Some(then) = sight.watermark.get(POSTGRES).and_then(|text| Seen::parse(text))
        && then.contradicts(&now).is_some()
    {
        // Unless another worker saw the same one since that mark was taken.
        now = marks::mark(link).await?;
        other = other.or(then.contradicts(&now));
    }
    if let Some(reason) = other.filter(|_| !standing.rebuild) {
        marks::note_rebuild(link, &real.prefix, reason).await?;
        tracing::warn!(
            reason,
            then = ?standing.history,
            now = ?now.history,
            "postgres is not the one that the sets were made from: they are made anew"
        );
        guard::stale(real).await?;
    }
    let seen = (POSTGRES.to_owned(), Seen::of(&now).to_text());
    real.projection.register(&[seen]).await?;
    Ok(())
}

fn other_history(standing: &Standing, mark: &Mark, sight: &Sighting) -> Option<&'static str> {
    match standing.history {
        // Whoever begins a generation has said before which history it is of.
        None => sight.meta.generation.as_ref().map(|_| "sets that this postgres does not know"),
        Some(then) => (then != mark.history).then_some("another history of postgres"),
    }
}

/// What a look saw of Postgres.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    table: String,
    /// Each txid below it had been given out.
    xmin: i64,
}

impl Seen {
    fn of(mark: &Mark) -> Seen {
        Seen { table: mark.table.clone(), xmin: mark.xmin }
    }

    fn to_text(&self) -> String {
        format!("{} {}", self.table, self.xmin)
    }

    fn parse(text: &str) -> Option<Seen> {
        let (table, xmin) = text.split_once(' ')?;
        Some(Seen { table: table.to_owned(), xmin: xmin.parse().ok()? })
    }

    /// Why what is there now cannot be what was seen, where it cannot.
    fn contradicts(&self, now: &Mark) -> Option<&'static str> {
        if self.table != now.table {
            return Some("another table of events");
        }
        (self.xmin > now.xmax).then_some("postgres went back")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::History;

    fn mark(table: &str, xmin: i64, xmax: i64) -> Mark {
        let history = History { system_identifier: 7, timeline: 1 };
        Mark { xmin, xmax, lsn: "0/1".to_owned(), history, table: table.to_owned() }
    }

    #[test]
    fn what_was_seen_reads_back_as_written() {
        let seen = Seen::of(&mark("5.16", 900, 950));
        assert_eq!(Seen::parse(&seen.to_text()), Some(seen));
        for odd in ["", "5.16", "5.16 ", "5.16 x", "5.16 9 9"] {
            assert_eq!(Seen::parse(odd), None, "{odd:?} is nobody's word");
        }
    }

    #[test]
    fn another_table_and_a_time_gone_by_cannot_be_what_was_seen() {
        let seen = Seen::of(&mark("5.16", 900, 950));
        assert_eq!(seen.contradicts(&mark("5.16", 900, 900)), None, "nothing was written since");
        assert_eq!(seen.contradicts(&mark("5.16", 800, 920)), None, "one that is long under way");
        assert_eq!(seen.contradicts(&mark("5.16", 800, 899)), Some("postgres went back"));
        assert_eq!(seen.contradicts(&mark("5.17", 990, 999)), Some("another table of events"));
        assert_eq!(seen.contradicts(&mark("6.16", 990, 999)), Some("another table of events"));
    }
}
