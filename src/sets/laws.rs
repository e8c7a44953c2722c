//! What must hold of the encoding for any text at all: one function for the fuzzer (`fuzz/`) and
//! for the test that replays what the fuzzer has found. Never in a release.

use super::{Sets, WindowTtl, encode};
use crate::event::{Event, Limits, Message, Rules, decode};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use time::macros::datetime;

/// Panics where a law is broken. The lines of `input` are components: two of a group, the rest of
/// a member.
pub fn hold(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let components: Vec<&str> = text.split('\n').collect();
    let encoded: Vec<String> = components.iter().map(|one| encoded(one)).collect();
    for (component, encoded) in components.iter().zip(&encoded) {
        reversible(component, encoded);
    }
    for (one, other) in (0..components.len()).flat_map(|at| (0..at).map(move |before| (at, before)))
    {
        let same = components[one] == components[other];
        assert_eq!(same, encoded[one] == encoded[other], "{encoded:?}");
    }
    let joined = encoded.join(":");
    assert!(joined.split(':').eq(encoded.iter().map(String::as_str)), "{joined:?} comes apart");
    // A line's end cannot stand in a component here, and is one of what is encoded.
    reversible(&text, &self::encoded(&text));
    if let [state, city, username, ..] = components.as_slice() {
        reader_and_writer_agree(state, city, username);
    }
}

fn encoded(component: &str) -> String {
    let mut out = String::from("before ");
    encode(component, &mut out);
    out.strip_prefix("before ").expect("encode appends").to_owned()
}

/// It gives the component back, and holds nothing that separates or steers.
fn reversible(component: &str, encoded: &str) {
    let special = |b: &u8| matches!(b, b':' | b'{' | b'}' | 0..=0x1f | 0x7f);
    assert!(!encoded.as_bytes().iter().any(special), "{encoded:?}");
    let mut decoded = Vec::new();
    let mut rest = encoded.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let (hex, tail) = rest.split_at(2);
        rest = tail;
        assert!(hex.iter().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')), "{encoded:?}");
        let hex = std::str::from_utf8(hex).expect("just seen to be ASCII");
        let byte = u8::from_str_radix(hex, 16).expect("just seen to be hex digits");
        assert!(byte == b'%' || special(&byte), "{encoded:?}: {byte:#x} needs no encoding");
        decoded.push(byte);
    }
    assert_eq!(decoded, component.as_bytes(), "{encoded:?}");
}

/// A reader who names the group and the member finds what live ingest has added.
fn reader_and_writer_agree(state: &str, city: &str, username: &str) {
    let day = Duration::from_secs(86_400);
    let text = "users=username here=username@state+city cities=state+city";
    let sets = Sets::parse("r", text, WindowTtl { hour: day, day, month: day }).unwrap();
    let limits = Limits {
        message_bytes_max: 1 << 20,
        message_events_max: 1,
        nesting_max: 16,
        id_bytes_max: 64,
        member_bytes_max: 1 << 16,
        event_members_max: 8,
        event_age_max: time::Duration::days(1),
        clock_skew_max: time::Duration::hours(1),
    };
    let event = json!({"id": "1", "occurred_at": "2026-11-23T10:00:00Z",
        "state": state, "city": city, "username": username});
    let body = Bytes::from(event.to_string());
    let message = Message { body, content_type: None, cloud_event: &[] };
    let rules = Rules { sets: &sets, limits: &limits, now: datetime!(2026-11-23 12:00 UTC) };
    let mut found: Option<Event> = None;
    decode(&message, rules, |_, decoded| found = decoded.ok());
    let Some(event) = found else {
        let refused = [state, city, username].iter().any(|text| text.contains('\0'));
        let long = body_limit(&[state, city, username]);
        assert!(refused || long, "refused: {state:?} {city:?} {username:?}");
        return;
    };
    let added: Vec<(String, &str)> = event
        .additions
        .iter()
        .map(|add| (sets.get(add.set).key_with_suffix(add.suffix), add.member))
        .collect();
    let groups = [vec![], vec![state.to_owned(), city.to_owned()], vec![]];
    let both = [encoded(state), encoded(city)].join(":");
    for (((key, member), set), (group, written)) in
        added.iter().zip(sets.iter()).zip(groups.iter().zip([username, username, &both]))
    {
        assert_eq!(*key, set.key(None, group).unwrap());
        assert_eq!(*member, set.member(written).unwrap());
    }
    assert_eq!(added.len(), 3);
}

/// Whether their encoding may be longer than a member or group may be.
fn body_limit(components: &[&str]) -> bool {
    components.iter().map(|one| one.len()).sum::<usize>() * 3 > 1 << 16
}

/// Runs `law` on each file of `fuzz/corpus/<target>`, and names the one that breaks it.
#[cfg(test)]
pub fn replay(target: &str, law: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut replayed = 0;
    for file in files {
        let path = file.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let kept = std::panic::catch_unwind(|| law(&input));
        assert!(kept.is_ok(), "{} breaks a law; what it is stands above", path.display());
        replayed += 1;
    }
    assert!(replayed >= 10, "{replayed} files in {folder:?}: the corpus has gone");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_encoding_keeps_its_laws_on_all_that_the_fuzzer_has_found() {
        super::replay("encode", super::hold);
    }
}
