//! The proxy judged by itself, before an echo. A fault that does nothing proves nothing.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::proxy::{Ending, Flow, Proxy, Way};
use super::wait::SHORT;

/// Long enough for bytes on loopback that do pass.
const QUIET: Duration = Duration::from_millis(300);

async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = socket.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    Proxy::to(&addr).await
}

async fn client(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.addr()).await.unwrap()
}

async fn says(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).await.unwrap();
}

async fn hears(client: &mut TcpStream, text: &str) {
    let mut heard = vec![0; text.len()];
    tokio::time::timeout(SHORT, client.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), text);
}

async fn hears_nothing(client: &mut TcpStream) {
    let heard = tokio::time::timeout(QUIET, client.read(&mut [0])).await;
    assert!(heard.is_err(), "{heard:?}");
}

/// What is still heard before the end, and how that came.
async fn end(client: &mut TcpStream) -> (String, Result<(), ErrorKind>) {
    let mut heard = Vec::new();
    let ended = tokio::time::timeout(SHORT, client.read_to_end(&mut heard)).await.unwrap();
    (String::from_utf8(heard).unwrap(), ended.map(drop).map_err(|error| error.kind()))
}

#[tokio::test]
async fn a_cut_is_right_behind_its_byte() {
    for (ending, seen) in [(Ending::Fin, Ok(())), (Ending::Reset, Err(ErrorKind::ConnectionReset))]
    {
        let proxy = echo().await;
        proxy.cut_after(Way::Down, 8, ending);
        let (mut one, mut two) = (client(&proxy).await, client(&proxy).await);
        says(&mut one, "hello").await;
        hears(&mut one, "hello").await;
        says(&mut two, "world").await;
        // Three of the second are the sixth to eighth of all.
        assert_eq!(end(&mut two).await, ("wor".to_owned(), seen));
        assert_eq!((proxy.passed(Way::Down), proxy.cuts()), (8, 1));
        says(&mut one, "again").await;
        hears(&mut one, "again").await;
        proxy.cut_all();
        proxy.count_anew();
        assert_eq!(end(&mut one).await.1, Err(ErrorKind::ConnectionReset));
        assert_eq!(proxy.passed(Way::Up), 0);
    }
}

#[tokio::test]
async fn a_link_that_keeps_bytes_goes_on_and_one_that_loses_them_never_does() {
    let proxy = echo().await;
    let (mut one, mut idle) = (client(&proxy).await, client(&proxy).await);
    for client in [&mut one, &mut idle] {
        says(client, "hello").await;
        hears(client, "hello").await;
    }
    proxy.blackhole(Flow::Keep);
    says(&mut one, "kept").await;
    hears_nothing(&mut one).await;
    proxy.heal();
    hears(&mut one, "kept").await;
    proxy.blackhole(Flow::Lose);
    says(&mut one, "lost").await;
    hears_nothing(&mut one).await;
    proxy.heal();
    says(&mut one, "too late").await;
    hears_nothing(&mut one).await;
    says(&mut idle, "too late as well").await;
    hears_nothing(&mut idle).await;
    let mut new = client(&proxy).await;
    says(&mut new, "new").await;
    hears(&mut new, "new").await;
}

#[tokio::test]
async fn a_reply_is_lost_once_however_its_request_was_cut_in_pieces() {
    let proxy = echo().await;
    proxy.lose_replies_to(["the needle".to_owned()]);
    let mut one = client(&proxy).await;
    says(&mut one, "hay, the nee").await;
    hears(&mut one, "hay, the nee").await;
    says(&mut one, "dle").await;
    assert_eq!(end(&mut one).await, (String::new(), Err(ErrorKind::ConnectionReset)));
    assert_eq!(proxy.replies_lost(), 1);
    let mut two = client(&proxy).await;
    says(&mut two, "the needle").await;
    hears(&mut two, "the needle").await;
}

#[tokio::test]
async fn a_proxy_that_refuses_leaves_what_stands() {
    let proxy = echo().await;
    let mut one = client(&proxy).await;
    says(&mut one, "hello").await;
    hears(&mut one, "hello").await;
    proxy.refuse(true);
    assert_eq!(end(&mut client(&proxy).await).await.1, Err(ErrorKind::ConnectionReset));
    says(&mut one, "again").await;
    hears(&mut one, "again").await;
    proxy.refuse(false);
    let mut two = client(&proxy).await;
    says(&mut two, "hello").await;
    hears(&mut two, "hello").await;
}
