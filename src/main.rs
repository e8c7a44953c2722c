//! The command line's two ends: arguments in, an exit code out. What a command does is elsewhere.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use rollcall::broker::BrokerError;
use rollcall::cli::{Cli, Command, Outcome, Output};
use rollcall::config::setting::{self, SETTINGS};
use rollcall::config::{Config, ConfigErrors};
use rollcall::dead_letters::DeadLettersError;
use rollcall::health::ProbeError;
use rollcall::http::BindError;
use rollcall::manage::NotConfigured;
use rollcall::projection::ProjectionError;
use rollcall::publish::PublishError;
use rollcall::repair::RepairError;
use rollcall::retry::Class;
use rollcall::sets::KeyError;
use rollcall::shutdown::Shutdown;
use rollcall::store::StoreError;
use rollcall::telemetry::TelemetryError;
use rollcall::{app, dead_letters, publish};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FAILED: u8 = 1;
/// EX_USAGE of sysexits.h, for a wrong configuration as well.
const USAGE: u8 = 64;
/// EX_TEMPFAIL of sysexits.h.
const TRY_LATER: u8 = 75;

fn main() -> ExitCode {
    forbid_core_dumps();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match run(cli.command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(FAILED),
        Ok(Outcome::TryLater) => ExitCode::from(TRY_LATER),
        // `rollcall dead-letters list | head` has got all that it wanted.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is gone too, the exit code is what is left to say it.
            let _ = writeln!(io::stderr(), "rollcall: {error:#}");
            ExitCode::from(code(&error))
        }
    }
}

/// A core holds passwords and events. The limit is for cores that are files, the mark for those
/// that the kernel pipes into a program, whatever the limit; it also keeps other processes of the
/// same user out of the memory. Where we may not say so, whoever forbids it has: systemd's filter
/// of system calls, beside LimitCORE=0.
fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Help and version on standard output; a usage error, which clap would give code 2, on the other.
fn explain(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    // As above: nothing is left to be told of a failure to write.
    if error.use_stderr() {
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let _ = write!(io::stderr(), "rollcall: {text}");
        ExitCode::from(USAGE)
    } else {
        let _ = write!(io::stdout(), "{text}");
        ExitCode::SUCCESS
    }
}

fn run(command: Command) -> anyhow::Result<Outcome> {
    // These need no valid configuration: some help to make one.
    if let Command::Settings(output) = command {
        return settings(&mut io::stdout().lock(), output);
    }
    if let Command::Completions { .. } | Command::Man { .. } = command {
        return papers(command);
    }
    let config = Config::load(std::env::vars_os())?;
    if let Command::Healthcheck { ready } = command {
        return app::healthcheck(&config, ready);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(dispatch(config, command));
    // A read of standard input cannot be cancelled; nobody waits for what it may still bring.
    runtime.shutdown_background();
    result
}

async fn dispatch(config: Config, command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Worker => app::worker(config).await,
        Command::Serve => app::serve(config).await,
        Command::Top(args) => app::top(config, args).await,
        Command::Manage(command) => app::manage(config, command).await,
        Command::Read(command) => app::read(config, command).await,
        Command::Check(output) => app::check(config, output).await,
        Command::Publish(args) => {
            let shutdown = Shutdown::new();
            let _signals = shutdown.listen().context("listening for signals")?;
            Ok(publish::run(&config, &args, &shutdown).await?)
        }
        Command::DeadLetters(command) => Ok(dead_letters::run(config.broker()?, &command).await?),
        // Answered before there was a runtime.
        Command::Healthcheck { .. }
        | Command::Settings(_)
        | Command::Completions { .. }
        | Command::Man { .. } => Ok(Outcome::Done),
    }
}

/// Made from the command line's own definitions, so that they cannot say something else.
fn papers(command: Command) -> anyhow::Result<Outcome> {
    let mut text = Vec::new();
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "rollcall", &mut text);
        }
        Command::Man { dir: Some(dir) } => {
            std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            clap_mangen::generate_to(Cli::command(), &dir)
                .with_context(|| format!("writing manual pages into {}", dir.display()))?;
        }
        Command::Man { dir: None } => clap_mangen::Man::new(Cli::command()).render(&mut text)?,
        _ => {}
    }
    io::stdout().lock().write_all(&text)?;
    Ok(Outcome::Done)
}

fn settings(out: &mut impl Write, output: Output) -> anyhow::Result<Outcome> {
    if !output.json {
        out.write_all(setting::describe().as_bytes())?;
        return Ok(Outcome::Done);
    }
    for setting in SETTINGS {
        let default = match setting.default {
            setting::Default::Text(text) => Some(text),
            setting::Default::Unset { .. } => None,
        };
        let line = serde_json::json!({
            "name": setting.name,
            "default": default,
            "rule": setting.rule.to_string(),
            "help": setting.help,
            "secret": setting.secret(),
        });
        writeln!(out, "{line}")?;
    }
    Ok(Outcome::Done)
}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(probe) = error.downcast_ref::<ProbeError>() {
        return probe.exit_code();
    }
    match error.chain().find_map(class) {
        Some(Class::Config) => USAGE,
        Some(Class::Transient) => TRY_LATER,
        Some(Class::Data) | None => FAILED,
    }
}

/// Of the outermost error that has one: it knows best what its causes mean.
fn class(error: &(dyn std::error::Error + 'static)) -> Option<Class> {
    None.or_else(|| error.downcast_ref().map(ConfigErrors::class))
        .or_else(|| error.downcast_ref().map(PublishError::class))
        .or_else(|| error.downcast_ref().map(DeadLettersError::class))
        .or_else(|| error.downcast_ref().map(BrokerError::class))
        .or_else(|| error.downcast_ref().map(RepairError::class))
        .or_else(|| error.downcast_ref().map(StoreError::class))
        .or_else(|| error.downcast_ref().map(ProjectionError::class))
        .or_else(|| error.downcast_ref().map(BindError::class))
        .or_else(|| error.downcast_ref().map(TelemetryError::class))
        .or_else(|| error.downcast_ref().map(NotConfigured::class))
        // A set, group or bucket that is not there: the question is wrong.
        .or_else(|| error.downcast_ref().map(|_: &KeyError| Class::Config))
}

/// Only of our own standard output: a server's connection can break in the same way.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let answer = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(PublishError::Answer(error)), _) => Some(error),
        (_, Some(DeadLettersError::Answer(error))) => Some(error),
        _ => error.downcast_ref::<io::Error>(),
    };
    answer.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_becomes_its_exit_code_however_deep_it_lies() {
        let refused = || BrokerError::PublisherClosed;
        let published = anyhow::Error::from(PublishError::from(refused())).context("publishing");
        assert_eq!(code(&published), TRY_LATER);
        assert_eq!(code(&anyhow::Error::from(refused()).context("a").context("b")), TRY_LATER);
        let config = Config::load([("ROLLCALL_LANES".into(), "many".into())].into_iter());
        assert_eq!(code(&config.unwrap_err().into()), USAGE);
        assert_eq!(code(&anyhow::anyhow!("something else")), FAILED);
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&DeadLettersError::from(gone()).into()));
        assert!(is_broken_pipe(&gone().into()));
        let file = PublishError::File { path: "f".into(), source: gone() };
        assert!(!is_broken_pipe(&file.into()));
    }

    #[test]
    fn every_setting_is_listed_for_a_program() {
        let mut out = Vec::new();
        settings(&mut out, Output { json: true }).unwrap();
        assert_eq!(out.split(|byte| *byte == b'\n').count(), SETTINGS.len() + 1);
    }
}
