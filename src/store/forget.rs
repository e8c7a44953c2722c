//! Erasure in Postgres: the events that hold a value, and of retired members those that name it.
//! What they added is kept in `rollcall_forgetting`, in the same transaction, until Redis is right.
//! Says nothing about which members must leave Redis: that is the caller's, who knows the sets.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::OffsetDateTime;

use super::error::StoreError;
use super::link::Link;
use super::members::{self, DIGEST, Kept, Member};
use super::walk::{Bind, Filter, Walk};
use crate::sets::{Place, Source, encode};

/// Events of one transaction.
const DELETED_MAX: u64 = 500;
/// Retired members of one transaction.
const RETIRED_MAX: i64 = 5_000;

/// What must be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A dotted path.
    pub field: String,
    pub value: String,
}

/// What one step deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    pub events: u64,
    /// Stored so short a time ago that a worker may still be adding their members.
    pub recent: u64,
}

impl Target {
    /// Events with the value at the path: a scalar, or one in an array there.
    pub fn filter(&self) -> Filter {
        let parts: Vec<String> = self.field.split('.').map(str::to_owned).collect();
        let mut sql = "CASE jsonb_typeof(payload #> $1) \
             WHEN 'array' THEN EXISTS (SELECT FROM jsonb_array_elements(payload #> $1) AS a (v) \
                 WHERE jsonb_typeof(a.v) NOT IN ('object', 'array') AND a.v #>> '{}' = $2) \
             WHEN 'object' THEN false \
             ELSE payload #>> $1 = $2 END"
            .to_owned();
        let mut binds = vec![Bind::Texts(parts.clone()), Bind::Text(self.value.clone())];
        for (at, part) in parts.iter().enumerate().skip(1) {
            // Postgres takes a number for a place in an array, too; a path of ours names fields.
            if part.parse::<i64>().is_ok() {
                binds.push(Bind::Texts(parts[..at].to_vec()));
                let object = format!("jsonb_typeof(payload #> ${}) = 'object'", binds.len());
                sql = format!("{object} AND ({sql})");
            }
        }
        Filter { sql, binds }
    }

    /// Whether a retired member names the value.
    pub fn is_in(&self, member: &Member) -> bool {
        let mut value = String::new();
        encode(&self.value, &mut value);
        let at = |text: &str, n: i32| {
            let place = usize::try_from(n - 1).unwrap_or_default();
            text.split(':').nth(place) == Some(value.as_str())
        };
        Source::read(&member.source).places(&self.field).iter().any(|place| match *place {
            Place::Member(n) => at(&member.member, n),
            Place::Suffix(n) => at(&member.suffix, n),
        })
    }

    /// The same in SQL, where $1 is the source and $2 the encoded value; `None`: the source has no
    /// such field.
    fn retired(&self, source: &str) -> Option<String> {
        let places = Source::read(source).places(&self.field);
        let place = |place: &Place| match place {
            Place::Member(n) => format!("split_part(member, ':', {n}) = $2"),
            Place::Suffix(n) => format!("split_part(suffix, ':', {n}) = $2"),
        };
        let any: Vec<String> = places.iter().map(place).collect();
        (!any.is_empty()).then(|| format!("source = $1 AND ({})", any.join(" OR ")))
    }
}

/// The events that might support some of these members: every one that does, and few others. Each
/// source is given with the values that its fields may have.
pub fn supporting(sources: &[BTreeMap<String, HashSet<String>>]) -> Filter {
    let mut binds = Vec::new();
    let mut any = Vec::new();
    for fields in sources {
        let mut all = Vec::new();
        for (path, values) in fields {
            binds.push(Bind::Texts(path.split('.').map(str::to_owned).collect()));
            let path = binds.len();
            binds.push(Bind::Texts(values.iter().cloned().collect()));
            let values = binds.len();
            all.push(format!(
                "(payload #>> ${path} = ANY (${values}) \
                 OR jsonb_typeof(payload #> ${path}) = 'array')"
            ));
        }
        any.push(format!("({})", all.join(" AND ")));
    }
    let sql = if any.is_empty() { "false".to_owned() } else { any.join(" OR ") };
    Filter { sql, binds }
}

