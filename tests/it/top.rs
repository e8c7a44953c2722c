//! `rollcall top`: what a terminal shows is what Redis counts, and where nobody knows it says so.

use serde_json::{Value, json};

use crate::harness::{Flow, Oracle, Producer, Rig, Server, Verb, Worker, eventually, names, seed};
use crate::harness::{SHORT, Terminal};

const SETS: &str = "cities=state+city users=username seen=username~ \
                    users_by_city=username@state+city users_daily=username/day";
/// Would clear the screen, name the window and turn what follows, on a terminal that obeyed.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}town";

/// A live worker, and sets that hold something. One group is larger than all others.
async fn filled(rig: &Rig) -> (Worker, Oracle) {
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let events: Vec<Value> = (0..40)
        .map(|n| {
            let user = format!("user{n}");
            producer.event_with(json!({"state": "CA", "city": HOSTILE, "username": user}))
        })
        .collect();
    oracle.all_good(&events);
    oracle.bad("json", "{");
    rig.publish_events(&events).await;
    rig.publish(&[crate::harness::Message::raw("{")]).await;
    rig.wait_arrived(&oracle).await;
    worker.assert_books_balance().await;
    (worker, oracle)
}

/// What the control sequences ask for that style text.
fn styles(bytes: &str) -> Vec<String> {
    let sequences = bytes.split("\u{1b}[").skip(1);
    let ends = |c: char| c.is_ascii_alphabetic();
    let styles = sequences.filter_map(|rest| {
        let end = rest.find(ends)?;
        rest[end..].starts_with('m').then(|| rest[..end].to_owned())
    });
    styles.collect()
}

/// As people read it: 1,234
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The figure that a screen has beside a name.
fn beside<'r>(rows: impl IntoIterator<Item = &'r str>, name: &str) -> Option<String> {
    let mut rows = rows.into_iter().map(str::split_whitespace);
    rows.find_map(|mut words| (words.next() == Some(name)).then(|| words.next())?)
        .map(str::to_owned)
}

