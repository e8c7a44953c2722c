//! The programs beside the binary: the examples, and Python for what Rust has no crate at hand for.
//! `scripts/examples` installs what they need, once, before the first of them runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::process::{Env, Running};
use super::rig::Rig;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What an example is written in.
#[derive(Clone, Copy, Debug)]
pub enum Language {
    Python,
    Node,
    Rust,
    Shell,
}

impl Rig {
    /// A program, begun with the environment that commands have.
    pub fn begin_program(&self, language: Language, args: &[&str], stdin: &[u8]) -> Running {
        self.begin_program_with(language, args, stdin, &self.env)
    }

    /// With nothing in its environment but this and where programs are.
    pub fn begin_program_with(
        &self,
        language: Language,
        args: &[&str],
        stdin: &[u8],
        env: &Env,
    ) -> Running {
        let mut command = tokio::task::block_in_place(|| command(language, args));
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).envs(env).current_dir(ROOT);
        Running::of(command, &self.dir, stdin)
    }
}

fn command(language: Language, args: &[&str]) -> Command {
    if !matches!(language, Language::Rust) {
        set_up();
    }
    let mut command = match language {
        Language::Python => {
            Command::new(Path::new(ROOT).join(".rollcall/examples/venv/bin/python"))
        }
        Language::Node => Command::new("node"),
        Language::Shell => Command::new("bash"),
        Language::Rust => Command::new(producer()),
    };
    command.args(args);
    command
}

fn set_up() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let script = Path::new(ROOT).join("scripts/examples");
        let ran =
            Command::new(&script).stdin(Stdio::null()).output().expect("scripts/examples runs");
        let said = [ran.stdout, ran.stderr].concat();
        assert!(ran.status.success(), "scripts/examples: {}", String::from_utf8_lossy(&said));
    });
}

/// The producer in Rust. `cargo test --test it` alone does not build examples.
fn producer() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let path = BUILT.get_or_init(|| {
        let folder =
            Path::new(env!("CARGO_BIN_EXE_rollcall")).parent().expect("a file in a folder");
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--locked",
            "--features",
            "fault-points,otlp",
            "--example",
            "producer",
        ]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        // What cargo has set for the tests would be news to build scripts, and half of the crates
        // be built anew; and again by the next cargo that is run outside of them.
        for (name, _) in std::env::vars_os() {
            let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
            if ours.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                build.env_remove(name);
            }
        }
        let built = build.current_dir(ROOT).stdin(Stdio::null()).output().expect("cargo runs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        folder.join("examples/producer")
    });
    path.clone()
}
