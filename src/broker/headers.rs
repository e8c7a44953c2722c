//! Application headers: reading the few that matter, and as text. Pure.
//!
//! Never converts a header that nobody asked for: most messages have none.

use lapin::protocol::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::telemetry::{TRACEPARENT, TraceParent};

/// The AMQP binding of CloudEvents allows both, as some clients cannot send a colon.
const CLOUD_EVENT_PREFIXES: [&str; 2] = ["cloudEvents:", "cloudEvents_"];

pub(super) fn table(properties: &BasicProperties) -> Option<&FieldTable> {
    properties.headers().as_ref()
}

pub(super) fn find<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    table(properties)?.inner().get(name)
}

pub(super) fn find_text(properties: &BasicProperties, name: &str) -> Option<String> {
    text(find(properties, name)?)
}

/// The CloudEvents attributes, prefix taken off. Values that have no text form are left out.
pub(super) fn cloud_event(properties: &BasicProperties) -> Vec<(String, String)> {
    let Some(table) = table(properties) else {
        return Vec::new();
    };
    let attribute = |name: &str| {
        let mut prefixes = CLOUD_EVENT_PREFIXES.iter();
        prefixes.find_map(|prefix| name.strip_prefix(prefix).map(str::to_owned))
    };
    let headers = table.inner().iter();
    headers.filter_map(|(name, value)| Some((attribute(name.as_str())?, text(value)?))).collect()
}

/// How often a quorum queue has handed this message out before. Absent the first time.
pub(super) fn delivery_count(properties: &BasicProperties) -> u64 {
    let count = find(properties, "x-delivery-count").and_then(integer);
    count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// Of text alone; anything else under that name is the producer's own business.
pub(super) fn trace_parent(properties: &BasicProperties) -> Option<TraceParent> {
    match find(properties, TRACEPARENT)? {
        AMQPValue::LongString(text) => TraceParent::parse(text.as_bytes()),
        AMQPValue::ShortString(text) => TraceParent::parse(text.as_str().as_bytes()),
        _ => None,
    }
}

pub(super) fn integer(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::ShortShortInt(n) => i64::from(*n),
        AMQPValue::ShortShortUInt(n) => i64::from(*n),
        AMQPValue::ShortInt(n) => i64::from(*n),
        AMQPValue::ShortUInt(n) => i64::from(*n),
        AMQPValue::LongInt(n) => i64::from(*n),
        AMQPValue::LongUInt(n) => i64::from(*n),
        AMQPValue::LongLongInt(n) => *n,
        _ => return None,
    })
}

/// Text, integers, booleans and timestamps (as RFC 3339, UTC); nothing else, and no invalid UTF-8.
pub(super) fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(s) => std::str::from_utf8(s.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(s) => Some(s.as_str().to_owned()),
        AMQPValue::Boolean(b) => Some(b.to_string()),
        AMQPValue::Timestamp(seconds) => {
            let seconds = i64::try_from(*seconds).ok()?;
            rfc3339(OffsetDateTime::from_unix_timestamp(seconds).ok()?)
        }
        other => integer(other).map(|n| n.to_string()),
    }
}

/// None for a year that RFC 3339 cannot write.
pub(super) fn rfc3339(at: OffsetDateTime) -> Option<String> {
    at.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(headers: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default().with_headers(table)
    }

    #[test]
    fn cloud_event_attributes_lose_their_prefix_and_become_text() {
        let properties = properties(&[
            ("cloudEvents:id", AMQPValue::LongString("a1".into())),
            ("cloudEvents_source", AMQPValue::ShortString("/s".into())),
            ("cloudEvents:time", AMQPValue::Timestamp(1_700_000_000)),
            ("cloudEvents:seq", AMQPValue::LongUInt(7)),
            ("cloudEvents:flag", AMQPValue::Boolean(true)),
            ("cloudEvents:blob", AMQPValue::Double(1.5)),
            ("cloudEvents:bad", AMQPValue::LongString(vec![0xff].into())),
            ("cloudevents:id", AMQPValue::LongString("other case".into())),
            ("traceparent", AMQPValue::LongString("00".into())),
        ]);
        let mut found = cloud_event(&properties);
        found.sort();
        let expected = [
            ("flag", "true"),
            ("id", "a1"),
            ("seq", "7"),
            ("source", "/s"),
            ("time", "2023-11-14T22:13:20Z"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_delivery_count_is_read_from_any_integer_and_is_zero_without() {
        let count = |value| delivery_count(&properties(&[("x-delivery-count", value)]));
        assert_eq!(count(AMQPValue::LongLongInt(3)), 3);
        assert_eq!(count(AMQPValue::LongUInt(2)), 2);
        assert_eq!(count(AMQPValue::LongInt(-1)), 0);
        assert_eq!(delivery_count(&BasicProperties::default()), 0);
    }
}
