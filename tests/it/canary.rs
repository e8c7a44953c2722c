//! Passwords that nobody could mistake, in every URL and in every file of one, through a run with
//! faults at the most talkative log level: they are never seen again. Not in a log, a metric, an
//! answer of the ops endpoint or to a reader, the error of a command or a command line, a child's
//! neither.

use std::collections::BTreeMap;
use std::fs;

use crate::harness::{
    DEFAULT_SETS, Message, Producer, Proxy, Rig, Server, Site, Verb, Worker, seed,
};

type Env = BTreeMap<String, String>;

const VARIABLES: [&str; 3] = ["AMQP_URL", "DATABASE_URL", "REDIS_URL"];
/// The start of every password here. Long enough that no other text begins like this.
const CANARY: &str = "c4n4ry";

/// What is looked for: the word, as it is, as a list of bytes, in hex, and in Base64 at each of the
/// three places where it can begin.
fn disguises() -> Vec<String> {
    let bytes = |f: fn(&u8) -> String, between: &str| {
        CANARY.as_bytes().iter().map(f).collect::<Vec<_>>().join(between)
    };
    let mut disguises = vec![
        CANARY.to_owned(),
        bytes(u8::to_string, ", "),
        bytes(|byte| format!("{byte:02x}"), ""),
    ];
    for before in 0..3 {
        let text = format!("{}{CANARY}", "-".repeat(before));
        let coded = base64(text.as_bytes());
        // Without the characters that the neighbours of the word have a share in.
        let from = [0, 2, 3][before];
        disguises.push(coded[from..coded.len() - 2].to_owned());
    }
    disguises
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| char::from(DIGITS[(bits & 63) as usize]);
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        text.extend([18, 12, 6, 0].map(|shift| digit(bits >> shift)));
    }
    text
}

/// Everything that was said, by where.
#[derive(Default)]
struct Heard(BTreeMap<String, String>);

impl Heard {
    fn add(&mut self, what: impl Into<String>, text: &str) {
        self.0.entry(what.into()).or_default().push_str(text);
    }

    /// What a process shows of itself while it runs.
    async fn look(&mut self, what: &str, process: &Worker) {
        for path in ["/livez", "/readyz", "/metrics"] {
            let reply = process.get(path).await.unwrap();
            self.add(format!("{what} {path}"), &reply.body);
        }
        self.add(format!("{what} cmdline"), &process.proc("cmdline"));
        self.add(format!("{what} cmdline"), &children_cmdlines(process.pid()));
    }

    /// What readers over HTTP are shown: answers, refusals, and the page's snapshot with its error.
    async fn look_as_reader(&mut self, what: &str, site: &Site) {
        let paths = [
            "/",
            "/api/stats",
            "/api/snapshot",
            "/api/sets",
            "/api/sets/users",
            "/api/sets/users/contains?member=ann",
            "/api/sets/none",
            "/openapi.json",
        ];
        for path in paths {
            let reply = site.get(path).await;
            self.add(format!("{what} {path}"), &format!("{reply:?}"));
        }
        self.look(what, &site.process).await;
    }

    fn assert_clean(&self) {
        let disguises = disguises();
        for (what, text) in &self.0 {
            assert!(!text.is_empty(), "{what} said nothing: nothing was looked at");
            let found: Vec<&str> =
                text.lines().filter(|line| disguises.iter().any(|d| line.contains(d))).collect();
            assert!(found.is_empty(), "{what}: {found:#?}");
        }
    }
}

/// The command lines of what a process has started, and of what that has.
fn children_cmdlines(pid: u32) -> String {
    let read = |pid: u32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    let all = fs::read_dir("/proc").expect("there is a /proc").flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // The parent is the second field after the name, which may hold anything. One that has ended
    // meanwhile is nobody's.
    let with_parent = all.filter_map(|child| {
        let stat = read(child, "stat").ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        Some((child, parent))
    });
    let with_parent: Vec<_> = with_parent.collect();
    let mut family = vec![pid];
    let mut lines = String::new();
    while let Some(one) = family.pop() {
        for (child, _) in with_parent.iter().filter(|(_, parent)| *parent == one) {
            family.push(*child);
            lines.push_str(&read(*child, "cmdline").unwrap_or_default());
            lines.push('\n');
        }
    }
    lines
}

