//! `deploy/systemd`: units that fit the program. That systemd understands them, and how exposed
//! they are, is checked by `make deploy-check`.

use std::collections::BTreeMap;
use std::fs;

use super::{path, text};
use crate::harness::{DEFAULT_SETS, Rig};

const UNITS: &str = "deploy/systemd";

/// Directives of a unit, each with all its values.
type Unit = BTreeMap<String, Vec<String>>;

fn unit(file: &str) -> Unit {
    let mut unit = Unit::new();
    for line in text(file).lines().filter(|line| !line.starts_with(['#', '['])) {
        let Some((name, value)) = line.split_once('=') else {
            assert!(line.is_empty(), "{file}: {line}");
            continue;
        };
        unit.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    unit
}

fn units(ending: &str) -> Vec<(String, Unit)> {
    let files = fs::read_dir(path(UNITS)).expect("the folder is there");
    let names = files.map(|file| file.expect("it can be read").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let units: Vec<_> = names
        .filter(|name| name.ends_with(ending))
        .map(|name| (name.clone(), unit(&format!("{UNITS}/{name}"))))
        .collect();
    assert!(units.len() >= 3, "{ending}: {}", units.len());
    units
}

fn one<'u>(unit: &'u Unit, directive: &str) -> Option<&'u str> {
    match unit.get(directive).map(Vec::as_slice) {
        Some([value]) => Some(value),
        Some(values) => panic!("{directive} is there {} times", values.len()),
        None => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_units_say_fits_the_program() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let drain = super::default_of(&rig, "ROLLCALL_DRAIN_SECS").await;
    for (name, unit) in units(".service") {
        let command = one(&unit, "ExecStart").expect("a command");
        let args = command.strip_prefix("/usr/local/bin/rollcall ").expect("the binary");
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        super::assert_command_exists(&rig, &args).await;
        if one(&unit, "Type") == Some("exec") {
            let seconds: u64 = one(&unit, "TimeoutStopSec").and_then(|n| n.parse().ok()).unwrap();
            assert!(seconds >= drain + 10, "{name}: {seconds} s, and a drain takes {drain} s");
            assert_eq!(one(&unit, "RestartPreventExitStatus"), Some("64"), "{name}");
            assert_eq!(one(&unit, "SuccessExitStatus"), Some("75"), "{name}");
        }
        let mut told = Vec::new();
        let mut credentials: Vec<&str> = Vec::new();
        for variable in unit.get("Environment").into_iter().flatten() {
            let (variable, value) = variable.split_once('=').expect("a value");
            match variable.strip_suffix("_FILE") {
                Some(url) => {
                    assert_eq!(value, format!("%d/{url}"), "{name}");
                    credentials.push(url);
                    told.push(url.to_owned());
                }
                None => told.push(variable.to_owned()),
            }
        }
        super::assert_settings_exist(&rig, told.into_iter()).await;
        let loaded: Vec<String> = unit["LoadCredential"]
            .iter()
            .map(|line| {
                let (name, file) = line.split_once(':').expect("a name and a file");
                assert!(file.ends_with(&format!("/{name}")), "{file}");
                name.to_owned()
            })
            .collect();
        assert_eq!(loaded, credentials, "{name}");
        if args == ["worker"] {
            let mebibytes: u64 = one(&unit, "MemoryMax")
                .and_then(|limit| limit.strip_suffix('M')?.parse().ok())
                .expect("a limit in mebibytes");
            let bytes = (mebibytes << 20).to_string();
            let memory = [("ROLLCALL_MEMORY_MAX_BYTES", bytes.as_str())];
            rig.cli_with_env(&["check"], &memory).await.expect(0);
        }
    }
}

#[test]
fn each_timer_has_its_service() {
    for (name, unit) in units(".timer") {
        assert!(one(&unit, "OnCalendar").is_some(), "{name}");
        assert_eq!(one(&unit, "Persistent"), Some("yes"), "{name}");
        let service = name.replace(".timer", ".service");
        assert!(path(&format!("{UNITS}/{service}")).exists(), "{service}");
    }
}

/// One drop-in for all of them, by the beginning of their names.
#[test]
fn every_unit_is_hardened() {
    let hardening = unit(&format!("{UNITS}/rollcall-.service.d/hardening.conf"));
    for (directive, value) in [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("LimitCORE", "0"),
    ] {
        assert_eq!(one(&hardening, directive), Some(value), "{directive}");
    }
    for (name, unit) in units(".service") {
        assert!(name.starts_with("rollcall-"), "{name} is not covered");
        let weaker: Vec<_> = unit.keys().filter(|name| hardening.contains_key(*name)).collect();
        assert!(weaker.is_empty(), "{name} sets {weaker:?} by itself");
    }
}
