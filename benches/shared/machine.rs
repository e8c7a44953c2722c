//! What was measured on: without it a figure says nothing.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use sqlx::PgConnection;

use super::redis::Redis;

pub struct Machine {
    pub cores: usize,
    pub model: String,
    pub memory_gib: f64,
    pub postgres: String,
    pub redis: String,
    pub fsync: String,
    /// The day.
    pub at: String,
    /// With a `+` where the tree held more than it.
    pub commit: String,
}

impl Machine {
    pub async fn look(database: &mut PgConnection, redis: &mut Redis) -> Result<Machine> {
        let (postgres, fsync): (String, String) =
            sqlx::query_as("SELECT current_setting('server_version'), current_setting('fsync')")
                .fetch_one(database)
                .await?;
        let kib = field("/proc/meminfo", "MemTotal")?;
        let kib: f64 = kib.trim_end_matches(" kB").parse()?;
        // Not every architecture tells.
        let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|_| "CPU".to_owned());
        Ok(Machine {
            cores: std::thread::available_parallelism()?.get(),
            model,
            memory_gib: kib / 1024.0 / 1024.0,
            postgres: postgres.split(' ').next().unwrap_or_default().to_owned(),
            redis: redis.version()?,
            fsync,
            at: time::OffsetDateTime::now_utc().date().to_string(),
            // An unpacked archive has no commit.
            commit: commit().unwrap_or_else(|_| "unknown".to_owned()),
        })
    }
}

fn field(file: &str, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(file)?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(found, _)| found.trim() == name);
    Ok(found.with_context(|| format!("{file} has no {name}"))?.1.trim().to_owned())
}

fn commit() -> Result<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output()?;
        ensure!(output.status.success(), "git {arguments:?}");
        anyhow::Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Ok(if clean { commit } else { commit + "+" })
}
