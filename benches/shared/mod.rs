//! What the benches have in common: the servers under measurement, our own binary against them, and
//! how figures are told. Measures nothing itself.

pub mod drawing;
pub mod machine;
pub mod redis;
pub mod words;

use std::process::Command;

use anyhow::{Context, Result};
use sqlx::{Executor, PgConnection};

pub struct Servers {
    pub amqp: String,
    pub database: String,
    pub redis: String,
}

impl Servers {
    pub fn from_env() -> Result<Self> {
        let var = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
        Ok(Self {
            amqp: var("AMQP_URL")?,
            database: var("DATABASE_URL")?,
            redis: var("REDIS_URL")?,
        })
    }

    /// `rollcall`, knowing these servers.
    pub fn rollcall(&self, arguments: &[&str]) -> Command {
        // Another build of it, to compare two within one run of the servers.
        let binary = std::env::var_os("BENCH_BINARY");
        let mut command = Command::new(binary.unwrap_or(env!("CARGO_BIN_EXE_rollcall").into()));
        command
            .args(arguments)
            .env("AMQP_URL", &self.amqp)
            .env("DATABASE_URL", &self.database)
            .env("REDIS_URL", &self.redis)
            .env("ROLLCALL_LOG_FORMAT", "json");
        command
    }
}

/// The most memory that a process has had resident so far.
pub fn peak_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line.context("VmHWM")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// What autovacuum would come to in the end.
pub async fn settle(database: &mut PgConnection) -> Result<()> {
    database.execute("VACUUM (ANALYZE) events").await?;
    database.execute("CHECKPOINT").await?;
    Ok(())
}
