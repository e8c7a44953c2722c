//! What is printed, byte for byte.

use bytes::Bytes;
use time::macros::datetime;

use super::*;

fn letter(id: u128, body: &'static [u8]) -> Letter {
    Letter {
        id: Uuid::from_u128(id),
        reason: "field_type".to_owned(),
        detail: "city is an object\x1b[2J\nand more".to_owned(),
        stage: "decode".to_owned(),
        sqlstate: None,
        first_seen: Some(datetime!(2026-11-23 10:00:00.25 UTC)),
        delivery_count: 1,
        original_exchange: Some("rollcall".to_owned()),
        original_routing_key: "sample".to_owned(),
        content_type: Some("application/json".to_owned()),
        body: Bytes::from_static(body),
    }
}

fn printed(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_table_lines_up_and_holds_nothing_that_steers_a_terminal() {
    let letters = [letter(0x1234_5678 << 96, b"{}"), letter(1, b"x")];
    let table = printed(|out| write_list(out, &letters, false));
    assert_eq!(
        table,
        "ID        REASON      FIRST SEEN            ROUTING KEY  SIZE  DETAIL\n\
         12345678  field_type  2026-11-23T10:00:00Z  sample       2 B   \
         city is an object\\u{1b}[2J\\nand more\n\
         00000000  field_type  2026-11-23T10:00:00Z  sample       1 B   \
         city is an object\\u{1b}[2J\\nand more\n"
    );
    assert_eq!(printed(|out| write_list(out, &[], false)), "no dead letters\n");
    assert_eq!(printed(|out| write_list(out, &[], true)), "");
}

#[test]
fn a_program_gets_every_byte_of_a_body() {
    for (body, encoding, text) in [
        (&b"{\"a\":\"\x1b\"}"[..], "utf-8", "{\"a\":\"\x1b\"}"),
        (b"\xff\xfe", "base64", "//4="),
        (b"", "utf-8", ""),
    ] {
        let line = printed(|out| write_list(out, &[letter(1, body)], true));
        assert_eq!(line.lines().count(), 1);
        let answer: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["body_encoding"], encoding);
        assert_eq!(answer["body"], text);
        assert_eq!(answer["size_bytes"], body.len());
        assert_eq!(answer["first_seen"], "2026-11-23T10:00:00.25Z");
    }
}

#[test]
fn a_person_sees_the_whole_letter() {
    let shown = printed(|out| write_letter(out, &letter(1, b"line\x07 1\nline 2"), false));
    assert!(shown.starts_with("id              00000000-0000-0000-0000-000000000001\n"));
    assert!(shown.ends_with("\n\nline\\u{7} 1\nline 2\n"), "{shown}");
    assert!(!shown.contains('\x1b'));
    let binary = printed(|out| write_letter(out, &letter(1, b"\xff\xfe"), false));
    assert!(binary.ends_with("as base64:\n\n//4=\n"), "{binary}");
}

#[test]
fn counts_come_biggest_first() {
    let counts = BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 30)]);
    assert_eq!(
        printed(|out| write_counts(out, &counts, false)),
        "        30  b\n         2  a\n        32  in all\n"
    );
    assert_eq!(
        printed(|out| write_counts(out, &counts, true)),
        "{\"total\":32,\"by_reason\":{\"a\":2,\"b\":30}}\n"
    );
}

#[test]
fn replay_and_purge_say_what_they_did() {
    let replayed = Replayed { replayed: 3, unroutable: 1, kept: 2 };
    assert_eq!(
        printed(|out| write_replayed(out, replayed, true)),
        "{\"replayed\":3,\"unroutable\":1,\"kept\":2}\n"
    );
    assert!(printed(|out| write_replayed(out, replayed, false)).contains("1 kept as no queue"));
    assert_eq!(printed(|out| write_purged(out, 4, true)), "{\"purged\":4}\n");
}

#[test]
fn an_id_may_be_shortened_as_long_as_it_is_clear() {
    assert_eq!(id_prefix("0199-AB").unwrap(), "0199ab");
    for wrong in ["", "-", "xyz", "0199 ", &"0".repeat(33)] {
        assert!(matches!(id_prefix(wrong), Err(DeadLettersError::NotAnId { .. })), "{wrong}");
    }
    assert!(matches!(the_one(vec![], "1"), Err(DeadLettersError::Absent { .. })));
    let twins = vec![letter(1, b"a"), letter(1, b"a")];
    assert_eq!(the_one(twins, "0").unwrap().id, Uuid::from_u128(1));
    let two = vec![letter(1, b"a"), letter(2, b"b")];
    assert!(matches!(the_one(two, "0"), Err(DeadLettersError::Ambiguous { .. })));
}
