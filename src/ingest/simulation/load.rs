//! What producers publish, and what each element of it must become. Written without the decoder:
//! the generator knows what it made.

use std::collections::BTreeMap;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::datetime;
use uuid::Uuid;

use super::dice::Dice;
use super::world::Sim;

pub const SETS: &str = "cities=city users=user@city";
pub const PREFIX: &str = "s";

/// In a payload: what the model of Postgres will not have.
pub const BAD_PAYLOAD: &str = "refused-payload";
pub const BAD_ROW: &str = "refused-row";
/// In a body: whoever reads it dies.
pub const POISON: &str = "poison";

pub type Key = (OffsetDateTime, Uuid);

/// One element of a message.
#[derive(Clone, Debug)]
pub struct Element {
    pub text: String,
    pub fate: Fate,
}

#[derive(Clone, Debug)]
pub enum Fate {
    /// Stored, unless its identity is taken by another payload.
    Stored { key: Key, adds: Vec<(String, String)> },
    /// Condemned for this reason.
    Condemned(&'static str),
}

#[derive(Clone, Debug)]
pub struct Message {
    pub number: usize,
    pub body: Bytes,
    pub elements: Vec<Element>,
    pub poison: bool,
}

/// What one seed publishes.
pub struct Load {
    pub messages: Vec<Message>,
    /// What a stored payload adds to the sets.
    pub adds: BTreeMap<String, Vec<(String, String)>>,
}

const DAY: OffsetDateTime = datetime!(2026-11-01 12:00 UTC);

impl Load {
    pub fn new(dice: &mut Dice) -> Load {
        let mut load = Load { messages: Vec::new(), adds: BTreeMap::new() };
        let (bad, many) = (dice.pick(&[0, 20, 200]), dice.pick(&[0, 100, 1000]));
        for number in 0..dice.between(5, 60) as usize {
            let count = if dice.permille(many) { dice.between(1, 12) } else { 1 };
            let elements: Vec<Element> =
                (0..count).map(|at| load.element(dice, bad, number * 100 + at as usize)).collect();
            let text = match &elements[..] {
                [one] => one.text.clone(),
                all => {
                    let texts: Vec<&str> = all.iter().map(|one| one.text.as_str()).collect();
                    format!("[{}]", texts.join(","))
                }
            };
            load.messages.push(Message { number, body: text.into(), elements, poison: false });
        }
        if dice.permille(200) {
            let number = load.messages.len();
            let text = format!("{{\"{POISON}\":1}}");
            let element = Element { text: text.clone(), fate: Fate::Condemned("missing_id") };
            let poison =
                Message { number, body: text.into(), elements: vec![element], poison: true };
            let at = dice.below(load.messages.len());
            load.messages.insert(at, poison);
        }
        load
    }

    fn element(&mut self, dice: &mut Dice, bad: u32, number: usize) -> Element {
        if dice.permille(bad) {
            return match dice.below(4) {
                0 => {
                    let text = format!("\"text {number}\"");
                    Element { text, fate: Fate::Condemned("not_an_object") }
                }
                1 => {
                    let text = format!("{{\"n\":{number}}}");
                    Element { text, fate: Fate::Condemned("missing_id") }
                }
                2 => self.refused(dice, number, BAD_PAYLOAD),
                _ => self.refused(dice, number, BAD_ROW),
            };
        }
        // Now and then an identity that was there before, with another payload.
        let identity = if dice.permille(bad / 2) { dice.below(number + 1) } else { number };
        let (city, user) = (dice.below(4), dice.below(20));
        let (key, text) =
            object(identity, &format!("\"city\":\"c{city}\",\"user\":{user},\"n\":{number}"));
        let adds = vec![
            (format!("{PREFIX}:cities"), format!("c{city}")),
            (format!("{PREFIX}:users:c{city}"), user.to_string()),
        ];
        self.adds.insert(text.clone(), adds.clone());
        Element { text, fate: Fate::Stored { key, adds } }
    }

    fn refused(&mut self, dice: &mut Dice, number: usize, how: &str) -> Element {
        let (_, text) =
            object(number, &format!("\"city\":\"x{}\",\"how\":\"{how}\"", dice.below(3)));
        Element { text, fate: Fate::Condemned("store_refused") }
    }
}

/// Identity and text of an event, both following from its number.
fn object(number: usize, fields: &str) -> (Key, String) {
    let id = Uuid::from_u128(0x1234_5678 + (number as u128) * 0x9e37_79b9_7f4a_7c15_f39c);
    // Neither in order of arrival nor in order of ids.
    let at = DAY - time::Duration::seconds((number as i64 * 7919) % 3600);
    let time = at.format(&Rfc3339).expect("a time of our days can be written");
    ((at, id), format!("{{\"id\":\"{id}\",\"occurred_at\":\"{time}\",{fields}}}"))
}

/// Publishes everything, some of it more than once, at a pace of its own.
pub async fn publish(sim: &Sim) {
    let mut at = 0;
    loop {
        let wait = {
            let mut world = sim.lock();
            let Some(message) = world.load.messages.get(at).cloned() else { return };
            // A producer that saw no confirm sends the same again.
            let rate = world.faults.duplicates;
            let again = !message.poison && world.dice.permille(rate);
            world.broker.publish(message.clone());
            if again {
                world.broker.publish(message);
            } else {
                at += 1;
            }
            world.broker.dispatch();
            let pace = world.faults.pace;
            world.dice.millis(0, pace)
        };
        sim.changed();
        tokio::time::sleep(wait).await;
    }
}
