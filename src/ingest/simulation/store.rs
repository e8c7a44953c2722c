//! A model of Postgres: one table, each statement whole or not at all.

use uuid::Uuid;

use super::load::{BAD_PAYLOAD, BAD_ROW};
use super::world::{Sim, World};
use crate::ingest::servers::Store;
use crate::store::{self, Cause, Refusal, Refused, Row, StoreError, Stored, Table};

/// A lane's connection.
pub struct SimStore {
    sim: Sim,
    busy: bool,
    rows_max: usize,
}

pub async fn connect(sim: &Sim) -> Result<SimStore, StoreError> {
    sim.take_time(5).await;
    let mut world = sim.lock();
    let (rate, away) = (world.faults.store, world.faults.store_away);
    if world.is_away(away) || world.fails(rate) {
        return Err(StoreError::Connect { target: "model".to_owned(), source: reset() });
    }
    Ok(SimStore { sim: sim.clone(), busy: false, rows_max: usize::MAX })
}

fn reset() -> Cause {
    Cause::Io(std::io::ErrorKind::ConnectionReset.into())
}

fn server(sqlstate: &str, unrouted: bool) -> StoreError {
    let source =
        Cause::Server { sqlstate: sqlstate.to_owned(), message: sqlstate.to_owned(), unrouted };
    StoreError::Statement { doing: "insert events".into(), source }
}

impl Store for SimStore {
    async fn insert(&mut self, rows: &[Row<'_>]) -> Result<Stored, StoreError> {
        if self.busy {
            return Err(StoreError::Broken);
        }
        // As with a real one: dropped or lost half way, it is of no more use.
        self.busy = true;
        let mut rows_max = self.rows_max;
        let stored = store::insert(self, rows, &mut rows_max).await;
        self.rows_max = rows_max;
        self.busy = match &stored {
            Ok(_) => false,
            Err(StoreError::Statement { source: Cause::Server { .. }, .. }) => false,
            Err(_) => true,
        };
        stored
    }

    async fn note_missing(&mut self, _: i64, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_broken(&self) -> bool {
        self.busy
    }

    async fn close(self) {}
}

impl Table for SimStore {
    async fn make_partitions(
        &mut self,
        _: &[Row<'_>],
        _: &[usize],
        anew: bool,
    ) -> Result<(), StoreError> {
        if anew {
            self.sim.take_time(5).await;
        }
        Ok(())
    }

    async fn insert_part(
        &mut self,
        rows: &[Row<'_>],
        part: &[usize],
    ) -> Result<Stored, StoreError> {
        let slow = self.sim.lock().faults.slow;
        self.sim.take_time(slow).await;
        self.sim.lock().before_commit(part.len()).map_or(Ok(()), Err)?;
        let hangs = {
            let mut world = self.sim.lock();
            let rate = world.faults.store / 10;
            world.fails(rate)
        };
        if hangs {
            let after = std::time::Duration::from_secs(21);
            tokio::time::sleep(after).await;
            return Err(StoreError::Timeout { doing: "insert events".into(), after });
        }
        let stored = self.sim.lock().commit(rows, part)?;
        self.sim.say(format!("committed {} of {} rows", stored.inserted, part.len()));
        self.sim.take_time(slow).await;
        let mut world = self.sim.lock();
        let rate = world.faults.store;
        if world.fails(rate) {
            world.count("commit without a reply");
            let source = reset();
            return Err(StoreError::Statement { doing: "insert events".into(), source });
        }
        Ok(stored)
    }

    async fn bad_payloads(
        &mut self,
        rows: &[Row<'_>],
        part: &[usize],
    ) -> Result<Vec<Refused>, StoreError> {
        self.sim.take_time(5).await;
        let bad = part.iter().filter(|&&row| rows[row].payload.contains(BAD_PAYLOAD));
        let refused = bad.map(|&row| Refused {
            row,
            why: Refusal::Data { sqlstate: "22P02".to_owned(), detail: "22P02".to_owned() },
        });
        let refused: Vec<Refused> = refused.collect();
        if !refused.is_empty() {
            self.sim.lock().count("payload refused");
        }
        Ok(refused)
    }
}

impl World {
    /// What a statement can fail of, that has nothing to do with its rows.
    fn before_commit(&mut self, rows: usize) -> Option<StoreError> {
        if self.is_away(self.faults.store_away) {
            return Some(StoreError::Statement { doing: "insert events".into(), source: reset() });
        }
        if !self.fails(self.faults.store) {
            return None;
        }
        let (what, error) = match self.dice.below(5) {
            0 => ("deadlock", server("40P01", false)),
            1 if rows > 1 => ("timed out", server("57014", false)),
            2 => ("no partition", server("23514", true)),
            3 => ("read only", server("25006", false)),
            _ => {
                let source = reset();
                ("reset", StoreError::Statement { doing: "insert events".into(), source })
            }
        };
        self.count(what);
        Some(error)
    }

    fn commit(&mut self, rows: &[Row<'_>], part: &[usize]) -> Result<Stored, StoreError> {
        let keys: Vec<_> = part.iter().map(|&row| (rows[row].occurred_at, rows[row].id)).collect();
        if !keys.is_sorted() {
            self.violate("rows out of order: they would deadlock".to_owned());
        }
        if part.iter().any(|&row| rows[row].payload.contains(BAD_PAYLOAD)) {
            return Err(server("22P02", false));
        }
        if part.iter().any(|&row| rows[row].payload.contains(BAD_ROW)) {
            if part.len() == 1 {
                self.count("one row refused by a constraint");
            }
            return Err(server("22001", false));
        }
        let mut stored = Stored::default();
        for &row in part {
            let Row { occurred_at, id, payload } = rows[row];
            self.store_row((occurred_at, id), payload, row, &mut stored);
        }
        Ok(stored)
    }

    fn store_row(
        &mut self,
        key: (time::OffsetDateTime, Uuid),
        payload: &str,
        row: usize,
        stored: &mut Stored,
    ) {
        match self.rows.get(&key) {
            Some(there) if there == payload => {
                stored.duplicates += 1;
                self.count("duplicate stored again");
            }
            Some(_) => {
                stored.refused.push(Refused { row, why: Refusal::IdConflict });
                self.count("id conflict");
            }
            None => {
                match self.load.adds.get(payload) {
                    Some(adds) => self.supported.extend(adds.iter().cloned()),
                    None => self.violate(format!("nobody published {payload}")),
                }
                self.rows.insert(key, payload.to_owned());
                stored.inserted += 1;
            }
        }
    }
}
