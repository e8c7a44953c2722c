//! What a worker may take in the worst case, and what it is allowed: refused at start where the one
//! is more than the other, as the alternative is to be killed at night.

use std::fs;

use super::Ingest;

const MIB: usize = 1 << 20;
/// The program, its threads, what an allocator keeps (30 MiB were measured idle), and the client's
/// buffers: 32 frames of 128 KiB each way for each of two connections.
const BASE: usize = 64 * MIB;
/// Of one delivery beside its body: properties, token, events, and the client's own of all that.
const DELIVERY: usize = 1024;
/// Dead letters on their way: see `broker/dead_letter.rs`.
const LETTERS: usize = 8 * MIB;

/// The most that a worker of these settings takes, in bytes. One thing is not in it, as AMQP bounds
/// what is on its way by number alone: a window that was opened for small bodies and is filled with
/// large ones at once, before the first of them has been seen.
pub fn needed(ingest: &Ingest, message_bytes_max: usize) -> usize {
    // What waits, and as much that was on its way when the flow was stopped.
    let waiting = 2 * ingest.prefetch_bytes;
    // One batch fills. One is written: bodies, the statement made of them, and Redis commands.
    let batches = 4 * (ingest.batch_bytes_max + message_bytes_max);
    let deliveries = usize::from(ingest.prefetch_max) * DELIVERY;
    let lane = waiting + batches + deliveries + LETTERS + message_bytes_max;
    BASE + usize::from(ingest.lanes) * lane
}

/// What this process is allowed, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    pub bytes: usize,
    pub by: &'static str,
}

/// The control group's limit, or what the machine has; `None` where neither can be read.
pub fn allowed() -> Option<Allowed> {
    let group = own_groups().into_iter().filter_map(|path| limit(&path)).min();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    match (group, machine) {
        (Some(bytes), machine) if machine.is_none_or(|machine| bytes < machine) => {
            Some(Allowed { bytes, by: "the control group" })
        }
        (_, machine) => machine.map(|bytes| Allowed { bytes, by: "the machine" }),
    }
}

/// The files that may hold a limit: of this process's group and of those above it.
fn own_groups() -> Vec<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{file}"));
            let Some((above, _)) = path.rsplit_once('/') else { break };
            path = above;
        }
    }
    files
}

/// `max` and absent files are no limit.
fn limit(path: &str) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_memory_is_read() {
        assert_eq!(total("MemTotal:       24689764 kB\nMemFree: 1 kB\n"), Some(24_689_764 << 10));
        assert_eq!(total("nothing"), None);
        let allowed = allowed().unwrap();
        assert!(allowed.bytes > 64 * MIB, "{allowed:?}");
    }
}
