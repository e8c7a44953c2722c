//! What builds the project elsewhere: the image, what runs it in Compose, and the workflows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A path without its `..`.
fn straight(path: &Path) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(whole.pop()),
            Component::CurDir => {}
            other => whole.push(other),
        }
    }
    whole
}

/// The files under a folder that end so.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("it is read"));
    entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => files(&path, ending),
            path if path.to_string_lossy().ends_with(ending) => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

/// What is compiled in, and is read while compiling.
#[test]
fn the_image_is_built_from_all_that_the_source_includes() {
    let ignored = fs::read_to_string(Path::new(ROOT).join(".dockerignore")).expect("it is there");
    let let_in: Vec<PathBuf> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .map(|line| Path::new(ROOT).join(line))
        .collect();
    let mut found = 0;
    let of_a_build = |source: &PathBuf| !source.ends_with("tests.rs");
    for source in files(&Path::new(ROOT).join("src"), ".rs").into_iter().filter(of_a_build) {
        let text = fs::read_to_string(&source).expect("source is text");
        for (macro_name, folder) in [
            ("include_str!(\"", source.parent().expect("a folder")),
            ("include_bytes!(\"", source.parent().expect("a folder")),
            ("migrate!(\"", Path::new(ROOT)),
        ] {
            for rest in text.split(macro_name).skip(1) {
                let named = rest.split('"').next().expect("a first part");
                let path = straight(&folder.join(named));
                assert!(path.exists(), "{}: {named} is not there", source.display());
                let in_context = let_in.iter().any(|one| path.starts_with(one));
                assert!(in_context, "{}: {named} is kept out by .dockerignore", source.display());
                found += 1;
            }
        }
    }
    assert!(found >= 5, "{found} were found");
}

fn text(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Those that run until they are told to stop, by their units.
fn long_running_roles() -> Vec<String> {
    let units = files(&Path::new(ROOT).join("deploy/systemd"), ".service");
    let texts = units.iter().map(|unit| fs::read_to_string(unit).expect("a unit is text"));
    let role = |text: String| {
        let command = text.lines().find_map(|line| line.strip_prefix("ExecStart="))?;
        command.strip_prefix("/usr/local/bin/rollcall ").map(str::to_owned)
    };
    texts.filter(|text| text.contains("\nType=exec\n")).filter_map(role).collect()
}

/// Loopback of a container reaches nobody: a role listens on all its addresses, and the ports are
/// let out.
#[test]
fn the_image_and_compose_serve_every_long_running_role() {
    let settings = text("src/config/setting.rs");
    let dockerfile = text("Dockerfile").replace("\\\n", " ");
    let words = |instruction: &str| -> Vec<&str> {
        let lines = dockerfile.lines().filter_map(|line| line.strip_prefix(instruction));
        lines.flat_map(str::split_whitespace).collect()
    };
    let (exposed, set) = (words("EXPOSE "), words("ENV "));
    let image: BTreeMap<&str, &str> = set.iter().filter_map(|one| one.split_once('=')).collect();
    let mut compose: serde_yaml_ng::Value =
        serde_yaml_ng::from_str(&text("docker-compose.yml")).expect("YAML");
    compose.apply_merge().expect("what is merged is there");
    let compose = serde_json::to_value(compose).expect("it is as JSON too");
    let services = compose["services"].as_object().expect("services");

    let roles = long_running_roles();
    assert!(roles.len() >= 2, "{roles:?}");
    for role in roles {
        let service = services.values().find(|one| one["command"] == serde_json::json!([role]));
        let service = service.unwrap_or_else(|| panic!("Compose does not run `rollcall {role}`"));
        assert_eq!(service["restart"], "unless-stopped", "{role}");
        let own = format!("ROLLCALL_{}_ADDR", role.to_uppercase());
        for name in ["ROLLCALL_OPS_ADDR", own.as_str()] {
            if !settings.contains(name) {
                continue;
            }
            let in_image = image.get(name).copied().unwrap_or_default();
            let in_compose = service["environment"][name].as_str().unwrap_or(in_image);
            for address in [in_image, in_compose] {
                let port = address.strip_prefix("0.0.0.0:");
                let port = port.unwrap_or_else(|| panic!("{role}: {name}={address:?}"));
                assert!(exposed.contains(&port), "{role}: {port} is not exposed");
                // The ops endpoint is for the network of the containers.
                let let_out = |one: &serde_json::Value| {
                    one.as_str().is_some_and(|text| text.ends_with(&format!(":{port}")))
                };
                let ports = service["ports"].as_array().cloned().unwrap_or_default();
                assert!(name != own || ports.iter().any(let_out), "{role}: {port} stays inside");
            }
        }
    }
}

#[test]
fn the_workflows_call_targets_that_are_there() {
    let makefile = fs::read_to_string(Path::new(ROOT).join("Makefile")).expect("it is there");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(target, _)| target)
        .collect();
    let mut called = 0;
    for workflow in files(&Path::new(ROOT).join(".github/workflows"), ".yml") {
        let text = fs::read_to_string(&workflow).expect("a workflow is text");
        let commands = text.lines().filter_map(|line| line.trim().split_once("run: make "));
        for target in commands.flat_map(|(_, targets)| targets.split_whitespace()) {
            if !target.contains('=') {
                assert!(targets.contains(target), "{}: make {target}", workflow.display());
                called += 1;
            }
        }
    }
    assert!(called >= 5, "{called} were found");
}

/// A mutant that no longer applies guards nothing.
#[test]
fn each_mutant_applies_to_the_code_as_it_is() {
    let patches = files(&Path::new(ROOT).join("tests/mutants"), ".patch");
    assert!(!patches.is_empty());
    for patch in patches {
        let mut git = std::process::Command::new("git");
        // Of no repository that the tree may lie in: paths are taken from its root.
        git.args(["apply", "--check"]).arg(&patch).current_dir(ROOT);
        let output = git.env("GIT_CEILING_DIRECTORIES", ROOT).output().expect("git is there");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", patch.display());
    }
}
