//! Private RabbitMQ, Postgres and Redis: one set that every test shares, and a few that tests take
//! for themselves to break them, or to add replicas to.
//!
//! `--until-pid` has a watchdog remove a set when this process is gone, however it went: a panic,
//! Ctrl-C and SIGKILL alike.

use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};

#[derive(Clone, Copy, Debug)]
pub enum Server {
    RabbitMq,
    Postgres,
    Redis,
    /// The added ones, by the numbers in their names; a Redis replica's begins at 2.
    Replica,
    RedisReplica(usize),
    Sentinel(usize),
}

impl Server {
    /// Those that every set has.
    pub const ALL: [Server; 3] = [Server::RabbitMq, Server::Postgres, Server::Redis];

    fn name(self) -> Cow<'static, str> {
        match self {
            Server::RabbitMq => "rabbitmq".into(),
            Server::Postgres => "postgres".into(),
            Server::Redis => "redis".into(),
            Server::Replica => "replica".into(),
            Server::RedisReplica(n) => format!("redis-{n}").into(),
            Server::Sentinel(n) => format!("sentinel-{n}").into(),
        }
    }
}

/// What `scripts/servers` can do to one server.
#[derive(Clone, Copy, Debug)]
pub enum Verb {
    Start,
    Stop,
    Kill,
    Pause,
    Resume,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Kill => "kill",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
        }
    }
}

pub struct Servers {
    dir: PathBuf,
    pub amqp_url: String,
    pub database_url: String,
    pub redis_url: String,
}

/// The set that no test may harm.
pub fn shared() -> &'static Servers {
    static SHARED: LazyLock<Servers> = LazyLock::new(|| Servers::up("shared"));
    &SHARED
}

/// Sets that may be broken: some 300 MB each, and 5 s to start.
const BREAKABLE_MAX: usize = 4;

/// Those that nobody has, and how many there are.
#[derive(Default)]
struct Pool {
    free: Vec<Servers>,
    made: usize,
}

static POOL: LazyLock<(Mutex<Pool>, Condvar)> = LazyLock::new(Default::default);

/// A set that one test has for itself; it goes back when dropped.
pub struct Breakable {
    servers: Option<Servers>,
    spoilt: AtomicBool,
}

/// A set that may be broken, mended before it is handed out. Waits while all are taken; so who
/// wants several takes them before anybody waits for what it has.
pub fn breakable() -> Breakable {
    let (pool, freed) = &*POOL;
    let mut locked = pool.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(servers) = locked.free.pop() {
            drop(locked);
            servers.mend();
            return Breakable::new(servers);
        }
        if locked.made < BREAKABLE_MAX {
            locked.made += 1;
            let label = format!("breakable-{}", locked.made);
            drop(locked);
            return Breakable::new(Servers::up(&label));
        }
        locked = freed.wait(locked).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Breakable {
    fn new(servers: Servers) -> Breakable {
        Breakable { servers: Some(servers), spoilt: AtomicBool::new(false) }
    }

    /// Something was done to it that starting its servers does not undo: nobody gets it any more.
    pub fn spoil(&self) {
        self.spoilt.store(true, Ordering::Relaxed);
    }
}

impl Deref for Breakable {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        self.servers.as_ref().expect("taken by drop alone")
    }
}

impl Drop for Breakable {
    fn drop(&mut self) {
        let (pool, freed) = &*POOL;
        let Some(servers) = self.servers.take() else { return };
        // Settings that a test changed at run time are put back at its end, if it gets there.
        let failed = std::thread::panicking();
        let spoilt = failed || self.spoilt.load(Ordering::Relaxed);
        if spoilt {
            // After a failure the logs stay until the run ends.
            let verb = if failed { "down" } else { "remove" };
            let _ = call(&[verb, &servers.dir.display().to_string()]);
        }
        let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
        match spoilt {
            true => pool.made -= 1,
            false => pool.free.push(servers),
        }
        freed.notify_one();
    }
}

impl Servers {
    fn up(label: &str) -> Servers {
        let dir = fresh_dir(label);
        let pid = std::process::id().to_string();
        run(&["up", &dir.display().to_string(), "--until-pid", &pid]);
        let env = fs::read_to_string(dir.join("env")).expect("scripts/servers up writes DIR/env");
        Servers {
            amqp_url: value(&env, "AMQP_URL"),
            database_url: value(&env, "DATABASE_URL"),
            redis_url: value(&env, "REDIS_URL"),
            dir,
        }
    }

