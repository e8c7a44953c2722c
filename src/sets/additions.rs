//! Captured fields -> what one event adds to the sets.

use std::fmt::Write;

use time::OffsetDateTime;

use super::{Captured, Scalar, Set, Sets, encode};
use crate::event::Limits;

/// What one event adds. One text and one list of spans, however many sets there are: an event
/// costs two allocations here, and its members are borrowed from it until they are written.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Additions {
    text: String,
    spans: Vec<Span>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    set: u16,
    /// The key's suffix ends here and the member begins. Spans follow each other in `text`.
    suffix_end: u32,
    member_end: u32,
}

/// One member for one set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addition<'a> {
    pub set: u16,
    /// What follows `<prefix>:<name>` in the key: `[:<bucket>][:<group>]`.
    pub suffix: &'a str,
    pub member: &'a str,
}

/// Bytes of text that one event may add. Encoding triples a byte and arrays multiply: without it an
/// event of 11 KiB could fill a megabyte.
const TEXT_BYTES_MAX: usize = 256 * 1024;

/// What there was before a set's own, and does not count against its limits.
#[derive(Clone, Copy, Default)]
struct Room {
    text: usize,
    spans: usize,
}

/// Of a member with its group and bucket, as most are at most.
const MEMBER_BYTES: usize = 32;

/// Why nothing can be added: the event is dead-lettered.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// A field that a set names holds something that no member can be made of.
    FieldType { path: String, found: &'static str },
    /// An encoded member or group is longer than the limit.
    MemberLength { set: String, bytes: usize },
    /// Arrays multiply: the event would add more members, or longer ones, than the limit.
    TooManyMembers,
}

impl Additions {
    /// Room for one member of each set, of a usual length: few events need more.
    fn for_sets(sets: usize) -> Self {
        let text = String::with_capacity(sets * MEMBER_BYTES);
        Self { text, spans: Vec::with_capacity(sets) }
    }

