//! What `rollcall serve` refuses, what nobody can make it do, and how it ends.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{LONG, Producer, Redis, Rig, SHORT, Site, eventually, http, names, seed};

const SETS: &str = "cities=state+city users=username seen=username~ by=username@state \
                    daily=username/day";
const CONNECTIONS: &str = "rollcall_serve_connections";
const REQUESTS: &str = "rollcall_serve_requests_total";

/// A site on sets that hold some events.
async fn filled(rig: &Rig) -> Site {
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut Producer::new(seed())).await;
    worker.terminate().await;
    let site = rig.site().await;
    site.wait_status("/api/stats", 200).await;
    site
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_meant_is_refused_as_what_it_is() {
    let rig = Rig::new(SETS).await;
    let site = filled(&rig).await;
    let long = format!("/api/sets/users/contains?member={}", "x".repeat(9_000));
    let longer = format!("/api/stats?{}", "x".repeat(60_000));
    let many = format!("/api/sets/users/contains?{}", "member=a&".repeat(101));
    for (path, status, code) in [
        ("/api", 404, "no_route"),
        ("/api/sets/", 404, "no_route"),
        ("/api/sets/nobody", 404, "no_set"),
        ("/api/sets/nobody/members", 404, "no_set"),
        ("/api/sets/daily?bucket=2020-01-01", 404, "expired"),
        ("/api/sets/daily/contains?member=a&bucket=2020-01-01", 404, "expired"),
        ("/api/sets/daily?bucket=2020-13-01", 400, "bad_request"),
        ("/api/sets/daily?bucket=today", 400, "bad_request"),
        ("/api/sets/users?bucket=2020-01-01", 400, "bad_request"),
        ("/api/sets/users?group=CA", 400, "bad_request"),
        ("/api/sets/by?group=CA&group=Fresno", 400, "bad_request"),
        ("/api/sets/by/members", 400, "bad_request"),
        ("/api/sets/users/contains", 400, "bad_request"),
        ("/api/sets/users/contains?member=%FF", 400, "bad_request"),
        ("/api/sets/users/contains?members=a", 400, "bad_request"),
        ("/api/sets/cities/contains?member=Fresno", 400, "bad_request"),
        // Stored so is no component: a "no" would say nothing.
        ("/api/sets/cities/contains?member=TX:x%7By", 400, "bad_request"),
        ("/api/sets/cities/contains?member=TX:a%253ab", 400, "bad_request"),
        ("/api/sets/cities/contains?member=TX:100%25", 400, "bad_request"),
        (&many, 400, "bad_request"),
        ("/api/sets/seen/contains?member=a", 400, "not_supported"),
        ("/api/sets/seen/members", 400, "not_supported"),
        ("/api/sets/users/members?cursor=-1", 400, "bad_request"),
        ("/api/sets/users/members?cursor=99999999999999999999", 400, "bad_request"),
        ("/api/sets/users/members?count=0", 400, "bad_request"),
        ("/api/sets/users/members?count=1001", 400, "bad_request"),
        ("/api/sets/users/members?count=1&count=2", 400, "bad_request"),
        ("/api/intersect", 400, "bad_request"),
        ("/api/intersect?sets=users", 400, "bad_request"),
        ("/api/intersect?sets=users,users", 400, "bad_request"),
        ("/api/intersect?sets=users,nobody", 404, "no_set"),
        ("/api/intersect?sets=users,seen", 400, "not_supported"),
        ("/api/intersect?sets=users,by", 400, "not_supported"),
        ("/api/stats?x=1", 400, "bad_request"),
        ("/api/live?x=1", 400, "bad_request"),
        (&long, 414, "url_too_long"),
        (&longer, 414, "url_too_long"),
    ] {
        let reply = site.get(path).await;
        let shown = &path[..path.len().min(80)];
        assert_eq!((reply.status, &reply.json()["code"]), (status, &json!(code)), "{shown}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{shown}");
        assert_eq!(reply.json()["status"], status, "{shown}");
    }
    assert_eq!(site.get("/?utm_source=mail").await.status, 200, "the page, as others link to it");
    // Somebody keeps this bucket for longer.
    let key = format!("{}:daily:2020-01-01", rig.prefix());
    rig.redis().await.int(&["SADD", &key, "old"]).await;
    let old = site.json("/api/sets/daily?bucket=2020-01-01").await;
    assert_eq!(old["cardinality"], 1, "{old}");
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let reply = site.request(method, "/api/stats", "").await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    let fat = format!("X-Fat: {}\r\n", "x".repeat(20_000));
    assert_eq!(site.request("GET", "/api/stats", &fat).await.status, 431);
    site.process.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_an_answer_gets_it_once() {
    let mut rig = Rig::new(SETS).await;
    let site = filled(&rig).await;
    for path in ["/api/stats", "/api/sets", "/api/sets/users", "/openapi.json", "/"] {
        let first = site.get(path).await;
        let etag = first.header("etag").expect("a tag").to_owned();
        assert!(first.header("cache-control").is_some_and(|c| c.contains("max-age=")), "{first:?}");
        assert_eq!(first.header("x-content-type-options"), Some("nosniff"));
        assert!(first.header("content-security-policy").is_some_and(|p| p.contains("'none'")));
        assert_eq!(first.header("access-control-allow-origin"), None);
        let again = site.request("GET", path, &format!("If-None-Match: {etag}\r\n")).await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        let other = site.request("GET", path, "If-None-Match: \"other\"\r\n").await;
        assert_eq!(other.status, 200, "{path}");
        let head = site.request("HEAD", path, "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("etag"), Some(etag.as_str()), "{path}");
    }
    // Something has happened: nobody is told that nothing has.
    let etag = site.get("/api/stats").await.header("etag").expect("a tag").to_owned();
    rig.redis().await.int(&["SADD", &format!("{}:users", rig.prefix()), "someone-new"]).await;
    let changed = site.request("GET", "/api/stats", &format!("If-None-Match: {etag}\r\n")).await;
    assert_eq!(changed.status, 200);
    site.process.terminate().await;

    rig.set(names::SERVE_CORS_ORIGIN, "https://example.org");
    let open = rig.site().await;
    let allowed = open.wait_status("/api/stats", 200).await;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://example.org"));
    let asked = open.request("OPTIONS", "/api/stats", "").await;
    assert_eq!(
        (asked.status, asked.header("access-control-allow-methods")),
        (204, Some("GET, HEAD"))
    );
    open.process.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_rate_is_refused_and_then_answered() {
    let mut rig = Rig::new(SETS).await;
    rig.set(names::SERVE_REQUESTS_PER_SECOND_MAX, "5");
    let site = filled(&rig).await;
    let mut refused = None;
    for _ in 0..40 {
        let reply = site.get("/openapi.json").await;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
        assert_eq!(reply.status, 200);
    }
    let refused = refused.expect("forty at once are more than five a second");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.json()["code"], "too_many");
    site.wait_status("/openapi.json", 200).await;
    assert_eq!(site.process.status("/livez").await, Ok(200), "probes are no readers");
    site.process.terminate().await;
}

/// Those who come later wait until somebody has gone; who is silent is made to go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_keep_others_out_for_long() {
    let mut rig = Rig::new(SETS).await;
    rig.set(names::SERVE_CONNECTIONS_MAX, "4");
    rig.set(names::SERVE_STREAMS_MAX, "3");
    let site = filled(&rig).await;
    let mut idle = Vec::new();
    for n in 0..4 {
        let mut stream = TcpStream::connect(site.addr).await.unwrap();
        // Half a head from some, nothing from others.
        if n % 2 == 0 {
            stream.write_all(b"GET /api/stats HT").await.unwrap();
        }
        idle.push(stream);
    }
    eventually(SHORT, "four connections", async || {
        match site.process.metrics().await?.sum(CONNECTIONS) {
            4.0 => Ok(()),
            n => Err(format!("{n}")),
        }
    })
    .await;
    // One too many: were it let in, it would be counted beside them.
    idle.push(TcpStream::connect(site.addr).await.unwrap());
    // It waits in the kernel, so the harness's own five seconds are too short for it.
    let began = Instant::now();
    let late = eventually(LONG, "one that comes late to be answered", async || {
        let most = site.process.metrics().await?.sum(CONNECTIONS);
        assert!(most <= 4.0, "{most} connections");
        http::get(site.addr, "/openapi.json").await
    })
    .await;
    assert_eq!(late.status, 200);
    let most = site.process.metrics().await.unwrap().sum(CONNECTIONS);
    assert!(most <= 4.0, "{most} connections");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    for mut stream in idle {
        let mut rest = Vec::new();
        // Closed, or reset: either is an end.
        let read = tokio::time::timeout(SHORT, stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "it stays open");
    }
    site.process.terminate().await;
}

/// Who asks and does not read is let go, and takes no more memory than the kernel's buffers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_let_go() {
    let rig = Rig::new(SETS).await;
    let site = filled(&rig).await;
    let mut deaf = TcpStream::connect(site.addr).await.unwrap();
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
    let wrote = tokio::time::timeout(SHORT, deaf.write_all(requests.as_bytes())).await;
    // It stops reading where nobody reads its answers.
    drop(wrote);
    eventually(LONG, "the deaf one to be let go", async || {
        match site.process.metrics().await?.sum(CONNECTIONS) {
            0.0 => Ok(()),
            n => Err(format!("{n} connections")),
        }
    })
    .await;
    let asked = site.process.metrics().await.unwrap().sum_where(REQUESTS, "/openapi.json");
    assert!(asked < 1_000.0, "{asked} answered: the buffers took all, and nothing was tested");
    drop(deaf);
    site.process.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_get_one_snapshot_at_once_and_one_each_second() {
    let mut rig = Rig::new(SETS).await;
    rig.set(names::SERVE_STREAMS_MAX, "2");
    let site = filled(&rig).await;
    let (mut one, mut other) = (site.listen().await, site.listen().await);
    let (began, began_at) = (Instant::now(), OffsetDateTime::now_utc());
    let (name, first) = one.next_event().await;
    assert_eq!(name, "snapshot", "the hour so far, whole");
    let made = |seen: &Value| {
        OffsetDateTime::parse(seen["at"].as_str().expect("a time"), &Rfc3339).expect("a time")
    };
    assert!(made(&first) < began_at, "it was there: {} and not after {began_at}", first["at"]);
    assert_eq!((&first["known"], &first["redis"]["ok"]), (&json!(true), &json!(true)));
    let third = site.get("/api/live").await;
    assert_eq!((third.status, third.header("retry-after")), (429, Some("1")));
    // All are given the same, made once.
    let mut mine = std::collections::BTreeMap::new();
    for _ in 0..4 {
        let (name, seen) = one.next_event().await;
        assert_eq!(name, "update", "and then what is new");
        mine.insert(seen["at"].as_str().unwrap().to_owned(), seen);
    }
    assert_eq!(mine.len(), 4);
    let mut same = 0;
    for _ in 0..5 {
        let seen = other.next().await;
        if let Some(equal) = mine.get(seen["at"].as_str().unwrap()) {
            assert_eq!(*equal, seen);
            same += 1;
        }
    }
    assert!(same >= 3, "{same}");
    let took = began.elapsed();
    let times: Vec<OffsetDateTime> = mine.values().map(made).collect();
    let between = times[3] - times[0];
    assert!(between > Duration::from_millis(2_500), "{between:?} between the first and the fourth");
    assert!(took < Duration::from_secs(15), "{took:?}");
    // What is added is seen.
    let before = first["sets"][1]["cardinality"].as_u64().unwrap();
    rig.redis().await.int(&["SADD", &format!("{}:users", rig.prefix()), "someone-new"]).await;
    eventually(SHORT, "the new one to be counted", async || {
        match one.next().await["sets"][1]["cardinality"].as_u64() {
            Some(now) if now == before + 1 => Ok(()),
            now => Err(format!("{now:?}")),
        }
    })
    .await;
    // A place that is left is given to the next.
    drop(other);
    eventually(SHORT, "a place to be free", async || site.try_listen().await.map(drop)).await;
    site.process.terminate().await;
}

/// A listener would keep it for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_streams_in_order_and_soon() {
    let rig = Rig::new(SETS).await;
    let mut site = filled(&rig).await;
    let mut listener = site.listen().await;
    listener.next().await;
    // And one that keeps its connection for later.
    let mut idle = TcpStream::connect(site.addr).await.unwrap();
    idle.write_all(b"GET /api/stats HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut some = [0; 12];
    idle.read_exact(&mut some).await.unwrap();
    let began = Instant::now();
    site.process.signal("TERM");
    let rest = listener.rest().await;
    assert!(rest.ends_with("0\r\n\r\n"), "the stream was cut: {rest:?}");
    let status = site.process.wait_exit(SHORT).await;
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// Its user in Redis may read and nothing else: everything is answered, and nothing else is tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_cannot_write_is_enough() {
    let mut rig = Rig::new(SETS).await;
    let filled = filled(&rig).await;
    filled.process.terminate().await;
    let (user, prefix) = (format!("{}-reader", rig.prefix()), rig.prefix().to_owned());
    let mut admin = rig.redis().await;
    let keys = format!("~{prefix}:*");
    let rights = ["+@read", "+@connection", "+info", "-@write", "-@dangerous", "+info"];
    let rule = [&["ACL", "SETUSER", &user, "reset", "on", ">secret", &keys][..], &rights].concat();
    admin.ask(&rule).await.unwrap();
    let (_, place) = rig.env["REDIS_URL"].rsplit_once("//").unwrap();
    let place = place.rsplit('@').next().unwrap().to_owned();
    let url = format!("redis://{user}:secret@{place}");
    rig.set("REDIS_URL", &url);
    let mut refused = rig.redis().await;
    let users = format!("{prefix}:users");
    let said = refused.ask(&["SADD", &users, "x"]).await.unwrap_err();
    assert!(said.contains("NOPERM"), "{said}");

    // What was refused so far was refused to us.
    admin.ask(&["ACL", "LOG", "RESET"]).await.unwrap();
    let site = rig.site().await;
    for path in [
        "/api/sets",
        "/api/sets/users",
        "/api/sets/seen",
        "/api/sets/by",
        "/api/sets/by?group=CA",
        "/api/sets/daily",
        "/api/sets/users/contains?member=user1",
        "/api/sets/users/members",
        "/api/intersect?sets=users,daily",
        "/api/stats",
    ] {
        assert_eq!(site.wait_status(path, 200).await.status, 200);
    }
    let mut listener = site.listen().await;
    for _ in 0..3 {
        assert_eq!(listener.next().await["known"], true);
    }
    eventually(SHORT, "the groups to be walked", async || {
        let groups = site.json("/api/sets/by").await;
        match groups["groups"].as_array().is_some_and(|groups| !groups.is_empty()) {
            true => Ok(()),
            false => Err(groups.to_string()),
        }
    })
    .await;
    site.process.wait_ready().await;
    site.process.terminate().await;
    let log = format!("{:?}", admin.ask(&["ACL", "LOG"]).await.unwrap());
    assert!(!log.contains(&user), "it tried what it may not: {log}");
    admin.int(&["ACL", "DELUSER", &user]).await;
}

/// Of what is not a set, a reader may be kept away: what workers say of themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_told_to_who_may_not_read_of_the_pipeline() {
    let mut rig = Rig::new(SETS).await;
    let filled = filled(&rig).await;
    filled.process.terminate().await;
    let (user, prefix) = (format!("{}-counter", rig.prefix()), rig.prefix().to_owned());
    let mut admin = rig.redis().await;
    let keys = ["users", "cities", "seen", "meta"].map(|key| format!("~{prefix}:{key}"));
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let rights = ["+scard", "+smismember", "+sscan", "+hmget", "+pfcount", "+@connection"];
    let rule = ["ACL", "SETUSER", &user, "reset", "on", ">secret"];
    admin.ask(&[&rule[..], &keys, &rights].concat()).await.unwrap();
    let admin_url = rig.env["REDIS_URL"].clone();
    let place = admin_url.rsplit("//").next().and_then(|rest| rest.rsplit('@').next()).unwrap();
    rig.set("REDIS_URL", &format!("redis://{user}:secret@{place}"));
    rig.set(crate::harness::names::SETS, "cities=state+city users=username seen=username~");
    let site = rig.site().await;
    for path in ["/api/stats", "/api/sets/users", "/api/sets/users/contains?member=user1"] {
        assert_eq!(site.wait_status(path, 200).await.status, 200);
    }
    let snapshot = site.json("/api/snapshot").await;
    assert_eq!((&snapshot["redis"]["ok"], &snapshot["pipeline"]), (&json!(true), &json!(null)));
    site.process.terminate().await;
    // Or something else may stand in its place.
    rig.set("REDIS_URL", &admin_url);
    let pipeline = format!("{prefix}:pipeline");
    admin.int(&["DEL", &pipeline]).await;
    admin.ask(&["SET", &pipeline, "no hash"]).await.unwrap();
    let site = rig.site().await;
    assert_eq!(site.wait_status("/api/stats", 200).await.status, 200);
    site.process.terminate().await;
    admin.int(&["ACL", "DELUSER", &user]).await;
}

