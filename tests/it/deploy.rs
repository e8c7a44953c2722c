//! What is shipped for those who run it: it is well-formed, and fits the program that it is for.

mod kubernetes;
mod systemd;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

use crate::harness::{
    DEFAULT_SETS, LONG, Message, Producer, Rig, SHORT, Worker, eventually, names, seed,
};

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn text(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The documents of a file.
fn yaml(file: &str) -> Vec<Value> {
    let text = text(file);
    serde_yaml_ng::Deserializer::from_str(&text)
        .map(|one| Value::deserialize(one).unwrap_or_else(|error| panic!("{file}: {error}")))
        .collect()
}

/// What the checker says, which is nothing where all is well.
fn promtool(args: &[&str], stdin: &str) -> Result<String, String> {
    let mut child = Command::new(path("scripts/promtool"))
        .args(args)
        .current_dir(path("deploy/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("scripts/promtool runs");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(stdin.as_bytes()).expect("it reads its input");
    drop(input);
    let ran = child.wait_with_output().expect("a child can be waited for");
    let said = [ran.stdout, ran.stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat();
    if ran.status.success() { Ok(said) } else { Err(said) }
}

/// Words of an expression that are names of ours.
fn names_in(text: &str) -> BTreeSet<String> {
    let part = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':');
    let ours = |word: &&str| word.starts_with("rollcall_") || word.starts_with("rollcall:");
    text.split(part).filter(ours).map(str::to_owned).collect()
}

fn rules() -> Vec<Value> {
    let groups = yaml("deploy/prometheus/rules.yml").remove(0);
    let groups = groups["groups"].as_array().expect("groups").clone();
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

/// What may be asked for: what live processes export, and what the rules make of it.
async fn known(processes: &[&Worker]) -> BTreeSet<String> {
    let mut exported = Vec::new();
    for process in processes {
        let metrics = process.metrics().await.unwrap();
        exported.extend(metrics.names().into_iter().map(str::to_owned));
    }
    let rules = rules();
    let recorded = rules.iter().filter_map(|rule| rule["record"].as_str().map(str::to_owned));
    exported.into_iter().chain(recorded).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_passes_the_checker_of_prometheus() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let worker = rig.warm_worker(&mut oracle, &mut Producer::new(seed())).await;
    let site = rig.site().await;
    site.wait_status("/api/stats", 200).await;
    for process in [&worker, &site.process] {
        let page = process.get("/metrics").await.unwrap().body;
        assert_eq!(promtool(&["check", "metrics"], &page), Ok(String::new()));
    }
    site.process.terminate().await;
    // The checker does look.
    assert!(promtool(&["check", "metrics"], "rollcallBad 1\n").is_err());
    rig.finish(&oracle, vec![worker]).await;
}

#[test]
fn each_alert_fires_when_it_should_and_not_when_all_is_well() {
    let tested = promtool(&["test", "rules", "rules.test.yml"], "");
    assert!(tested.is_ok(), "{tested:?}");
    // Each that is there is in a test that wants it to fire.
    let tests = text("deploy/prometheus/rules.test.yml");
    let fires = |name: &str| {
        tests.split("alertname: ").any(|part| {
            part.lines().next() == Some(name)
                && part.lines().nth(1).is_some_and(|line| line.trim() == "exp_alerts:")
        })
    };
    for rule in rules() {
        if let Some(name) = rule["alert"].as_str() {
            assert!(fires(name), "{name} is not tested");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_that_is_asked_for_is_exported() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let worker = rig.worker().await;
    let site = rig.site().await;
    let known = known(&[&worker, &site.process]).await;
    let readme = text("README.md");
    for name in known.iter().filter_map(|name| name.strip_prefix("rollcall_")) {
        let ends = ["_bucket", "_sum", "_count"];
        let name = ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(readme.contains(&format!("`{name}")), "README.md tells nothing of {name}");
    }
    let mut asked = Vec::new();
    for rule in rules() {
        let name = rule["alert"].as_str().or(rule["record"].as_str()).expect("a name").to_owned();
        asked.push((name, rule["expr"].as_str().expect("an expression").to_owned()));
    }
    let board: Value = serde_json::from_str(&text("deploy/grafana/rollcall.json")).unwrap();
    for panel in board["panels"].as_array().expect("panels") {
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        assert!(panel["type"] == "row" || !targets.is_empty(), "{panel}");
        for target in targets {
            let expression = target["expr"].as_str().expect("an expression");
            let balanced =
                |open, close| expression.matches(open).count() == expression.matches(close).count();
            assert!(balanced('(', ')') && balanced('[', ']'), "{expression}");
            asked.push((panel["title"].to_string(), expression.to_owned()));
        }
    }
    let scaled = yaml("deploy/kubernetes/keda/scaledobject.yaml").remove(0);
    let query = scaled["spec"]["triggers"][0]["metadata"]["query"].as_str().expect("a query");
    asked.push(("the scaler".to_owned(), query.to_owned()));
    assert!(asked.len() > 60, "{}", asked.len());
    for (who, expression) in asked {
        let names = names_in(&expression);
        assert!(!names.is_empty(), "{who} asks for nothing of ours: {expression}");
        for name in names {
            assert!(known.contains(&name), "{who} asks for {name}, which nobody exports");
        }
    }
    site.process.terminate().await;
    worker.terminate().await;
}

#[test]
fn each_alert_has_its_paragraph_in_the_runbook() {
    let book = text("docs/runbook.md");
    let mut wanted = BTreeSet::new();
    for rule in rules() {
        let Some(name) = rule["alert"].as_str() else { continue };
        let url = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"].as_str(), Some(url.as_str()), "{name}");
        assert!(rule["annotations"]["summary"].is_string(), "{name}");
        let severity = rule["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("page" | "ticket")), "{name}: {severity:?}");
        wanted.insert(name.to_owned());
    }
    let found: BTreeSet<String> =
        book.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned).collect();
    assert_eq!(found, wanted, "paragraphs found, alerts that there are");
    for paragraph in book.split("### ").skip(1) {
        let text = paragraph.split_once('\n').map_or("", |(_, text)| text);
        assert!(text.len() > 120, "too short to help: {paragraph}");
    }
    for link in book.split("](#").skip(1) {
        let anchor = link.split(')').next().unwrap_or_default();
        assert!(wanted.iter().any(|name| name.to_lowercase() == anchor), "#{anchor} leads nowhere");
    }
}

/// What a scaler and those on call go by is true: it is compared with what the servers say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_tells_what_waits_and_how_the_sets_are() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set(names::PREFETCH_MAX, "10");
    rig.set(names::LANES, "1");
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    oracle.bad("json", "{");
    rig.publish(&[Message::raw("{")]).await;
    rig.wait_arrived(&oracle).await;
    rig.redis().await.ask(&["SPOP", &format!("{}:users", rig.prefix())]).await.unwrap();
    rig.cli(&["manage", "verify"]).await.expect(1);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
    let recent = move |at: f64| (now - 60.0..now + 60.0).contains(&at);
    type Check = (&'static str, &'static str, Box<dyn Fn(f64) -> bool>);
    let checks: Vec<Check> = vec![
        ("rollcall_queue_ready", "", Box::new(|n| n == 0.0)),
        // Only after the first report: until then it is unknown.
        ("rollcall_time_to_empty_seconds", "", Box::new(|n| n == 0.0)),
        ("rollcall_drain_messages_per_second", "", Box::new(|n| n >= 0.0)),
        ("rollcall_queue_consumers", "", Box::new(|n| n == 1.0)),
        ("rollcall_dead_letters_ready", "", Box::new(|n| n == 1.0)),
        ("rollcall_partitions_ahead", "", Box::new(|n| n == 3.0)),
        ("rollcall_ready", "", Box::new(|n| n == 1.0)),
        ("rollcall_dependency_up", "", Box::new(|n| n == 3.0)),
        ("rollcall_drift_members", "missing", Box::new(|n| n == 1.0)),
        ("rollcall_drift_members", "phantom", Box::new(|n| n == 0.0)),
        ("rollcall_verified_timestamp_seconds", "", Box::new(recent)),
        ("rollcall_watermark_timestamp_seconds", "", Box::new(recent)),
        ("rollcall_applied_timestamp_seconds", "", Box::new(recent)),
        ("rollcall_start_timestamp_seconds", "", Box::new(recent)),
        ("rollcall_store_lag_seconds_count", "", Box::new(|n| n > 0.0)),
        ("rollcall_event_lag_seconds_count", "", Box::new(|n| n > 0.0)),
    ];
    eventually(SHORT, "the metrics to tell it", async || {
        let metrics = worker.metrics().await?;
        for (name, label, right) in &checks {
            let found = metrics.sum_where(name, label);
            if !right(found) {
                return Err(format!("{name} {label} is {found}"));
            }
        }
        Ok(())
    })
    .await;
    rig.cli(&["manage", "verify", "--repair"]).await.expect(1);

    // Held at the gate: what is handed out and what waits are all that was published.
    let events = producer.events(300);
    oracle.all_good(&events);
    let gate = rig.close_gate().await;
    rig.publish_events(&events).await;
    eventually(LONG, "what waits and what is handed out to come to all", async || {
        let metrics = worker.metrics().await?;
        let (ready, held) = (metrics.sum("rollcall_queue_ready"), metrics.sum(names::IN_FLIGHT));
        let time = metrics.sum("rollcall_time_to_empty_seconds");
        // For ever, as long as nothing is settled.
        match ready + held == 300.0 && held > 0.0 && ready > held && time == f64::INFINITY {
            true => Ok(()),
            false => Err(format!("{ready} wait, {held} are handed out, for {time} s")),
        }
    })
    .await;
    gate.open().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// It holds passwords and events in its memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_leaves_no_core_dump() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let worker = rig.worker().await;
    let limits = worker.proc("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    let limits: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(limits, ["0", "0"], "{core}");
    worker.terminate().await;
}

/// What `rollcall settings` tells of a setting.
async fn settings(rig: &Rig) -> Vec<Value> {
    let said = rig.cli(&["settings", "--json"]).await.expect(0).stdout;
    said.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

async fn default_of(rig: &Rig, name: &str) -> u64 {
    let settings = settings(rig).await;
    let setting = settings.iter().find(|one| one["name"] == name).expect("the setting is there");
    setting["default"].as_str().and_then(|text| text.parse().ok()).expect("a whole number")
}

async fn assert_settings_exist(rig: &Rig, told: impl Iterator<Item = String>) {
    let settings = settings(rig).await;
    for name in told {
        assert!(settings.iter().any(|one| one["name"] == name.as_str()), "{name} is no setting");
    }
}

/// That the command line would be taken, without running it.
async fn assert_command_exists(rig: &Rig, args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--help"]).collect();
    let ran = rig.cli(&args).await;
    assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.said());
}
