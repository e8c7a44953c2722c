//! The page in a real browser: it says what is, plainly, to everybody, and never more than it
//! knows.

mod everyone;
mod scenes;
mod served;
mod stub;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Browser, LONG, SHORT, eventually};
use scenes::{hostile, ordinary, set, snapshot};
use stub::{Manner, Stub, ago, before};

/// A stale page says so within this.
const STALE_MAX: Duration = Duration::from_secs(10);

/// The page open on a stub that shows this.
async fn open(snapshot: Value) -> (Stub, Browser) {
    let stub = Stub::start(snapshot).await;
    let browser = Browser::start();
    browser.resize(1280, 900);
    browser.open(&stub.url());
    (stub, browser)
}

async fn wait_word(browser: &Browser, wanted: &str) {
    eventually(SHORT, &format!("the page to say {wanted}"), async || match browser.text("#word") {
        word if word == wanted => Ok(()),
        word => Err(format!("it says {word}: {}", browser.text("#notice"))),
    })
    .await;
}

/// A number on the page that is nothing but zeros.
fn zeros(browser: &Browser) -> Value {
    browser.run(
        "const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
         const found = [];
         while (walk.nextNode()) {
           const { nodeValue, parentElement } = walk.currentNode;
           const seen = parentElement.checkVisibility();
           if (seen && /(^|[^\\d,.:])0([^\\d,.:]|$)/.test(nodeValue)) found.push(nodeValue);
         }
         return found",
    )
}

/// No error, no warning, nothing that the policy refused.
fn assert_quiet(browser: &Browser) {
    let lines = browser.console().into_iter();
    let serious: Vec<String> = lines.filter(|line| line.serious).map(|line| line.text).collect();
    assert!(serious.is_empty(), "the console says {serious:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_move_as_snapshots_come() {
    let (stub, browser) = open(ordinary()).await;
    wait_word(&browser, "Live").await;
    assert_eq!(browser.texts("#tiles .value"), ["449", "1,234", "≈\u{2009}123,456", "60"]);
    assert_eq!(browser.texts("#groups td"), ["400", "300"]);
    assert_eq!(browser.texts("#groups .label"), ["CA:Fresno", "NY:New York"]);
    assert_eq!(browser.texts("#windows td").len(), 14, "the newest fourteen");
    assert_eq!(browser.texts("#windows .label")[0], "Fri 20 Nov");
    assert_eq!(browser.texts("#dead td"), ["3", "1"]);
    assert_eq!(browser.texts("#stages .pair dd")[0], "7.5\u{2009}/s");
    assert_eq!(browser.texts("#stages .note"), ["empty", "lag 12 ms", "lag 15 ms"]);
    let line = browser.run("return document.querySelectorAll('.line')[1].getAttribute('d').length");
    assert!(line.as_u64() > Some(1000), "a line of the last hour: {line}");
    let from =
        browser.run("return document.querySelectorAll('.line')[1].getAttribute('d').slice(0, 5)");
    assert_eq!(from, "M0.0 ", "fifty minutes are as wide as the chart");

    let mut next = ordinary();
    next["sets"][1]["cardinality"] = json!(1235);
    next["sets"][3]["groups"][1]["cardinality"] = json!(500);
    next["pipeline"]["queue_ready"] = json!(42);
    next["pipeline"]["time_to_empty_seconds"] = json!(3725.0);
    stub.show(next.clone());
    eventually(SHORT, "the numbers to follow", async || {
        let now = (browser.texts("#tiles .value"), browser.texts("#groups td"));
        let queue = browser.texts("#stages .note");
        match now.0[1] == "1,235" && now.1[1] == "500" && queue[0] == "empty in 1 h 2 min" {
            true => Ok(()),
            false => Err(format!("they are {now:?} {queue:?}")),
        }
    })
    .await;
    next["pipeline"]["queue_growth_per_second"] = json!(0.5);
    stub.show(next);
    eventually(SHORT, "a queue that grows to be told", async || {
        match browser.texts("#stages .note").swap_remove(0) {
            note if note == "1 h 2 min of work and growing" => Ok(()),
            note => Err(note),
        }
    })
    .await;
    let change = &browser.texts("#tiles .change")[1];
    assert!(change.starts_with("+1,135 in 5"), "since fifty minutes ago: {change}");
    assert_quiet(&browser);
}

/// A page that stands still says so by its own clock, and takes it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_stale_within_ten_seconds() {
    let (stub, browser) = open(ordinary()).await;
    wait_word(&browser, "Live").await;
    let start = Instant::now();
    stub.behave(Manner::Silent);
    wait_word(&browser, "Stale").await;
    assert!(start.elapsed() < STALE_MAX, "after {:?}", start.elapsed());
    assert!(browser.text("#notice").contains("Nothing new from the server"));
    assert_eq!(browser.run("return document.title"), "Stale · Rollcall");
    assert_eq!(browser.text("#tiles .value"), "449", "what was last heard stays");
    stub.behave(Manner::Live);
    wait_word(&browser, "Live").await;
    assert_eq!(browser.text("#notice"), "");
}

