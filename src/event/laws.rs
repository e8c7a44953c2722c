//! What must hold of the decoder for any bytes at all: one function for the fuzzer (`fuzz/`) and
//! for the test that replays what the fuzzer has found. Judged by a tree of the event, and by a
//! reading of the rules that shares no code with the walk. Never in a release.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value};
use time::macros::datetime;

use super::*;
use crate::sets::WindowTtl;

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

/// Small, so that short inputs get beyond each of them.
fn limits() -> Limits {
    Limits {
        message_bytes_max: 4096,
        message_events_max: 8,
        nesting_max: 16,
        id_bytes_max: 64,
        member_bytes_max: 48,
        event_members_max: 40,
        event_age_max: time::Duration::days(365),
        clock_skew_max: time::Duration::hours(1),
    }
}

/// Each set as its fields, its group, and how much of the time names its bucket.
type Definition = (&'static [&'static str], &'static [&'static str], usize);

const SETS: &str = "cities=state+city users=username here=username@state+city \
    daily=user.id@tags/day tags=tags+cloudevent.type/hour~";
const DEFINITIONS: [Definition; 5] = [
    (&["state", "city"], &[], 0),
    (&["username"], &[], 0),
    (&["username"], &["state", "city"], 0),
    (&["user.id"], &["tags"], "2026-11-23".len()),
    (&["tags", "cloudevent.type"], &[], "2026-11-23T10".len()),
];

fn sets() -> Sets {
    // Longer than an event may be old: no bucket has expired.
    let ttl = Duration::from_secs(400 * 86_400);
    Sets::parse("r", SETS, WindowTtl { hour: ttl, day: ttl, month: ttl }).unwrap()
}

