//! The real binary: as a worker that runs beside the test, and as a command that ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::http::{self, Metrics};
use super::names;
use super::wait::{LONG, Patience, SHORT, eventually};

pub type Env = BTreeMap<String, String>;

/// What a failed test shows of a worker's log.
const LOG_LINES_SHOWN: usize = 40;

pub struct Worker {
    child: Child,
    log: PathBuf,
    pub addr: SocketAddr,
}

impl Worker {
    /// Starts a worker and waits until it listens, which it does with no server there at all.
    pub async fn start(dir: &Path, env: &Env) -> Worker {
        Worker::start_as("worker", dir, env).await
    }

    /// The same of another role that runs until it is told to stop.
    pub async fn start_as(role: &str, dir: &Path, env: &Env) -> Worker {
        Worker::begin(role, command(&[role], env), dir).await
    }

    /// The same as nobody, without a capability, where nothing can be written.
    pub async fn start_as_nobody(role: &str, dir: &Path, env: &Env) -> Worker {
        // A checkout may lie where nobody may go.
        let binary = fresh_path(dir, "rollcall");
        fs::copy(env!("CARGO_BIN_EXE_rollcall"), &binary).expect("the test's folder has room");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/as_nobody");
        let mut command = Command::new(script);
        let path = std::env::var("PATH").expect("tests have a PATH");
        command.arg(binary).arg(role).env_clear().env("PATH", path).envs(env);
        Worker::begin(role, command, dir).await
    }

    async fn begin(role: &str, mut command: Command, dir: &Path) -> Worker {
        let log = fresh_path(dir, &format!("{role}.log"));
        let out = File::create(&log).expect("the test's folder can be written");
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a file can be shared"))
            .stderr(out)
            .spawn()
            .expect("the binary runs");
        let mut worker = Worker { child, log, addr: SocketAddr::from(([127, 0, 0, 1], 0)) };
        worker.addr = eventually(SHORT, "the worker to listen", async || {
            if let Some(status) = worker.child.try_wait().expect("a child can be asked") {
                panic!("the {role} ended with {status}: {}", worker.log());
            }
            worker.told_addr(names::LISTENING).ok_or_else(|| "its log names no port".to_owned())
        })
        .await;
        worker
    }

