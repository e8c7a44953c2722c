//! Expression indexes for the fields of the sets, made while ingest goes on.
//!
//! The order: the parent's index first, on no partition, so that each partition made from then on
//! brings its own; then one partition after the other, CONCURRENTLY, and attached. The parent's
//! becomes valid with the last. Killed anywhere, the next run goes on from what it finds; what a
//! killed CONCURRENTLY left is invalid, dropped and made again.
//!
//! An indexed expression must never refuse a row. A btree takes 2,704 bytes, a field can hold 60
//! KiB: so it is the beginning of each field, short enough that all of them fit.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::error::StoreError;
use super::link::Link;
use super::patient::{literal, path_literal, patiently, quoted, watch_client};
use super::{ADVISORY_CLASS, ADVISORY_INDEX, ADVISORY_PARTITIONS};
use crate::config;

/// What a btree's entry may measure, less its header, a null bitmap and something to spare.
const ENTRY_BYTES: usize = 2_600;
/// The header and padding of each text in it.
const TEXT_OVERHEAD_BYTES: usize = 8;
/// The longest character, in any encoding of the server.
const CHARACTER_BYTES: usize = 4;
/// Longer than most values: then what the index groups by is the value.
const CHARACTERS_MAX: usize = 256;
/// Names begin so; nobody else's do.
const STEM: &str = "events_by_";
/// What a name of Postgres takes.
const NAME_BYTES_MAX: usize = 63;
/// What of the fields goes into a name, for the reader.
const LABEL_BYTES_MAX: usize = 36;
/// One partition's index: hours on a large one, and it waits for transactions that are open.
const BUILD_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// Looks at what is missing: partitions can come and go meanwhile.
const PASSES_MAX: u32 = 10;

const NAMESPACE: Uuid = uuid::uuid!("3e0a2d3c-6f0e-5f4e-9c39-0b5f1a6f7f11");

/// The index that a list of fields needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldIndex {
    pub name: String,
    pub fields: Vec<String>,
    /// One for each field, in order: what to GROUP BY.
    pub expressions: Vec<String>,
    digest: String,
}

/// An index of ours that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    /// As it was said when it was made.
    pub fields: Option<String>,
    /// On every partition.
    pub valid: bool,
    pub partitions: i64,
    pub bytes: i64,
}

/// What a run did for one index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Partitions that got theirs now.
    pub built: Vec<String>,
    /// Leftovers of a run that was killed.
    pub cleaned: u64,
}

/// One partition, as far as one index is concerned.
struct Part {
    table: String,
    name: String,
    attached: bool,
    /// One that is there by our name, and whether it is valid.
    own: Option<bool>,
}

impl FieldIndex {
    pub fn of<'a>(fields: impl IntoIterator<Item = &'a str>) -> FieldIndex {
        let fields: Vec<String> = fields.into_iter().map(str::to_owned).collect();
        let count = fields.len().max(1);
        let room = ENTRY_BYTES / count - TEXT_OVERHEAD_BYTES;
        let characters = (room / CHARACTER_BYTES).min(CHARACTERS_MAX);
        let expression =
            |field: &String| format!("left(payload #>> {}, {characters})", path_literal(field));
        let expressions: Vec<String> = fields.iter().map(expression).collect();
        // Of what it is, so that another definition is another index.
        let digest = Uuid::new_v5(&NAMESPACE, expressions.join(",").as_bytes()).simple();
        let digest = digest.to_string()[..8].to_owned();
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let label: String = fields.join("_").chars().map(plain).take(LABEL_BYTES_MAX).collect();
        FieldIndex { name: format!("{STEM}{label}_{digest}_idx"), fields, expressions, digest }
    }

    /// The index of one partition, where it is we who make it.
    fn name_on(&self, partition: &str) -> String {
        let name = format!("{partition}_by_{}_idx", self.digest);
        if name.len() <= NAME_BYTES_MAX {
            return name;
        }
        format!("{STEM}{}_idx", Uuid::new_v5(&NAMESPACE, name.as_bytes()).simple())
    }

    /// `(left(payload #>> '{state}', 256)), …`
    fn columns(&self) -> String {
        let columns: Vec<String> = self.expressions.iter().map(|one| format!("({one})")).collect();
        columns.join(", ")
    }
}

