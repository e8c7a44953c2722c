//! P5 where nothing says that anything is wrong: the connection stands, heartbeats pass, messages
//! are ready, and none is delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::harness::{DEFAULT_SETS, LONG, Producer, Rig, eventually, names, seed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_forgotten_is_made_anew() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let direct = rig.env["AMQP_URL"].clone();
    let (place, forgets) = forgetful_link(&direct).await;
    rig.set("AMQP_URL", &place);
    rig.set(names::WATCHDOG_SECS, "4");
    rig.set(names::PREFETCH_MAX, "1");
    let mut worker = rig.worker_unready().await;
    rig.set("AMQP_URL", &direct);
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    worker.wait_ready().await;

    // An idle session, with nothing ready, is left alone however long it lasts.
    let told = || worker.complaints(&["none has been delivered"]);
    let idle_since = std::time::Instant::now();
    eventually(LONG, "two watchdog times to pass", async || match idle_since.elapsed().as_secs() {
        9.. => Ok(()),
        _ => Err("not yet".to_owned()),
    })
    .await;
    assert_eq!(told(), Vec::<String>::new(), "an empty queue is nothing to end a session for");
    assert_eq!(worker.metrics().await.unwrap().sum(names::SESSIONS), 1.0);

    let events = producer.events(20);
    oracle.all_good(&events);
    forgets.store(true, Ordering::SeqCst);
    rig.publish_events(&events).await;
    eventually(LONG, "the session to be ended", async || match told().len() {
        0 => Err("it stands".to_owned()),
        _ => Ok(()),
    })
    .await;
    forgets.store(false, Ordering::SeqCst);
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    worker.assert_alive();
    rig.finish(&oracle, vec![worker]).await;
}

/// A link to the broker that can be told to lose every delivery and nothing else.
async fn forgetful_link(url: &str) -> (String, Arc<AtomicBool>) {
    let (_, rest) = url.split_once('@').expect("the url names a user");
    let (server, _) = rest.split_once('/').expect("the url names a vhost");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let own = listener.local_addr().expect("just bound").to_string();
    let forgets = Arc::new(AtomicBool::new(false));
    let (server, forgetting) = (server.to_owned(), forgets.clone());
    let link = url.replace(&server, &own);
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let Ok(upstream) = TcpStream::connect(&server).await else { continue };
            let (mut from_client, to_client) = client.into_split();
            let (from_server, mut to_server) = upstream.into_split();
            connections.spawn(async move {
                let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
            });
            connections.spawn(frames(from_server, to_client, forgetting.clone()));
        }
    });
    (link, forgets)
}

/// Passes frames on: type, channel, size, payload, end. A delivery is a method frame (class 60,
/// method 60), and on the same channel a header and bodies.
async fn frames(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, forgets: Arc<AtomicBool>) {
    const METHOD: u8 = 1;
    const DELIVER: [u8; 4] = [0, 60, 0, 60];
    let mut losing = None;
    loop {
        let mut frame = vec![0; 7];
        if from.read_exact(&mut frame).await.is_err() {
            return;
        }
        let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
        frame.resize(7 + size + 1, 0);
        if from.read_exact(&mut frame[7..]).await.is_err() {
            return;
        }
        let channel = [frame[1], frame[2]];
        if frame[0] == METHOD {
            let lost = frame[7..].starts_with(&DELIVER) && forgets.load(Ordering::SeqCst);
            if lost {
                losing = Some(channel);
            } else if losing == Some(channel) {
                losing = None;
            }
        }
        // A heartbeat is of channel 0 and passes.
        if losing != Some(channel) && to.write_all(&frame).await.is_err() {
            return;
        }
    }
}
