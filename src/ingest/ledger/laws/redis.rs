//! A model of Redis as the ledger sees it: commands in order, any prefix of which may be all that
//! is left.

use std::collections::{BTreeSet, HashMap};

use crate::projection::{Meta, Sighting, Tick};

pub enum Command {
    /// The members of a row.
    Add(i64),
    Set(Vec<(String, String)>),
    Unset(Vec<String>),
    Generation,
}

impl Command {
    fn apply(&self, hash: &mut HashMap<String, String>) {
        match self {
            Command::Add(_) | Command::Generation => {}
            Command::Set(fields) => hash.extend(fields.iter().cloned()),
            Command::Unset(fields) => fields.iter().for_each(|field| drop(hash.remove(field))),
        }
    }
}

pub struct Redis {
    log: Vec<Command>,
    /// What the log comes to.
    hash: HashMap<String, String>,
    server: u64,
}

impl Redis {
    pub fn new() -> Redis {
        Redis { log: Vec::new(), hash: HashMap::new(), server: 1 }
    }

    pub fn run(&mut self, command: Command) {
        command.apply(&mut self.hash);
        self.log.push(command);
    }

    /// As the script of `projection/watermark` does it.
    pub fn moves(&mut self, tick: &Tick, more: Option<(String, String)>) -> bool {
        if let Some(from) = tick.from {
            let found = self.hash.get(&tick.field).cloned();
            if ![Some(from.to_string()), Some(tick.to.to_string())].contains(&found) {
                return false;
            }
        }
        let fields = [(tick.field.clone(), tick.to.to_string())].into_iter().chain(more);
        self.run(Command::Set(fields.collect()));
        true
    }

    /// Who answers is asked before what it holds, and may be another by then.
    pub fn sight(&self, servers: BTreeSet<String>) -> Sighting {
        let generation = self.has_generation().then(|| "g".to_owned());
        let meta = Meta { generation, ..Meta::default() };
        Sighting { servers, clustered: false, watermark: self.hash.clone(), meta }
    }

    pub fn has_generation(&self) -> bool {
        self.log.iter().any(|command| matches!(command, Command::Generation))
    }

    pub fn servers(&self) -> BTreeSet<String> {
        [format!("run{}", self.server)].into()
    }

    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    pub fn empty(&mut self) {
        self.log.clear();
        self.hash.clear();
    }

    /// Another server takes over, without the last commands; never without the first.
    pub fn fail_over(&mut self, back: usize) {
        self.log.truncate(self.log.len().saturating_sub(back).max(1));
        self.hash.clear();
        self.log.iter().for_each(|command| command.apply(&mut self.hash));
        self.server += 1;
    }

    pub fn added(&self) -> BTreeSet<i64> {
        let added = self.log.iter().filter_map(|command| match command {
            Command::Add(row) => Some(*row),
            Command::Set(_) | Command::Unset(_) | Command::Generation => None,
        });
        added.collect()
    }
}