fn unix_ms() -> i64 {
    (time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as i64
}

/// An old time of the last write is staleness where messages wait, and none where none do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_wait_are_stale_and_a_quiet_night_is_not() {
    let mut quiet = ordinary();
    quiet["last_applied_at"] = before(3600 * 5);
    let (stub, browser) = open(quiet.clone()).await;
    wait_word(&browser, "Live").await;
    assert!(browser.text("#applied").starts_with("5 h"), "{}", browser.text("#applied"));

    // Nothing but the page's clock moves from here on, and it says when: asking takes a while.
    browser.run(
        "const word = document.querySelector('#word'); window.stale = 0;
         new MutationObserver(() => {
           if (word.textContent === 'Stale' && !window.stale) window.stale = Date.now();
         }).observe(word, { childList: true, characterData: true, subtree: true });",
    );
    let mut held = ordinary();
    held["last_applied_at"] = json!(ago(0));
    held["pipeline"]["queue_ready"] = json!(0);
    held["pipeline"]["unacked"] = json!(2);
    let start = unix_ms();
    stub.show(held);
    eventually(SHORT, "the page to see the write", async || match browser.text("#applied") {
        text if text.ends_with("h ago") => Err(text),
        _ => Ok(()),
    })
    .await;
    assert_eq!(browser.text("#word"), "Live");
    wait_word(&browser, "Stale").await;
    let took = browser.run("return window.stale").as_i64().expect("a time") - start;
    assert!((0..STALE_MAX.as_millis() as i64).contains(&took), "after {took} ms");
    assert!(browser.text("#notice").contains("2 messages wait in the queue"));

    stub.show(quiet);
    wait_word(&browser, "Live").await;
    for (state, word) in
        [("stale", "Stale"), ("catching_up", "Catching up"), ("rebuilding", "Rebuilding")]
    {
        let mut other = ordinary();
        other["state"] = json!(state);
        stub.show(other);
        wait_word(&browser, word).await;
    }
    let mut late = ordinary();
    late["pipeline"]["updated_at"] = before(120);
    stub.show(late.clone());
    eventually(SHORT, "silent workers to be told", async || match browser.text("#heard") {
        text if text.starts_with("No worker has reported for 2 min") => Ok(()),
        text => Err(text),
    })
    .await;
    assert_eq!(browser.text("#word"), "No worker");
    late["pipeline"] = Value::Null;
    stub.show(late);
    eventually(SHORT, "absent workers to be told", async || match browser.text("#heard") {
        text if text == "No worker reports." => Ok(()),
        text => Err(text),
    })
    .await;
    assert_eq!(browser.text("#word"), "No worker", "an old write is not known to be fresh");
    assert_quiet(&browser);
}

