//! Changes to a table that workers write to at the same time: one short transaction that would
//! rather fail than make them wait, tried again until it gets its turn.
//!
//! A lock that is waited for holds up whoever comes after: so a wait is half a second at most, and
//! between two there is time for all that has queued up.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::sleep;

use super::error::StoreError;
use super::link::Link;
use crate::retry::Backoff;

/// How long a lock is waited for, and with it every insert that comes meanwhile.
const LOCK_WAIT: Duration = Duration::from_millis(500);
/// What one statement may take while it holds such a lock.
const HOLD: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// With the above about a minute and a half of trying.
const TRIES_MAX: u32 = 40;

/// Runs `steps` in one transaction that waits for no lock for long. Tried again while locks are
/// taken, or while it takes too long.
pub async fn patiently<T>(
    link: &mut Link,
    doing: &'static str,
    mut steps: impl AsyncFnMut(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, StoreError> {
    let mut pause = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    let mut tries = 1;
    loop {
        let failed = match once(link, doing, &mut steps).await {
            Ok(value) => return Ok(value),
            Err(error) if is_in_the_way(&error) && tries < TRIES_MAX => error,
            Err(error) => return Err(error),
        };
        tries += 1;
        drop(failed);
        sleep(pause.next()).await;
    }
}

/// The same, once.
pub async fn once<T>(
    link: &mut Link,
    doing: &'static str,
    steps: &mut impl AsyncFnMut(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, StoreError> {
    link.run(doing, async |conn: &mut PgConnection| {
        let mut transaction = conn.begin().await?;
        let limits = format!(
            "SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}",
            LOCK_WAIT.as_millis(),
            HOLD.as_millis()
        );
        sqlx::raw_sql(AssertSqlSafe(limits)).execute(&mut *transaction).await?;
        let value = steps(&mut transaction).await?;
        transaction.commit().await?;
        Ok(value)
    })
    .await
}

/// Somebody else has it now, and will be done with it.
pub fn is_in_the_way(error: &StoreError) -> bool {
    matches!(error.sqlstate(), Some("55P03" | "40P01" | "57014" | "55006"))
}

/// An identifier, quoted.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text, quoted.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// A dotted path as the operators of jsonb take it: `a.b` is `'{a,b}'`.
pub fn path_literal(path: &str) -> String {
    let plain = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        part.bytes().all(plain) && !part.eq_ignore_ascii_case("null")
    };
    let part = |part: &str| match plain(part) {
        true => part.to_owned(),
        false => format!("\"{}\"", part.replace('\\', "\\\\").replace('"', "\\\"")),
    };
    let parts: Vec<String> = path.split('.').map(part).collect();
    literal(&format!("{{{}}}", parts.join(",")))
}

/// Has the server look every few seconds whether we still live, so that what a killed process
/// began ends soon, and its locks with it.
pub async fn watch_client(link: &mut Link) -> Result<(), StoreError> {
    link.run("have the server watch us", async |conn| {
        sqlx::query("SET client_connection_check_interval = '2s'").execute(conn).await
    })
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_get_out_of_their_quotes() {
        assert_eq!(quoted(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal("o'clock"), "'o''clock'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
        assert_eq!(path_literal("user.id"), "'{user,id}'");
        assert_eq!(path_literal("a,b.c'd"), r#"'{"a,b","c''d"}'"#);
        assert_eq!(path_literal("null"), r#"'{"null"}'"#);
    }
}
