//! A TCP proxy in the test process, and the faults of a network on the way: connections cut after
//! a number of bytes, links on which nothing passes, servers that refuse, replies that are lost.
//! Does what a network emulator would, without root.
//!
//! It holds one buffer for each direction of a connection; what it does not read waits in the
//! sockets. Never changes a byte that passes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const BUFFER_BYTES: usize = 64 << 10;
/// Longest text that `lose_replies_to` finds where a read ends in the middle of it.
const NEEDLE_BYTES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

impl Way {
    pub const BOTH: [Way; 2] = [Way::Up, Way::Down];
}

/// What becomes of bytes that go one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Pass,
    /// They wait, and go on when it is over: as TCP has it after a short break of the network.
    Keep,
    /// They vanish; the end of a connection passes.
    Swallow,
    /// They vanish, and so does the end. What stands when it begins, and what loses bytes, is dead
    /// in both directions from then on, and neither side is told: half-open.
    Lose,
}

/// How both sides of a connection see a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Fin,
    Reset,
}

pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    server: Mutex<String>,
    line: watch::Sender<Line>,
    books: Mutex<Books>,
}

/// What holds for every connection.
struct Line {
    flow: [Flow; 2],
    refuses: bool,
    /// Raised to cut what stands.
    era: u64,
    /// Raised to let what stands be dead.
    deaths: u64,
}

#[derive(Default)]
struct Books {
    /// Bytes that passed each way, over all connections.
    passed: [u64; 2],
    cut: Option<(Way, u64, Ending)>,
    cuts: u32,
    needles: Vec<Vec<u8>>,
    replies_lost: usize,
    refused: usize,
}

