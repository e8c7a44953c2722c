//! Bytes -> events. Pure: no I/O, and the clock is an argument.
//!
//! A message is an object, an array, NDJSON or a CloudEvent; [`decode`] takes it apart and hands
//! over each event, or what was wrong with it. One bad element never takes its neighbours along.
//! The body is walked in place: a payload is a slice of the message, not a tree and not a copy.

mod cloud_event;
#[cfg(any(test, fuzzing))]
pub mod laws;
mod number;
mod reason;
mod split;
mod walk;

use bytes::Bytes;
use bytestring::ByteString;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

pub use reason::Reason;

use crate::sets::{Additions, Captured, Fault, Fields, Sets};

/// An id that is no UUID is stored as the UUIDv5 of its text in this namespace, itself the UUIDv5
/// of `rollcall:id` in the DNS namespace of RFC 9562.
pub const ID_NAMESPACE: Uuid = uuid::uuid!("d819c42b-12e1-58ad-bab1-3534b0ca1024");

/// What a message, an event or a member may measure. A breach is a dead letter with its reason.
#[derive(Clone, Debug)]
pub struct Limits {
    pub message_bytes_max: usize,
    pub message_events_max: usize,
    pub nesting_max: usize,
    pub id_bytes_max: usize,
    pub member_bytes_max: usize,
    pub event_members_max: usize,
    pub event_age_max: time::Duration,
    pub clock_skew_max: time::Duration,
}

/// One message as the broker handed it over.
pub struct Message<'a> {
    pub body: Bytes,
    pub content_type: Option<&'a str>,
    /// The `cloudEvents:` application headers, prefix taken off, values as text.
    pub cloud_event: &'a [(String, String)],
}

/// A decoded fact.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: Uuid,
    /// UTC, whole microseconds: what Postgres can hold.
    pub occurred_at: OffsetDateTime,
    /// One JSON object, as it is stored.
    pub payload: ByteString,
    /// What it adds to the sets.
    pub additions: Additions,
}

/// Why a message, or an element of one, is no event.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected {
    pub reason: Reason,
    /// For a human. Never holds a value of the event, only names of fields, sizes and positions.
    pub detail: String,
}

impl Rejected {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// What a decoder needs to know besides the message.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    pub sets: &'a Sets,
    pub limits: &'a Limits,
    pub now: OffsetDateTime,
}

/// Takes a message apart; `sink` is given each of its elements, good or bad, in order, and what it
/// is. An element is a slice of the body; the whole of it where it cannot be taken apart.
pub fn decode(
    message: &Message<'_>,
    rules: Rules<'_>,
    mut sink: impl FnMut(Bytes, Result<Event, Rejected>),
) {
    let body = &message.body;
    let max = rules.limits.message_bytes_max;
    if body.len() > max {
        let detail = format!("{} bytes, at most {max} are taken", body.len());
        return sink(body.clone(), Err(Rejected::new(Reason::TooLarge, detail)));
    }
    let format = split::Format::of(message);
    let elements = match split::elements(body, format, rules.limits.message_events_max) {
        Ok(elements) => elements,
        Err(bad) => return sink(body.clone(), Err(bad)),
    };
    for element in elements {
        let text = ByteString::try_from(element.clone())
            .map_err(|_| Rejected::new(Reason::Utf8, "not valid UTF-8"));
        let decoded = text.and_then(|text| match format {
            split::Format::Json | split::Format::Lines => plain(text, rules),
            split::Format::CloudEvent => cloud_event::structured(&text, rules),
            split::Format::CloudEventData => cloud_event::binary(&text, message.cloud_event, rules),
        });
        sink(element, decoded);
    }
}

/// The members of a payload that Postgres returned: the same walk that live ingest takes. Each set
/// by itself: a row that is no event by the rules of one set supports the members of the others.
pub fn stored_additions(payload: &str, at: OffsetDateTime, rules: Rules<'_>) -> Additions {
    let Rules { sets, limits, now } = rules;
    match walk::walk(payload, sets.fields(), limits.nesting_max) {
        Ok(fields) => sets.stored_additions(&fields, at, now, limits),
        Err(_) => Additions::default(),
    }
}

