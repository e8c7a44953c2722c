//! A TCP proxy in the test process, which can swallow what a worker sends: the server is there, the
//! connection stands, and nothing goes up. Does what a network emulator would, without root.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub struct Proxy {
    addr: SocketAddr,
    swallows: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Forwards to `server`, `host:port`.
    pub async fn to(server: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("just bound");
        let swallows = Arc::new(AtomicBool::new(false));
        let swallowing = swallows.clone();
        let server = server.to_owned();
        let task = tokio::spawn(async move {
            // The set ends its tasks when the proxy is dropped and with it this future.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(upstream) = TcpStream::connect(&server).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = upstream.into_split();
                connections.spawn(forward(from_client, to_server, Some(swallowing.clone())));
                connections.spawn(forward(from_server, to_client, None));
            }
        });
        Proxy { addr, swallows, task }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From here on nothing reaches the server but the end of a connection.
    pub fn swallow(&self) {
        self.swallows.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    swallows: Option<Arc<AtomicBool>>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if swallows.as_ref().is_some_and(|swallows| swallows.load(Ordering::SeqCst)) {
            continue;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
