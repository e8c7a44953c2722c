//! What a process of the model is at, and what Postgres has noted.

use std::collections::BTreeSet;

use crate::ingest::ledger::{Advance, Expected, Ledger, Loss};
use crate::projection::Sighting;

#[derive(Clone)]
pub enum Batch {
    Idle,
    /// Its rows; the last of them is new and its transaction under way.
    Inserting(Vec<i64>),
    /// So many of them have been added.
    Adding(Vec<i64>, usize),
}

/// What a process's look is at.
pub enum Look {
    Idle,
    Asked { xmin: i64, note: Note, expected: Expected },
    Named { xmin: i64, note: Note, expected: Expected, servers: BTreeSet<String> },
    Advancing(Advance),
    Registering { loss: Option<Loss>, sight: Sighting, xmin: i64 },
}

pub struct Process {
    pub ledger: Ledger,
    pub lanes: Vec<Batch>,
    pub look: Look,
}

#[derive(Clone, Copy, Default)]
pub struct Note {
    pub version: u64,
    pub from: Option<i64>,
    pub rebuild: bool,
}
