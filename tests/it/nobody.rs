//! The least that a process may be: nobody, without a capability, on a system where nothing can be
//! written. And a core, which would hold passwords and events, is never left.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::harness::{DEFAULT_SETS, Producer, Rig, Worker, seed};

/// The value of a line of /proc/PID/status.
fn status<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim()
}

fn assert_has_no_rights(process: &Worker) {
    let text = process.proc("status");
    for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(&text, name), "0000000000000000", "{name}");
    }
    assert_eq!(status(&text, "NoNewPrivs"), "1");
    let uid = status(&text, "Uid").split_whitespace().next().unwrap_or_default();
    // A user who is not root sees its own number from outside, and nobody's inside.
    let mapped = process.proc("uid_map");
    let inside = mapped.split_whitespace().next().unwrap_or_default();
    assert!(uid == "65534" || inside == "65534", "it runs as {uid}, mapped by {mapped}");
    // What is mounted last at a place is what is seen there.
    let mounts = process.proc("mountinfo");
    let root = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/"));
    let options = root.and_then(|line| line.split(' ').nth(5)).expect("a root is mounted");
    assert!(options.split(',').any(|option| option == "ro"), "/ is mounted {options}");
}

/// The soft and the hard limit of a core file.
fn core_limits(limits: &str) -> Vec<&str> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    line.expect("the kernel tells its limits").split_whitespace().take(2).collect()
}

fn assert_dumps_no_core(process: &Worker) {
    assert_eq!(core_limits(&process.proc("limits")), ["0", "0"]);
    // A process that is dumpable has its files in /proc as its own user's. Only of others than root
    // can that be told apart; so it is looked at from as_nobody.
    let owner = fs::metadata(format!("/proc/{}/environ", process.pid())).expect("it runs").uid();
    assert_eq!(owner, 0, "of a process that cannot be dumped, root owns the memory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_and_sites_run_as_nobody_where_nothing_can_be_written_and_leave_no_core() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set("ROLLCALL_SERVE_ADDR", "127.0.0.1:0");
    let mut oracle = rig.oracle();
    let worker = Worker::start_as_nobody("worker", &rig.dir, &rig.env).await;
    let site = Worker::start_as_nobody("serve", &rig.dir, &rig.env).await;
    worker.wait_ready().await;
    site.wait_ready().await;
    assert_has_no_rights(&worker);
    assert_has_no_rights(&site);
    // What no process may have cannot be shown to be given up.
    let own = fs::read_to_string("/proc/self/limits").expect("the kernel tells its limits");
    assert_ne!(
        core_limits(&own)[1],
        "0",
        "cores are forbidden here by the hard limit of this test"
    );
    assert_dumps_no_core(&worker);
    assert_dumps_no_core(&site);
    let events = Producer::new(seed()).events(100);
    oracle.all_good(&events);
    rig.publish_events(&events).await;
    rig.wait_arrived(&oracle).await;
    site.terminate().await;
    rig.finish(&oracle, vec![worker]).await;
}
