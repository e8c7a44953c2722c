//! One connection: how it is opened, what is set on it, and when it is of no more use.
//!
//! Every statement has two bounds, the server's `statement_timeout` and a timer of ours a bit above
//! it for a server that no longer speaks. It must never take from the environment what the URL
//! leaves out.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use futures_util::StreamExt;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow, PgSslMode};
use sqlx::query::QueryAs;
use sqlx::{ConnectOptions, Connection, FromRow, PgConnection, Postgres};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{Cause, StoreError};
use crate::config::Secret;
use crate::retry::connect_limit;
use crate::tls::{Files, Pem, TlsError};

/// How much longer than the server we wait. Covers the round trip and a server that is busy
/// cancelling; once it has passed the connection is given up.
const GRACE: Duration = Duration::from_secs(1);

/// A connection and whether a statement is under way on it.
pub struct Link {
    conn: PgConnection,
    /// Host, port and database, for messages. No user, no password.
    target: String,
    /// `statement_timeout` of the session.
    limit: Duration,
    /// Set before a statement and cleared after its whole answer: a future that is dropped in
    /// between leaves it set, and with it an answer that the next statement would take for its own.
    busy: bool,
}

impl Link {
    /// Connects within a part of `limit`, and gives each statement all of it.
    pub async fn open(url: &Secret, limit: Duration) -> Result<Link, StoreError> {
        let url = url.now().map_err(|rule| StoreError::Url { rule })?;
        let options = options(&url, limit)?;
        let target = target(&options);
        let options = match with_certificates(options, &url) {
            Ok(options) => options,
            Err(error) => {
                let source = Cause::Tls(crate::telemetry::chain(&error));
                return Err(StoreError::Connect { target, source });
            }
        };
        let patience = connect_limit(limit);
        let conn = match timeout(patience, options.connect()).await {
            Ok(Ok(conn)) => conn,
            Ok(Err(error)) => {
                return Err(StoreError::Connect { target, source: error.into() });
            }
            Err(_) => {
                return Err(StoreError::Connect { target, source: Cause::Slow(patience) });
            }
        };
        Ok(Link { conn, target, limit, busy: false })
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    pub fn is_broken(&self) -> bool {
        self.busy
    }

    /// Runs one statement, bounded. `doing` says what for, as in "insert events".
    pub async fn run<T>(
        &mut self,
        doing: impl Into<Cow<'static, str>>,
        statement: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        if self.busy {
            return Err(StoreError::Broken);
        }
        self.busy = true;
        let after = self.limit + GRACE;
        match timeout(after, statement(&mut self.conn)).await {
            Ok(Ok(value)) => {
                self.busy = false;
                Ok(value)
            }
            Ok(Err(error)) => {
                let source = Cause::from(error);
                self.busy = source.ends_connection();
                Err(StoreError::Statement { doing: doing.into(), source })
            }
            Err(_) => Err(StoreError::Timeout { doing: doing.into(), after }),
        }
    }

    /// Hands over each row of a statement as it comes, one at a time: the rows are never all in
    /// memory. What `sink` takes counts against the limit as well.
    pub(super) async fn each<T, E>(
        &mut self,
        doing: &'static str,
        query: QueryAs<'_, Postgres, T, PgArguments>,
        mut sink: impl AsyncFnMut(T) -> Result<(), E>,
    ) -> Result<u64, E>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
        E: From<StoreError>,
    {
        if self.busy {
            return Err(StoreError::Broken.into());
        }
        self.busy = true;
        let after = self.limit + GRACE;
        let deadline = Instant::now() + after;
        let mut rows = query.fetch(&mut self.conn);
        let mut count = 0;
        loop {
            match timeout_at(deadline, rows.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(row))) => sink(row).await?,
                Ok(Some(Err(error))) => {
                    let source = Cause::from(error);
                    drop(rows);
                    self.busy = source.ends_connection();
                    return Err(StoreError::Statement { doing: doing.into(), source }.into());
                }
                Err(_) => return Err(StoreError::Timeout { doing: doing.into(), after }.into()),
            }
            count += 1;
        }
        drop(rows);
        self.busy = false;
        Ok(count)
    }

    /// What each statement may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Gives the statements to come another limit: for the few that may take longer.
    pub async fn allow(&mut self, limit: Duration) -> Result<(), StoreError> {
        self.run("set the statement's limit", async |conn| {
            sqlx::query(
                "SELECT set_config('statement_timeout', $1, false), \
                 set_config('idle_in_transaction_session_timeout', $1, false)",
            )
            .bind(limit.as_millis().to_string())
            .execute(conn)
            .await
        })
        .await?;
        self.limit = limit;
        Ok(())
    }

    /// Says goodbye, so that the server need not find out. A failure changes nothing: the socket
    /// closes.
    pub async fn close(self) {
        if !self.busy {
            let _ = timeout(GRACE, self.conn.close()).await;
        }
    }
}