/// Their counts, and which they are but for those that are as large as the last: of these, two walks
/// may show others.
fn busiest(groups: &Value) -> Option<(Vec<u64>, Vec<&Value>)> {
    let groups = groups.as_array()?;
    let counts: Vec<u64> = groups.iter().map(|one| one["cardinality"].as_u64().unwrap()).collect();
    let last = counts.last().copied();
    let above = groups.iter().filter(|one| one["cardinality"].as_u64() > last);
    Some((counts, above.map(|one| &one["group"]).collect()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_look_has_the_figures_that_redis_and_the_page_have() {
    let rig = Rig::new(SETS).await;
    let (worker, oracle) = filled(&rig).await;
    let mut redis = rig.redis().await;
    let key = |set: &str| format!("{}:{set}", rig.prefix());
    let cities = redis.int(&["SCARD", &key("cities")]).await;
    let users = redis.int(&["SCARD", &key("users")]).await;
    assert_eq!(users as usize, oracle.members("users").len());
    let near = redis.int(&["PFCOUNT", &key("seen")]).await;

    let look = rig.cli(&["top", "--once", "--json"]).await.expect(0).json();
    assert_eq!((&look["known"], &look["redis"]["ok"]), (&json!(true), &json!(true)), "{look}");
    let told: Vec<_> = look["sets"].as_array().unwrap().iter().collect();
    assert_eq!(told[0]["cardinality"], cities);
    assert_eq!(told[1]["cardinality"], users);
    assert_eq!((&told[2]["cardinality"], &told[2]["kind"]), (&json!(near), &json!("estimated")));
    assert_eq!(told[3]["groups"][0], json!({"group": format!("CA, {HOSTILE}"), "cardinality": 40}));
    let site = rig.site().await;
    let page = eventually(SHORT, "the page to have the groups", async || {
        let page = site.json("/api/snapshot").await;
        if page["sets"][3]["groups"].is_array() { Ok(page) } else { Err(page.to_string()) }
    })
    .await;
    for (one, other) in told.iter().zip(page["sets"].as_array().unwrap()) {
        for figure in ["name", "cardinality", "buckets", "window"] {
            assert_eq!(one[figure], other[figure], "{figure} of {}", one["name"]);
        }
        assert_eq!(busiest(&one["groups"]), busiest(&other["groups"]), "of {}", one["name"]);
    }

    // What workers say of themselves comes every few seconds.
    eventually(SHORT, "the worker to report", async || {
        let said = rig.cli(&["top", "--once"]).await.expect(0).stdout;
        match said.contains("● live") && said.contains("dead letters 1: json 1") {
            true => Ok(()),
            false => Err(said),
        }
    })
    .await;
    // The same for people; where there is no terminal, without --once as well.
    for args in [vec!["top", "--once"], vec!["top"]] {
        let said = rig.cli(&args).await.expect(0).stdout;
        assert_eq!(beside(said.lines(), "cities"), Some(grouped(cities)), "{said}");
        assert_eq!(beside(said.lines(), "users"), Some(grouped(users)), "{said}");
        assert!(said.contains(&format!("≈ {}", grouped(near))), "{said}");
        assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    }
    site.process.terminate().await;
    rig.finish(&oracle, vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_knows_is_unknown_and_never_zero() {
    let rig = Rig::breakable(SETS).await;
    let (worker, _) = filled(&rig).await;
    worker.terminate().await;
    let said = rig.cli(&["top", "--once"]).await.expect(0).stdout;
    assert!(said.contains("no worker") && said.contains("No worker reports"), "{said}");

    rig.control(Verb::Kill, Server::Redis);
    assert_unknown(&rig, "Redis is away").await;
    rig.control(Verb::Start, Server::Redis);
    let mut redis = rig.redis().await;
    redis.ask(&["FLUSHALL"]).await.unwrap();
    assert_unknown(&rig, "Redis holds no generation").await;
}

async fn assert_unknown(rig: &Rig, why: &str) {
    let said = rig.cli(&["top", "--once"]).await.expect(75).stdout;
    assert!(said.contains(why), "{said}");
    for set in ["cities", "users", "seen", "users_by_city", "users_daily"] {
        assert_eq!(beside(said.lines(), set).as_deref(), Some("unknown"), "{set}: {said}");
    }
    let look = rig.cli(&["top", "--once", "--json"]).await.expect(75).json();
    let counts = look["sets"].as_array().unwrap().iter();
    assert!(counts.map(|set| &set["cardinality"]).all(Value::is_null), "{look}");
    assert_eq!(look["known"], json!(false), "{look}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_held_make_it_stale() {
    let rig = Rig::new(SETS).await;
    let mut oracle = rig.oracle();
    let (worker, gate) = rig.worker_at_gate(&mut oracle, 20).await;
    eventually(SHORT, "it to be stale", async || {
        let said = rig.cli(&["top", "--once"]).await.expect(0).stdout;
        let stale = said.lines().next().is_some_and(|head| head.contains("stale"));
        match stale && said.contains("in the queue, and nothing was applied for") {
            true => Ok(()),
            false => Err(said),
        }
    })
    .await;
    gate.open().await;
    rig.finish(&oracle, vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_follows_the_counts_and_its_size() {
    let mut rig = Rig::new(SETS).await;
    let (worker, mut oracle) = filled(&rig).await;
    let proxy = rig.proxy("REDIS_URL").await;
    rig.set(names::SERVE_TIMEOUT_MS, "1000");
    let mut terminal = rig.terminal(&["top"], &[]);
    terminal.wait_text("● live").await;

    let event = Producer::new(seed() + 1).event_with(json!({"username": "somebody new"}));
    oracle.good(&event);
    rig.publish_events(&[event]).await;
    let users = grouped(oracle.members("users").len() as i64);
    let shown = |rows: &[String]| beside(rows.iter().map(String::as_str), "users");
    terminal.wait("one user more", |rows| shown(rows).as_deref() == Some(&users)).await;
    terminal.wait_text("CA, ?[2J?]0;owned??town").await;
    assert!(!terminal.bytes().contains("\u{1b}]"), "the window was named");
    let styles = styles(&terminal.bytes());
    assert!(styles.iter().any(|style| style.starts_with("38;5;")), "{styles:?}");

    // Smaller: the head stays, the last row is the foot, nothing is in the way of either.
    for (rows, columns) in [(12, 60), (6, 30), (50, 120)] {
        terminal.resize(rows, columns);
        let what = format!("{rows} rows of {columns}");
        let seen = terminal
            .wait(&what, |seen| {
                let foot = seen.last().is_some_and(|row| row.starts_with("q ends"));
                foot && seen[0].starts_with("rollcall  ●")
            })
            .await;
        assert_eq!(seen.len(), usize::from(rows));
        let wide = seen[0].contains("as of");
        assert_eq!(wide, columns >= 100, "{seen:#?}");
    }
    terminal.resize(8, 80);
    terminal.wait_text("below").await;
    terminal.press("G");
    terminal.wait_text(" 0 below").await;
    terminal.press("g");

    // What is on the screen is of the past, and says so; then it goes on.
    proxy.blackhole(Flow::Keep);
    let rows = terminal.wait_text("Redis is away").await;
    assert!(rows[0].contains("applied unknown"), "{rows:#?}");
    proxy.heal();
    terminal.wait_text("● live").await;
    terminal.press("q");
    assert_eq!(terminal.end().await, Some(0));
    rig.finish(&oracle, vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_terminal_is_given_back_however_it_ends() {
    let rig = Rig::new(SETS).await;
    let taken = async |settings: &[(&str, &str)]| {
        let terminal = rig.terminal(&["top"], settings);
        terminal.wait_text("unknown").await;
        assert!(terminal.is_taken());
        terminal
    };
    for key in ["q", "\u{3}", "\u{1b}"] {
        let mut terminal = taken(&[]).await;
        terminal.press(key);
        assert_eq!(terminal.end().await, Some(0), "{key:?}");
    }
    for signal in ["INT", "TERM", "HUP", "QUIT"] {
        let mut terminal = taken(&[]).await;
        terminal.signal(signal);
        assert_eq!(terminal.end().await, Some(0), "{signal}");
    }
    // What it says of itself is left to be read.
    let mut terminal = rig.terminal(&["top"], &[("FAULT_PANIC", "drawing:3")]);
    assert_eq!(terminal.end().await, Some(101));
    terminal.wait_text("fault: panicking at drawing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colours_are_left_out_where_they_are_not_wanted() {
    let rig = Rig::new(SETS).await;
    let mut terminal: Terminal = rig.terminal(&["top"], &[("NO_COLOR", "1")]);
    terminal.wait_text("unknown").await;
    terminal.press("q");
    assert_eq!(terminal.end().await, Some(0));
    let bytes = terminal.bytes();
    let plain = ["", "0", "1", "2"];
    let styles = styles(&bytes);
    assert!(styles.iter().all(|style| plain.contains(&style.as_str())), "{styles:?}");
    assert!(styles.iter().any(|style| style == "1"), "bold is no colour");
}
