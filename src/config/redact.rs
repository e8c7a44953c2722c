//! What may be shown of a value: the host of a URL, a bounded piece of a bad one. Pure.
//!
//! A password that was not percent-encoded moves what a parser takes for host, port or path, so a
//! URL is shown only where none of its parts can be a piece of one.

use url::Url;

use crate::tls::{self, Files};

/// Longest piece of a bad value that is shown.
const SHOWN_CHARS: usize = 60;

const ENCODE: &str = "percent-encode every special character of the user and password, \
                      @ as %40, / as %2F, # as %23, ? as %3F";

/// Where a URL points, for people: `scheme://***@host:port/path`, never more.
///
/// # Errors
/// What is wrong with it, in words that hold nothing of it.
pub fn endpoint(text: &str, schemes: &[&str]) -> Result<String, &'static str> {
    // url::Url drops these silently; a client may not.
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("it holds a space, a line break or a control character");
    }
    let url = Url::parse(text).map_err(|_| ENCODE)?;
    if !schemes.contains(&url.scheme()) {
        return Err("its scheme is another");
    }
    // `user:12/rest@host`: the parser takes `user` for the host and shows half of a password.
    let after_host = [Some(url.path()), url.query(), url.fragment()];
    if url.fragment().is_some() || after_host.iter().flatten().any(|part| part.contains('@')) {
        return Err(ENCODE);
    }
    let socket = url
        .query_pairs()
        .find(|(name, _)| name == "host" && url.scheme().starts_with("postgres"))
        .map(|(_, value)| value.into_owned());
    let host = match (url.host_str().filter(|host| !host.is_empty()), &socket) {
        (Some(host), _) => host,
        (None, Some(socket)) if !socket.is_empty() => socket,
        (None, _) => return Err("it names no host"),
    };
    parameters(&url)?;
    let user = if url.username().is_empty() && url.password().is_none() { "" } else { "***@" };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Ok(format!("{}://{user}{host}{port}{}", url.scheme(), url.path()))
}

/// Refuses what a client would not understand: misspelt it would be ignored, an `sslmode` too.
fn parameters(url: &Url) -> Result<(), &'static str> {
    const TLS: [&str; 3] = [tls::CA, tls::CERT, tls::KEY];
    let scheme = url.scheme();
    let known: &[&str] = match scheme {
        _ if scheme.starts_with("postgres") => &[
            "application_name",
            "dbname",
            "host",
            "hostaddr",
            "options",
            "password",
            "port",
            "ssl-mode",
            "sslmode",
            "statement-cache-capacity",
            "user",
        ],
        _ if scheme.starts_with("redis") => &["node", "sentinelServiceName"],
        _ => &["auth_mechanism", "channel_max", "connection_timeout", "frame_max", "heartbeat"],
    };
    let encrypted =
        scheme.starts_with("postgres") || scheme.starts_with("rediss") || scheme == "amqps";
    for (name, _) in url.query_pairs() {
        match TLS.contains(&&*name) {
            true if encrypted => {}
            true => return Err("sslrootcert, sslcert and sslkey want amqps:// or rediss://"),
            false if known.contains(&&*name) || name.starts_with("options[") => {}
            false => return Err("it has a parameter after the `?` that is not known here"),
        }
    }
    Files::of(url.as_str()).map(drop)
}

/// A short, printable, quoted form of a value that is no secret by its name. Whoever puts a URL
/// into the wrong variable must not find its password in a log, so no URL is shown at all.
pub fn bounded(text: &str) -> String {
    if text.contains("://") || text.contains('@') {
        return "a value that may hold a password".to_owned();
    }
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// Takes user and password out of every URL in a text that somebody else wrote, such as the error
/// of a client, and cuts it to `max` characters.
pub fn scrub(text: &str, max: usize) -> String {
    let words: Vec<String> = text
        .split(' ')
        .map(|word| match (word.split_once("://"), word.rsplit_once('@')) {
            (Some((scheme, rest)), Some((_, host))) if rest.contains('@') => {
                format!("{scheme}://***@{host}")
            }
            _ => word.to_owned(),
        })
        .collect();
    let clean = words.join(" ");
    if clean.chars().count() <= max {
        return clean;
    }
    clean.chars().take(max).chain(['…']).collect()
}
