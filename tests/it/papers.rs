//! What is made from the command line's definitions: completions and manual pages.

use std::fs;
use std::process::Command;

use crate::harness::{DEFAULT_SETS, Rig};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_are_made_for_every_shell_without_any_configuration() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = rig.cli_without_env(&["completions", shell]).await.expect(0).stdout;
        for name in ["dead-letters", "from-postgres", "rebuild"] {
            assert!(script.contains(name), "{shell}: no {name}");
        }
    }
    let script = rig.cli_without_env(&["completions", "bash"]).await.expect(0).stdout;
    let path = rig.file("rollcall.bash", script.as_bytes());
    let checked = Command::new("bash").args(["-n", &path]).output().expect("bash runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    // And what it answers: the commands that begin so.
    let ask = format!(
        "source {path}; COMP_WORDS=(rollcall dead); COMP_CWORD=1; _rollcall rollcall dead rollcall; \
         echo \"${{COMPREPLY[@]}}\""
    );
    let answer = Command::new("bash").args(["-c", &ask]).output().expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "dead-letters");
    rig.cli_without_env(&["completions", "cmd"]).await.expect(64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_command_has_its_manual_page() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    let whole = rig.cli_without_env(&["man"]).await.expect(0).stdout;
    well_formed("rollcall", &whole);
    let folder = rig.file("man", b"");
    fs::remove_file(&folder).unwrap();
    rig.cli_without_env(&["man", "--dir", &folder]).await.expect(0);
    for command in ["rollcall", "rollcall-worker", "rollcall-manage-rebuild", "rollcall-publish"] {
        let page = fs::read_to_string(format!("{folder}/{command}.1")).expect(command);
        well_formed(command, &page);
    }
    let pages = fs::read_dir(&folder).unwrap().count();
    assert!(pages > 25, "{pages} pages");
    // In the way of the folder stands a file.
    let file = rig.file("file", b"");
    let run = rig.cli_without_env(&["man", "--dir", &file]).await.expect(1);
    assert!(run.stderr.contains(&file), "{}", run.stderr);
}

/// A title, the sections that every page has, and no line that roff would take for a request of its
/// own: those that begin with a dot are the ones that man pages are made of.
fn well_formed(command: &str, page: &str) {
    assert!(page.contains(&format!(".TH {command} 1")), "{command}: no title in {page:.200}");
    for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"] {
        assert!(page.contains(section), "{command}: no {section}");
    }
    const KNOWN: [&str; 12] =
        [".TH", ".SH", ".SS", ".TP", ".RS", ".RE", ".PP", ".br", ".nf", ".fi", ".ie", ".el"];
    for line in page.lines().filter(|line| line.starts_with('.')) {
        let request = line.split_whitespace().next().expect("a dot");
        assert!(KNOWN.contains(&request), "{command}: {line}");
    }
}