/// The server sends it whole once, and then what is new of it; whoever comes back gets it whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_hour_stays_as_updates_come() {
    let (stub, browser) = open(snapshot(vec![set("users", 400)])).await;
    wait_word(&browser, "Live").await;
    let label =
        || browser.run("return document.querySelector('.chart').getAttribute('aria-label')");
    let whole = json!("users over the last hour: lowest 100, highest 400");
    let given = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    for round in 0..2 {
        let before = given(&stub.updates);
        // First for longer than a page would wait before it asks.
        let enough = if round == 0 { 25 } else { 10 };
        eventually(SHORT, "updates to come", async || match given(&stub.updates) - before {
            many if many < enough => Err(format!("{many} came")),
            _ => Ok(()),
        })
        .await;
        assert_eq!(label(), whole);
        // Each point once, in order: a doubled one would lead the line back.
        let back = "const [...xs] = document.querySelector('.line').getAttribute('d')
            .matchAll(/[ML]([\\d.]+) /g).map((one) => Number(one[1]));
            return xs.length > 300 ? xs.findIndex((x, n) => x < xs[n - 1]) : `${xs.length} points`";
        assert_eq!(browser.run(back), json!(-1));
        let steps = "const more = document.querySelector('.tile details'); more.open = true;
            return more.querySelectorAll('tbody tr').length";
        eventually(SHORT, "a row for each fifth of fifty minutes", async || {
            match browser.run(steps) {
                rows if rows == json!(11) => Ok(()),
                rows => Err(rows.to_string()),
            }
        })
        .await;
        if round == 0 {
            assert_eq!(given(&stub.asked), 0, "who hears the stream need not ask");
        }
        // Without a stream it asks, and then listens again.
        stub.behave(Manner::NoStream);
        eventually(SHORT, "the page to ask", async || match given(&stub.asked) {
            0 => Err("it does not".to_owned()),
            _ => Ok(()),
        })
        .await;
        assert_eq!(label(), whole);
        stub.behave(Manner::Live);
    }
    assert_quiet(&browser);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_known_is_never_zero() {
    let mut unknown = ordinary();
    for part in ["generation", "state", "last_event_at", "last_applied_at", "age_seconds"] {
        unknown[part] = Value::Null;
    }
    unknown["known"] = json!(false);
    unknown["pipeline"] = Value::Null;
    for set in unknown["sets"].as_array_mut().unwrap() {
        // Even where a wiped Redis answers 0, or the server should pass that on.
        set["cardinality"] = if set["name"] == "users" { json!(0) } else { Value::Null };
        set["groups"] = json!([]);
        set["buckets"] = json!([]);
        set["history"] = json!([]);
    }
    let (stub, browser) = open(unknown.clone()).await;
    wait_word(&browser, "Unknown").await;
    assert_eq!(browser.texts("#tiles .value"), ["unknown"; 4]);
    assert_eq!(browser.text("#applied"), "unknown");
    assert!(browser.texts("#groups .lists .quiet").iter().all(|text| text == "unknown"));
    assert_eq!(zeros(&browser), json!([]));

    // Redis gone: the same, and its error as text.
    unknown["redis"] = json!({"ok": false, "error": "connection refused"});
    stub.show(unknown.clone());
    wait_word(&browser, "Redis is away").await;
    assert!(browser.text("#notice").contains("connection refused"));
    assert_eq!(browser.texts("#tiles .value"), ["unknown"; 4]);
    assert_eq!(zeros(&browser), json!([]));
    // Where the server cannot even list the sets, those that were there stay, as unknown.
    unknown["sets"] = json!([]);
    unknown["redis"]["error"] = json!("nobody listens");
    stub.show(unknown);
    eventually(SHORT, "the next word of it", async || match browser.text("#notice") {
        text if text.contains("nobody listens") => Ok(()),
        text => Err(text),
    })
    .await;
    assert_eq!(browser.texts("#tiles .value"), ["unknown"; 4]);

    // One set alone, just added; and a zero that is known is one.
    let mut zero = snapshot(vec![set("cities", 0), set("added", Value::Null)]);
    // And a worker that RabbitMQ told nothing.
    for part in ["published_per_second", "queue_ready"] {
        zero["pipeline"][part] = Value::Null;
    }
    stub.show(zero);
    wait_word(&browser, "Live").await;
    assert_eq!(browser.texts("#tiles .value"), ["0", "unknown"]);
    assert_eq!(browser.texts("#stages .pair dd")[..2], ["unknown"; 2]);
    stub.show(snapshot(vec![]));
    eventually(SHORT, "an empty list to be told", async || match browser.text("#no-sets") {
        text if text == "No sets are configured." => Ok(()),
        text => Err(text),
    })
    .await;
    assert_quiet(&browser);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_stream_it_asks() {
    let (stub, browser) = open(ordinary()).await;
    wait_word(&browser, "Live").await;
    for (manner, users) in [(Manner::NoStream, 5000), (Manner::Kept, 6000)] {
        stub.behave(manner);
        let mut next = ordinary();
        next["sets"][0]["cardinality"] = json!(users);
        stub.show(next);
        let wanted = format!("{},000", users / 1000);
        eventually(SHORT, "an answer to arrive", async || match browser.text("#tiles .value") {
            text if text == wanted => Ok(()),
            text => Err(text),
        })
        .await;
        // It goes on asking, for longer than silence would be stale.
        let start = Instant::now();
        eventually(SHORT, "a time of live answers", async || {
            assert_eq!(browser.text("#word"), "Live", "{manner:?}");
            match start.elapsed() > Duration::from_secs(8) {
                true => Ok(()),
                false => Err("not yet".to_owned()),
            }
        })
        .await;
        // A stream again, for the next.
        stub.behave(Manner::Live);
        let before = stub.updates.load(Ordering::Relaxed);
        eventually(LONG, "the stream to go on", async || {
            match stub.updates.load(Ordering::Relaxed) > before {
                true => Ok(()),
                false => Err("it does not".to_owned()),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_is_text_whatever_it_holds() {
    let (_stub, browser) = open(hostile()).await;
    wait_word(&browser, "Live").await;
    let shown = browser.texts(".name, .label, #windows caption");
    let whole = |text: &&String| text.contains("onerror") && text.contains("<script>");
    assert!(shown.iter().filter(whole).count() >= 4, "{shown:?}");
    assert!(shown.iter().any(|text| text == "(empty)"), "{shown:?}");
    assert!(shown.iter().any(|text| text == "__proto__"), "{shown:?}");
    assert_eq!(browser.run("return document.title"), "Rollcall");
    let made = "return document.querySelectorAll('img, td style, script:not([nonce])').length";
    assert_eq!(browser.run(made), 0);
    let values = browser.texts("#tiles .value");
    assert_eq!(values[..2], ["18,000,000,000,000,000,000", "9,007,199,254,740,991"]);
    assert_quiet(&browser);
}