fn password(variable: &str) -> String {
    format!("{CANARY}-{}-9f3a", variable.to_lowercase())
}

/// Users with such passwords, and the URLs that log in as them.
async fn plant(rig: &mut Rig) {
    let user = rig.prefix().to_owned();
    rig.rabbitmqctl(&["-q", "add_user", &user, &password("AMQP_URL")]);
    rig.rabbitmqctl(&["-q", "set_permissions", &user, ".*", ".*", ".*"]);
    let role = "SUPERUSER LOGIN PASSWORD";
    let role = format!("CREATE ROLE {user} {role} '{}'", password("DATABASE_URL"));
    rig.pg().await.run(&role).await;
    plant_redis(rig).await;
    for variable in VARIABLES {
        let url = with_login(&rig.env[variable], &user, &password(variable));
        rig.worker_env.insert(variable.to_owned(), url);
    }
}

/// Redis forgets its users when it ends.
async fn plant_redis(rig: &Rig) {
    let rule = format!(">{}", password("REDIS_URL"));
    let user = ["ACL", "SETUSER", rig.prefix(), "on", &rule, "~*", "&*", "+@all"];
    rig.redis().await.ask(&user).await.unwrap();
}

fn with_login(url: &str, user: &str, password: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a url");
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    format!("{scheme}://{user}:{password}@{place}")
}

/// The commands that log in somewhere. Each with whether it can do its work.
async fn commands(rig: &Rig, heard: &mut Heard, file: &str, urls: &Env, works: bool) {
    let commands: [&[&str]; 7] = [
        &["publish", "--file", file],
        &["manage", "migrate"],
        &["manage", "topology"],
        &["manage", "status"],
        &["manage", "verify"],
        &["read", "count", "users"],
        &["dead-letters", "list"],
    ];
    let urls: Vec<(&str, &str)> = urls.iter().map(|(n, url)| (n.as_str(), url.as_str())).collect();
    for command in commands {
        let run = rig.cli_with_env(command, &urls).await;
        let status = command == ["manage", "status"];
        assert!(status || (run.code == Some(0)) == works, "{command:?}: {run:?}");
        heard.add(format!("{command:?}"), &run.said());
    }
}

