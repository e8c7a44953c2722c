//! Brings the schema to what this binary knows, and tells how far it is.
//!
//! Only `rollcall manage migrate` calls [`migrate`]; a worker only looks. Its lock is polled: one
//! that blocks, as the driver's own does, holds a snapshot while it waits, and CREATE INDEX
//! CONCURRENTLY in the process that has the lock waits for that snapshot: a deadlock. The lock is
//! the session's, so point this at Postgres itself and not at a pooler in transaction mode.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use tokio::time::{Instant, sleep};

use super::error::StoreError;
use super::link::Link;
use super::{ADVISORY_CLASS, ADVISORY_MIGRATE};
use crate::config;

/// How long to wait for another process that is migrating.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often to ask for the lock meanwhile.
const LOCK_POLL: Duration = Duration::from_millis(250);
/// For all migrations together: an index on a big table takes its time.
const MIGRATE_MAX: Duration = Duration::from_secs(6 * 60 * 60);
/// First `server_version_num` with `pg_inherits.inhdetachpending`, which the partitions' view
/// reads.
const SERVER_VERSION_MIN: i32 = 140_000;

/// Grants to the roles that `deploy/postgres/roles.sql` has named, as the owner.
const RIGHTS: &str = include_str!("rights.sql");

/// The files of `migrations/`, compiled in. Its own lock is off, see above.
static MIGRATOR: Migrator = Migrator { locking: false, ..sqlx::migrate!("./migrations") };

/// One migration that this run applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub version: i64,
    pub description: String,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationReport {
    /// In the order of application; empty when there was nothing to do.
    pub applied: Vec<Applied>,
    /// How many were there before.
    pub already: usize,
    /// The roles that were granted what a worker and a reader need; empty where none are named.
    pub granted: Vec<String>,
}

/// How the schema compares with this binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// All that this binary knows, and nothing else.
    Current,
    /// These are missing; all of them in a database that was never migrated.
    Behind { missing: Vec<i64> },
    /// Has all that this binary knows and more. Fine for a worker: migrations only go forward.
    Ahead { unknown: Vec<i64> },
    /// Applied from another text than ours.
    Changed { version: i64 },
    /// Begun and not finished. Cannot happen to a migration that runs in a transaction.
    Unfinished { version: i64 },
}

impl SchemaState {
    /// The error where a worker of this binary cannot write.
    pub fn required(self) -> Result<(), StoreError> {
        match self {
            SchemaState::Current | SchemaState::Ahead { .. } => Ok(()),
            SchemaState::Behind { missing } => Err(StoreError::NotMigrated { missing }),
            SchemaState::Changed { version } => Err(StoreError::MigrationChanged { version }),
            SchemaState::Unfinished { version } => Err(StoreError::MigrationUnfinished { version }),
        }
    }
}

/// A row of the driver's table.
struct Found {
    version: i64,
    checksum: Vec<u8>,
    success: bool,
}

/// Applies what is missing, and grants on it. Safe to run from many processes at once: one does,
/// the others wait.
pub async fn migrate(store: &config::Store) -> Result<MigrationReport, StoreError> {
    let mut link = Link::open(&store.url, store.timeout).await?;
    check_server(&mut link).await?;
    lock(&mut link, LOCK_WAIT_MAX).await?;
    let report = migrate_locked(&mut link).await;
    // The end of the session gives the lock back, also when we failed half way.
    link.close().await;
    report
}

/// How far the schema is. Writes nothing.
pub async fn schema_state(store: &config::Store) -> Result<SchemaState, StoreError> {
    let mut link = Link::open(&store.url, store.timeout).await?;
    let state = read_state(&mut link).await?;
    link.close().await;
    Ok(state)
}

/// The same on a connection that is there.
pub(super) async fn read_state(link: &mut Link) -> Result<SchemaState, StoreError> {
    Ok(compare(&read_applied(link).await?, &MIGRATOR))
}

async fn check_server(link: &mut Link) -> Result<(), StoreError> {
    let (number, found, standby): (i32, String, bool) = link
        .run("ask for the version", async |conn| {
            sqlx::query_as(
                "SELECT current_setting('server_version_num')::int, \
                 current_setting('server_version'), pg_is_in_recovery()",
            )
            .fetch_one(conn)
            .await
        })
        .await?;
    if number < SERVER_VERSION_MIN {
        return Err(StoreError::ServerTooOld { found });
    }
    if standby {
        return Err(StoreError::NotPrimary { target: link.target().to_owned() });
    }
    Ok(())
}

async fn lock(link: &mut Link, wait_max: Duration) -> Result<(), StoreError> {
    let began = Instant::now();
    loop {
        let got: bool = link
            .run("ask for the migration lock", async |conn| {
                sqlx::query_scalar("SELECT pg_try_advisory_lock($1, $2)")
                    .bind(ADVISORY_CLASS)
                    .bind(ADVISORY_MIGRATE)
                    .fetch_one(conn)
                    .await
            })
            .await?;
        if got {
            return Ok(());
        }
        let waited = began.elapsed();
        if waited >= wait_max {
            return Err(StoreError::MigrationLocked { waited });
        }
        sleep(LOCK_POLL).await;
    }
}

