//! Asks a real endpoint over a real socket.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::config::OpsAddr;
use crate::telemetry::Metrics;

const DEADLINE: Duration = Duration::from_secs(20);

struct Endpoint {
    addr: SocketAddr,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn loopback(port: u16, explicit: bool) -> OpsAddr {
    OpsAddr { addr: Some(SocketAddr::from(([127, 0, 0, 1], port))), explicit }
}

async fn start() -> Endpoint {
    let listener = bind(loopback(0, true)).await.unwrap().unwrap();
    let addr = listener.local_addr().unwrap();
    let health = Arc::new(Health::new(&[Dependency::Postgres, Dependency::Redis]));
    let metrics = Arc::new(Metrics::new(&[]));
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async { drop(stopped.await) };
    let task = tokio::spawn(serve(listener, health.clone(), metrics.exporter().clone(), until));
    Endpoint { addr, health, metrics, stop, task }
}

/// Sends these bytes and reads until the other side closes.
async fn exchange(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset counts as closed.
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it stays open");
    String::from_utf8(answer).unwrap()
}

async fn get(addr: SocketAddr, path: &str) -> String {
    exchange(addr, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

#[tokio::test]
async fn readiness_follows_the_servers_and_liveness_does_not() {
    let ops = start().await;
    assert!(get(ops.addr, "/readyz").await.starts_with("HTTP/1.1 503"), "unknown is not ready");

    assert!(ops.health.up(Dependency::Postgres));
    assert!(ops.health.up(Dependency::Redis));
    assert!(!ops.health.up(Dependency::Redis), "no news");
    assert!(!ops.health.up(Dependency::Rabbitmq), "not needed by this role");
    let answer = get(ops.addr, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    assert!(ops.health.down(Dependency::Redis, "no route to redis://u:c4n4ry@host:1"));
    assert!(!ops.health.down(Dependency::Redis, &format!("refused {}", "x".repeat(999))));
    let answer = get(ops.addr, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains(r#"{"name":"postgres","status":"ok","for_secs":"#), "{answer}");
    assert!(
        answer.contains(r#""status":"down""#) && answer.contains(r#""reason":"refused xxx"#),
        "{answer}"
    );
    assert!(answer.len() < 700, "{answer}");
    assert!(get(ops.addr, "/livez").await.starts_with("HTTP/1.1 200"));

    ops.health.up(Dependency::Redis);
    ops.health.drain();
    let answer = get(ops.addr, "/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains(r#""draining":true"#),
        "{answer}"
    );
    assert!(get(ops.addr, "/livez").await.starts_with("HTTP/1.1 200"));
}

#[test]
fn a_reason_holds_no_password() {
    let health = Health::new(&[Dependency::Redis]);
    health.down(Dependency::Redis, "no route to redis://u:c4n4ry@host:1");
    let reason = health.report(Instant::now()).dependencies.remove(0).reason.unwrap();
    assert_eq!(reason, "no route to redis://***@host:1");
}

#[test]
fn only_the_silence_of_the_supervisor_ends_liveness() {
    let health = Health::new(&[Dependency::Postgres]);
    health.down(Dependency::Postgres, "gone");
    let soon = Instant::now() + SILENCE_MAX - Duration::from_secs(1);
    assert!(health.is_alive(soon));
    assert!(!health.is_alive(soon + Duration::from_secs(2)));
    health.beat();
    assert!(health.is_alive(Instant::now() + SILENCE_MAX - Duration::from_secs(1)));
}

#[tokio::test]
async fn metrics_are_served_as_prometheus_reads_them() {
    let ops = start().await;
    ops.metrics.deliveries.increment(41);
    let answer = get(ops.addr, "/metrics").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nrollcall_deliveries_total 41\n"), "{answer}");
    assert!(get(ops.addr, "/other").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn nobody_can_hold_it_up() {
    let ops = start().await;
    // Half a request from as many as there is room for, then one that must still be answered.
    let mut idle = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(ops.addr).await.unwrap();
        stream.write_all(b"GET /livez HT").await.unwrap();
        idle.push(stream);
    }
    assert!(get(ops.addr, "/livez").await.starts_with("HTTP/1.1 200"));
    let long = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert!(!exchange(ops.addr, &long).await.contains("alive"));
}

#[tokio::test]
async fn it_ends_when_told_whoever_is_slow() {
    let ops = start().await;
    let slow = TcpStream::connect(ops.addr).await.unwrap();
    ops.stop.send(()).unwrap();
    timeout(DEADLINE, ops.task).await.unwrap().unwrap();
    drop(slow);
}

#[tokio::test]
async fn a_busy_port_is_an_error_only_for_who_chose_it() {
    let taken = bind(loopback(0, true)).await.unwrap().unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = bind(loopback(port, true)).await.unwrap_err();
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    let other = bind(loopback(port, false)).await.unwrap().unwrap();
    assert_ne!(other.local_addr().unwrap().port(), port);
    assert!(bind(OpsAddr { addr: None, explicit: true }).await.unwrap().is_none());
}

#[tokio::test]
async fn the_probe_asks_for_liveness_unless_told_otherwise() {
    let ops = start().await;
    let any = SocketAddr::from(([0, 0, 0, 0], ops.addr.port()));
    let ask = move |ready| {
        let ops = OpsAddr { addr: Some(any), explicit: true };
        tokio::task::spawn_blocking(move || probe(ops, ready))
    };
    ask(false).await.unwrap().unwrap();
    let error = ask(true).await.unwrap().unwrap_err();
    assert!(matches!(error, ProbeError::Not { status: 503, .. }), "{error}");
    assert_eq!(error.exit_code(), 1);
    // Bound and not listening: nobody answers there, and nobody else can take it.
    let silent = tokio::net::TcpSocket::new_v4().unwrap();
    silent.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let port = silent.local_addr().unwrap().port();
    let asked = tokio::task::spawn_blocking(move || probe(loopback(port, true), false));
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(error, ProbeError::Unreachable { .. }), "{error}");
    let off = OpsAddr { addr: None, explicit: true };
    assert_eq!(probe(off, false).unwrap_err().exit_code(), 64);
}
