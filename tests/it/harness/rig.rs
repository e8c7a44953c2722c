//! A world of its own for each test: a database, queues, a key prefix, and the laws that must
//! hold in it at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::amqp::{Amqp, Letter};
use super::message::Message;
use super::names;
use super::oracle::Oracle;
use super::pg::{Gate, Pg};
use super::process::{self, Env, Run, Running, Worker};
use super::producer::{Producer, seed};
use super::proxy::Proxy;
use super::redis::Redis;
use super::servers::{self, Breakable, Server, Servers, Verb};
use super::site::Site;
use super::terminal::Terminal;
use super::wait::{LONG, eventually};

pub const DEFAULT_SETS: &str = "cities=state+city users=username";

pub struct Rig {
    servers: Home,
    pub dir: PathBuf,
    pub env: Env,
    /// The test's own way into Postgres, which may do all.
    pub admin_url: String,
    /// What is another for a worker than for the rest: how it logs in.
    pub worker_env: Env,
}

enum Home {
    Shared(&'static Servers),
    Breakable(Breakable),
}

impl Rig {
    /// A world on the shared servers, migrated, its topology declared.
    pub async fn new(sets: &str) -> Rig {
        let rig = Rig::bare(sets).await;
        rig.prepare().await;
        rig
    }

    /// The same with nothing migrated or declared.
    pub async fn bare(sets: &str) -> Rig {
        let servers = tokio::task::spawn_blocking(servers::shared).await.expect("servers start");
        Rig::make(Home::Shared(servers), sets).await
    }

    /// The same, where each role has no more rights in Postgres than `deploy/postgres` gives it:
    /// commands run as the manager, workers as the worker.
    pub async fn with_roles(sets: &str) -> Rig {
        Rig::with_roles_and(sets, &[]).await
    }

    /// And with these settings from the start.
    pub async fn with_roles_and(sets: &str, settings: &[(&str, &str)]) -> Rig {
        let mut rig = Rig::bare(sets).await;
        for (name, value) in settings {
            rig.set(name, value);
        }
        rig.grant();
        let manager = rig.role_url("manager");
        rig.set("DATABASE_URL", &manager);
        rig.worker_env.insert("DATABASE_URL".to_owned(), rig.role_url("worker"));
        rig.prepare().await;
        rig
    }

    /// Runs the SQL that is shipped, as an administrator would.
    pub fn grant(&self) {
        let mut psql = std::process::Command::new("psql");
        psql.args(["-qX", self.admin_url.as_str()]);
        for role in ["manager", "worker", "reader"] {
            psql.args(["-v", &format!("{role}={}", self.role(role))]);
            psql.env(format!("{}_PASSWORD", role.to_uppercase()), role);
        }
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/postgres/roles.sql");
        let ran = psql.args(["-f", file]).output().expect("psql runs");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() && said.is_empty(), "roles.sql: {said}");
    }

    /// A role's name: one of this test's own, as roles are the whole server's.
    pub fn role(&self, role: &str) -> String {
        format!("{}_{role}", self.prefix())
    }

    /// How a role logs in.
    pub fn role_url(&self, role: &str) -> String {
        let (_, place) = self.admin_url.rsplit_once('@').expect("a url with a login");
        format!("postgres://{}:{role}@{place}", self.role(role))
    }

    /// A world on servers that this test alone has, to break as it likes.
    pub async fn breakable(sets: &str) -> Rig {
        let servers = tokio::task::spawn_blocking(servers::breakable).await.expect("servers start");
        let rig = Rig::make(Home::Breakable(servers), sets).await;
        rig.prepare().await;
        rig
    }

    /// A world on servers that speak TLS as well, with the certificates of this folder.
    pub async fn with_tls(sets: &str, folder: &Path) -> Rig {
        let folder = folder.to_owned();
        let servers = tokio::task::spawn_blocking(move || servers::with_tls(&folder)).await;
        let rig = Rig::make(Home::Breakable(servers.expect("servers start")), sets).await;
        rig.prepare().await;
        rig
    }

