//! What a dead letter looks like on the wire, there and back again. Pure.
//!
//! Never lets a header of the original message steer, expire or forge the letter, and never loses
//! one: where a name is ours, the original's value travels beside it and comes back on replay. But
//! for the largest of headers that fill a whole frame: a letter that cannot be sent helps nobody.

use bytes::Bytes;
use lapin::protocol::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::dead_letter::DeadLetter;
use super::headers::{delivery_count, find, find_text, rfc3339, text};

const DETAIL_CHARS_MAX: usize = 500;

/// 2 is persistent.
const PERSISTENT: u8 = 2;

/// Namespace of letter ids, drawn at random once.
const LETTER_ID_SPACE: Uuid = Uuid::from_u128(0x5f1c_2f6e_0b53_4d0a_9c55_7a1d_6e0f_84b7);

const REASON: &str = "reason";
const DETAIL: &str = "detail";
const STAGE: &str = "stage";
const SQLSTATE: &str = "sqlstate";
const FIRST_SEEN: &str = "first_seen";
const DELIVERY_COUNT: &str = "delivery_count";
const ORIGINAL_EXCHANGE: &str = "original_exchange";
const ORIGINAL_ROUTING_KEY: &str = "original_routing_key";
const DROPPED_HEADERS: &str = "dropped_headers";

/// Bytes of a frame that the original's headers may not fill: ours, of which the detail and the names
/// of those that are left out are the longest, and ten properties of 256 bytes.
const FRAME_RESERVED: usize = 8 * 1024;
/// Of the names of those that are left out.
const DROPPED_BYTES_MAX: usize = 1024;

/// The headers a letter adds.
const OURS: [&str; 9] = [
    REASON,
    DETAIL,
    STAGE,
    SQLSTATE,
    FIRST_SEEN,
    DELIVERY_COUNT,
    ORIGINAL_EXCHANGE,
    ORIGINAL_ROUTING_KEY,
    DROPPED_HEADERS,
];

/// Where an original header of such a name is kept meanwhile.
const KEPT_PREFIX: &str = "original_header:";

/// The broker routes a copy to each key listed in these, whatever the exchange.
const STEERING: [&str; 2] = ["CC", "BCC"];

/// The broker's own bookkeeping about one stay in one queue.
fn is_bookkeeping(name: &str) -> bool {
    matches!(name, "x-death" | "x-delivery-count" | "x-acquired-count")
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

/// A dead letter as an operator sees it.
#[derive(Clone, Debug)]
pub struct Letter {
    /// UUIDv5 of reason, first sight and body: the same each time the queue is looked at.
    pub id: Uuid,
    pub reason: String,
    pub detail: String,
    /// `decode`, `store`, or `broker` for what the broker itself gave up on.
    pub stage: String,
    pub sqlstate: Option<String>,
    pub first_seen: Option<OffsetDateTime>,
    pub delivery_count: u64,
    /// None when nothing says where it came from.
    pub original_exchange: Option<String>,
    pub original_routing_key: String,
    pub content_type: Option<String>,
    pub body: Bytes,
}

/// Which letters are meant. An empty list means any.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub reasons: Vec<String>,
    pub ids: Vec<Uuid>,
    /// Lower-case hexadecimal digits, without hyphens, that the id begins with.
    pub id_prefix: String,
}

impl Filter {
    pub fn matches(&self, letter: &Letter) -> bool {
        (self.reasons.is_empty() || self.reasons.contains(&letter.reason))
            && (self.ids.is_empty() || self.ids.contains(&letter.id))
            && (self.id_prefix.is_empty()
                || letter.id.simple().to_string().starts_with(&self.id_prefix))
    }
}