/// Deletes some of the matching events of one partition and keeps what they added, in one
/// transaction. False when the partition has been walked through.
pub async fn erase_step(
    link: &mut Link,
    walk: &mut Walk,
    target: &Filter,
    recent: Duration,
    erased: &mut Erased,
    mut members: impl FnMut(OffsetDateTime, &str, &mut HashSet<Member>),
) -> Result<bool, StoreError> {
    let Some((from, to)) = walk.next_range(link).await? else { return Ok(false) };
    let (table, filter) = (walk.table(), &target.sql);
    let recent_ms = recent.as_millis();
    let sql = format!(
        "DELETE FROM ONLY {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM ONLY {table} \
         WHERE ctid >= '({from},0)' AND ctid < '({to},0)' AND ({filter}) LIMIT {DELETED_MAX})) \
         RETURNING occurred_at, payload::text, \
         received_at > now() - interval '{recent_ms} milliseconds'"
    );
    let done = link
        .run("erase events", async |conn: &mut PgConnection| {
            let mut transaction = conn.begin().await?;
            let mut found = HashSet::new();
            let mut done = Erased::default();
            {
                let query = sqlx::query_as::<_, (OffsetDateTime, String, bool)>(AssertSqlSafe(sql));
                let mut rows = target.bind(query.persistent(false)).fetch(&mut *transaction);
                while let Some((at, payload, recent)) = rows.try_next().await? {
                    done.events += 1;
                    done.recent += u64::from(recent);
                    members(at, &payload, &mut found);
                }
            }
            let found: Vec<Member> = found.into_iter().collect();
            members::keep(&mut transaction, Kept::Forgetting, &found).await?;
            transaction.commit().await?;
            Ok(done)
        })
        .await?;
    erased.events += done.events;
    erased.recent += done.recent;
    // The deleted are gone: what is left of the range is found by the same question again.
    if done.events < DELETED_MAX {
        walk.passed(to);
        walk.widen();
    }
    Ok(true)
}

/// Every source that members are kept of; by the key, however many members there are.
async fn sources(link: &mut Link) -> Result<Vec<String>, StoreError> {
    link.run("list sources", async |conn: &mut PgConnection| {
        sqlx::query_scalar(
            "WITH RECURSIVE s (source) AS (SELECT min(source) FROM retired_members UNION ALL \
             SELECT (SELECT min(r.source) FROM retired_members r WHERE r.source > s.source) \
             FROM s WHERE s.source IS NOT NULL) SELECT source FROM s WHERE source IS NOT NULL",
        )
        .fetch_all(conn)
        .await
    })
    .await
}

/// Takes the retired members that name the value out, and keeps them with the others. How many.
pub async fn erase_retired(link: &mut Link, target: &Target) -> Result<u64, StoreError> {
    let mut erased = 0;
    let mut value = String::new();
    encode(&target.value, &mut value);
    for source in sources(link).await? {
        let Some(condition) = target.retired(&source) else { continue };
        let sql = format!(
            "WITH gone AS (DELETE FROM retired_members WHERE ctid = ANY (ARRAY(SELECT ctid \
                 FROM retired_members WHERE {condition} LIMIT {RETIRED_MAX})) RETURNING *), \
             kept AS (INSERT INTO rollcall_forgetting (source, suffix, member, digest, expires_at) \
                 SELECT source, suffix, member, digest, expires_at FROM gone \
                 ON CONFLICT DO NOTHING) \
             SELECT count(*) FROM gone"
        );
        loop {
            let some: i64 = link
                .run("erase retired members", async |conn: &mut PgConnection| {
                    sqlx::query_scalar(AssertSqlSafe(sql.clone()))
                        .bind(&source)
                        .bind(&value)
                        .fetch_one(conn)
                        .await
                })
                .await?;
            erased += some.unsigned_abs();
            if some == 0 {
                break;
            }
        }
    }
    Ok(erased)
}

