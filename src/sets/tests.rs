use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use time::macros::datetime;

use super::*;
use crate::event::Limits;

const DAY: Duration = Duration::from_secs(86_400);
const TTL: WindowTtl = WindowTtl { hour: DAY, day: DAY, month: DAY };
const AT: OffsetDateTime = datetime!(2026-11-23 10:20:30 UTC);

fn sets(text: &str) -> Sets {
    Sets::parse("rollcall", text, TTL).unwrap()
}

fn encoded(component: &str) -> String {
    let mut out = String::new();
    encode(component, &mut out);
    out
}

fn limits() -> Limits {
    Limits { member_bytes_max: 64, event_members_max: 10, ..crate::event::tests::limits() }
}

fn text(value: &str) -> Captured<'_> {
    Captured::One(Scalar::Text(value.into()))
}

/// The keys and members of an event that holds `values` at the fields `a`, `b`, `c`, ….
fn added(sets: &Sets, values: &[Captured<'_>]) -> Result<Vec<(String, String)>, Fault> {
    let mut captured = sets.fields().empty();
    for (value, place) in values.iter().zip(&mut captured[2..]) {
        *place = value.clone();
    }
    let added = sets.additions(&captured, AT, AT, &limits())?;
    let key = |add: &Addition<'_>| sets.get(add.set).key_with_suffix(add.suffix);
    Ok(added.iter().map(|add| (key(&add), add.member.to_owned())).collect())
}

#[test]
fn the_demo_has_its_keys_and_members_byte_for_byte() {
    let sets = Sets::parse("messages", "cities=state+city users=username", TTL).unwrap();
    let added = added(&sets, &[text("CA"), text("Fresno"), text("ann")]).unwrap();
    let pair = |key: &str, member: &str| (key.to_owned(), member.to_owned());
    assert_eq!(added, [pair("messages:cities", "CA:Fresno"), pair("messages:users", "ann")]);
}

#[test]
fn a_key_is_prefix_name_bucket_and_group() {
    let sets = sets("by=a@b+c/hour");
    let added = added(&sets, &[text("m"), text("CA"), text("x:y")]).unwrap();
    assert_eq!(added, [("rollcall:by:2026-11-23T10:CA:x%3Ay".to_owned(), "m".to_owned())]);
    let set = sets.find("by").unwrap();
    let group = ["CA".to_owned(), "x:y".to_owned()];
    assert_eq!(set.key(Some("2026-11-23T10"), &group).unwrap(), added[0].0);
    assert_eq!(Window::Day.bucket(AT), "2026-11-23");
    assert_eq!(Window::Month.bucket(AT), "2026-11");
}

#[test]
fn an_absent_field_adds_nothing_and_an_array_adds_each_of_its_scalars() {
    let sets = sets("pairs=a+b");
    assert_eq!(added(&sets, &[text("x")]).unwrap(), []);
    let many = Captured::Many(vec![Scalar::Signed(-1), Scalar::Bool(true)]);
    let members: Vec<_> =
        added(&sets, &[many, text("y")]).unwrap().into_iter().map(|(_, member)| member).collect();
    assert_eq!(members, ["-1:y", "true:y"]);
    assert_eq!(added(&sets, &[Captured::Many(vec![]), text("y")]).unwrap(), []);
}

#[test]
fn an_unfit_field_is_a_fault_even_beside_an_absent_one() {
    let sets = sets("pairs=a+b");
    let fault = added(&sets, &[Captured::Absent, Captured::Unfit("an object")]).unwrap_err();
    assert_eq!(fault, Fault::FieldType { path: "b".to_owned(), found: "an object" });
}

#[test]
fn the_limits_hold() {
    let sets = sets("pairs=a+b");
    let long = "x".repeat(64);
    let fault = added(&sets, &[text(&long), text("y")]).unwrap_err();
    assert_eq!(fault, Fault::MemberLength { set: "pairs".to_owned(), bytes: 66 });
    let four = || Captured::Many(vec![Scalar::Unsigned(1); 4]);
    assert_eq!(added(&sets, &[four(), four()]).unwrap_err(), Fault::TooManyMembers);
}

#[test]
fn an_expired_bucket_is_not_begun_again() {
    let sets = sets("daily=a/day");
    let mut captured = sets.fields().empty();
    captured[2] = text("x");
    let now = datetime!(2026-11-25 00:00:00 UTC);
    let before = now - time::Duration::seconds(1);
    assert_eq!(sets.find("daily").unwrap().expires_at(AT), Some(now.unix_timestamp()));
    assert_eq!(sets.additions(&captured, AT, before, &limits()).unwrap().len(), 1);
    assert!(sets.additions(&captured, AT, now, &limits()).unwrap().is_empty());
}

#[test]
fn a_bucket_ends_where_the_next_begins() {
    let end = |window: Window, at: OffsetDateTime| {
        OffsetDateTime::from_unix_timestamp(window.bucket_end(at)).unwrap()
    };
    assert_eq!(end(Window::Hour, AT), datetime!(2026-11-23 11:00 UTC));
    assert_eq!(end(Window::Day, AT), datetime!(2026-11-24 00:00 UTC));
    assert_eq!(end(Window::Month, AT), datetime!(2026-12-01 00:00 UTC));
    assert_eq!(end(Window::Month, datetime!(2024-02-29 23:59 UTC)), datetime!(2024-03-01 0:00 UTC));
    assert_eq!(end(Window::Day, datetime!(1969-12-31 23:00 UTC)), datetime!(1970-01-01 0:00 UTC));
}

#[test]
fn every_mistake_in_the_grammar_is_reported() {
    let text = "meta=a wm=a pipeline=a 1x=a x y=a/week z=a..b w=a@ v=a=b u=a u=b";
    let problems = Sets::parse("p", text, TTL).unwrap_err();
    assert_eq!(problems.len(), 10, "{problems:#?}");
    assert!(Sets::parse("p", "  ", TTL).is_err());
}

#[test]
fn the_grammar_reads_what_it_promises() {
    let sets = sets("a=x b=x+y.z@g+h/month~ c=x~ d=x/day e=x@g");
    let shape: Vec<_> = sets
        .iter()
        .map(|set| (set.member_fields, set.group_fields, set.window, set.kind))
        .collect();
    use Kind::{Estimated, Exact};
    assert_eq!(
        shape,
        [
            (1, 0, None, Exact),
            (2, 2, Some(Window::Month), Estimated),
            (1, 0, None, Estimated),
            (1, 0, Some(Window::Day), Exact),
            (1, 1, None, Exact),
        ]
    );
}

/// Each for itself: a rebuild of one set by name and of all of them make the same.
#[test]
fn what_a_stored_event_adds_to_a_set_does_not_hang_on_the_others() {
    let six: Vec<String> = (0..6).map(|n| n.to_string()).collect();
    let six = six.iter().map(|text| Scalar::Text(text.as_str().into())).collect();
    let [all, one] = ["tags=a by=a@b", "by=a@b"].map(|text| {
        let sets = sets(text);
        let mut captured = sets.fields().empty();
        (captured[2], captured[3]) = (Captured::Many(Clone::clone(&six)), self::text("x"));
        assert!(text.len() < 8 || sets.additions(&captured, AT, AT, &limits()).is_err());
        let added = sets.stored_additions(&captured, AT, AT, &limits());
        let of_it = |add: &Addition<'_>| sets.get(add.set).name == "by";
        let members = added.iter().filter(of_it).map(|add| add.member.to_owned());
        members.collect::<Vec<_>>()
    });
    assert_eq!((all.len(), &all), (6, &one));
}

#[test]
fn a_reader_is_told_what_a_set_cannot_have() {
    let sets = sets("daily=a/day by=a@b pairs=a+b");
    let set = |name: &str| sets.find(name).unwrap();
    assert!(matches!(set("daily").key(None, &[]), Err(KeyError::BucketMissing { .. })));
    assert!(matches!(set("daily").key(Some("2026-1-1"), &[]), Err(KeyError::BucketFormat { .. })));
    assert!(matches!(set("by").key(None, &[]), Err(KeyError::Group { .. })));
    assert!(matches!(
        set("by").key(Some("x"), &["g".into()]),
        Err(KeyError::BucketUnwanted { .. })
    ));
    assert!(matches!(set("pairs").member("x"), Err(KeyError::Member { .. })));
    assert_eq!(set("by").member("a:b").unwrap(), "a%3Ab");
    assert_eq!(set("pairs").member("a:b").unwrap(), "a:b");
    assert_eq!(set("pairs").member("a%3A:%7B").unwrap(), "a%3A:%7B");
    // No event makes such a component: that it is not there would say nothing.
    for odd in ["a:x{y", "a:b%3a", "a:100%", "a:%41", "a:\n"] {
        assert!(matches!(set("pairs").member(odd), Err(KeyError::Component { .. })), "{odd}");
    }
    let values = ["TX".to_owned(), "x{y: 100%".to_owned()];
    assert_eq!(set("pairs").member_of(&values).unwrap(), "TX:x%7By%3A 100%25");
    assert!(matches!(set("pairs").member_of(&values[..1]), Err(KeyError::Member { .. })));
}

/// Undoes the encoding, strictly: an independent reading of the rule in the README.
fn decoded(component: &str) -> String {
    let bytes = component.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            out.push(u8::from_str_radix(&component[at + 1..at + 3], 16).unwrap());
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap()
}

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::collection::vec(
            prop_oneof![
                Just('%'),
                Just(':'),
                Just('{'),
                Just('}'),
                Just('3'),
                Just('A'),
                any::<char>()
            ],
            0..8
        )
        .prop_map(|chars| chars.into_iter().collect()),
        "[%:A0-9]{0,6}",
    ]
}

proptest! {
    #[test]
    fn the_encoding_can_be_undone_and_holds_no_separator(value in component()) {
        let encoded = encoded(&value);
        let separates = |b| matches!(b, b':' | b'{' | b'}' | 0..=0x1f | 0x7f);
        prop_assert!(!encoded.bytes().any(separates));
        prop_assert_eq!(decoded(&encoded), value);
    }

    #[test]
    fn two_different_tuples_never_share_a_key_or_member(
        tuples in proptest::collection::vec((component(), component(), component()), 2..20)
    ) {
        let sets = sets("s=a+b@c");
        let distinct: BTreeSet<_> = tuples.iter().collect();
        let stored: BTreeSet<_> = tuples
            .iter()
            .flat_map(|(a, b, c)| {
                let captured = [text(a), text(b), text(c)];
                let mut all = sets.fields().empty();
                all[2..].clone_from_slice(&captured);
                let wide = Limits { member_bytes_max: 10_000, ..limits() };
                let added = sets.additions(&all, AT, AT, &wide).unwrap();
                let add = added.iter().next().unwrap();
                [(add.suffix.to_owned(), add.member.to_owned())]
            })
            .collect();
        prop_assert_eq!(stored.len(), distinct.len());
    }
}
