//! One pass over the text of an event: checks all of it, captures the fields that are asked for.
//!
//! Everything that Postgres would refuse later (U+0000, half a surrogate pair, numbers that jsonb
//! keeps but nobody can read) is refused here, where it costs one event and not a batch.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Reason, Rejected, number};
use crate::sets::{Captured, Fields, ROOT, Scalar};

/// Walks `text`, which must be one JSON object; gives what stands at each path of `fields`.
pub(super) fn walk<'de>(
    text: &'de str,
    fields: &Fields,
    nesting_max: usize,
) -> Result<Vec<Captured<'de>>, Rejected> {
    let mut walk =
        Walk { fields, captured: fields.empty(), nesting_max, floats: false, fault: None };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let root = Value { walk: &mut walk, node: Some(ROOT), depth: 1 };
    let walked = root.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match walked {
        Ok(()) if walk.floats && number::is_too_long(text) => Err(Rejected::new(
            Reason::NumberRange,
            format!("a number of more than {} digits after the point", number::DIGITS_MAX),
        )),
        Ok(()) => Ok(walk.captured),
        Err(error) => Err(walk.fault.take().unwrap_or_else(|| syntax(&error))),
    }
}

/// serde_json tells these apart by their text alone; a test holds it to that.
fn syntax(error: &serde_json::Error) -> Rejected {
    let detail = error.to_string();
    let reason = if detail.starts_with("number out of range") {
        Reason::NumberRange
    } else if detail.starts_with("lone leading surrogate")
        || detail.starts_with("unexpected end of hex escape")
    {
        Reason::LoneSurrogate
    } else {
        Reason::Json
    };
    Rejected { reason, detail }
}

struct Walk<'f, 'de> {
    fields: &'f Fields,
    captured: Vec<Captured<'de>>,
    nesting_max: usize,
    /// One was seen: only then is there a number that may be too long.
    floats: bool,
    /// serde's errors are text: our own reason is kept beside.
    fault: Option<Rejected>,
}

impl Walk<'_, '_> {
    fn fail<E: de::Error>(&mut self, reason: Reason, detail: impl Into<String>) -> E {
        self.fault = Some(Rejected::new(reason, detail));
        E::custom("refused")
    }

    /// Only a string with an escape can hold U+0000: JSON allows no bare control character, and
    /// serde_json lends out strings without escapes and hands over the others as `visit_str`.
    fn refuse_nul<E: de::Error>(&mut self, text: &str) -> Result<(), E> {
        if text.contains('\0') {
            return Err(self.fail(Reason::NulCharacter, "a string holds U+0000"));
        }
        Ok(())
    }
}

/// One value of the event: at a node of the tree, or beside it (`None`: checked, not kept).
struct Value<'w, 'f, 'de> {
    walk: &'w mut Walk<'f, 'de>,
    node: Option<usize>,
    depth: usize,
}

impl<'f, 'de> Value<'_, 'f, 'de> {
    fn keep(self, found: Captured<'de>) {
        if let Some(slot) = self.node.and_then(|node| self.walk.fields.slot_of(node)) {
            self.walk.captured[slot] = found;
        }
    }

    fn root_must_be_object<E: de::Error>(&mut self) -> Result<(), E> {
        if self.depth == 1 {
            return Err(self.walk.fail(Reason::NotAnObject, "an event is a JSON object"));
        }
        Ok(())
    }

    fn enter<E: de::Error>(&mut self) -> Result<(), E> {
        let max = self.walk.nesting_max;
        if self.depth > max {
            return Err(self.walk.fail(Reason::Nesting, format!("nested deeper than {max}")));
        }
        Ok(())
    }

    fn scalar<E: de::Error>(mut self, scalar: Scalar<'de>) -> Result<(), E> {
        self.root_must_be_object()?;
        self.keep(Captured::One(scalar));
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(mut self) -> Result<(), E> {
        self.root_must_be_object()?;
        self.keep(Captured::Absent);
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<(), E> {
        self.scalar(Scalar::Bool(flag))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.scalar(Scalar::Signed(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.scalar(Scalar::Unsigned(number))
    }

    /// A point, an exponent, -0, or an integer beyond 64 bits: its text is not the same after a
    /// trip through jsonb.
    fn visit_f64<E: de::Error>(mut self, _: f64) -> Result<(), E> {
        self.walk.floats = true;
        self.root_must_be_object()?;
        self.keep(Captured::Unfit("a number that is not a 64-bit integer"));
        Ok(())
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<(), E> {
        self.scalar(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.walk.refuse_nul(text)?;
        if self.node.is_none() && self.depth > 1 {
            return Ok(());
        }
        self.scalar(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.root_must_be_object()?;
        self.enter()?;
        let depth = self.depth + 1;
        let mut elements = Elements::default();
        if self.node.and_then(|node| self.walk.fields.slot_of(node)).is_none() {
            let walk = &mut *self.walk;
            while seq.next_element_seed(Value { walk, node: None, depth })?.is_some() {}
            return Ok(());
        }
        while let Some(()) = seq.next_element_seed(Element {
            value: Value { walk: &mut *self.walk, node: None, depth },
            elements: &mut elements,
        })? {}
        self.keep(match elements.unfit {
            Some(found) => Captured::Unfit(found),
            None => Captured::Many(elements.scalars),
        });
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.enter()?;
        let (node, depth) = (self.node, self.depth + 1);
        while let Some(child) = map.next_key_seed(Key { walk: &mut *self.walk, node })? {
            // Of duplicate keys the last wins, with all that stands below it, as in jsonb.
            for slot in child.map(|c| self.walk.fields.slots_within(c)).unwrap_or_default() {
                self.walk.captured[*slot] = Captured::Absent;
            }
            map.next_value_seed(Value { walk: &mut *self.walk, node: child, depth })?;
        }
        self.keep(Captured::Unfit("an object"));
        Ok(())
    }
}

/// A key of an object: gives the node that it leads to.
struct Key<'w, 'f, 'de> {
    walk: &'w mut Walk<'f, 'de>,
    node: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_, 'de> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_, '_, 'de> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(self.node.and_then(|node| self.walk.fields.child(node, name)))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        self.walk.refuse_nul(name)?;
        Ok(self.node.and_then(|node| self.walk.fields.child(node, name)))
    }
}

/// What an array at a field of a set holds.
#[derive(Default)]
struct Elements<'de> {
    scalars: Vec<Scalar<'de>>,
    unfit: Option<&'static str>,
}

/// One element of such an array: each scalar is kept, null adds nothing, the rest is unfit.
struct Element<'e, 'w, 'f, 'de> {
    value: Value<'w, 'f, 'de>,
    elements: &'e mut Elements<'de>,
}

impl<'de> DeserializeSeed<'de> for Element<'_, '_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_, '_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<(), E> {
        self.elements.scalars.push(Scalar::Bool(flag));
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.elements.scalars.push(Scalar::Signed(number));
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.elements.scalars.push(Scalar::Unsigned(number));
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.value.walk.floats = true;
        self.elements.unfit = Some("an array that holds a number that is not a 64-bit integer");
        Ok(())
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<(), E> {
        self.elements.scalars.push(Scalar::Text(Cow::Borrowed(text)));
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.value.walk.refuse_nul(text)?;
        self.elements.scalars.push(Scalar::Text(Cow::Owned(text.to_owned())));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.elements.unfit = Some("an array that holds an array");
        self.value.visit_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.elements.unfit = Some("an array that holds an object");
        self.value.visit_map(map)
    }
}
