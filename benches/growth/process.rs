//! Our own binary at one piece of work: how long, and how large it got.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::shared::{self, Servers};

/// Between two looks at its size; it ends between two of them.
const LOOK: Duration = Duration::from_millis(10);

pub struct Ran {
    pub took: Duration,
    pub peak_mib: f64,
    pub answer: Value,
}

/// Runs it with `--json` to its end, which must be a good one.
pub fn run(servers: &Servers, settings: &[(&str, &str)], arguments: &[&str]) -> Result<Ran> {
    let mut command = servers.rollcall(arguments);
    command.arg("--json").envs(settings.iter().copied()).stdout(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn()?;
    let mut stdout = child.stdout.take().context("no stdout")?;
    let answer = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let mut peak_mib = 0_f64;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // Gone between the two, or of no memory any more.
        peak_mib = peak_mib.max(shared::peak_mib(child.id()).unwrap_or_default());
        std::thread::sleep(LOOK);
    };
    let took = began.elapsed();
    let Ok(answer) = answer.join() else { anyhow::bail!("its answer was not read") };
    let answer = answer?;
    ensure!(status.success(), "rollcall {arguments:?}: {status}: {answer}");
    Ok(Ran { took, peak_mib, answer: serde_json::from_str(&answer)? })
}