/// A message as text: its content type, `name:value` of each `cloudEvents:` header, a blank line,
/// the body. What has no blank line is a body alone.
struct Input {
    content_type: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Input {
    fn read(input: &[u8]) -> Self {
        let blank = input.windows(2).position(|two| two == b"\n\n");
        let (head, body) = match blank {
            Some(at) => (&input[..at], &input[at + 2..]),
            None => (&[][..], input),
        };
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split('\n');
        let content_type = lines.next().unwrap_or_default().to_owned();
        let pair = |line: &str| {
            line.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let headers = lines.filter_map(pair).collect();
        Self { content_type, headers, body: Bytes::copy_from_slice(body) }
    }

    fn message(&self) -> Message<'_> {
        Message {
            body: self.body.clone(),
            content_type: Some(self.content_type.as_str()).filter(|text| !text.is_empty()),
            cloud_event: &self.headers,
        }
    }
}

type Decoded = Vec<(Bytes, Result<Event, Rejected>)>;

/// Panics where a law is broken.
pub fn hold(input: &[u8]) {
    let input = Input::read(input);
    let (sets, limits) = (sets(), limits());
    let rules = Rules { sets: &sets, limits: &limits, now: NOW };
    let message = input.message();
    let decode_once = || {
        let mut all: Decoded = Vec::new();
        decode(&message, rules, |element, decoded| all.push((element, decoded)));
        all
    };
    let decoded = decode_once();
    assert_eq!(decoded, decode_once(), "the same bytes, decoded twice");
    let format = split::Format::of(&message);
    accounted_for(&input.body, format, &decoded);
    for (element, decoded) in &decoded {
        match decoded {
            Ok(event) => {
                kept_whole(event, element, format, &input.headers);
                in_range(event, &limits);
                storable(&serde_json::from_str(&event.payload).expect("JSON"), limits.nesting_max);
                members_follow(event, rules);
            }
            Err(rejected) => justified(rejected, element, format, &input.body),
        }
    }
}

/// Each byte of the body belongs to one element, or to what stands between elements.
fn accounted_for(body: &Bytes, format: split::Format, decoded: &Decoded) {
    if let [(element, _)] = decoded.as_slice()
        && element == body
    {
        return;
    }
    let mut gaps = Vec::new();
    let mut from = 0;
    for (element, _) in decoded {
        let start = (element.as_ptr() as usize).checked_sub(body.as_ptr() as usize);
        let start = start.filter(|at| *at >= from).expect("elements in order, none of them twice");
        assert_eq!(body.slice(start..start + element.len()), element);
        gaps.push(&body[from..start]);
        from = start + element.len();
    }
    gaps.push(&body[from..]);
    let last = gaps.len() - 1;
    for (position, gap) in gaps.into_iter().enumerate() {
        match format {
            split::Format::Lines => {
                assert!(gap.iter().all(u8::is_ascii_whitespace), "{gap:?} left out");
                // Two elements have a line's end between them.
                assert!(position == 0 || position == last || gap.contains(&b'\n'));
            }
            _ => {
                let marks: &[u8] = match (position == 0, position == last) {
                    (true, true) => b"[]",
                    (true, false) => b"[",
                    (false, true) => b"]",
                    (false, false) => b",",
                };
                let found: Vec<u8> =
                    gap.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
                assert_eq!(found, marks, "left out between elements");
            }
        }
    }
}

/// The payload is the element's object, nothing lost and nothing added.
fn kept_whole(event: &Event, element: &Bytes, format: split::Format, headers: &[(String, String)]) {
    let payload: Value = serde_json::from_str(&event.payload).expect("a payload is JSON");
    let object = |text: &[u8]| -> Map<String, Value> { serde_json::from_slice(text).unwrap() };
    let (id, at) = match format {
        split::Format::Json | split::Format::Lines => {
            assert_eq!(event.payload.as_bytes(), element);
            let id = payload["id"].as_str().expect("an id is text");
            let as_uuid = Uuid::parse_str(id).ok().filter(|_| id.len() == 36);
            let id = as_uuid.unwrap_or_else(|| Uuid::new_v5(&ID_NAMESPACE, id.as_bytes()));
            (id, payload["occurred_at"].clone())
        }
        split::Format::CloudEvent | split::Format::CloudEventData => {
            let (attributes, data) = if format == split::Format::CloudEvent {
                let mut all = object(element);
                let data = all.remove("data").unwrap_or_default();
                (all, data)
            } else {
                let all = headers.iter().map(|(name, value)| (name.clone(), value.clone().into()));
                (all.collect(), serde_json::from_slice(element).unwrap_or_default())
            };
            let (source, id) = (attributes["source"].as_str(), attributes["id"].as_str());
            let (source, id) = (source.expect("text"), id.expect("text"));
            let name = format!("{}:{source}{id}", source.len());
            let at = attributes["time"].clone();
            let mut whole = data.as_object().cloned().unwrap_or_default();
            assert_eq!(whole.insert("cloudevent".to_owned(), attributes.into()), None);
            assert_eq!(payload, Value::from(whole));
            (Uuid::new_v5(&cloud_event::NAMESPACE, name.as_bytes()), at)
        }
    };
    assert_eq!(event.id, id);
    let at = OffsetDateTime::parse(at.as_str().expect("a time is text"), &Rfc3339).unwrap();
    let lost = at - event.occurred_at;
    assert!(lost >= time::Duration::ZERO && lost < time::Duration::MICROSECOND, "{lost} lost");
}

fn in_range(event: &Event, limits: &Limits) {
    let at = event.occurred_at;
    assert!(at.offset().is_utc() && at.nanosecond().is_multiple_of(1000));
    // What was cut off may have stood on the other side of the limit.
    assert!(at + time::Duration::MICROSECOND > NOW - limits.event_age_max);
    assert!(at <= NOW + limits.clock_skew_max);
}

/// Nothing that jsonb refuses, and nothing deeper than the limit.
fn storable(value: &Value, depth_left: usize) {
    assert!(depth_left > 0 || !(value.is_array() || value.is_object()), "too deep");
    match value {
        Value::String(text) => assert!(!text.contains('\0'), "U+0000"),
        Value::Array(all) => all.iter().for_each(|one| storable(one, depth_left - 1)),
        Value::Object(all) => all.iter().for_each(|(name, one)| {
            assert!(!name.contains('\0'), "U+0000");
            storable(one, depth_left - 1);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The members are what a tree of the event says, what a rebuild from jsonb says, and clean.
fn members_follow(event: &Event, rules: Rules<'_>) {
    let payload: Value = serde_json::from_str(&event.payload).expect("a payload is JSON");
    let found: BTreeSet<(u16, String, String)> = event
        .additions
        .iter()
        .map(|add| (add.set, add.suffix.to_owned(), add.member.to_owned()))
        .collect();
    assert_eq!(found, expected(&payload, event.occurred_at).expect("every field is fit"));

    let again = stored_additions(&event.payload, event.occurred_at, rules);
    assert_eq!(again, event.additions, "decoded again from the payload");
    // As jsonb keeps it: of duplicate keys the last, in an order of its own, escapes resolved.
    let again = stored_additions(&payload.to_string(), event.occurred_at, rules);
    assert_eq!(again, event.additions, "decoded again from jsonb");

    let Limits { member_bytes_max, event_members_max, .. } = *rules.limits;
    assert!(event.additions.len() <= event_members_max);
    for (set, suffix, member) in &found {
        let (fields, group, bucket) = DEFINITIONS[usize::from(*set)];
        assert!(member.len() <= member_bytes_max);
        assert_eq!(member.matches(':').count(), fields.len() - 1);
        assert_eq!(suffix.matches(':').count(), group.len() + usize::from(bucket > 0));
        let clean = |b: u8| !matches!(b, b'{' | b'}' | 0..=0x1f | 0x7f);
        assert!(suffix.bytes().chain(member.bytes()).all(clean), "{suffix:?} {member:?}");
    }
}

/// What the rules say; `None` where a field is unfit.
fn expected(payload: &Value, at: OffsetDateTime) -> Option<BTreeSet<(u16, String, String)>> {
    let time = at.format(&Rfc3339).expect("a year of four digits");
    let mut all = BTreeSet::new();
    for (set, (fields, group, bucket)) in (0..).zip(DEFINITIONS) {
        let (members, groups) = (product(payload, fields)?, product(payload, group)?);
        for (member, group) in members.iter().flat_map(|m| groups.iter().map(move |g| (m, g))) {
            let bucket = Some(&time[..bucket]).filter(|bucket| !bucket.is_empty());
            let group =
                Some(group.as_str()).filter(|_| !DEFINITIONS[usize::from(set)].1.is_empty());
            let suffix =
                bucket.into_iter().chain(group).fold(String::new(), |all, one| all + ":" + one);
            all.insert((set, suffix, member.clone()));
        }
    }
    Some(all)
}

fn product(payload: &Value, paths: &[&str]) -> Option<Vec<String>> {
    let mut all = vec![String::new()];
    for (position, path) in paths.iter().enumerate() {
        let joint = if position > 0 { ":" } else { "" };
        let values = values(payload, path)?;
        all = all
            .iter()
            .flat_map(|left| values.iter().map(move |right| [left, joint, right].concat()))
            .collect();
    }
    Some(all)
}

fn values(payload: &Value, path: &str) -> Option<Vec<String>> {
    let found = path.split('.').try_fold(payload, |at, name| at.as_object()?.get(name));
    let scalar = |value: &Value| match value {
        Value::Null => Some(None),
        Value::Bool(flag) => Some(Some(flag.to_string())),
        Value::Number(n) if n.is_i64() || n.is_u64() => Some(Some(n.to_string())),
        Value::String(text) => Some(Some(percent(text))),
        _ => None,
    };
    let all: Option<Vec<_>> = match found.unwrap_or(&Value::Null) {
        Value::Array(all) => all.iter().map(scalar).collect(),
        one => [one].into_iter().map(scalar).collect(),
    };
    Some(all?.into_iter().flatten().collect())
}

fn percent(text: &str) -> String {
    let one = |c: char| match c {
        '%' | ':' | '{' | '}' | '\0'..='\x1f' | '\x7f' => format!("%{:02X}", u32::from(c)),
        other => other.to_string(),
    };
    text.chars().map(one).collect()
}

/// Nothing good is refused: each reason is seen in the element by other means.
fn justified(rejected: &Rejected, element: &Bytes, format: split::Format, body: &Bytes) {
    use split::Format::{CloudEvent, CloudEventData, Json, Lines};
    let Rejected { reason, detail } = rejected;
    assert!(!detail.is_empty() && detail.len() <= 200, "{detail}");
    let text = String::from_utf8_lossy(element);
    let tree: Result<Value, _> = serde_json::from_slice(element);
    let count = |marks: &[u8]| element.iter().filter(|b| marks.contains(b)).count();
    let limits = limits();
    let of_tree = |check: &dyn Fn(&Value) -> bool| tree.as_ref().is_ok_and(check);
    let field = |name: &str, check: &dyn Fn(&Value) -> bool| of_tree(&|tree| check(&tree[name]));
    let plain = matches!(format, Json | Lines);
    let is = match reason {
        Reason::Json => tree.is_err(),
        Reason::Utf8 => std::str::from_utf8(element).is_err(),
        Reason::TooLarge => body.len() > limits.message_bytes_max,
        Reason::TooManyEvents => count(b",\n") >= limits.message_events_max,
        Reason::Nesting => count(b"[{") >= limits.nesting_max,
        Reason::NotAnObject => {
            element.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| *b != b'{')
        }
        Reason::NulCharacter => text.contains("\\u0000") || format == CloudEventData,
        Reason::LoneSurrogate => tree.is_err() && text.to_lowercase().contains("\\ud"),
        Reason::NumberRange => {
            let long = text.contains(['e', 'E']) || text.len() > 16_383;
            count(b"0123456789") > 0 && (tree.is_err() || long)
        }
        Reason::MissingId => !plain || field("id", &Value::is_null),
        Reason::IdType => plain && field("id", &|id| !id.is_null() && !id.is_string()),
        Reason::IdLength => {
            let bad = |id: &Value| id.as_str().is_some_and(|id| id.is_empty() || id.len() > 64);
            !plain || field("id", &bad)
        }
        Reason::MissingOccurredAt => !plain || field("occurred_at", &Value::is_null),
        Reason::OccurredAtFormat | Reason::TooOld | Reason::TooNew => {
            !plain || field("occurred_at", &|at| !at.is_null() && !taken(at))
        }
        Reason::FieldType => !plain || of_tree(&|tree| expected(tree, NOW).is_none()),
        Reason::MemberLength => text.len() > limits.member_bytes_max / 3,
        Reason::TooManyMembers => count(b",") > 2,
        Reason::CloudEvent => matches!(format, CloudEvent | CloudEventData),
        Reason::IdConflict | Reason::StoreRefused => false,
    };
    assert!(is, "{reason} ({detail}) is not what is wrong with {text:?}");
}

/// Whether a time is one, and inside the accepted range.
fn taken(at: &Value) -> bool {
    let at = at.as_str().and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
    let Limits { event_age_max, clock_skew_max, .. } = limits();
    let Some(at) = at.and_then(|at| at.checked_to_offset(time::UtcOffset::UTC)) else {
        return false;
    };
    at >= NOW - event_age_max && at <= NOW + clock_skew_max
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_decoder_keeps_its_laws_on_all_that_the_fuzzer_has_found() {
        crate::sets::laws::replay("decode", super::hold);
    }
}