/// An event of our own shape: `id` and `occurred_at` are fields of the object.
fn plain(payload: ByteString, rules: Rules<'_>) -> Result<Event, Rejected> {
    let fields = walk::walk(&payload, rules.sets.fields(), rules.limits.nesting_max)?;
    let id = match fields[Fields::ID].text() {
        Ok(Some(id)) => parse_id(id, rules.limits)?,
        Ok(None) => return Err(Rejected::new(Reason::MissingId, "no field id")),
        Err(found) => return Err(Rejected::new(Reason::IdType, format!("id is {found}"))),
    };
    let occurred_at = match fields[Fields::OCCURRED_AT].text() {
        Ok(Some(text)) => parse_time(text, rules)?,
        Ok(None) => return Err(Rejected::new(Reason::MissingOccurredAt, "no field occurred_at")),
        Err(found) => {
            let detail = format!("occurred_at is {found}");
            return Err(Rejected::new(Reason::OccurredAtFormat, detail));
        }
    };
    let additions = additions(&fields, occurred_at, rules)?;
    drop(fields);
    Ok(Event { id, occurred_at, payload, additions })
}

/// A UUID in its usual hyphenated form is itself; any other text becomes a UUIDv5.
fn parse_id(id: &str, limits: &Limits) -> Result<Uuid, Rejected> {
    check_id_length(id, limits)?;
    match Uuid::try_parse(id) {
        // Other spellings (braces, no hyphens) are plain strings, so that the rule is one line.
        Ok(uuid) if id.len() == uuid::fmt::Hyphenated::LENGTH => Ok(uuid),
        _ => Ok(Uuid::new_v5(&ID_NAMESPACE, id.as_bytes())),
    }
}

fn check_id_length(id: &str, limits: &Limits) -> Result<(), Rejected> {
    if id.is_empty() || id.len() > limits.id_bytes_max {
        let detail = format!("id has {} bytes, 1 to {} are taken", id.len(), limits.id_bytes_max);
        return Err(Rejected::new(Reason::IdLength, detail));
    }
    Ok(())
}

/// RFC 3339 to UTC and whole microseconds, inside the accepted range.
fn parse_time(text: &str, rules: Rules<'_>) -> Result<OffsetDateTime, Rejected> {
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|at| at.checked_to_offset(time::UtcOffset::UTC))
        .ok_or_else(|| {
            Rejected::new(Reason::OccurredAtFormat, "occurred_at is no RFC 3339 time")
        })?;
    let Limits { event_age_max, clock_skew_max, .. } = *rules.limits;
    if at < rules.now.saturating_sub(event_age_max) {
        let detail = format!("more than {} days old", event_age_max.whole_days());
        return Err(Rejected::new(Reason::TooOld, detail));
    }
    if at > rules.now.saturating_add(clock_skew_max) {
        let detail = format!("more than {} s in the future", clock_skew_max.whole_seconds());
        return Err(Rejected::new(Reason::TooNew, detail));
    }
    // Cannot fail: a whole number of microseconds is below 1e9 nanoseconds.
    Ok(at.replace_nanosecond(at.nanosecond() / 1000 * 1000).unwrap_or(at))
}

fn additions(
    fields: &[Captured<'_>],
    occurred_at: OffsetDateTime,
    rules: Rules<'_>,
) -> Result<Additions, Rejected> {
    let added = rules.sets.additions(fields, occurred_at, rules.now, rules.limits);
    added.map_err(|fault| match fault {
        Fault::FieldType { path, found } => Rejected::new(
            Reason::FieldType,
            format!("field {path} is {found}: no member can be made"),
        ),
        Fault::MemberLength { set, bytes } => {
            let max = rules.limits.member_bytes_max;
            let detail = format!("set {set}: member or group of {bytes} bytes, at most {max}");
            Rejected::new(Reason::MemberLength, detail)
        }
        Fault::TooManyMembers => {
            let max = rules.limits.event_members_max;
            Rejected::new(
                Reason::TooManyMembers,
                format!("adds more than {max} members, or more than 256 KiB of them"),
            )
        }
    })
}

#[cfg(test)]
pub(crate) mod tests;
