//! Members that are kept in Postgres: of events that retention has dropped (`retired_members`), and
//! of events that are being erased (`rollcall_forgetting`). Two tables of one form.

use sqlx::{AssertSqlSafe, PgConnection};

/// Rows of one statement.
const ROWS_MAX: usize = 5_000;

/// One member of what a source makes, see [`crate::sets::Set::source`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    pub source: String,
    /// What follows `<prefix>:<name>` in the key.
    pub suffix: String,
    pub member: String,
    /// Unix seconds: when Redis drops the key. None: never.
    pub expires_at: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
pub enum Kept {
    Retired,
    Forgetting,
}

impl Kept {
    pub(super) fn table(self) -> &'static str {
        match self {
            Kept::Retired => "retired_members",
            Kept::Forgetting => "rollcall_forgetting",
        }
    }
}

/// What the primary key has in a member's place.
pub(super) const DIGEST: &str =
    "sha256(convert_to(s, 'UTF8') || '\\x00'::bytea || convert_to(m, 'UTF8'))";

/// Keeps members; those that are kept already stay. Returns how many are new.
pub(super) async fn keep(
    conn: &mut PgConnection,
    kept: Kept,
    members: &[Member],
) -> Result<u64, sqlx::Error> {
    let table = kept.table();
    let mut new = 0;
    for some in members.chunks(ROWS_MAX) {
        let sql = format!(
            "INSERT INTO {table} (source, suffix, member, digest, expires_at) \
             SELECT f, s, m, {DIGEST}, to_timestamp(x::float8) \
             FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS t (f, s, m, x) \
             ON CONFLICT DO NOTHING"
        );
        let texts = |of: fn(&Member) -> &str| -> Vec<String> {
            some.iter().map(|member| of(member).to_owned()).collect()
        };
        let done = sqlx::query(AssertSqlSafe(sql))
            .bind(texts(|member| &member.source))
            .bind(texts(|member| &member.suffix))
            .bind(texts(|member| &member.member))
            .bind(some.iter().map(|member| member.expires_at).collect::<Vec<_>>())
            .execute(&mut *conn)
            .await?;
        new += done.rows_affected();
    }
    Ok(new)
}