async fn migrate_locked(link: &mut Link) -> Result<MigrationReport, StoreError> {
    let before = read_applied(link).await?;
    match compare(&before, &MIGRATOR) {
        SchemaState::Current | SchemaState::Behind { .. } => {}
        // Unlike a worker, we must not add to what we do not know.
        SchemaState::Ahead { unknown } => return Err(StoreError::SchemaNewer { unknown }),
        other => other.required()?,
    }
    link.allow(MIGRATE_MAX).await?;
    link.run("apply migrations", async |conn| {
        MIGRATOR.run_direct(None, conn, false).await.map_err(flattened)
    })
    .await?;
    let applied = MIGRATOR.iter().filter(|ours| before.iter().all(|b| b.version != ours.version));
    let applied = applied
        .map(|ours| Applied { version: ours.version, description: ours.description.to_string() });
    let granted = grant(link).await?;
    Ok(MigrationReport { applied: applied.collect(), already: before.len(), granted })
}

/// Each time, so that a run that died before it is made good by the next. The names are settings of
/// the role that we are, which nobody but it and a superuser can set: a table could be anybody's.
async fn grant(link: &mut Link) -> Result<Vec<String>, StoreError> {
    let named: Vec<String> = link
        .run("ask for whom there are rights", async |conn| {
            sqlx::query_scalar(
                "SELECT role FROM unnest(ARRAY[current_setting('rollcall.worker', true), \
                 current_setting('rollcall.reader', true)]) AS role WHERE role <> ''",
            )
            .fetch_all(conn)
            .await
        })
        .await?;
    // Both or none: `roles.sql` names them together.
    if named.len() < 2 {
        return Ok(Vec::new());
    }
    link.run("grant what a worker and a reader need", async |conn| {
        sqlx::raw_sql(RIGHTS).execute(conn).await
    })
    .await?;
    Ok(named)
}

/// What the server said, where it did: then its SQLSTATE is not lost.
fn flattened(error: MigrateError) -> sqlx::Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error,
        other => sqlx::Error::Migrate(Box::new(other)),
    }
}

async fn read_applied(link: &mut Link) -> Result<Vec<Found>, StoreError> {
    let table: bool = link
        .run("look for the migrations table", async |conn| {
            sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
                .fetch_one(conn)
                .await
        })
        .await?;
    if !table {
        return Ok(Vec::new());
    }
    let rows: Vec<(i64, Vec<u8>, bool)> = link
        .run("read the migrations table", async |conn| {
            sqlx::query_as(
                "SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version",
            )
            .fetch_all(conn)
            .await
        })
        .await?;
    let found = |(version, checksum, success)| Found { version, checksum, success };
    Ok(rows.into_iter().map(found).collect())
}

/// What needs a hand comes first.
fn compare(applied: &[Found], ours: &Migrator) -> SchemaState {
    if let Some(unfinished) = applied.iter().find(|found| !found.success) {
        return SchemaState::Unfinished { version: unfinished.version };
    }
    let mut missing = Vec::new();
    for migration in ours.iter() {
        match applied.iter().find(|found| found.version == migration.version) {
            Some(found) if found.checksum[..] != migration.checksum[..] => {
                return SchemaState::Changed { version: migration.version };
            }
            Some(_) => {}
            None => missing.push(migration.version),
        }
    }
    if !missing.is_empty() {
        return SchemaState::Behind { missing };
    }
    let unknown = applied.iter().map(|found| found.version).filter(|v| !ours.version_exists(*v));
    let unknown: Vec<i64> = unknown.collect();
    if unknown.is_empty() { SchemaState::Current } else { SchemaState::Ahead { unknown } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Found> {
        let found = |m: &sqlx::migrate::Migration| Found {
            version: m.version,
            checksum: m.checksum.to_vec(),
            success: true,
        };
        MIGRATOR.iter().map(found).collect()
    }

    #[test]
    fn the_schema_is_judged_by_its_worst_trait() {
        let versions: Vec<i64> = MIGRATOR.iter().map(|m| m.version).collect();
        assert_eq!(compare(&[], &MIGRATOR), SchemaState::Behind { missing: versions.clone() });
        assert_eq!(compare(&all(), &MIGRATOR), SchemaState::Current);

        let newer = Found { version: 9_999, checksum: vec![1], success: true };
        let mut applied = all();
        applied.push(newer);
        assert_eq!(compare(&applied, &MIGRATOR), SchemaState::Ahead { unknown: vec![9_999] });
        applied[0].checksum[0] ^= 1;
        assert_eq!(compare(&applied, &MIGRATOR), SchemaState::Changed { version: versions[0] });
        applied[1].success = false;
        assert_eq!(compare(&applied, &MIGRATOR), SchemaState::Unfinished { version: versions[1] });
    }

    #[test]
    fn each_migration_opens_with_why_lock_and_undo() {
        for migration in MIGRATOR.iter() {
            let opening: Vec<&str> = migration.sql.as_str().lines().take(20).collect();
            for word in ["-- Why:", "-- Lock:", "-- Undo:"] {
                let found = opening.iter().any(|line| line.starts_with(word));
                assert!(found, "migration {} lacks {word}", migration.version);
            }
        }
    }
}
