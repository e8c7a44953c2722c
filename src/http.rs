//! A bounded HTTP/1 server: what the ops endpoint and `rollcall serve` have in common. Knows no
//! route and no answer; nobody can hold it up for long, or fill its memory.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::retry::Class;

/// After accept() failed: most likely out of file descriptors, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What one client, and all of them, may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Who comes beyond it waits in the kernel until somebody has gone.
    pub connections_max: usize,
    /// What is kept of a request's head before it is refused, and of an answer on its way.
    pub head_bytes_max: usize,
    /// For a request's head, the silence before it included.
    pub head_max_wait: Duration,
    /// A client that reads nothing of its answer for so long is let go.
    pub write_max_wait: Duration,
    /// Whether there may be a second request.
    pub keep_alive: bool,
    /// After this no more requests are taken on it.
    pub connection_max: Duration,
    /// And what is under way gets this long; `None`: as long as it takes, as it ends by itself.
    pub finish_max: Option<Duration>,
    /// What is open when the server ends gets this long to finish.
    pub stop_max: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("could not listen on {addr} for {what}")]
    Bind {
        addr: SocketAddr,
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl BindError {
    pub fn class(&self) -> Class {
        match self {
            // Somebody asked for just this address, and it is taken or not ours.
            BindError::Bind { .. } => Class::Config,
        }
    }
}

/// Listens on just this address; `what` is for the error.
///
/// # Errors
/// The address cannot be had.
pub async fn bind(addr: SocketAddr, what: &'static str) -> Result<TcpListener, BindError> {
    let listener = TcpListener::bind(addr).await;
    listener.map_err(|source| BindError::Bind { addr, what, source })
}

/// Answers until `until` is done; then takes nothing more, lets what is under way finish, and ends.
/// `open` is told how many connections there are.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    bounds: Bounds,
    open: impl Fn(usize),
    until: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let mut connections = JoinSet::new();
    let stop = CancellationToken::new();
    let mut until = pin!(until);
    loop {
        // Cancel-safe: accept and join_next each either happen or have changed nothing.
        tokio::select! {
            () = &mut until => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < bounds.connections_max => {
                match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(attend(stream, service.clone(), bounds, stop.clone()));
                    }
                    Err(error) => {
                        warn!(%error, "could not accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        open(connections.len());
    }
    drop(listener);
    stop.cancel();
    // Past it whoever is left is a slow reader; the rest end with the set.
    let _ =
        timeout(bounds.stop_max, async { while connections.join_next().await.is_some() {} }).await;
    connections.shutdown().await;
    open(0);
}

async fn attend<S>(stream: TcpStream, service: S, bounds: Bounds, stop: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    // A small answer must not wait for the other side's delayed ack. Fails for one that has gone.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Impatient { stream, limit: bounds.write_max_wait, stuck: None });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_max_wait)
        .max_buf_size(bounds.head_bytes_max)
        .keep_alive(bounds.keep_alive)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    // A client that talks nonsense, is slow or has gone is its own affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(bounds.connection_max) => {}
    }
    connection.as_mut().graceful_shutdown();
    match bounds.finish_max {
        Some(limit) => drop(timeout(limit, connection).await),
        None => drop(connection.await),
    }
}

/// A connection whose writes may stand still for so long and no longer.
struct Impatient {
    stream: TcpStream,
    limit: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if polled.is_ready() {
            self.stuck = None;
            return polled;
        }
        let limit = self.limit;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(limit)));
        match stuck.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