    /// Adds servers to the set, as `scripts/servers add` takes them. Gives the URLs that the set
    /// has then, for `value`.
    pub fn add(&self, what: &[&str]) -> String {
        let dir = self.dir.display().to_string();
        run(&[&["add", dir.as_str()], what].concat())
    }

    pub fn control(&self, verb: Verb, server: Server) {
        let dir = self.dir.display().to_string();
        run(&[verb.name(), &dir, &server.name()]);
    }

    pub fn rabbitmqctl(&self, args: &[&str]) -> String {
        let dir = self.dir.display().to_string();
        let mut all = vec!["rabbitmqctl", dir.as_str()];
        all.extend(args);
        run(&all)
    }

    /// A folder for PATH, in which `rabbitmqctl` is that of this set.
    pub fn tools(&self, folder: &Path) -> PathBuf {
        let tools = folder.join("tools");
        fs::create_dir_all(&tools).expect("the test's folder can be written");
        let (script, dir) = (script(), self.dir.display());
        let text = format!("#!/bin/sh\nexec '{}' rabbitmqctl '{dir}' \"$@\"\n", script.display());
        let file = tools.join("rabbitmqctl");
        fs::write(&file, text).expect("the test's folder can be written");
        let may_run = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&file, may_run).expect("a file of ours");
        tools
    }

    /// Where a server keeps its data and its logs.
    pub fn folder(&self, server: Server) -> PathBuf {
        self.dir.join("data").join(&*server.name())
    }

    /// The main process, if it runs.
    pub fn pid(&self, server: Server) -> Option<String> {
        let dir = self.dir.display().to_string();
        call(&["pid", &dir, &server.name()]).ok().map(|said| said.trim().to_owned())
    }

    /// What a server has logged so far.
    pub fn log(&self, server: Server) -> String {
        // RabbitMQ has a log of its own; the others write to where they are started from.
        let logs = ["log/rollcall@localhost.log", "server.log"];
        let text = logs.iter().find_map(|log| fs::read(self.folder(server).join(log)).ok());
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
    }

    /// Moves a folder of a stopped server onto a disk of its own, with `megabytes` to spare.
    pub fn small_disk(&self, server: Server, folder: &str, megabytes: u32) -> PathBuf {
        let dir = self.dir.display().to_string();
        run(&["small-disk", &dir, &server.name(), folder, &megabytes.to_string()]);
        self.folder(server).join(folder)
    }

    /// Whatever the last test did to them, they run.
    fn mend(&self) {
        for server in Server::ALL {
            self.resume_quietly(server);
            self.control(Verb::Start, server);
        }
    }

    /// A server that is not running cannot be resumed, which is all right.
    fn resume_quietly(&self, server: Server) {
        let dir = self.dir.display().to_string();
        let _ = call(&[Verb::Resume.name(), &dir, &server.name()]);
    }
}

/// What a variable is in the text of DIR/env.
pub fn value(env: &str, name: &str) -> String {
    env.lines()
        .filter_map(|line| line.trim_start_matches("export ").split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
        .unwrap_or_else(|| panic!("{name} is not in DIR/env"))
}

/// Short, as Postgres puts a Unix socket there and a socket's path has 107 bytes.
fn fresh_dir(label: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rollcall-it-{}-{label}-{n}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        match fs::create_dir(&dir) {
            Ok(()) => return dir,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            Err(error) => panic!("cannot make {}: {error}", dir.display()),
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/servers")
}

fn run(args: &[&str]) -> String {
    call(args).unwrap_or_else(|said| panic!("scripts/servers {args:?} failed: {said}"))
}

fn call(args: &[&str]) -> Result<String, String> {
    let output = Command::new(script())
        .args(args)
        // Appended to a file, so that a Redis that is stopped and started has its sets again;
        // no test cuts the power.
        .envs([("SERVERS_REDIS_AOF", "1"), ("SERVERS_PG_FSYNC", "off")])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("it cannot be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let complained = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}\n{said}{complained}", output.status))
}
