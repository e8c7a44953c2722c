//! What must be true at the end, computed a second time from the contract alone.
//!
//! The producer of a test knows what is good and what is bad, because it made it so, and tells
//! the oracle. This file must never call the crate: two copies of one mistake agree.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The sets of one definition, `name=member[@group][/window][~]`.
#[derive(Clone, Debug)]
struct Definition {
    name: String,
    /// What it is made from: without the name and `~`.
    source: String,
    member: Vec<String>,
    group: Vec<String>,
    window: Option<String>,
    estimated: bool,
}

#[derive(Clone, Debug)]
pub struct Oracle {
    prefix: String,
    definitions: Vec<Definition>,
    pub occurred_at: Vec<String>,
    pub payloads: Vec<String>,
    /// key -> members, of the exact sets and of the estimated ones.
    pub exact: BTreeMap<String, BTreeSet<String>>,
    pub estimated: BTreeMap<String, BTreeSet<String>>,
    /// (reason, body), sorted when compared.
    pub dead: Vec<(String, Vec<u8>)>,
    /// After a crash a letter may be there twice: it is confirmed before its message is settled.
    pub dead_may_repeat: bool,
}

impl Oracle {
    pub fn new(prefix: &str, sets: &str) -> Oracle {
        Oracle {
            prefix: prefix.to_owned(),
            definitions: sets.split_whitespace().map(definition).collect(),
            occurred_at: Vec::new(),
            payloads: Vec::new(),
            exact: BTreeMap::new(),
            estimated: BTreeMap::new(),
            dead: Vec::new(),
            dead_may_repeat: false,
        }
    }

    /// An event that must be stored; told once however often it is published.
    pub fn good(&mut self, event: &Value) {
        let occurred_at = event["occurred_at"].as_str().expect("a good event has a time");
        self.row(occurred_at, &event.to_string());
        self.adds(occurred_at, event);
    }

    pub fn all_good(&mut self, events: &[Value]) {
        events.iter().for_each(|event| self.good(event));
    }

    /// A row that must be there, as text.
    pub fn row(&mut self, occurred_at: &str, payload: &str) {
        self.occurred_at.push(occurred_at.to_owned());
        self.payloads.push(payload.to_owned());
    }

    /// An event, or a message, that must become a dead letter with just this body.
    pub fn bad(&mut self, reason: &str, body: impl Into<Vec<u8>>) {
        self.dead.push((reason.to_owned(), body.into()));
    }

    /// What an event's fields add to the sets.
    pub fn adds(&mut self, occurred_at: &str, fields: &Value) {
        for set in &self.definitions {
            let mut key = format!("{}:{}", self.prefix, set.name);
            if let Some(window) = &set.window {
                key = format!("{key}:{}", bucket(window, occurred_at));
            }
            let groups = match set.group.is_empty() {
                true => vec![String::new()],
                false => product(fields, &set.group),
            };
            for group in groups {
                let key = match set.group.is_empty() {
                    true => key.clone(),
                    false => format!("{key}:{group}"),
                };
                for member in product(fields, &set.member) {
                    let keys = if set.estimated { &mut self.estimated } else { &mut self.exact };
                    keys.entry(key.clone()).or_default().insert(member);
                }
            }
        }
    }

    /// A member that is kept of an event which is gone.
    pub fn retired(&mut self, source: &str, suffix: &str, member: &str) {
        for set in self.definitions.iter().filter(|set| set.source == source) {
            let key = format!("{}:{}{suffix}", self.prefix, set.name);
            let keys = if set.estimated { &mut self.estimated } else { &mut self.exact };
            keys.entry(key).or_default().insert(member.to_owned());
        }
    }

    /// Every member, as `source|suffix|member`.
    pub fn by_source(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for set in &self.definitions {
            let base = format!("{}:{}", self.prefix, set.name);
            for (key, members) in self.exact.iter().chain(&self.estimated) {
                let Some(suffix) = key.strip_prefix(&base) else { continue };
                if suffix.is_empty() || suffix.starts_with(':') {
                    let line = |member| format!("{}|{suffix}|{member}", set.source);
                    all.extend(members.iter().map(line));
                }
            }
        }
        all
    }

    /// The members of one exact set of ours, by the key without the prefix.
    pub fn members(&self, set: &str) -> Vec<String> {
        let key = format!("{}:{set}", self.prefix);
        self.exact.get(&key).into_iter().flatten().cloned().collect()
    }
}

fn definition(text: &str) -> Definition {
    let (name, rest) = text.split_once('=').expect("name=…");
    let estimated = rest.ends_with('~');
    let rest = rest.trim_end_matches('~');
    let source = rest.to_owned();
    let (rest, window) = match rest.split_once('/') {
        Some((rest, window)) => (rest, Some(window.to_owned())),
        None => (rest, None),
    };
    let (member, group) = rest.split_once('@').unwrap_or((rest, ""));
    let fields = |text: &str| -> Vec<String> {
        text.split('+').filter(|field| !field.is_empty()).map(str::to_owned).collect()
    };
    Definition {
        name: name.to_owned(),
        source,
        member: fields(member),
        group: fields(group),
        window,
        estimated,
    }
}

/// `2026-11-23T10`, `2026-11-23`, `2026-11`: only for times written in UTC, as the tests write
/// them.
fn bucket(window: &str, occurred_at: &str) -> String {
    assert!(occurred_at.ends_with('Z'), "{occurred_at} is not in UTC");
    let length = match window {
        "hour" => 13,
        "day" => 10,
        "month" => 7,
        other => panic!("no window {other}"),
    };
    occurred_at[..length].to_owned()
}

/// Every combination of the fields' values, joined by `:`. None where a field adds nothing.
fn product(event: &Value, fields: &[String]) -> Vec<String> {
    let mut combined = vec![Vec::new()];
    for field in fields {
        let values = values(event, field);
        let mut longer = Vec::new();
        for head in &combined {
            for value in &values {
                let mut one: Vec<String> = head.clone();
                one.push(encode(value));
                longer.push(one);
            }
        }
        combined = longer;
    }
    combined.into_iter().map(|parts| parts.join(":")).collect()
}

fn values(event: &Value, path: &str) -> Vec<String> {
    let mut value = event;
    for step in path.split('.') {
        value = &value[step];
    }
    match value {
        Value::Null => vec![],
        Value::Array(items) => items.iter().filter_map(scalar).collect(),
        other => scalar(other).into_iter().collect(),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) if number.is_f64() => panic!("{number}: a float is no good member"),
        Value::Number(number) => Some(number.to_string()),
        other => panic!("{other} is no good member"),
    }
}

fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for c in text.chars() {
        if "%:{}".contains(c) || c < ' ' || c == '\u{7f}' {
            encoded += &format!("%{:02X}", c as u32);
        } else {
            encoded.push(c);
        }
    }
    encoded
}