impl Proxy {
    /// Forwards to `server`, `host:port`.
    pub async fn to(server: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("just bound");
        let line = Line { flow: [Flow::Pass; 2], refuses: false, era: 0, deaths: 0 };
        let shared = Arc::new(Shared {
            server: Mutex::new(server.to_owned()),
            line: watch::Sender::new(line),
            books: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Proxy { addr, shared, task }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From here on nothing reaches the server but the end of a connection.
    pub fn swallow(&self) {
        self.flow(Way::Up, Flow::Swallow);
    }

    /// Nothing passes in either direction, and nobody is told.
    pub fn blackhole(&self, flow: Flow) {
        Way::BOTH.into_iter().for_each(|way| self.flow(way, flow));
    }

    pub fn heal(&self) {
        self.blackhole(Flow::Pass);
    }

    pub fn flow(&self, way: Way, flow: Flow) {
        self.shared.line.send_modify(|line| {
            line.flow[way as usize] = flow;
            line.deaths += u64::from(flow == Flow::Lose);
        });
    }

    /// Whether new connections are reset at once. Those that stand go on.
    pub fn refuse(&self, refuses: bool) {
        self.shared.line.send_modify(|line| line.refuses = refuses);
    }

    /// How many connections have been reset so.
    pub fn refused(&self) -> usize {
        self.shared.books().refused
    }

    /// New connections go to another server: what an address that moves does. Those that stand are
    /// cut.
    pub fn repoint(&self, server: &str) {
        server.clone_into(&mut self.shared.server());
        self.cut_all();
    }

    /// Cuts all that stands.
    pub fn cut_all(&self) {
        self.shared.line.send_modify(|line| line.era += 1);
    }

    /// Counts bytes from here.
    pub fn count_anew(&self) {
        self.shared.books().passed = [0; 2];
    }

    /// Bytes that passed one way since the last `count_anew`.
    pub fn passed(&self, way: Way) -> u64 {
        self.shared.books().passed[way as usize]
    }

    /// Cuts the connection that carries byte `after` of one way, counted as `passed` counts, right
    /// behind that byte.
    pub fn cut_after(&self, way: Way, after: u64, ending: Ending) {
        self.shared.books().cut = Some((way, after, ending));
    }

    /// How many cuts at a byte have been made.
    pub fn cuts(&self) -> u32 {
        self.shared.books().cuts
    }

    /// The server is sent each of these texts once; the next that it answers on that connection is
    /// lost, and the connection is cut.
    pub fn lose_replies_to(&self, needles: impl IntoIterator<Item = String>) {
        let needles: Vec<_> = needles.into_iter().map(String::into_bytes).collect();
        assert!(needles.iter().all(|needle| (1..=NEEDLE_BYTES_MAX).contains(&needle.len())));
        self.shared.books().needles.extend(needles);
    }

    pub fn replies_lost(&self) -> usize {
        self.shared.books().replies_lost
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self) -> MutexGuard<'_, String> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of these bytes pass, and whether that is the end.
    fn judge(&self, link: &Link, way: Way, bytes: &[u8]) -> (usize, Option<Ending>) {
        let mut books = self.books();
        if way == Way::Down && link.reply_lost.load(Ordering::SeqCst) {
            books.replies_lost += 1;
            return (0, Some(Ending::Reset));
        }
        let passed = books.passed[way as usize];
        let (pass, ending) = match books.cut {
            Some((at, after, ending)) if at == way && passed + bytes.len() as u64 >= after => {
                books.cut = None;
                books.cuts += 1;
                (after.saturating_sub(passed) as usize, Some(ending))
            }
            _ => (bytes.len(), None),
        };
        books.passed[way as usize] += pass as u64;
        (pass, ending)
    }

    /// Takes the needle that these bytes hold.
    fn take_needle(&self, bytes: &[u8]) -> bool {
        let mut books = self.books();
        let holds = |needle: &Vec<u8>| bytes.windows(needle.len()).any(|some| some == needle);
        match books.needles.iter().position(holds) {
            Some(found) => {
                books.needles.swap_remove(found);
                true
            }
            None => false,
        }
    }
}

/// What the two directions of one connection share.
struct Link {
    /// As many deaths had there been when it was made.
    deaths: u64,
    /// The next reply is lost.
    reply_lost: AtomicBool,
    /// Bytes were lost: nothing passes any more.
    dead: AtomicBool,
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // The set ends its tasks when the proxy is dropped and with it this future.
    let mut links = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while links.try_join_next().is_some() {}
        let (refuses, era, deaths) = {
            let line = shared.line.borrow();
            (line.refuses, line.era, line.deaths)
        };
        if refuses {
            shared.books().refused += 1;
            reset(&client);
            continue;
        }
        let link =
            Link { deaths, reply_lost: AtomicBool::new(false), dead: AtomicBool::new(false) };
        links.spawn(carry(shared.clone(), client, link, era));
    }
}

async fn carry(shared: Arc<Shared>, mut client: TcpStream, link: Link, era: u64) {
    let address = shared.server().clone();
    let Ok(mut server) = TcpStream::connect(address).await else { return };
    // Some peers are slow to acknowledge; what is small would wait for it.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut line = shared.line.subscribe();
    let ending = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            both = async { tokio::try_join!(
                pump(&shared, &link, Way::Up, from_client, to_server),
                pump(&shared, &link, Way::Down, from_server, to_client),
            ) } => both.err(),
            _ = line.wait_for(|line| line.era != era) => Some(Ending::Reset),
        }
    };
    if ending == Some(Ending::Reset) {
        reset(&client);
        reset(&server);
    }
}

/// The socket ends with RST instead of FIN when it is closed.
fn reset(socket: &TcpStream) {
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).expect("it is open");
}

/// Until one direction ends by itself, or a cut ends both.
async fn pump(
    shared: &Shared,
    link: &Link,
    way: Way,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
) -> Result<(), Ending> {
    let mut line = shared.line.subscribe();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut seen: Vec<u8> = Vec::new();
    loop {
        let n = from.read(&mut buffer).await.unwrap_or(0);
        let bytes = &buffer[..n];
        let (flow, deaths) = match line.wait_for(|line| line.flow[way as usize] != Flow::Keep).await
        {
            Ok(line) => (line.flow[way as usize], line.deaths),
            Err(_) => return Ok(()),
        };
        if flow == Flow::Lose || deaths != link.deaths {
            link.dead.store(true, Ordering::SeqCst);
        }
        let dead = link.dead.load(Ordering::SeqCst);
        if n == 0 {
            if !dead {
                let _ = to.shutdown().await;
            }
            return Ok(());
        }
        if dead || flow == Flow::Swallow {
            continue;
        }
        if way == Way::Up {
            seen.drain(..seen.len().saturating_sub(NEEDLE_BYTES_MAX));
            seen.extend_from_slice(bytes);
            if shared.take_needle(&seen) {
                seen.clear();
                link.reply_lost.store(true, Ordering::SeqCst);
            }
        }
        let (pass, ending) = shared.judge(link, way, bytes);
        if to.write_all(&bytes[..pass]).await.is_err() {
            return Ok(());
        }
        if let Some(ending) = ending {
            return Err(ending);
        }
    }
}
