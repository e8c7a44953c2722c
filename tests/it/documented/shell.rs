//! What a document says is to be typed, and the shell that does it.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::Rig;

/// The commands in fenced blocks of a shell, each as one text, with the lines that belong to it.
pub fn commands(document: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let prompt = match line {
            "```sh" => "",
            "```console" => "$ ",
            _ if line.starts_with("    make ") => {
                commands.push(line.trim().to_owned());
                continue;
            }
            _ => continue,
        };
        let mut block = lines.by_ref().take_while(|line| *line != "```");
        while let Some(line) = block.next() {
            let Some(command) = line.strip_prefix(prompt) else { continue };
            let mut command = command.to_owned();
            let mut more = |command: &mut String| {
                let line = block.next().expect("the block ends within a command");
                *command += "\n";
                *command += line;
                line
            };
            if let Some((_, end)) = command.split_once("<<'") {
                let end = end.trim_end_matches('\'').to_owned();
                while more(&mut command) != end {}
            }
            while command.ends_with(['|', '\\']) || command.ends_with("&&") {
                more(&mut command);
            }
            commands.push(command);
        }
    }
    commands
}

/// The fenced blocks of a language, each whole.
pub fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let pieces = document.split("\n```").collect::<Vec<_>>();
    // A piece that opens a block is followed by one that closes it.
    let opened = pieces.iter().skip(1).step_by(2);
    opened.filter_map(|piece| piece.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// A section, with what is below it, up to the next of its level or of a higher one.
pub fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let at = document.find(&format!("\n{heading}\n")).expect("the section is there") + 1;
    let rest = &document[at..];
    let ends = ["\n# ", "\n## ", "\n### "];
    let level = heading.find(' ').expect("a heading has its level");
    let end = ends[..level].iter().filter_map(|next| rest.find(next)).min();
    &rest[..end.unwrap_or(rest.len())]
}

/// A shell that finds our binary first.
pub struct Shell {
    pub env: HashMap<String, String>,
    pub dir: std::path::PathBuf,
}

impl Shell {
    pub fn new(rig: &Rig) -> Shell {
        let binary = Path::new(env!("CARGO_BIN_EXE_rollcall"));
        let folder = binary.parent().expect("a binary is in a folder").display().to_string();
        let mut env: HashMap<String, String> = rig.env.clone().into_iter().collect();
        let path = std::env::var("PATH").unwrap_or_default();
        env.insert("PATH".to_owned(), format!("{folder}:{path}"));
        Shell { env, dir: rig.dir.clone() }
    }

    /// As a reader's shell does it: what a pipe begins with may fail unheard.
    pub fn command(&self, text: &str) -> Command {
        let mut command = Command::new("/bin/bash");
        command.args(["-c", text]).current_dir(&self.dir);
        command.env_clear().envs(&self.env).stdin(Stdio::null());
        command
    }

    pub async fn run(&self, text: &str) -> Output {
        let mut command = self.command(text);
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        ran.expect("no panic").expect("bash is there")
    }
}

#[test]
fn the_commands_of_a_document_are_found_whole() {
    let document = "text\n```sh\nfirst # why\na |\n  b\none &&\n  two\ncat <<'END'\nx\nEND\n```\n\n```console\n$ asked\n\
                    answer\n$ again\n```\n    make it\n```python\n$ no\n```\n";
    let found = commands(document);
    assert_eq!(
        found,
        [
            "first # why",
            "a |\n  b",
            "one &&\n  two",
            "cat <<'END'\nx\nEND",
            "asked",
            "again",
            "make it"
        ]
    );
    assert_eq!(blocks(document, "python"), ["$ no"]);
    assert_eq!(blocks(document, "console"), ["$ asked\nanswer\n$ again"]);
    assert_eq!(section("# A\n### B\nb\n#### C\nc\n## D\n", "### B"), "### B\nb\n#### C\nc");
}
