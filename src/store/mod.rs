//! Postgres, the truth: every event once, and the partitions and migrations that hold it.
//!
//! The only folder that names sqlx, and none of its types get out. A lane owns one [`EventStore`],
//! which is one connection; there is no pool. It must never decide when to try again, nor
//! dead-letter: it says which rows were refused and why, and of what class an error is.

mod admin;
mod error;
mod events;
mod export;
pub mod forget;
mod indexes;
mod insert;
mod link;
pub mod marks;
mod members;
mod migrate;
pub mod overview;
mod partitions;
mod patient;
mod ranges;
mod reader;
mod repair_lock;
pub mod retention;
mod sqlstate;
mod statements;
pub mod walk;

pub use admin::{Server, count_events, is_empty, ping, ping_replica, probe};
pub use error::{Cause, StoreError};
pub use events::{EventStore, Refusal, Refused, Row, Stored};
pub use export::Export;
pub use indexes::{FieldIndex, Found as IndexFound, Indexer};
#[cfg(test)]
pub use insert::{Table, insert};
pub use link::Link;
pub use marks::{History, Mark, Standing};
pub use members::{Kept, Member};
pub use migrate::{Applied, MigrationReport, SchemaState, migrate, schema_state};
pub use partitions::{Partition, list, make_ahead};
pub use patient::watch_client;
pub use reader::{Extent, Piece, Reader, RetiredMember, StoredEvent};
pub use repair_lock::RepairLock;

/// First half of every advisory lock of ours: "roll" in ASCII, which nobody else takes by accident.
/// The second halves in use: 1 partitions (`migrations/0002_partitions.sql`), 2 migrations, 3
/// repair, 4 indexes.
const ADVISORY_CLASS: i32 = 0x726f_6c6c;
const ADVISORY_PARTITIONS: i32 = 1;
const ADVISORY_MIGRATE: i32 = 2;
const ADVISORY_REPAIR: i32 = 3;
const ADVISORY_INDEX: i32 = 4;