/// The properties of a letter about `letter.incoming`, which all go into one frame.
pub(super) fn properties_of(letter: &DeadLetter<'_>, frame_max: usize) -> BasicProperties {
    let original = &letter.incoming.properties.0;
    let mut headers = FieldTable::default();
    let (kept, dropped) = that_fit(original, frame_max.saturating_sub(FRAME_RESERVED));
    for (name, value) in kept {
        let ours = OURS.contains(&name) || STEERING.contains(&name);
        let name = match ours {
            true => format!("{KEPT_PREFIX}{name}"),
            false => name.to_owned(),
        };
        insert(&mut headers, &name, value.clone());
    }
    if !dropped.is_empty() {
        let mut names = dropped.join(" ");
        names.truncate(names.floor_char_boundary(DROPPED_BYTES_MAX));
        insert(&mut headers, DROPPED_HEADERS, string(&names));
    }
    let detail: String = letter.detail.chars().take(DETAIL_CHARS_MAX).collect();
    let incoming = letter.incoming;
    insert(&mut headers, REASON, string(letter.reason));
    insert(&mut headers, DETAIL, string(&detail));
    insert(&mut headers, STAGE, string(letter.stage));
    if let Some(sqlstate) = letter.sqlstate {
        insert(&mut headers, SQLSTATE, string(sqlstate));
    }
    if let Some(first_seen) = rfc3339(letter.first_seen) {
        insert(&mut headers, FIRST_SEEN, string(&first_seen));
    }
    let count = i64::try_from(incoming.delivery_count).unwrap_or(i64::MAX);
    insert(&mut headers, DELIVERY_COUNT, AMQPValue::LongLongInt(count));
    insert(&mut headers, ORIGINAL_EXCHANGE, string(&incoming.exchange));
    insert(&mut headers, ORIGINAL_ROUTING_KEY, string(&incoming.routing_key));
    carried_over(original, headers)
}

type Header<'a> = (&'a str, &'a AMQPValue);

/// The producer's headers, without the largest where all of them do not fit; and their names.
fn that_fit(original: &BasicProperties, room: usize) -> (Vec<Header<'_>>, Vec<&str>) {
    let all = original.headers().iter().flatten().map(|(name, value)| (name.as_str(), value));
    let mut kept: Vec<Header<'_>> = all.filter(|(name, _)| !is_bookkeeping(name)).collect();
    // A name of ours grows by the prefix.
    let size =
        |(name, value): &Header<'_>| 2 + KEPT_PREFIX.len() + name.len() + size_of_value(value);
    let mut total: usize = kept.iter().map(size).sum();
    let mut dropped = Vec::new();
    while total > room
        && let Some(largest) = (0..kept.len()).max_by_key(|at| size(&kept[*at]))
    {
        let header = kept.remove(largest);
        total -= size(&header);
        dropped.push(header.0);
    }
    (kept, dropped)
}

/// On the wire, in bytes, its type not included.
fn size_of_value(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldArray(values) => {
            4 + values.as_slice().iter().map(|value| 1 + size_of_value(value)).sum::<usize>()
        }
        AMQPValue::FieldTable(table) => {
            let size =
                |(name, value): (&ShortString, _)| 2 + name.as_str().len() + size_of_value(value);
            4 + table.inner().iter().map(size).sum::<usize>()
        }
        // Numbers, a decimal of five bytes, a timestamp of eight.
        _ => 8,
    }
}

/// The properties with which a letter is published again: as the original had them.
pub(super) fn properties_for_replay(letter: &BasicProperties) -> BasicProperties {
    let condemned_by_us = find(letter, REASON).is_some();
    let mut headers = FieldTable::default();
    for (name, value) in letter.headers().iter().flatten() {
        let name = name.as_str();
        let kept = name.strip_prefix(KEPT_PREFIX).filter(|_| condemned_by_us);
        let ours = condemned_by_us && OURS.contains(&name);
        let name = kept.unwrap_or(name);
        // A replay is for our own queue: the copies that CC asked for went out the first time.
        if is_bookkeeping(name) || STEERING.contains(&name) || (ours && kept.is_none()) {
            continue;
        }
        insert(&mut headers, name, value.clone());
    }
    carried_over(letter, headers)
}

/// Everything but the headers, persistent now, without what would end the letter early (an expiry)
/// or close the channel (a user id that is not ours).
fn carried_over(from: &BasicProperties, headers: FieldTable) -> BasicProperties {
    let mut to = BasicProperties::default().with_headers(headers).with_delivery_mode(PERSISTENT);
    if let Some(value) = from.content_type() {
        to = to.with_content_type(value.clone());
    }
    if let Some(value) = from.content_encoding() {
        to = to.with_content_encoding(value.clone());
    }
    if let Some(value) = from.priority() {
        to = to.with_priority(*value);
    }
    if let Some(value) = from.correlation_id() {
        to = to.with_correlation_id(value.clone());
    }
    if let Some(value) = from.reply_to() {
        // `amq.rabbitmq.reply-to` makes the broker look for a consumer of ours, and fail.
        if !value.as_str().starts_with("amq.rabbitmq.reply-to") {
            to = to.with_reply_to(value.clone());
        }
    }
    if let Some(value) = from.message_id() {
        to = to.with_message_id(value.clone());
    }
    if let Some(value) = from.timestamp() {
        to = to.with_timestamp(*value);
    }
    if let Some(value) = from.kind() {
        to = to.with_type(value.clone());
    }
    if let Some(value) = from.app_id() {
        to = to.with_app_id(value.clone());
    }
    to
}