/// How long Redis has worked on intersections since it began.
async fn spent_intersecting(redis: &mut Redis) -> Duration {
    let info = redis.ask(&["INFO", "commandstats"]).await.unwrap().into_text();
    let line = info.lines().find(|line| line.starts_with("cmdstat_sintercard:"));
    let micros = line.and_then(|line| line.split_once("usec=")?.1.split_once(',')?.0.parse().ok());
    Duration::from_micros(micros.unwrap_or(0))
}

/// Redis does nothing else meanwhile: whoever asks for it again and again must leave workers most of
/// its time, and nobody is told that Redis is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intersections_leave_redis_to_the_workers() {
    const MEMBERS: u32 = 200_000;
    let rig = Rig::new(SETS).await;
    let site = filled(&rig).await;
    let mut redis = rig.redis().await;
    let day = &site.json("/api/sets/daily").await["bucket"].as_str().unwrap().to_owned();
    for set in ["users".to_owned(), format!("daily:{day}")] {
        let fill = "for n = 1, ARGV[1] do redis.call('SADD', KEYS[1], 'm' .. n) end return 1";
        let key = format!("{}:{set}", rig.prefix());
        redis.int(&["EVAL", fill, "1", &key, &MEMBERS.to_string()]).await;
    }
    let began = Instant::now();
    let asked = async || {
        let mut statuses = Vec::new();
        while began.elapsed() < Duration::from_secs(3) {
            statuses.push(site.get("/api/intersect?sets=users,daily").await.status);
        }
        statuses
    };
    let before = spent_intersecting(&mut redis).await;
    let (one, two, three) = tokio::join!(asked(), asked(), asked());
    let spent = spent_intersecting(&mut redis).await - before;
    let statuses = [one, two, three].concat();
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    println!("{} answers, {spent:?} of Redis", statuses.len());
    assert!(spent > Duration::ZERO && spent < Duration::from_millis(1_500), "{spent:?} of 3 s");
    site.process.terminate().await;
}