/// Every index of ours.
pub async fn indexes(link: &mut Link) -> Result<Vec<Found>, StoreError> {
    type Row = (String, Option<String>, bool, i64, i64);
    let rows: Vec<Row> = link
        .run("list indexes", async |conn: &mut PgConnection| {
            sqlx::query_as(
                "SELECT c.relname::text, obj_description(c.oid, 'pg_class'), i.indisvalid, \
                 count(h.inhrelid), coalesce(sum(pg_relation_size(h.inhrelid)), 0)::bigint \
                 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
                 LEFT JOIN pg_inherits h ON h.inhparent = c.oid \
                 WHERE i.indrelid = 'events'::regclass AND starts_with(c.relname::text, $1) \
                 GROUP BY c.oid, c.relname, i.indisvalid ORDER BY c.relname",
            )
            .bind(STEM)
            .fetch_all(conn)
            .await
        })
        .await?;
    let found =
        |(name, fields, valid, partitions, bytes)| Found { name, fields, valid, partitions, bytes };
    Ok(rows.into_iter().map(found).collect())
}

/// Makes and drops indexes: one process at a time.
pub struct Indexer {
    link: Link,
}

impl Indexer {
    /// `None` where another process is at it.
    pub async fn begin(store: &config::Store) -> Result<Option<Indexer>, StoreError> {
        let mut link = Link::open(&store.url, store.timeout).await?;
        super::migrate::read_state(&mut link).await?.required()?;
        watch_client(&mut link).await?;
        let taken: bool = link
            .run("take the lock for indexes", async |conn| {
                sqlx::query_scalar("SELECT pg_try_advisory_lock($1, $2)")
                    .bind(ADVISORY_CLASS)
                    .bind(ADVISORY_INDEX)
                    .fetch_one(conn)
                    .await
            })
            .await?;
        if !taken {
            link.close().await;
            return Ok(None);
        }
        link.allow(BUILD_MAX).await?;
        // SHARE UPDATE EXCLUSIVE, which is what CONCURRENTLY waits for and in, is in nobody's way.
        link.run("set how long to wait for a lock", async |conn| {
            sqlx::query("SELECT set_config('lock_timeout', '0', false)").execute(conn).await
        })
        .await?;
        Ok(Some(Indexer { link }))
    }

    pub async fn found(&mut self) -> Result<Vec<Found>, StoreError> {
        indexes(&mut self.link).await
    }

    /// Makes what is missing of one index. `progress` is given how many partitions have it, and how
    /// many there are.
    pub async fn ensure(
        &mut self,
        index: &FieldIndex,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Made, StoreError> {
        let mut made = Made::default();
        self.make_parent(index).await?;
        for _ in 0..PASSES_MAX {
            let parts = self.parts(index).await?;
            let total = parts.len();
            let mut done = parts.iter().filter(|part| part.attached).count();
            progress(done, total);
            for part in parts.iter().filter(|part| !part.attached) {
                match self.make_part(index, part, &mut made).await {
                    // Retention was faster: the partition is gone.
                    Err(error) if error.sqlstate() == Some("42P01") => {}
                    other => other?,
                }
                done += 1;
                progress(done, total);
            }
            if self.found().await?.iter().any(|found| found.name == index.name && found.valid) {
                return Ok(made);
            }
            // All have theirs and the parent does not know: attaching again has it look.
            if let Some(name) = self.attached(index).await? {
                self.attach(index, &name).await?;
            }
        }
        Ok(made)
    }

    /// On no partition: SHARE on the parent alone, and for a moment.
    async fn make_parent(&mut self, index: &FieldIndex) -> Result<(), StoreError> {
        if self.found().await?.iter().any(|found| found.name == index.name) {
            return Ok(());
        }
        let create = format!(
            "CREATE INDEX IF NOT EXISTS {} ON ONLY events ({})",
            quoted(&index.name),
            index.columns()
        );
        let comment = literal(&index.fields.join(", "));
        let comment = format!("COMMENT ON INDEX {} IS {comment}", quoted(&index.name));
        patiently(&mut self.link, "make the parent's index", async |conn| {
            sqlx::raw_sql(AssertSqlSafe(create.clone())).execute(&mut *conn).await?;
            sqlx::raw_sql(AssertSqlSafe(comment.clone())).execute(&mut *conn).await
        })
        .await?;
        Ok(())
    }

    async fn make_part(
        &mut self,
        index: &FieldIndex,
        part: &Part,
        made: &mut Made,
    ) -> Result<(), StoreError> {
        let name = index.name_on(&part.name);
        if part.own == Some(false) {
            let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {}", quoted(&name));
            self.alone("drop what a killed run left", drop).await?;
            made.cleaned += 1;
        }
        if part.own != Some(true) {
            let create = format!(
                "CREATE INDEX CONCURRENTLY {} ON {} ({})",
                quoted(&name),
                part.table,
                index.columns()
            );
            self.alone("make a partition's index", create).await?;
            made.built.push(part.name.clone());
        }
        self.attach(index, &quoted(&name)).await
    }

    /// Under the lock that making a partition takes: one that came at this moment would have an
    /// index that the parent does not count, and leave the parent invalid.
    async fn attach(&mut self, index: &FieldIndex, child: &str) -> Result<(), StoreError> {
        let attach = format!("ALTER INDEX {} ATTACH PARTITION {child}", quoted(&index.name));
        patiently(&mut self.link, "attach a partition's index", async |conn| {
            sqlx::query("SELECT pg_advisory_xact_lock($1, $2)")
                .bind(ADVISORY_CLASS)
                .bind(ADVISORY_PARTITIONS)
                .execute(&mut *conn)
                .await?;
            sqlx::raw_sql(AssertSqlSafe(attach.clone())).execute(&mut *conn).await
        })
        .await?;
        Ok(())
    }

    /// Takes an index off every partition: ACCESS EXCLUSIVE on all of them, for a moment.
    pub async fn drop(&mut self, name: &str) -> Result<(), StoreError> {
        let drop = format!("DROP INDEX IF EXISTS {}", quoted(name));
        patiently(&mut self.link, "drop an index", async |conn| {
            sqlx::raw_sql(AssertSqlSafe(drop.clone())).execute(&mut *conn).await
        })
        .await?;
        Ok(())
    }

    pub async fn end(self) {
        self.link.close().await;
    }

    /// A statement that will not be in a transaction.
    async fn alone(&mut self, doing: &'static str, sql: String) -> Result<(), StoreError> {
        self.link
            .run(doing, async |conn| sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await)
            .await?;
        Ok(())
    }

    async fn parts(&mut self, index: &FieldIndex) -> Result<Vec<Part>, StoreError> {
        let tables = super::walk::leaves(&mut self.link).await?;
        let names: Vec<String> = tables.iter().map(|leaf| index.name_on(&leaf.name)).collect();
        let oids: Vec<String> = tables.iter().map(|leaf| leaf.table.clone()).collect();
        let found: Vec<(bool, Option<bool>)> = self
            .link
            .run("see which partitions have the index", async |conn| {
                sqlx::query_as(
                    "SELECT EXISTS (SELECT FROM pg_inherits h JOIN pg_index i \
                         ON i.indexrelid = h.inhrelid WHERE i.indrelid = to_regclass(t.t) \
                         AND h.inhparent = to_regclass(quote_ident($3))), \
                     (SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
                         WHERE i.indrelid = to_regclass(t.t) AND c.relname::text = t.n) \
                     FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t (t, n, o) \
                     ORDER BY t.o",
                )
                .bind(&oids)
                .bind(&names)
                .bind(&index.name)
                .fetch_all(conn)
                .await
            })
            .await?;
        let part = |(leaf, (attached, own)): (super::walk::Leaf, (bool, Option<bool>))| Part {
            table: leaf.table,
            name: leaf.name,
            attached,
            own,
        };
        Ok(tables.into_iter().zip(found).map(part).collect())
    }

