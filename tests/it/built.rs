//! What builds the project elsewhere: the image's build context, and the workflows.

use std::collections::BTreeSet;
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
