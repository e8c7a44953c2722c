//! `rollcall serve` as a process, and listeners to its stream.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http::{self, Reply};
use super::names;
use super::process::{Env, Worker};
use super::wait::{SHORT, eventually};

pub struct Site {
    pub process: Worker,
    /// Of readers; the process has that of health and metrics.
    pub addr: SocketAddr,
}

impl Site {
    /// Starts it and waits until it listens, which it does with no server there at all.
    pub async fn start(dir: &Path, env: &Env) -> Site {
        let process = Worker::start_as("serve", dir, env).await;
        let addr = eventually(SHORT, "the readers' address", async || {
            process.told_addr(names::SERVING).ok_or_else(|| "its log names none".to_owned())
        })
        .await;
        Site { process, addr }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.request("GET", path, "").await
    }

    pub async fn request(&self, method: &str, path: &str, headers: &str) -> Reply {
        http::request_with(self.addr, method, path, headers).await.unwrap()
    }

    /// The answer, which must be one.
    #[track_caller]
    pub fn json(&self, path: &str) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            let reply = self.get(path).await;
            assert_eq!(reply.status, 200, "{caller}: {path}: {reply:?}");
            reply.json()
        }
    }

    /// Waits until a path is answered with this status.
    pub async fn wait_status(&self, path: &str, wanted: u16) -> Reply {
        eventually(SHORT, &format!("{path} to answer {wanted}"), async || {
            let reply = http::get(self.addr, path).await?;
            match reply.status == wanted {
                true => Ok(reply),
                false => Err(format!("{reply:?}")),
            }
        })
        .await
    }

    pub async fn listen(&self) -> Listener {
        self.try_listen().await.unwrap()
    }

    /// The status line, where it may not.
    pub async fn try_listen(&self) -> Result<Listener, String> {
        let mut stream = BufReader::new(TcpStream::connect(self.addr).await.expect("it listens"));
        let request = "GET /api/live HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut listener = Listener { stream };
        let status = listener.line().await.expect("an answer");
        if status == "HTTP/1.1 200 OK" { Ok(listener) } else { Err(status) }
    }
}

/// One that reads `/api/live`.
pub struct Listener {
    stream: BufReader<TcpStream>,
}

impl Listener {
    /// The next snapshot.
    pub async fn next(&mut self) -> Value {
        self.next_event().await.1
    }

    /// The same with its event's name.
    pub async fn next_event(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            let line = self.line().await.expect("the stream goes on");
            if let Some(event) = line.strip_prefix("event: ") {
                name = event.to_owned();
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).expect("a snapshot is JSON"));
            }
        }
    }

    /// All that comes until the other side closes.
    pub async fn rest(mut self) -> String {
        let mut rest = Vec::new();
        let read = timeout(SHORT, self.stream.read_to_end(&mut rest)).await;
        read.expect("it closes").expect("it closes in order");
        String::from_utf8(rest).expect("it is text")
    }

    /// `None` at the end.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(SHORT, self.stream.read_line(&mut line)).await;
        let read = read.expect("a line comes in time").expect("the connection stands");
        (read > 0).then(|| line.trim_end().to_owned())
    }
}
