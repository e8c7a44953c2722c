//! A model of Redis: sets, and a key of another type. Each command is whole or not at all; a batch
//! of them is not.

use std::time::Duration;

use super::world::Sim;
use crate::projection::{Applied, KeyAdditions, ProjectionError};

pub async fn apply(sim: &Sim, additions: &[KeyAdditions<'_>]) -> Result<Applied, ProjectionError> {
    let away =
        || ProjectionError::Away { servers: "model".to_owned(), waited: Duration::from_secs(5) };
    let (slow, rate) = {
        let world = sim.lock();
        (world.faults.slow, world.faults.projection)
    };
    sim.take_time(slow).await;
    {
        let mut world = sim.lock();
        if world.is_away(world.faults.projection_away) || world.fails(rate / 2) {
            return Err(away());
        }
    }
    let mut applied = Applied::default();
    // In an order of their own: the caller's is that of a hash map, never the same twice.
    let mut additions: Vec<_> = additions.iter().collect();
    additions.sort_by_key(|addition| addition.key);
    for (done, addition) in additions.iter().enumerate() {
        let mut world = sim.lock();
        if world.fails(rate / 4) {
            if done > 0 {
                world.count("broken half way through redis");
            }
            return Err(away());
        }
        if world.has_wrong_type(addition.key) {
            world.count("wrong type");
            applied.wrong_type.push(addition.key.to_owned());
            continue;
        }
        for &member in &addition.members {
            let one = (addition.key.to_owned(), member.to_owned());
            if !world.supported.contains(&one) {
                world.violate(format!("{member} was added to {}: no stored row has it", one.0));
            }
            world.sets.entry(one.0).or_default().insert(one.1);
        }
    }
    sim.say(format!("added to {} keys", additions.len()));
    sim.take_time(slow).await;
    let mut world = sim.lock();
    // Done, and nobody hears of it.
    if world.fails(rate / 4) { Err(away()) } else { Ok(applied) }
}