/// The URL's word, and our settings on top.
fn options(url: &str, limit: Duration) -> Result<PgConnectOptions, StoreError> {
    let given = Given::read(url).map_err(|rule| StoreError::Url { rule: rule.to_owned() })?;
    // The message of the driver names the parameter or the rule, not the URL.
    let mut options = PgConnectOptions::from_str(&given.whole).map_err(|error| {
        StoreError::Url { rule: format!("cannot be read: {}", innermost(&error)) }
    })?;
    // The driver fills gaps from PGPORT, PGSSLMODE and the like. What is not in the URL would differ
    // from shell to service; so the gaps get the plain defaults.
    if !given.port {
        options = options.port(5432);
    }
    let files = Files::of(url).map_err(|rule| StoreError::Url { rule: rule.to_owned() })?;
    // Whoever names files wants them used: without a word no less than all that there is, and with
    // `require` what libpq makes of it where it has a CA.
    options = match (given.sslmode, options.get_ssl_mode()) {
        (false, _) if files.is_none() => options.ssl_mode(PgSslMode::Prefer),
        (false, _) => options.ssl_mode(PgSslMode::VerifyFull),
        (true, PgSslMode::Require) if files.has_ca() => options.ssl_mode(PgSslMode::VerifyCa),
        (true, _) => options,
    };
    let millis = |time: Duration| time.as_millis().max(1).to_string();
    Ok(options
        .application_name("rollcall")
        // Statements are traced per flush by the caller, not one by one.
        .disable_statement_logging()
        // At start-up, not by SET: a pooler in transaction mode would spread a SET over its
        // clients.
        .options([
            ("statement_timeout", millis(limit)),
            // Below the above, so that a wait for a lock is told from slowness.
            ("lock_timeout", millis(limit / 2)),
            ("idle_in_transaction_session_timeout", millis(limit)),
            // Elsewhere ON CONFLICT DO NOTHING fails where it should do nothing.
            ("default_transaction_isolation", "read committed".to_owned()),
            ("client_min_messages", "warning".to_owned()),
            // Compiling takes longer than any statement here.
            ("jit", "off".to_owned()),
            // The driver offers no keepalive of its own. The server's frees what a vanished client
            // holds; for a vanished server there is our timer on each statement.
            ("tcp_keepalives_idle", "30".to_owned()),
            ("tcp_keepalives_interval", "10".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
        ]))
}

/// With what the files of the URL hold now: the driver would not say which of them it cannot read.
/// Beside a CA that is named it trusts those of the system.
fn with_certificates(options: PgConnectOptions, url: &str) -> Result<PgConnectOptions, TlsError> {
    let files = Files::of(url).unwrap_or_default();
    let Pem { ca, identity } = files.read()?;
    // None at all, where the driver would take PGSSLROOTCERT.
    let options = options.ssl_root_cert_from_pem(ca.unwrap_or_default());
    Ok(match identity {
        Some((cert, key)) => options.ssl_client_cert_from_pem(cert).ssl_client_key_from_pem(key),
        None => options,
    })
}

/// The driver wraps what it has to say in prefixes.
fn innermost(error: &dyn std::error::Error) -> &dyn std::error::Error {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

fn target(options: &PgConnectOptions) -> String {
    let host = match options.get_socket() {
        Some(folder) => folder.display().to_string(),
        None => options.get_host().to_owned(),
    };
    let database = options.get_database().unwrap_or_default();
    format!("{host}:{}/{database}", options.get_port())
}

/// What a URL says by itself.
#[derive(Debug)]
struct Given {
    port: bool,
    sslmode: bool,
    /// The URL, with a password: where it has none the driver would look into PGPASSWORD and
    /// .pgpass, and log the lines of that file which it cannot read.
    whole: String,
}

impl Given {
    /// Refuses a URL that leaves out what must not be guessed.
    fn read(url: &str) -> Result<Given, &'static str> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or("must begin with postgres:// or postgresql://")?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        // The colons of an IPv6 address stand before the bracket.
        let (host, port) = match host
            .rfind(']')
            .map_or(host.find(':'), |end| host[end..].find(':').map(|colon| end + colon))
        {
            Some(colon) => (&host[..colon], &host[colon + 1..]),
            None => (host, ""),
        };
        let parameter = |names: &[&str]| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .any(|(name, value)| names.contains(&name) && !value.is_empty())
        };
        if host.is_empty() && !parameter(&["host", "hostaddr"]) {
            return Err("names no host, as in postgres://user:password@host/database");
        }
        if user.is_empty() && !parameter(&["user"]) {
            return Err("names no user, as in postgres://user:password@host/database");
        }
        if path.is_empty() && !parameter(&["dbname"]) {
            return Err("names no database, as in postgres://user:password@host/database");
        }
        let whole = match (password.is_empty() && !parameter(&["password"]), query) {
            (false, _) => url.to_owned(),
            (true, "") => format!("{}?password=", url.trim_end_matches('?')),
            (true, _) => format!("{url}&password="),
        };
        Ok(Given {
            port: !port.is_empty() || parameter(&["port"]),
            sslmode: parameter(&["sslmode", "ssl-mode"]),
            whole,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_leaves_a_gap_is_refused_and_says_which() {
        let cases = [
            ("mysql://u@h/d", "must begin"),
            ("postgres:///d?user=u", "no host"),
            ("postgres://u:p@:5432/d", "no host"),
            ("postgres://h/d", "no user"),
            ("postgres://:p@h/d", "no user"),
            ("postgres://u@h", "no database"),
            ("postgres://u@h/?sslmode=require", "no database"),
        ];
        for (url, says) in cases {
            let rule = Given::read(url).unwrap_err();
            assert!(rule.contains(says), "{url}: {rule}");
        }
    }

    #[test]
    fn what_the_url_says_is_seen_wherever_it_stands() {
        let cases = [
            ("postgres://u:p@h:1/d?sslmode=require", [true, true, true]),
            ("postgresql://u@h/d", [false, false, false]),
            ("postgresql://u@h/d?", [false, false, false]),
            ("postgres://u@h/d?sslmode=require", [false, false, true]),
            ("postgres://u@[::1]/d", [false, false, false]),
            ("postgres://u@[::1]:5433/d", [true, false, false]),
            ("postgres://u:a%40b@%2Ftmp%2Fpg:5433/d", [true, true, false]),
            ("postgres:///d?host=/tmp&user=u&port=9&password=p&sslmode=disable", [true; 3]),
        ];
        for (url, wanted) in cases {
            let given = Given::read(url).unwrap();
            // The driver is never left without one to look for elsewhere.
            let added = given.whole != url;
            assert_eq!([given.port, !added, given.sslmode], wanted, "{url}");
            let options = PgConnectOptions::from_str(&given.whole).unwrap();
            assert_eq!(added, format!("{options:?}").contains("password: Some(\"\")"), "{url}");
        }
    }

    #[test]
    fn a_message_names_the_place_without_the_login() {
        let options = options("postgres://ann:s3cret@db:6000/roll", GRACE).unwrap();
        assert_eq!(target(&options), "db:6000/roll");
        let socket = PgConnectOptions::from_str("postgres://ann@%2Ftmp%2Fpg/roll").unwrap();
        assert!(target(&socket).starts_with("/tmp/pg:"));
    }

    #[test]
    fn a_ca_that_is_named_is_asked() {
        for (query, mode) in [
            ("", "Prefer"),
            ("?sslmode=require", "Require"),
            ("?sslrootcert=/ca.pem", "VerifyFull"),
            ("?sslcert=/c.pem&sslkey=/k.pem", "VerifyFull"),
            ("?sslmode=require&sslrootcert=/ca.pem", "VerifyCa"),
            ("?sslmode=disable&sslrootcert=/ca.pem", "Disable"),
        ] {
            let url = format!("postgres://u:p@h/d{query}");
            let options = options(&url, Duration::from_secs(1)).unwrap();
            assert_eq!(format!("{:?}", options.get_ssl_mode()), mode, "{query}");
        }
    }
}