    /// The address in the log line that begins like this, wherever the formatter nests its fields.
    pub fn told_addr(&self, message: &str) -> Option<SocketAddr> {
        self.log().lines().filter(|line| line.contains(message)).find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let addr = line.pointer("/fields/addr").or_else(|| line.get("addr"))?;
            addr.as_str()?.parse().ok()
        })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Warnings and errors of the log that hold one of these texts.
    pub fn complaints(&self, texts: &[&str]) -> Vec<String> {
        let serious = |line: &&str| line.contains("\"WARN\"") || line.contains("\"ERROR\"");
        let log = self.log();
        let lines = log.lines().filter(serious);
        lines.filter(|line| texts.iter().any(|text| line.contains(text))).map(Into::into).collect()
    }

    pub async fn get(&self, path: &str) -> Result<http::Reply, String> {
        http::get(self.addr, path).await
    }

    pub async fn status(&self, path: &str) -> Result<u16, String> {
        self.get(path).await.map(|reply| reply.status)
    }

    pub async fn metrics(&self) -> Result<Metrics, String> {
        self.get("/metrics").await.map(|reply| Metrics::parse(&reply.body))
    }

    /// `POST /resume`: a person has looked, and says to go on.
    pub async fn resume(&self) {
        let reply = http::request(self.addr, "POST", "/resume").await.unwrap();
        assert_eq!(reply.status, 204, "{}", reply.body);
    }

    pub async fn wait_ready(&self) {
        self.wait_readyz(200, LONG).await;
    }

    pub async fn wait_not_ready(&self) {
        self.wait_readyz(503, LONG).await;
    }

    async fn wait_readyz(&self, wanted: u16, deadline: Duration) {
        eventually(deadline, &format!("/readyz to answer {wanted}"), async || {
            let reply = self.get("/readyz").await?;
            match reply.status == wanted {
                true => Ok(()),
                false => Err(format!("it answers {}: {}", reply.status, reply.body)),
            }
        })
        .await;
    }

    /// Waits until some deliveries are taken and not settled: this is what holding is.
    pub async fn wait_in_flight(&self) {
        eventually(LONG, "something to be in flight", async || {
            match self.metrics().await?.sum(names::IN_FLIGHT) {
                0.0 => Err("nothing is".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
    }

    /// The books: deliveries = settlements + in flight, and nothing in flight when idle.
    pub async fn assert_books_balance(&self) {
        eventually(SHORT, "the books to balance with nothing in flight", async || {
            let metrics = self.metrics().await?;
            let deliveries = metrics.sum(names::DELIVERIES);
            let settlements = metrics.sum(names::SETTLEMENTS);
            let in_flight = metrics.sum(names::IN_FLIGHT);
            if in_flight == 0.0 && deliveries == settlements {
                return Ok(());
            }
            Err(format!("{deliveries} deliveries, {settlements} settled, {in_flight} in flight"))
        })
        .await;
    }

    pub fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("a child can be asked");
        assert!(ended.is_none(), "the worker ended with {ended:?}");
    }

    pub fn has_exited(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_some()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name} {pid}: {status}");
    }

    pub async fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let child = &mut self.child;
        eventually(deadline, "the worker to end", async || {
            child.try_wait().expect("a child can be asked").ok_or("it runs".to_owned())
        })
        .await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A file that the kernel has of this process.
    pub fn proc(&self, file: &str) -> String {
        let file = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// The most that was resident at any time, in bytes.
    pub fn peak_memory(&self) -> u64 {
        peak_memory(self.pid())
    }

    /// SIGTERM, and an exit code of 0 in time.
    pub async fn terminate(mut self) {
        self.signal("TERM");
        let status = self.wait_exit(LONG).await;
        assert_eq!(status.code(), Some(0), "a drained worker ends with 0: {status}");
    }

    /// SIGKILL: what a crash looks like from outside.
    pub async fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        self.wait_exit(SHORT).await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails only for a child that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
            eprintln!("--- {}, its last lines", self.log.display());
            lines[from..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    #[track_caller]
    pub fn expect(self, code: i32) -> Run {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not JSON ({error}): {}", self.stdout))
    }

    /// Both streams: some answers may be given on either.
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end.
pub async fn run(dir: &Path, args: &[&str], env: &Env, stdin: &[u8]) -> Run {
    Running::start(dir, args, env, stdin).end().await
}

/// A command under way.
pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    args: String,
}

impl Running {
    pub fn start(dir: &Path, args: &[&str], env: &Env, stdin: &[u8]) -> Running {
        Running::of(command(args, env), dir, stdin)
    }

    /// Any program.
    pub fn of(mut command: Command, dir: &Path, stdin: &[u8]) -> Running {
        let stdin_path = fresh_path(dir, "stdin");
        let (out, err) = (fresh_path(dir, "stdout"), fresh_path(dir, "stderr"));
        fs::write(&stdin_path, stdin).expect("the test's folder can be written");
        let args = command.get_args().chain([command.get_program()]);
        let args = format!("{:?}", args.collect::<Vec<_>>());
        let child = command
            .stdin(File::open(&stdin_path).expect("just written"))
            .stdout(File::create(&out).expect("the test's folder can be written"))
            .stderr(File::create(&err).expect("the test's folder can be written"))
            .spawn()
            .expect("the binary runs");
        Running { child, out, err, args }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<Run> {
        let status = self.child.try_wait().expect("a child can be asked")?;
        let (stdout, stderr) = self.said();
        Some(Run { code: status.code(), stdout, stderr })
    }

    pub async fn end(mut self) -> Run {
        let patience = Patience::new(LONG, "a command to end");
        loop {
            if let Some(run) = self.ended() {
                return run;
            }
            if patience.is_over() {
                let (stdout, stderr) = self.said();
                panic!("{} did not end in {LONG:?}\n{stdout}{stderr}", self.args);
            }
            patience.wait("it runs").await;
        }
    }

    /// As of a worker; the command must still run.
    pub fn peak_memory(&self) -> u64 {
        peak_memory(self.child.id())
    }

    /// SIGKILL. Whether it still ran.
    pub fn kill(mut self) -> bool {
        let ran = self.child.try_wait().expect("a child can be asked").is_none();
        let _ = self.child.kill();
        let _ = self.child.wait();
        ran
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name} {pid}: {status}");
    }

    /// What it has said so far: standard output and standard error.
    pub fn said(&self) -> (String, String) {
        let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        (read(&self.out), read(&self.err))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.expect("the kernel tells VmHWM in kB") << 10
}

/// With nothing of our own environment in it.
fn command(args: &[&str], env: &Env) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.args(args).env_clear().envs(env);
    command
}

fn fresh_path(dir: &Path, label: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    dir.join(format!("{}-{label}", NEXT.fetch_add(1, Ordering::Relaxed)))
}
