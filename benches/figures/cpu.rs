//! How much processor time a process has had, with all below it.

use std::collections::HashMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// USER_HZ, in which the kernel tells times; 100 on every Linux that there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// The servers under measurement, in the order of `Pids::cpu_seconds`.
pub const SERVERS: [&str; 3] = ["rabbitmq", "postgres", "redis"];

/// The main processes of the servers.
pub struct Pids([u32; 3]);

impl Pids {
    /// Asks `scripts/servers` for the set of servers in this folder.
    pub fn find(set: &str) -> Result<Pids> {
        let pid = |server: &str| {
            let output = Command::new("scripts/servers").args(["pid", set, server]).output()?;
            ensure!(output.status.success(), "no pid of {server} in {set}");
            let pid = String::from_utf8(output.stdout)?;
            pid.trim().parse().with_context(|| format!("the pid of {server}"))
        };
        Ok(Pids([pid(SERVERS[0])?, pid(SERVERS[1])?, pid(SERVERS[2])?]))
    }

    /// So far, user and system.
    pub fn cpu_seconds(&self) -> Result<[f64; 3]> {
        let all = all()?;
        Ok(self.0.map(|pid| below(&all, pid)))
    }
}

/// User and system time of one process so far.
pub fn seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(Process::parse(&stat).context("stat")?.own)
}

struct Process {
    parent: u32,
    own: f64,
    /// Of children that have ended and were waited for.
    ended: f64,
}

impl Process {
    /// The name in the second field may hold anything, so what counts begins after its last
    /// bracket.
    fn parse(stat: &str) -> Option<Process> {
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        // utime, stime, cutime and cstime are fields 14 to 17 of the whole line, from 1.
        let time = |field: usize| fields.get(field)?.parse::<f64>().ok();
        Some(Process {
            parent: fields.get(1)?.parse().ok()?,
            own: (time(11)? + time(12)?) / TICKS_PER_SECOND,
            ended: (time(13)? + time(14)?) / TICKS_PER_SECOND,
        })
    }
}

fn all() -> Result<HashMap<u32, Process>> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        // It may have ended since the folder was read.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some(process) = Process::parse(&stat) {
            all.insert(pid, process);
        }
    }
    Ok(all)
}

fn below(all: &HashMap<u32, Process>, root: u32) -> f64 {
    let is_below = |mut pid: u32| loop {
        match all.get(&pid) {
            _ if pid == root => break true,
            Some(process) => pid = process.parent,
            None => break false,
        }
    };
    let tree = all.iter().filter(|(pid, _)| is_below(**pid));
    tree.map(|(_, process)| process.own + process.ended).sum()
}