    /// Some child of the parent, quoted.
    async fn attached(&mut self, index: &FieldIndex) -> Result<Option<String>, StoreError> {
        self.link
            .run("look for an attached index", async |conn| {
                sqlx::query_scalar(
                    "SELECT h.inhrelid::regclass::text FROM pg_inherits h \
                     WHERE h.inhparent = to_regclass(quote_ident($1)) LIMIT 1",
                )
                .bind(&index.name)
                .fetch_optional(conn)
                .await
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_fits_however_many_fields_there_are() {
        for count in 1..=16 {
            let fields: Vec<String> = (0..count).map(|n| format!("f{n}")).collect();
            let index = FieldIndex::of(fields.iter().map(String::as_str));
            let characters = index.expressions[0].rsplit(", ").next().unwrap();
            let characters: usize = characters.trim_end_matches(')').parse().unwrap();
            let bytes = count * (characters * CHARACTER_BYTES + TEXT_OVERHEAD_BYTES);
            assert!(bytes <= ENTRY_BYTES && characters >= 32, "{count} fields: {bytes} bytes");
        }
    }

    #[test]
    fn a_name_says_the_fields_and_is_one_definitions_own() {
        let index = FieldIndex::of(["user.id", "state"]);
        assert!(index.name.starts_with("events_by_user_id_state_"), "{}", index.name);
        assert_ne!(index.name, FieldIndex::of(["user_id", "state"]).name);
        assert_ne!(index.name, FieldIndex::of(["state", "user.id"]).name);
        let long = "x".repeat(500);
        let index = FieldIndex::of([long.as_str()]);
        assert!(index.name.len() <= NAME_BYTES_MAX);
        for partition in ["events_2026_11", "events_2026_11_23t000000000000_x99", &long[..63]] {
            assert!(index.name_on(partition).len() <= NAME_BYTES_MAX);
        }
        assert_eq!(index.expressions[0], format!("left(payload #>> '{{{long}}}', 256)"));
    }
}