    pub fn iter(&self) -> impl Iterator<Item = Addition<'_>> {
        let mut start = 0;
        self.spans.iter().map(move |span| {
            let (middle, end) = (span.suffix_end as usize, span.member_end as usize);
            let suffix = &self.text[start..middle];
            let member = &self.text[middle..end];
            start = end;
            Addition { set: span.set, suffix, member }
        })
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// What it holds in memory.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.spans.len() * size_of::<Span>()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

impl Sets {
    /// The keys and members of one event. `now` decides which buckets have expired already: adding
    /// to one would show readers a set with the late event alone in it.
    pub fn additions(
        &self,
        captured: &[Captured<'_>],
        occurred_at: OffsetDateTime,
        now: OffsetDateTime,
        limits: &Limits,
    ) -> Result<Additions, Fault> {
        let mut added = Additions::for_sets(self.definitions.len());
        for index in 0..self.definitions.len() {
            self.add(index, captured, occurred_at, now, limits, (&mut added, Room::default()))?;
        }
        Ok(added)
    }

    /// The same for an event that is stored: it was taken by the rules of its day, so a set that it
    /// has no member for, such as one that was defined later, takes nothing from the others. Each
    /// has the limits of an event for itself: what one gets does not hang on which others there are.
    pub fn stored_additions(
        &self,
        captured: &[Captured<'_>],
        occurred_at: OffsetDateTime,
        now: OffsetDateTime,
        limits: &Limits,
    ) -> Additions {
        let mut added = Additions::for_sets(self.definitions.len());
        for index in 0..self.definitions.len() {
            let used = Room { text: added.text.len(), spans: added.spans.len() };
            if self.add(index, captured, occurred_at, now, limits, (&mut added, used)).is_err() {
                added.text.truncate(used.text);
                added.spans.truncate(used.spans);
            }
        }
        added
    }

    fn add(
        &self,
        index: usize,
        captured: &[Captured<'_>],
        occurred_at: OffsetDateTime,
        now: OffsetDateTime,
        limits: &Limits,
        (added, used): (&mut Additions, Room),
    ) -> Result<(), Fault> {
        let set = &self.definitions[index];
        self.check_types(set, captured)?;
        if set.expires_at(occurred_at).is_some_and(|at| at <= now.unix_timestamp()) {
            return Ok(());
        }
        let member = Product::new(&set.member, captured);
        let group = Product::new(&set.group, captured);
        let adds = member.combinations.saturating_mul(group.combinations);
        if (added.spans.len() - used.spans).saturating_add(adds) > limits.event_members_max {
            return Err(Fault::TooManyMembers);
        }
        for g in 0..group.combinations {
            for m in 0..member.combinations {
                added.push(index, set, occurred_at, &group, g, &member, m, limits)?;
                if added.text.len() - used.text > TEXT_BYTES_MAX {
                    return Err(Fault::TooManyMembers);
                }
            }
        }
        Ok(())
    }

    fn check_types(&self, set: &Set, captured: &[Captured<'_>]) -> Result<(), Fault> {
        for slot in set.member.iter().chain(&set.group) {
            if let Captured::Unfit(found) = captured[*slot] {
                return Err(Fault::FieldType { path: self.fields.path(*slot).to_owned(), found });
            }
        }
        Ok(())
    }
}

impl Additions {
    #[allow(clippy::too_many_arguments)] // the two odometers and their positions
    fn push(
        &mut self,
        index: usize,
        set: &Set,
        occurred_at: OffsetDateTime,
        group: &Product<'_>,
        g: usize,
        member: &Product<'_>,
        m: usize,
        limits: &Limits,
    ) -> Result<(), Fault> {
        if let Some(window) = set.window {
            self.text.push(':');
            window.write_bucket(occurred_at, &mut self.text);
        }
        let mut group_bytes = 0;
        if !set.group.is_empty() {
            self.text.push(':');
            let start = self.text.len();
            group.write(g, &mut self.text);
            group_bytes = self.text.len() - start;
        }
        let suffix_end = self.text.len();
        member.write(m, &mut self.text);
        let member_end = self.text.len();
        let bytes = group_bytes.max(member_end - suffix_end);
        if bytes > limits.member_bytes_max {
            return Err(Fault::MemberLength { set: set.name.clone(), bytes });
        }
        // Far below 4 GiB: `TEXT_BYTES_MAX` for each set at the most.
        let (suffix_end, member_end) = (suffix_end as u32, member_end as u32);
        // At most SETS_MAX sets are parsed.
        let set = u16::try_from(index).unwrap_or(u16::MAX);
        self.spans.push(Span { set, suffix_end, member_end });
        Ok(())
    }
}

/// The product of the scalars of some fields, addressed by number: an odometer without state.
struct Product<'a> {
    slots: &'a [usize],
    captured: &'a [Captured<'a>],
    /// 0 where a field is absent; 1 for no fields at all.
    combinations: usize,
}

impl<'a> Product<'a> {
    fn new(slots: &'a [usize], captured: &'a [Captured<'a>]) -> Self {
        let factors = slots.iter().map(|slot| captured[*slot].scalars().len());
        let combinations = factors.fold(1, usize::saturating_mul);
        Self { slots, captured, combinations }
    }

    /// Appends combination `number`, components joined by `:`.
    fn write(&self, mut number: usize, out: &mut String) {
        for (position, slot) in self.slots.iter().enumerate() {
            if position > 0 {
                out.push(':');
            }
            let factor = self.captured[*slot].scalars();
            factor[number % factor.len()].write_component(out);
            number /= factor.len();
        }
    }
}

impl Scalar<'_> {
    fn write_component(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Text(text) => {
                encode(text, out);
                Ok(())
            }
            Self::Signed(number) => write!(out, "{number}"),
            Self::Unsigned(number) => write!(out, "{number}"),
            Self::Bool(flag) => write!(out, "{flag}"),
        };
    }
}
