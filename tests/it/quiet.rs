//! Whatever is done to a process, its log stays short: servers that refuse, links that break again
//! and again, strangers at its ports. (`flood` has the bad events.)

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{DEFAULT_SETS, LONG, Proxy, Rig, Worker, eventually, names};

const VARIABLES: [&str; 3] = ["AMQP_URL", "DATABASE_URL", "REDIS_URL"];
/// Sessions that fail in each part of the test.
const FAILURES: f64 = 8.0;
/// Parts until a refusal has been told by all who notice; lines of one that is quiet, and of all. A
/// line for each try would be 8 in each.
const TURNS: usize = 3;
const QUIET: usize = 2;
const LINES_MAX: usize = 14;

/// Behind proxies, with short waits: what it says is counted by try, not by minute.
async fn behind_proxies(rig: &mut Rig) -> (Worker, Vec<Proxy>) {
    let mut proxies = Vec::new();
    for variable in VARIABLES {
        proxies.push(rig.proxy(variable).await);
    }
    rig.set(names::RETRY_MIN_MS, "10");
    rig.set(names::RETRY_MAX_SECS, "1");
    let worker = rig.worker().await;
    (worker, proxies)
}

fn lines(worker: &Worker) -> usize {
    worker.log().lines().count()
}

/// Waits until so many more sessions have failed. Gives the lines of log since `before`.
async fn failures(worker: &Worker, more: f64) {
    let count = async || Ok::<_, String>(worker.metrics().await?.sum(names::SESSION_ERRORS));
    let wanted = count().await.unwrap() + more;
    eventually(LONG, "sessions to fail", async || match count().await? {
        failed if failed >= wanted => Ok(()),
        failed => Err(format!("{failed} of {wanted} have")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_is_told_of_once() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let (worker, proxies) = behind_proxies(&mut rig).await;
    for (proxy, variable) in proxies.iter().zip(VARIABLES) {
        let before = lines(&worker);
        proxy.refuse(true);
        // An idle worker has no session that would end with Postgres or Redis.
        proxies.iter().for_each(Proxy::cut_all);
        // Each part that notices says so once, and Redis is given 5 s to connect before that.
        let mut said = Vec::new();
        while said.last().is_none_or(|lines| *lines > QUIET) && said.len() < TURNS {
            let already = lines(&worker);
            failures(&worker, FAILURES).await;
            said.push(lines(&worker) - already);
        }
        let all = lines(&worker) - before;
        println!("{variable} refused: {all} lines, by {FAILURES} tries {said:?}");
        assert!(all <= LINES_MAX && said.last() <= Some(&QUIET), "{}", worker.log());
        proxy.refuse(false);
        worker.wait_ready().await;
    }
    worker.terminate().await;
}

/// A fault that is another one each time is told each time, and the waits bound how often that is:
/// at the default of 5 s twelve times a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_break_again_and_again_cost_a_few_lines_a_try() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let (worker, proxies) = behind_proxies(&mut rig).await;
    let before = lines(&worker);
    let mut tries = 0.0;
    while tries < 2.0 * FAILURES {
        for proxy in &proxies {
            proxy.refuse(true);
            proxies.iter().for_each(Proxy::cut_all);
            failures(&worker, 1.0).await;
            tries += 1.0;
            proxy.refuse(false);
        }
    }
    let said = lines(&worker) - before;
    println!("{said} lines in {tries} tries");
    assert!(said as f64 <= 4.0 * tries, "{said} lines in {tries} tries: {}", worker.log());
    worker.wait_ready().await;
    worker.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_the_ports_leave_no_line() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let worker = rig.worker().await;
    let site = rig.site().await;
    site.process.wait_ready().await;
    let before = [lines(&worker), lines(&site.process)];
    let rubbish: [&[u8]; 4] = [
        b"GET /no-such-path HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nhost: x\r\n",
        b"",
    ];
    for n in 0..400 {
        for addr in [worker.addr, site.process.addr, site.addr] {
            let mut stranger = TcpStream::connect(addr).await.unwrap();
            // It may have hung up already.
            let _ = stranger.write_all(rubbish[n % rubbish.len()]).await;
        }
    }
    let said = [lines(&worker) - before[0], lines(&site.process) - before[1]];
    assert!(said.iter().all(|lines| *lines <= 2), "{said:?}: {}", site.process.log());
    site.process.terminate().await;
    worker.terminate().await;
}

/// A set that is kept in another form from today on: each of its keys holds the old one. Their names
/// are made of what events hold, and there may be any number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_type_are_told_of_once_and_not_by_name() {
    let mut rig = Rig::new("users=username by=username@email").await;
    let mut producer = crate::harness::Producer::new(crate::harness::seed());
    let mut events = producer.events(400);
    for (n, event) in events.iter_mut().enumerate() {
        event["email"] = serde_json::json!(format!("person{n}@example.org"));
    }
    let (before, after) = events.split_at(200);
    for (sets, events) in [("by=username@email", before), ("by=username@email~", after)] {
        rig.set(names::SETS, sets);
        let worker = rig.worker().await;
        let again: Vec<_> = events
            .iter()
            .enumerate()
            .map(|(n, event)| {
                let mut event = event.clone();
                event["email"] = serde_json::json!(format!("person{n}@example.org"));
                event
            })
            .collect();
        rig.publish_events(&again).await;
        rig.wait_idle().await;
        worker.assert_books_balance().await;
        let told = worker.metrics().await.unwrap().sum("rollcall_wrong_type_keys_total");
        let log = worker.log();
        worker.terminate().await;
        assert!(!log.contains("person"), "{log}");
        if sets.ends_with('~') {
            assert_eq!(told, 200.0);
            assert_eq!(log.matches("holds another type").count(), 1, "{log}");
        }
    }
}
