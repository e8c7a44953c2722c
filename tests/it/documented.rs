//! The commands of README.md, run by a shell in the order in which they stand there.
//!
//! What differs from the text is what a reader would put in: an id that was listed, a port, the key
//! prefix of this test. Those that cannot be run here are named, with the reason.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{LONG, Producer, Rig, eventually, seed};

const README: &str = include_str!("../../README.md");

/// Whole commands, by how they begin.
const NOT_RUN: [(&str, &str); 5] = [
    ("kill $!", "ends a job of the reader's own shell"),
    ("docker compose", "wants a Docker daemon"),
    ("scripts/compose-env", "writes .env into the project"),
    ("make demo", "takes minutes; its parts are the commands below"),
    ("make test", "is what runs this"),
];

/// The commands in fenced blocks of a shell, each as one text, with the lines that belong to it.
fn commands(document: &str) -> Vec<String> {
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
            while command.ends_with(['|', '\\']) {
                more(&mut command);
            }
            commands.push(command);
        }
    }
    commands
}

/// A shell that finds our binary first.
struct Shell {
    env: HashMap<String, String>,
    dir: std::path::PathBuf,
}

impl Shell {
    fn new(rig: &Rig) -> Shell {
        let binary = Path::new(env!("CARGO_BIN_EXE_rollcall"));
        let folder = binary.parent().expect("a binary is in a folder").display().to_string();
        let mut env: HashMap<String, String> = rig.env.clone().into_iter().collect();
        let path = std::env::var("PATH").unwrap_or_default();
        env.insert("PATH".to_owned(), format!("{folder}:{path}"));
        Shell { env, dir: std::env::temp_dir() }
    }

    fn command(&self, text: &str) -> Command {
        // pipefail: what a pipe begins with may be what is documented.
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-c", text]).current_dir(&self.dir);
        command.env_clear().envs(&self.env).stdin(Stdio::null());
        command
    }

    async fn run(&self, text: &str) -> Output {
        let mut command = self.command(text);
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        ran.expect("no panic").expect("bash is there")
    }
}

/// Ends with the test.
struct Background(std::process::Child);

impl Drop for Background {
    fn drop(&mut self) {
        // The shell and the command it waits for.
        let _ = Command::new("pkill").args(["-TERM", "-P", &self.0.id().to_string()]).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A world in which what the README asks has an answer.
async fn world() -> Rig {
    let mut rig = Rig::new(
        "cities=state+city users=username users_by_city=username@state+city \
         users_daily=username/day about=username~ states=state",
    )
    .await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    rig.set("ROLLCALL_SERVE_ADDR", &port.expect("a free port").to_string());
    rig
}

async fn publish(rig: &Rig) {
    let mut producer = Producer::new(seed());
    let ann = json!({"state": "CA", "city": "Fresno", "username": "ann"});
    let bob = json!({"username": {"first": "bob"}});
    let events = [ann, bob].map(|fields| producer.event_with(fields));
    rig.publish_events(&events).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_readme_runs() {
    let rig = world().await;
    let worker = rig.worker().await;
    publish(&rig).await;
    let letter = eventually(LONG, "bob among the dead letters", async || {
        let run = rig.cli(&["dead-letters", "list", "--json"]).await.expect(0);
        let line = run.stdout.lines().next().ok_or("no letter yet")?;
        let letter: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        letter["id"].as_str().map(|id| id[..8].to_owned()).ok_or("no id".to_owned())
    })
    .await;

    let shell = Shell::new(&rig);
    let mut background = Vec::new();
    let mut ran = 0;
    for text in commands(README) {
        if let Some((_, why)) = NOT_RUN.iter().find(|(begin, _)| text.starts_with(begin)) {
            println!("not run, {why}: {text}");
            continue;
        }
        let command = text
            .replace("db5222a8", &letter)
            .replace("rollcall:", &format!("{}:", rig.prefix()))
            .replace("redis://localhost", &rig.env["REDIS_URL"])
            .replace("127.0.0.1:9465", &rig.env["ROLLCALL_SERVE_ADDR"])
            // A reader would wait for what was just started.
            .replace("curl ", "curl -sS --fail-with-body --retry 20 --retry-connrefused ");
        ran += 1;
        if let Some(command) = command.trim_end().strip_suffix('&') {
            let mut command = shell.command(command);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            background.push(Background(command.spawn().expect("bash is there")));
            continue;
        }
        let output = shell.run(&command).await;
        let (out, err) = (&output.stdout, &output.stderr);
        let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
        assert!(output.status.success(), "{command}\n{}\n{out}{err}", output.status);
        println!("$ {command}\n{out}");
        expect(&text, &out);
    }
    assert!(ran >= 28, "{ran} commands were found");
    // Its own event, and the one that it mends and publishes again.
    for user in ["zoe", "bob"] {
        eventually(LONG, "what was published to be counted", async || {
            let found = rig.cli(&["read", "contains", "users", user]).await.expect(0).stdout;
            if found.contains("yes") { Ok(()) } else { Err(found) }
        })
        .await;
    }
    let bodies: Vec<String> = rig
        .dead_letters()
        .await
        .into_iter()
        .map(|letter| String::from_utf8_lossy(&letter.body).into_owned())
        .collect();
    let there =
        |name: &str| bodies.iter().any(|body| body.contains(&format!("\"first\":\"{name}\"")));
    assert!(there("kim") && !there("bob"), "one letter stays, the mended one is gone: {bodies:?}");
    drop(background);
    worker.terminate().await;
}

/// What the answer to some must hold, as far as the README says.
fn expect(command: &str, out: &str) {
    let wanted = match command {
        _ if command.starts_with("redis-cli") => rig_generation(out),
        _ if command.ends_with("rollcall read members states") => out.contains("CA"),
        "rollcall check" => out.matches(" ok ").count() == 3,
        "rollcall read contains users ann bob" => out.contains("ann\tyes") && out.contains("bob\t"),
        "rollcall read members users_by_city --group CA Fresno" => out.contains("ann"),
        _ if command.contains("/api/sets/users/contains?member=ann") => out.contains("true"),
        _ if command.starts_with("rollcall dead-letters show") && !command.contains('|') => {
            out.contains("field_type") && out.contains("bob")
        }
        "rollcall manage verify" => out.contains("0 missing, 0 phantom"),
        _ => true,
    };
    assert!(wanted, "{command}\n{out}");
}

/// The second answer of the transaction is a UUID.
fn rig_generation(out: &str) -> bool {
    out.lines().last().is_some_and(|line| uuid::Uuid::try_parse(line.trim()).is_ok())
}

#[test]
fn the_commands_of_a_document_are_found_whole() {
    let document = "text\n```sh\nfirst # why\na |\n  b\ncat <<'END'\nx\nEND\n```\n\n```console\n$ asked\n\
                    answer\n$ again\n```\n    make it\n```python\n$ no\n```\n";
    let found = commands(document);
    assert_eq!(
        found,
        ["first # why", "a |\n  b", "cat <<'END'\nx\nEND", "asked", "again", "make it"]
    );
}