/// Reads a letter, whether we condemned it or the broker did.
pub(super) fn read(properties: &BasicProperties, body: Bytes) -> Letter {
    let content_type = properties.content_type().as_ref();
    let content_type = content_type.map(|text| text.as_str().to_owned());
    let ours = |name| find_text(properties, name);
    let mut letter = match ours(REASON) {
        Some(reason) => Letter {
            id: Uuid::nil(),
            reason,
            detail: ours(DETAIL).unwrap_or_default(),
            stage: ours(STAGE).unwrap_or_default(),
            sqlstate: ours(SQLSTATE),
            first_seen: ours(FIRST_SEEN).and_then(|at| OffsetDateTime::parse(&at, &Rfc3339).ok()),
            delivery_count: ours(DELIVERY_COUNT).and_then(|n| n.parse().ok()).unwrap_or(0),
            original_exchange: ours(ORIGINAL_EXCHANGE),
            original_routing_key: ours(ORIGINAL_ROUTING_KEY).unwrap_or_default(),
            content_type,
            body,
        },
        None => read_broker_letter(properties, content_type, body),
    };
    letter.id = letter_id(&letter);
    letter
}

/// A letter without our headers: the broker's `x-death`, or somebody's own publish.
fn read_broker_letter(
    properties: &BasicProperties,
    content_type: Option<String>,
    body: Bytes,
) -> Letter {
    // The newest death comes first; the last entry is the queue that the producer reached.
    let death = match find(properties, "x-death") {
        Some(AMQPValue::FieldArray(deaths)) => match deaths.as_slice().last() {
            Some(AMQPValue::FieldTable(death)) => Some(death),
            _ => None,
        },
        _ => None,
    };
    let of_death = |name: &str| death.and_then(|death| death.inner().get(name));
    let reason = find_text(properties, "x-first-death-reason");
    let reason = reason.or_else(|| text(of_death("reason")?));
    let queue = find_text(properties, "x-first-death-queue");
    let queue = queue.or_else(|| text(of_death("queue")?));
    let routing_key = match of_death("routing-keys") {
        Some(AMQPValue::FieldArray(keys)) => keys.as_slice().first().and_then(text),
        _ => None,
    };
    let first_seen = match of_death("time") {
        Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds).ok(),
        _ => None,
    };
    let detail = match &queue {
        Some(queue) => format!("dead-lettered by the broker from queue `{queue}`"),
        None => "published to the dead letters without a reason".to_owned(),
    };
    Letter {
        id: Uuid::nil(),
        reason: reason.unwrap_or_else(|| "unknown".to_owned()),
        detail,
        stage: "broker".to_owned(),
        sqlstate: None,
        first_seen: first_seen.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok()),
        delivery_count: delivery_count(properties),
        original_exchange: of_death("exchange").and_then(text),
        original_routing_key: routing_key.unwrap_or_default(),
        content_type,
        body,
    }
}

fn letter_id(letter: &Letter) -> Uuid {
    let first_seen = letter.first_seen.and_then(rfc3339).unwrap_or_default();
    let mut name = Vec::with_capacity(letter.body.len() + 64);
    for part in [letter.reason.as_bytes(), first_seen.as_bytes()] {
        // A byte that UTF-8 text cannot hold, so that two parts never read as one.
        name.extend_from_slice(part);
        name.push(0xff);
    }
    name.extend_from_slice(&letter.body);
    Uuid::new_v5(&LETTER_ID_SPACE, &name)
}

fn string(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn insert(headers: &mut FieldTable, name: &str, value: AMQPValue) {
    // Too long only for a kept header whose own name took most of the 255 bytes.
    if let Ok(name) = ShortString::try_new(name) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests;