/// A worker whose URLs lie in files.
async fn worker_with_files(rig: &Rig, urls: &Env) -> Worker {
    let mut env = rig.env.clone();
    for (variable, url) in urls {
        env.remove(variable);
        let file = rig.file(&format!("secret-{variable}"), url.as_bytes());
        env.insert(format!("{variable}_FILE"), file);
    }
    Worker::start(&rig.dir, &env).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_is_ever_seen_again() {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut heard = Heard::default();
    rig.set("RUST_LOG", "trace");
    plant(&mut rig).await;
    let right = rig.worker_env.clone();

    let site_env: Env = rig.env.clone().into_iter().chain(right.clone()).collect();
    let by_file = worker_with_files(&rig, &right).await;
    let mut plain = rig.env.clone();
    std::mem::swap(&mut rig.env, &mut plain);
    rig.env = site_env;
    let site = rig.site().await;
    let mut proxies = Vec::new();
    for variable in VARIABLES {
        proxies.push(rig.proxy(variable).await);
    }
    rig.worker_env.clear();
    let proxied = rig.worker_unready().await;
    rig.env = plain;
    for process in [&by_file, &proxied] {
        process.wait_ready().await;
    }
    let events = producer.events(200);
    oracle.all_good(&events);
    oracle.bad("json", "{");
    let file = rig.file("events.ndjson", format!("{}\n", events[0]).as_bytes());
    commands(&rig, &mut heard, &file, &right, true).await;
    for (n, some) in events.chunks(50).enumerate() {
        rig.publish_events(some).await;
        proxies.iter().for_each(Proxy::cut_all);
        if let Some(server) = Server::ALL.iter().rev().nth(n) {
            rig.control(Verb::Kill, *server);
            for (what, process) in [("by file", &by_file), ("proxied", &proxied)] {
                process.wait_not_ready().await;
                heard.look(what, process).await;
            }
            if matches!(server, Server::Redis) {
                site.wait_status("/api/stats", 503).await;
            }
            heard.look_as_reader("site", &site).await;
            rig.control(Verb::Start, *server);
            plant_redis(&rig).await;
        }
    }
    rig.publish(&[Message::raw("{")]).await;
    rig.wait_arrived(&oracle).await;

    // Wrong ones are canaries too.
    let wrong = |url: &String| url.replace("9f3a", "wrong");
    let wrong: Env = right.iter().map(|(name, url)| (name.clone(), wrong(url))).collect();
    commands(&rig, &mut heard, &file, &wrong, false).await;
    for variable in VARIABLES {
        let urls =
            right.clone().into_iter().chain([(variable.to_owned(), wrong[variable].clone())]);
        let refused = worker_with_files(&rig, &urls.collect()).await;
        refused.wait_not_ready().await;
        heard.look(&format!("wrong {variable}"), &refused).await;
        heard.add(format!("wrong {variable} log"), &refused.log());
        refused.terminate().await;
    }
    let env = rig.env.clone().into_iter().chain(wrong.clone());
    let refused = Site::start(&rig.dir, &env.collect()).await;
    refused.process.wait_not_ready().await;
    refused.wait_status("/api/stats", 503).await;
    heard.look_as_reader("wrong site", &refused).await;
    heard.add("wrong site log", &refused.process.log());
    refused.process.terminate().await;
    // And so are those that make a URL unreadable.
    let broken = |url: &String| url.replace("9f3a@", "12/9f3a@x?y#@");
    let broken: Env = right.iter().map(|(name, url)| (name.clone(), broken(url))).collect();
    commands(&rig, &mut heard, &file, &broken, false).await;

    // What each runs with is told at its start, without them.
    for process in [&by_file, &proxied, &site.process] {
        let log = process.log();
        let settings = log.lines().find(|line| line.contains("\"starting\"")).expect("it tells");
        assert!(settings.contains("REDIS_URL=redis://***@127.0.0.1"), "{settings}");
        assert!(settings.contains("ROLLCALL_LANES=2 (default)"), "{settings}");
    }
    site.wait_status("/api/stats", 200).await;
    heard.look_as_reader("site", &site).await;
    for (what, process) in [("by file", by_file), ("proxied", proxied), ("site", site.process)] {
        heard.look(what, &process).await;
        let log = process.log();
        let talks = log.contains("\"TRACE\"") || log.contains("\"DEBUG\"");
        assert!(talks || what == "site", "{what} tells little: {log}");
        heard.add(format!("{what} log"), &log);
        process.terminate().await;
    }
    heard.assert_clean();
    rig.finish(&oracle, Vec::new()).await;
}

/// What is not in the URL is asked of nobody: the client would read the file of passwords, and log
/// the lines that it does not understand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_passwords_of_other_programs_are_left_alone() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let file = rig.file("pgpass", format!("*:*:{CANARY}-malformed\n").as_bytes());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&file, mode).expect("the file is ours");
    let (_, place) = rig.env["DATABASE_URL"].rsplit_once('@').expect("a login");
    let bare = format!("postgres://nobody@{place}");
    let home = rig.dir.display().to_string();
    for (name, value) in [("PGPASSFILE", file.as_str()), ("PGPASSWORD", CANARY), ("HOME", &home)] {
        let env = [("DATABASE_URL", bare.as_str()), ("RUST_LOG", "trace"), (name, value)];
        let ran = rig.cli_with_env(&["manage", "catch-up"], &env).await;
        assert_ne!(ran.code, Some(0), "{name}: {}", ran.said());
        assert!(!ran.said().contains(CANARY), "{name}: {}", ran.said());
    }
}
