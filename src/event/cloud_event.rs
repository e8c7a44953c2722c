//! CloudEvents 1.0 -> events: `id` and `source` are the identity, `time` is occurred_at, the
//! members of `data` are the fields, and every attribute is kept beside them in `cloudevent`.

use std::borrow::Cow;
use std::fmt;

use bytestring::ByteString;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Event, Reason, Rejected, Rules, additions, check_id_length, parse_time, walk};

/// Identities of CloudEvents are UUIDv5 in this namespace, the UUIDv5 of `rollcall:cloudevent` in
/// the DNS namespace, of `<bytes of source>:<source><id>`. The length keeps any two pairs apart.
pub const NAMESPACE: Uuid = uuid::uuid!("50c3224f-39fb-5ba4-ad35-c4eb77fd9d47");

/// The member of a stored payload that holds the attributes.
const ATTRIBUTES: &str = "cloudevent";

/// Structured mode, or one element of a batch: the whole event is one JSON object.
pub(super) fn structured(text: &ByteString, rules: Rules<'_>) -> Result<Event, Rejected> {
    // The envelope is walked too: what it holds beside `data` ends up in the payload.
    let Members(members) = members(text)?;
    let mut data = None;
    let mut attributes: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
    for (name, value) in members {
        match name.as_ref() {
            "data" => data = Some(value.get()),
            // null is absent, as everywhere.
            "data_base64" if value.get() == "null" => {}
            "data_base64" => return Err(bad("data_base64 is not JSON")),
            _ => attributes.push((name, Cow::Borrowed(value.get()))),
        }
    }
    event(&attributes, data.filter(|data| *data != "null"), rules)
}

/// Binary mode: the attributes are headers, the body is `data`.
pub(super) fn binary(
    data: &ByteString,
    headers: &[(String, String)],
    rules: Rules<'_>,
) -> Result<Event, Rejected> {
    let attributes: Vec<_> = headers
        .iter()
        .map(|(name, value)| (Cow::Borrowed(name.as_str()), Cow::Owned(json_string(value))))
        .collect();
    event(&attributes, Some(&**data).filter(|data| !data.is_empty()), rules)
}

/// `attributes` holds the name and the JSON text of each.
fn event(
    attributes: &[(Cow<'_, str>, Cow<'_, str>)],
    data: Option<&str>,
    rules: Rules<'_>,
) -> Result<Event, Rejected> {
    if required(attributes, "specversion")? != "1.0" {
        return Err(bad("specversion is not 1.0"));
    }
    required(attributes, "type")?;
    let source = required(attributes, "source")?;
    let id = text(attributes, "id")?
        .ok_or_else(|| Rejected::new(Reason::MissingId, "no attribute id"))?;
    check_id_length(&id, rules.limits)?;
    let time = text(attributes, "time")?
        .ok_or_else(|| Rejected::new(Reason::MissingOccurredAt, "no attribute time"))?;
    let occurred_at = parse_time(&time, rules)?;
    let payload = payload(attributes, data)?;
    let fields = walk::walk(&payload, rules.sets.fields(), rules.limits.nesting_max)?;
    let additions = additions(&fields, occurred_at, rules)?;
    drop(fields);
    let id = Uuid::new_v5(&NAMESPACE, format!("{}:{source}{id}", source.len()).as_bytes());
    Ok(Event { id, occurred_at, payload, additions })
}

/// `{<members of data>,"cloudevent":{<attributes>}}`, spliced from the texts as they came.
fn payload(
    attributes: &[(Cow<'_, str>, Cow<'_, str>)],
    data: Option<&str>,
) -> Result<ByteString, Rejected> {
    let mut payload = String::from("{");
    if let Some(data) = data.map(str::trim) {
        let Members(fields) = members(data).map_err(|error| match error.reason {
            Reason::NotAnObject => bad("data is not a JSON object"),
            _ => error,
        })?;
        if fields.iter().any(|(name, _)| name == ATTRIBUTES) {
            return Err(bad("data has a field cloudevent, where the attributes are kept"));
        }
        if !fields.is_empty() {
            // An object that parsed: it begins with one brace and ends with another.
            payload.push_str(&data[1..data.len() - 1]);
            payload.push(',');
        }
    }
    payload.push_str(&json_string(ATTRIBUTES));
    payload.push_str(":{");
    for (position, (name, value)) in attributes.iter().enumerate() {
        if position > 0 {
            payload.push(',');
        }
        payload.push_str(&json_string(name));
        payload.push(':');
        payload.push_str(value);
    }
    payload.push_str("}}");
    Ok(payload.into())
}

fn required(attributes: &[(Cow<'_, str>, Cow<'_, str>)], name: &str) -> Result<String, Rejected> {
    text(attributes, name)?
        .filter(|text| !text.is_empty())
        .ok_or_else(|| bad(format!("no attribute {name}")))
}

/// A string attribute; `None` where it is absent or null. Of duplicates the last wins, as in jsonb.
fn text(
    attributes: &[(Cow<'_, str>, Cow<'_, str>)],
    name: &str,
) -> Result<Option<String>, Rejected> {
    let Some((_, value)) = attributes.iter().rev().find(|(other, _)| other == name) else {
        return Ok(None);
    };
    serde_json::from_str(value).map_err(|_| bad(format!("attribute {name} is not a string")))
}

fn bad(detail: impl Into<String>) -> Rejected {
    Rejected::new(Reason::CloudEvent, detail)
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The members of an object, in order, each value as its text.
fn members(text: &str) -> Result<Members<'_>, Rejected> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = deserializer.deserialize_map(MembersVisitor).and_then(|members| {
        deserializer.end()?;
        Ok(members)
    });
    members.map_err(|error| match error.is_data() {
        true => Rejected::new(Reason::NotAnObject, "an event is a JSON object"),
        false => Rejected::new(Reason::Json, error.to_string()),
    })
}

struct Members<'de>(Vec<(Cow<'de, str>, &'de RawValue)>);

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<Cow<'de, str>, &RawValue>()? {
            members.push((name, value));
        }
        Ok(Members(members))
    }
}
