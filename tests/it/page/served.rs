//! The page as `rollcall serve` gives it: its own policy, real counts, a real Redis that goes.

use std::time::{Duration, Instant};

use serde_json::json;

use super::scenes::HOSTILE;
use super::{STALE_MAX, assert_quiet, wait_word, zeros};
use crate::harness::{
    Browser, LONG, Message, Producer, Rig, SHORT, Server, Site, Verb, eventually, seed,
};

const SETS: &str = "cities=state+city users=username texts=text~ users_by_city=username@state+city \
                    users_daily=username/day";

fn open(site: &Site) -> Browser {
    let browser = Browser::start();
    browser.resize(1280, 900);
    browser.open(&format!("http://{}/", site.addr));
    browser
}

/// Digits alone, as the oracle counts.
fn number(text: &str) -> Option<usize> {
    text.replace(',', "").parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_move_while_events_arrive() {
    let rig = Rig::new(SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let site = rig.site().await;
    let browser = open(&site);
    wait_word(&browser, "Live").await;

    for round in 0..3 {
        let mut events = producer.events(50);
        // As many as make it one of the busiest groups.
        events.extend((0..10).map(|n| {
            producer.event_with(json!({
                "state": HOSTILE, "city": "city", "username": format!("{HOSTILE}{round}{n}"),
            }))
        }));
        oracle.all_good(&events);
        oracle.bad("json", "{");
        rig.publish_events(&events).await;
        rig.publish(&[Message::raw("{")]).await;
        let wanted = [oracle.members("cities").len(), oracle.members("users").len()];
        eventually(SHORT, "the page to count what was published", async || {
            let shown = browser.texts("#tiles .value");
            let counts = shown.iter().take(2).map(|text| number(text));
            match counts.eq(wanted.map(Some)) {
                true => Ok(()),
                false => Err(format!("{shown:?} rather than {wanted:?}")),
            }
        })
        .await;
        assert_eq!(browser.text("#word"), "Live");
    }
    eventually(SHORT, "groups, dead letters and rates", async || {
        let (groups, dead) = (browser.texts("#groups .label"), browser.texts("#dead tr"));
        let hostile = groups.iter().any(|group| group.contains("onerror"));
        let last = dead.last().map(|row| row.split_whitespace().collect::<Vec<_>>());
        match hostile && last.is_some_and(|row| row == ["json", "3"]) {
            true => Ok(()),
            false => Err(format!("{groups:?} {dead:?}")),
        }
    })
    .await;
    // Whose it is is spoken, not shown.
    let caption = browser.texts("#windows caption").join(" ");
    assert!(caption.starts_with("users_daily") && caption.ends_with("By day, newest first"));
    assert_eq!(browser.run("return document.title"), "Rollcall");
    assert_eq!(browser.run("return document.querySelectorAll('img').length"), 0);
    assert_quiet(&browser);
    site.process.terminate().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// A server that hangs closes no connection: the page's own clock tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_told_within_ten_seconds() {
    let rig = Rig::new(SETS).await;
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut Producer::new(seed())).await;
    let site = rig.site().await;
    let browser = open(&site);
    wait_word(&browser, "Live").await;
    site.process.signal("STOP");
    let start = Instant::now();
    wait_word(&browser, "Stale").await;
    assert!(start.elapsed() < STALE_MAX, "after {:?}", start.elapsed());
    site.process.signal("CONT");
    wait_word(&browser, "Live").await;
    site.process.terminate().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// Postgres stands still with events in hand: what is shown is of the past, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_held_are_told_within_ten_seconds() {
    let rig = Rig::new(SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let site = rig.site().await;
    let browser = open(&site);
    wait_word(&browser, "Live").await;
    let gate = rig.close_gate().await;
    let events = producer.events(20);
    oracle.all_good(&events);
    rig.publish_events(&events).await;
    rig.wait_at_gate().await;
    let start = Instant::now();
    wait_word(&browser, "Stale").await;
    // Reports of workers come in between, every few seconds.
    assert!(start.elapsed() < STALE_MAX + Duration::from_secs(5), "{:?}", start.elapsed());
    let text = browser.text("#notice");
    assert!(text.contains("in the queue, and nothing was applied for"), "{text}");
    gate.open().await;
    wait_word(&browser, "Live").await;
    site.process.terminate().await;
    rig.finish(&oracle, vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_goes_and_comes_back_empty_is_told() {
    let rig = Rig::breakable(SETS).await;
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut Producer::new(seed())).await;
    let site = rig.site().await;
    let browser = open(&site);
    wait_word(&browser, "Live").await;
    // Nobody who would fill it again.
    worker.terminate().await;
    wait_word(&browser, "No worker").await;

    rig.control(Verb::Kill, Server::Redis);
    let start = Instant::now();
    wait_word(&browser, "Redis is away").await;
    assert!(start.elapsed() < STALE_MAX, "after {:?}", start.elapsed());
    assert_eq!(browser.texts("#tiles .value"), ["unknown"; 4]);

    rig.control(Verb::Start, Server::Redis);
    let mut redis = rig.redis().await;
    redis.ask(&["FLUSHALL"]).await.unwrap();
    eventually(LONG, "the page to say that nothing is known", async || {
        match browser.text("#word") {
            word if word == "Unknown" => Ok(()),
            word => Err(word),
        }
    })
    .await;
    assert_eq!(browser.texts("#tiles .value"), ["unknown"; 4]);
    let zeros = zeros(&browser);
    assert_eq!(zeros, json!([]));
    site.process.terminate().await;
}

/// A browser has six connections to one server for all of its tabs: one that nobody sees must not
/// keep any, and is as before once it is seen again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tab_that_nobody_sees_gives_its_stream_back() {
    let rig = Rig::new(SETS).await;
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut Producer::new(seed())).await;
    let site = rig.site().await;
    let browser = open(&site);
    wait_word(&browser, "Live").await;
    let streams = async |wanted: f64| {
        eventually(SHORT, "the streams to be so many", async || {
            match site.process.metrics().await?.sum("rollcall_serve_streams") {
                found if found == wanted => Ok(()),
                found => Err(format!("{found}, not {wanted}")),
            }
        })
        .await;
    };
    let seen = |seen: bool| {
        browser.run(&format!(
            "Object.defineProperty(document, 'hidden', {{configurable: true, get: () => {}}}); \
             document.dispatchEvent(new Event('visibilitychange'));",
            !seen
        ));
    };
    streams(1.0).await;
    seen(false);
    streams(0.0).await;
    // Longer than what would be silence.
    let hidden = Instant::now();
    eventually(SHORT, "a while to pass", async || match hidden.elapsed() {
        passed if passed > Duration::from_secs(6) => Ok(()),
        passed => Err(format!("{passed:?}")),
    })
    .await;
    seen(true);
    assert_eq!(browser.text("#word"), "Live", "its own absence is not the server's silence");
    streams(1.0).await;
    wait_word(&browser, "Live").await;
    site.process.terminate().await;
    rig.finish(&oracle, vec![worker]).await;
}