    async fn make(servers: Home, sets: &str) -> Rig {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("it{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("rollcall-it-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("the temporary folder can be written");

        let mut admin = Pg::connect(&servers.database_url).await.unwrap();
        admin.run(&format!("DROP DATABASE IF EXISTS {name}")).await;
        admin.run(&format!("CREATE DATABASE {name}")).await;

        let env = [
            ("AMQP_URL", servers.amqp_url.clone()),
            ("DATABASE_URL", with_database(&servers.database_url, &name)),
            ("REDIS_URL", servers.redis_url.clone()),
            (names::SETS, sets.to_owned()),
            (names::KEY_PREFIX, name.clone()),
            (names::EXCHANGE, name.clone()),
            (names::QUEUE, format!("{name}.events")),
            (names::DEAD_LETTERS, format!("{name}.dead-letters")),
            (names::OPS_ADDR, "127.0.0.1:0".to_owned()),
            (names::LOG_FORMAT, "json".to_owned()),
        ];
        let env: Env = env.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let admin_url = env["DATABASE_URL"].clone();
        Rig { servers, dir, env, admin_url, worker_env: Env::new() }
    }

    async fn prepare(&self) {
        self.cli(&["manage", "migrate"]).await.expect(0);
        self.cli(&["manage", "topology"]).await.expect(0);
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    fn var(&self, name: &str) -> &str {
        self.env.get(name).expect("set when the rig was made")
    }

    pub fn queue(&self) -> &str {
        self.var(names::QUEUE)
    }

    pub fn dead_letters_queue(&self) -> &str {
        self.var(names::DEAD_LETTERS)
    }

    pub fn exchange(&self) -> &str {
        self.var(names::EXCHANGE)
    }

    pub fn prefix(&self) -> &str {
        self.var(names::KEY_PREFIX)
    }

    pub fn oracle(&self) -> Oracle {
        Oracle::new(self.prefix(), self.var(names::SETS))
    }

    pub async fn worker(&self) -> Worker {
        let worker = self.worker_unready().await;
        worker.wait_ready().await;
        worker
    }

    /// A worker that has seen good events through, and is trusted with more than one at a time.
    pub async fn warm_worker(&self, oracle: &mut Oracle, producer: &mut Producer) -> Worker {
        let worker = self.worker().await;
        let events = producer.events(100);
        oracle.all_good(&events);
        self.publish_events(&events).await;
        self.wait_arrived(oracle).await;
        worker.assert_books_balance().await;
        worker
    }

    /// A worker that need not become ready.
    pub async fn worker_unready(&self) -> Worker {
        let mut env = self.env.clone();
        env.extend(self.worker_env.clone());
        Worker::start(&self.dir, &env).await
    }

    /// `rollcall serve`, which knows of no server but Redis.
    pub async fn site(&self) -> Site {
        let mut env = self.env.clone();
        env.remove("AMQP_URL");
        env.remove("DATABASE_URL");
        env.entry(names::SERVE_ADDR.to_owned()).or_insert("127.0.0.1:0".to_owned());
        Site::start(&self.dir, &env).await
    }

    pub async fn cli(&self, args: &[&str]) -> Run {
        process::run(&self.dir, args, &self.env, b"").await
    }

    /// A command that the test goes on beside.
    pub fn begin(&self, args: &[&str]) -> Running {
        Running::start(&self.dir, args, &self.env, b"")
    }

    /// A command in a terminal of its own, with these variables set as well.
    pub fn terminal(&self, args: &[&str], settings: &[(&str, &str)]) -> Terminal {
        let own = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let env = self.env.clone().into_iter().chain(own).collect();
        Terminal::start(args, &env)
    }

    /// Runs it until it need not be tried later: the server may still be at what a killed one
    /// began.
    pub async fn cli_at_last(&self, args: &[&str]) -> Run {
        eventually(LONG, "a command to get its turn", async || match self.cli(args).await {
            run if run.code == Some(75) => Err(run.stderr),
            run => Ok(run),
        })
        .await
    }

    pub async fn cli_with_stdin(&self, args: &[&str], stdin: &[u8]) -> Run {
        process::run(&self.dir, args, &self.env, stdin).await
    }

    pub async fn cli_without_env(&self, args: &[&str]) -> Run {
        process::run(&self.dir, args, &Env::new(), b"").await
    }

    /// With these variables set, or unset where the value is empty.
    pub async fn cli_with_env(&self, args: &[&str], changes: &[(&str, &str)]) -> Run {
        let mut env = self.env.clone();
        for (name, value) in changes {
            match value.is_empty() {
                true => env.remove(*name),
                false => env.insert((*name).to_owned(), (*value).to_owned()),
            };
        }
        process::run(&self.dir, args, &env, b"").await
    }

    pub fn file(&self, name: &str, contents: &[u8]) -> String {
        let path = self.dir.join(name);
        fs::write(&path, contents).expect("the test's folder can be written");
        path.display().to_string()
    }

    pub async fn amqp(&self) -> Amqp {
        Amqp::connect(self.var("AMQP_URL")).await.unwrap()
    }

    pub fn amqp_url(&self) -> &str {
        self.var("AMQP_URL")
    }

    pub async fn pg(&self) -> Pg {
        self.try_pg().await.unwrap()
    }

    pub async fn try_pg(&self) -> Result<Pg, String> {
        Pg::connect(&self.admin_url).await
    }

    pub async fn redis(&self) -> Redis {
        self.redis_at(self.var("REDIS_URL")).await
    }

    pub async fn redis_at(&self, url: &str) -> Redis {
        Redis::connect(url).await.unwrap()
    }

    /// Holds every insert until it is opened.
    pub async fn close_gate(&self) -> Gate {
        Gate::close(self.pg().await).await
    }

    /// Waits until an insert stands at the gate.
    pub async fn wait_at_gate(&self) {
        let mut pg = self.pg().await;
        eventually(LONG, "an insert to wait at the gate", async || match pg.waiting().await {
            0 => Err("none does".to_owned()),
            _ => Ok(()),
        })
        .await;
    }

    /// Ends the statements that wait at the gate. Postgres does not notice that a client died
    /// while its statement waits for a lock.
    pub async fn clear_gate(&self) {
        let mut pg = self.pg().await;
        eventually(LONG, "the gate to be free", async || match pg.end_waiting().await {
            0 => Ok(()),
            n => Err(format!("{n} wait")),
        })
        .await;
    }

    /// Puts a proxy before the server that this variable names, for workers started from now on.
    pub async fn proxy(&mut self, variable: &str) -> Proxy {
        let url = self.var(variable).to_owned();
        let address = url.split("://").nth(1).expect("a url");
        let address = address.split(['/', '?']).next().expect("split gives one at least");
        let address = address.rsplit('@').next().expect("split gives one at least");
        let proxy = Proxy::to(address).await;
        let url = url.replace(address, &proxy.addr().to_string());
        self.set(variable, &url);
        proxy
    }

    pub async fn publish(&self, messages: &[Message]) {
        self.amqp().await.publish(self.exchange(), messages).await;
    }

    /// One message an event.
    pub async fn publish_events(&self, events: &[Value]) {
        self.publish(&events.iter().map(Message::object).collect::<Vec<_>>()).await;
    }

    /// A warm worker that holds events at the gate, before they are stored.
    pub async fn worker_at_gate(&self, oracle: &mut Oracle, events: usize) -> (Worker, Gate) {
        let mut producer = Producer::new(seed());
        let events = producer.events(events);
        let worker = self.warm_worker(oracle, &mut producer).await;
        oracle.all_good(&events);
        let gate = self.close_gate().await;
        self.publish_events(&events).await;
        self.wait_at_gate().await;
        (worker, gate)
    }

    pub async fn dead_letters(&self) -> Vec<Letter> {
        self.amqp().await.peek(self.dead_letters_queue()).await
    }

    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The servers are of no use to another test.
    pub fn spoil(&self) {
        let Home::Breakable(servers) = &self.servers else { panic!("not ours to break") };
        servers.spoil();
    }

    /// Adds servers to the set. Afterwards it is another set, and no test gets it any more.
    pub fn add(&self, what: &[&str]) -> String {
        self.spoil();
        tokio::task::block_in_place(|| self.servers.add(what))
    }

    pub fn control(&self, verb: Verb, server: Server) {
        let Home::Breakable(servers) = &self.servers else { panic!("not ours to break") };
        tokio::task::block_in_place(|| servers.control(verb, server));
    }

    pub fn rabbitmqctl(&self, args: &[&str]) -> String {
        tokio::task::block_in_place(|| self.servers.rabbitmqctl(args))
    }

    /// Waits until the queue is handed out and as much has arrived as the oracle wants.
    pub async fn wait_arrived(&self, oracle: &Oracle) {
        let (rows, dead) = (oracle.payloads.len() as i64, oracle.dead.len() as u32);
        let (amqp, mut pg) = (self.amqp().await, self.pg().await);
        eventually(LONG, "everything to arrive", async || {
            let ready = amqp.ready(self.queue()).await?;
            let stored = pg.events().await?;
            let condemned = amqp.ready(self.dead_letters_queue()).await?;
            if ready == 0 && stored >= rows && condemned >= dead {
                return Ok(());
            }
            Err(format!(
                "{ready} messages wait, {stored} of {rows} are stored, {condemned} of {dead} are \
                 dead-lettered"
            ))
        })
        .await;
    }

    /// The end of most tests: all arrives, the books balance, the workers drain, the laws hold.
    pub async fn finish(&self, oracle: &Oracle, workers: Vec<Worker>) {
        self.wait_arrived(oracle).await;
        for worker in &workers {
            worker.assert_books_balance().await;
        }
        for worker in workers {
            worker.terminate().await;
        }
        self.assert_laws(oracle).await;
    }
}

impl std::ops::Deref for Home {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        match self {
            Home::Shared(servers) => servers,
            Home::Breakable(servers) => servers,
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Kept after a failure, for its logs.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

pub fn with_database(url: &str, database: &str) -> String {
    let (url, query) = url.split_once('?').unwrap_or((url, ""));
    let (server, _) = url.rsplit_once('/').expect("a database url names a database");
    match query.is_empty() {
        true => format!("{server}/{database}"),
        false => format!("{server}/{database}?{query}"),
    }
}
