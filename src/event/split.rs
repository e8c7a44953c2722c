//! A message -> the elements in it, each a slice of its body.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Message, Reason, Rejected};

/// How a message carries its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// One object, or an array of them.
    Json,
    /// NDJSON: one object a line.
    Lines,
    /// CloudEvents in structured mode: one object, or (batched) an array of them.
    CloudEvent,
    /// CloudEvents in binary mode: the attributes are headers, the body is the data.
    CloudEventData,
}

impl Format {
    /// By content type, then by `cloudEvents:` headers. What says nothing is JSON.
    pub(super) fn of(message: &Message<'_>) -> Self {
        let content_type = message.content_type.unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        if is("application/cloudevents+json") || is("application/cloudevents-batch+json") {
            return Self::CloudEvent;
        }
        if !message.cloud_event.is_empty() {
            return Self::CloudEventData;
        }
        if is("application/x-ndjson") || is("application/ndjson") {
            return Self::Lines;
        }
        Self::Json
    }
}

/// The elements in order. Fails only where the message cannot be taken apart at all.
pub(super) fn elements(
    body: &Bytes,
    format: Format,
    events_max: usize,
) -> Result<Vec<Bytes>, Rejected> {
    let elements = match format {
        Format::Lines => lines(body, events_max),
        Format::CloudEventData => return Ok(vec![body.clone()]),
        Format::Json | Format::CloudEvent => {
            if first_byte(body) != Some(b'[') {
                return Ok(vec![body.clone()]);
            }
            array(body, events_max)?
        }
    };
    if elements.len() > events_max {
        let detail = format!("more than {events_max} events in one message");
        return Err(Rejected::new(Reason::TooManyEvents, detail));
    }
    Ok(elements)
}

fn first_byte(body: &[u8]) -> Option<u8> {
    body.iter().copied().find(|b| !b.is_ascii_whitespace())
}

/// Lines that are not blank, one more than `events_max` at most. A body of nothing but blank
/// lines is one bad element: what was published must be somewhere.
fn lines(body: &Bytes, events_max: usize) -> Vec<Bytes> {
    let filled = body.split(|b| *b == b'\n').filter(|line| first_byte(line).is_some());
    let elements: Vec<Bytes> =
        filled.take(events_max.saturating_add(1)).map(|line| body.slice_ref(line)).collect();
    if elements.is_empty() { vec![body.clone()] } else { elements }
}

/// The elements of a JSON array. Only the array's own syntax is judged here: what is inside an
/// element (nesting, numbers, surrogates, UTF-8) is that element's affair.
fn array(body: &Bytes, events_max: usize) -> Result<Vec<Bytes>, Rejected> {
    // Invalid UTF-8 can sit only inside strings, or the syntax fails anyway. Replaced byte for
    // byte it leaves every other element where it is, so one bad string costs one element.
    let spans = match std::str::from_utf8(body) {
        Ok(text) => element_spans(text, events_max)?,
        Err(_) => element_spans(&ascii_copy(body), events_max)?,
    };
    Ok(spans.into_iter().map(|span| body.slice(span)).collect())
}

/// The same length, every byte that is not ASCII replaced.
fn ascii_copy(body: &[u8]) -> String {
    body.iter().map(|b| if b.is_ascii() { char::from(*b) } else { '?' }).collect()
}

fn element_spans(text: &str, events_max: usize) -> Result<Vec<Range<usize>>, Rejected> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let elements = deserializer.deserialize_seq(Elements { events_max }).and_then(|elements| {
        deserializer.end()?;
        Ok(elements)
    });
    let elements =
        elements.map_err(|error| Rejected::new(Reason::Json, format!("array: {error}")))?;
    let base = text.as_ptr() as usize;
    let span = |raw: &RawValue| {
        let start = raw.get().as_ptr() as usize - base;
        start..start + raw.get().len()
    };
    Ok(elements.into_iter().map(span).collect())
}

/// Collects one more than `events_max` at most, and skims the rest.
struct Elements {
    events_max: usize,
}

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while elements.len() <= self.events_max {
            match seq.next_element::<&RawValue>()? {
                Some(element) => elements.push(element),
                None => return Ok(elements),
            }
        }
        while seq.next_element::<de::IgnoredAny>()?.is_some() {}
        Ok(elements)
    }
}