/// The retired members that name the value, for a dry run: at most so many.
pub async fn retired_with(
    link: &mut Link,
    target: &Target,
    limit: usize,
) -> Result<Vec<Member>, StoreError> {
    let mut found = Vec::new();
    let mut value = String::new();
    encode(&target.value, &mut value);
    for source in sources(link).await? {
        let Some(condition) = target.retired(&source) else { continue };
        let room = limit.saturating_sub(found.len());
        let sql = format!("{SELECT} FROM retired_members WHERE {condition} LIMIT {room}");
        let rows: Vec<Row> = link
            .run("look for retired members", async |conn: &mut PgConnection| {
                let query = sqlx::query_as(AssertSqlSafe(sql)).bind(&source).bind(&value);
                query.fetch_all(conn).await
            })
            .await?;
        found.extend(rows.into_iter().map(member));
    }
    Ok(found)
}

type Row = (String, String, String, Option<i64>);
const SELECT: &str =
    "SELECT source, suffix, member, extract(epoch FROM expires_at)::bigint AS expires";

fn member((source, suffix, member, expires_at): Row) -> Member {
    Member { source, suffix, member, expires_at }
}

/// Some of those whose place in Redis is still to be decided.
pub async fn pending(link: &mut Link, limit: i64) -> Result<Vec<Member>, StoreError> {
    let sql = format!("{SELECT} FROM rollcall_forgetting LIMIT {limit}");
    let rows: Vec<Row> = link
        .run("read what is to be forgotten", async |conn: &mut PgConnection| {
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(conn).await
        })
        .await?;
    Ok(rows.into_iter().map(member).collect())
}

/// Which of the members are retired.
pub async fn retired_among(link: &mut Link, members: &[Member]) -> Result<Vec<Member>, StoreError> {
    let sql = format!(
        "SELECT f, s, m, NULL::bigint FROM unnest($1::text[], $2::text[], $3::text[]) \
         AS t (f, s, m) WHERE EXISTS (SELECT FROM retired_members r \
         WHERE r.source = t.f AND r.digest = {DIGEST})"
    );
    among(link, "look among retired members", sql, members).await
}

/// Redis is right about these.
pub async fn settled(link: &mut Link, members: &[Member]) -> Result<(), StoreError> {
    let sql = format!(
        "DELETE FROM rollcall_forgetting r USING unnest($1::text[], $2::text[], $3::text[]) \
         AS t (f, s, m) WHERE r.source = t.f AND r.digest = {DIGEST} \
         RETURNING f, s, m, NULL::bigint"
    );
    among(link, "settle what was forgotten", sql, members).await.map(|_| ())
}

async fn among(
    link: &mut Link,
    doing: &'static str,
    sql: String,
    members: &[Member],
) -> Result<Vec<Member>, StoreError> {
    let texts = |of: fn(&Member) -> &str| -> Vec<String> {
        members.iter().map(|member| of(member).to_owned()).collect()
    };
    let rows: Vec<Row> = link
        .run(doing, async |conn: &mut PgConnection| {
            sqlx::query_as(AssertSqlSafe(sql))
                .bind(texts(|member| &member.source))
                .bind(texts(|member| &member.suffix))
                .bind(texts(|member| &member.member))
                .persistent(false)
                .fetch_all(conn)
                .await
        })
        .await?;
    Ok(rows.into_iter().map(member).collect())
}

/// Other prefixes that are kept from the same events.
pub async fn other_prefixes(link: &mut Link, prefix: &str) -> Result<Vec<String>, StoreError> {
    link.run("look for other projections", async |conn: &mut PgConnection| {
        sqlx::query_scalar("SELECT prefix FROM rollcall_projection WHERE prefix <> $1")
            .bind(prefix)
            .fetch_all(conn)
            .await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_a_path_is_a_fields_name() {
        let target = |field: &str| Target { field: field.to_owned(), value: "v".to_owned() };
        assert!(!target("a.b").filter().sql.contains("'object' AND"));
        assert!(target("a.0").filter().sql.starts_with("jsonb_typeof(payload #> $3) = 'object'"));
    }

    #[test]
    fn a_retired_member_names_a_value_by_its_place_alone() {
        let target = |field: &str| Target { field: field.to_owned(), value: "a:b".to_owned() };
        let member = Member {
            source: "user+city@state/day".to_owned(),
            suffix: ":2026-11-23:x".to_owned(),
            member: "a%3Ab:y".to_owned(),
            expires_at: None,
        };
        assert!(target("user").is_in(&member));
        for other in ["city", "state", "day", "use"] {
            assert!(!target(other).is_in(&member), "{other}");
        }
    }
}
