//! Serves the page with snapshots that a test makes up: what the real server would take long, or
//! much, to get into. The page and what it may do are the same as there; only the hashes of the
//! policy are a nonce here.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const PAGE: &str = include_str!("../../../src/serve/page.html");
const POLICY: &str = "default-src 'none'; connect-src 'self'; style-src 'nonce-stub'; \
    script-src 'nonce-stub'; img-src data:; base-uri 'none'; form-action 'none'";
/// Faster than the real one, for the tests' sake.
const TICK: Duration = Duration::from_millis(200);

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    Live,
    /// Connections stay, and nothing comes any more.
    Silent,
    /// There is no stream; questions are answered.
    NoStream,
}

pub struct Stub {
    pub addr: SocketAddr,
    state: Arc<Mutex<(Manner, Value)>>,
    server: JoinHandle<()>,
}

impl Stub {
    pub async fn start(snapshot: Value) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let addr = listener.local_addr().expect("it listens");
        let state = Arc::new(Mutex::new((Manner::Live, snapshot)));
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a listener accepts");
                connections.spawn(answer(stream, Arc::clone(&shared)));
            }
        });
        Stub { addr, state, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }

    pub fn show(&self, snapshot: Value) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = snapshot;
    }

    pub fn behave(&self, manner: Manner) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = manner;
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A time in a snapshot that stays this many seconds behind, whenever it is sent: a slow machine
/// makes no scene older than it is meant to be.
pub fn before(seconds: i64) -> Value {
    json!({"seconds_before": seconds})
}

fn resolve(value: &mut Value) {
    if let Some(seconds) = value.get("seconds_before").and_then(Value::as_i64) {
        *value = json!(ago(seconds));
        return;
    }
    match value {
        Value::Array(all) => all.iter_mut().for_each(resolve),
        Value::Object(all) => all.values_mut().for_each(resolve),
        _ => {}
    }
}

/// This many seconds before now, for good.
pub fn ago(seconds: i64) -> String {
    let at = OffsetDateTime::now_utc() - time::Duration::seconds(seconds);
    at.format(&Rfc3339).expect("years of four digits")
}

fn now(state: &Mutex<(Manner, Value)>) -> (Manner, String) {
    let (manner, mut snapshot) = state.lock().unwrap_or_else(PoisonError::into_inner).clone();
    snapshot["at"] = before(0);
    resolve(&mut snapshot);
    (manner, snapshot.to_string())
}

/// One request a connection. An error is the browser's leaving.
async fn answer(mut stream: TcpStream, state: Arc<Mutex<(Manner, Value)>>) -> Option<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.ok()?);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1)?;
    let (manner, snapshot) = now(&state);
    let (status, kind, body) = match path {
        "/" => {
            let nonced = PAGE.replace("<style>", "<style nonce=\"stub\">");
            (
                "200 OK",
                "text/html; charset=utf-8",
                nonced.replace("<script>", "<script nonce=stub>"),
            )
        }
        "/api/live" if manner != Manner::NoStream => return live(stream, &state).await,
        "/api/snapshot" if manner == Manner::Silent => return std::future::pending().await,
        "/api/snapshot" => ("200 OK", "application/json", snapshot),
        _ => ("404 Not Found", "text/plain", String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Content-Security-Policy: {POLICY}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body.as_bytes()).await.ok()
}

async fn live(mut stream: TcpStream, state: &Mutex<(Manner, Value)>) -> Option<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    loop {
        let (manner, snapshot) = now(state);
        match manner {
            Manner::Live => {
                let event = format!("event: snapshot\ndata: {snapshot}\n\n");
                stream.write_all(event.as_bytes()).await.ok()?;
            }
            Manner::Silent => {}
            Manner::NoStream => return None,
        }
        tokio::time::sleep(TICK).await;
    }
}
