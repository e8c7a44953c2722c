//! `deploy/kubernetes`: each pod runs as nobody with nothing to write to, and what it is told fits
//! the program and what Kubernetes takes. What kustomize makes of it all is checked by
//! `make deploy-check`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{path, text, yaml};
use crate::harness::{DEFAULT_SETS, Language, Rig};

const BASE: &str = "deploy/kubernetes/base";
const KEDA: &str = "deploy/kubernetes/keda";

/// The oldest and the newest version that we say it is for, as scripts/deploy-check does.
const VERSIONS: [&str; 2] = ["1.30", "1.34"];

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn files() -> Vec<String> {
    let base = yaml(&format!("{BASE}/kustomization.yaml")).remove(0);
    list(&base["resources"]).iter().map(word).collect()
}

fn resources() -> Vec<Value> {
    let files = files();
    for entry in std::fs::read_dir(path(BASE)).expect("the folder is there") {
        let name = entry.expect("it can be read").file_name().to_string_lossy().into_owned();
        assert!(name == "kustomization.yaml" || files.contains(&name), "{name} is not listed");
    }
    files.iter().flat_map(|file| yaml(&format!("{BASE}/{file}"))).collect()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Of every kind that has pods: its name, and what a pod is made from.
fn pods() -> Vec<(String, Value)> {
    let pod = |one: &Value| match one["kind"].as_str() {
        Some("Deployment" | "Job") => Some(one["spec"]["template"].clone()),
        Some("CronJob") => Some(one["spec"]["jobTemplate"]["spec"]["template"].clone()),
        _ => None,
    };
    let pods: Vec<_> = resources()
        .iter()
        .filter_map(|one| Some((word(&one["metadata"]["name"]), pod(one)?)))
        .collect();
    assert!(pods.len() >= 7, "{}", pods.len());
    pods
}

/// By the schemas of Kubernetes, which come with the checker: a field that is unknown or of another
/// type is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_manifest_is_what_kubernetes_takes() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    let check = async |files: Vec<String>| {
        let options =
            ["-m", "kubernetes_validate", "--strict", "-k", VERSIONS[0], "-k", VERSIONS[1]];
        let args: Vec<&str> = options.into_iter().chain(files.iter().map(String::as_str)).collect();
        rig.begin_program(Language::Python, &args, b"").end().await
    };
    let ran = check(files().iter().map(|file| format!("{BASE}/{file}")).collect()).await.expect(0);
    // One whose kind has no schema is passed over with a warning.
    let passed = ran.stdout.lines().filter(|line| line.starts_with("INFO ")).count();
    assert_eq!(passed, resources().len() * VERSIONS.len(), "{}", ran.said());
    for (field, wrong) in [("sleep: {seconds: 5}", "sleep: 5"), ("ports:", "prots:")] {
        let manifest = text(&format!("{BASE}/serve.yaml"));
        assert!(manifest.contains(field), "{field}");
        let file = rig.file("wrong.yaml", manifest.replace(field, wrong).as_bytes());
        check(vec![file]).await.expect(1);
    }
}

#[test]
fn each_pod_runs_as_nobody_with_nothing_to_write_to() {
    for (name, pod) in pods() {
        let spec = &pod["spec"];
        let security = &spec["securityContext"];
        assert_eq!(security["runAsNonRoot"], true, "{name}");
        assert_ne!(security["runAsUser"], 0, "{name}");
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
        // Else Kubernetes sets ROLLCALL_SERVE_PORT and others, which are no settings of ours.
        assert_eq!(spec["enableServiceLinks"], false, "{name}");
        for field in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
            assert!(spec[field].is_null(), "{name}: {field}");
        }
        for container in list(&spec["containers"]) {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{name}");
            let resources = &container["resources"];
            assert!(resources["requests"]["cpu"].is_string(), "{name}");
            assert!(resources["limits"]["memory"].is_string(), "{name}");
            assert_eq!(resources["limits"]["memory"], resources["requests"]["memory"], "{name}");
            for mount in list(&container["volumeMounts"]) {
                assert_eq!(mount["readOnly"], true, "{name}");
            }
        }
        for volume in list(&spec["volumes"]) {
            assert!(volume["secret"]["secretName"].is_string(), "{name}: {volume}");
        }
    }
}

/// Every secret comes from a Secret, as a file, and each role gets that of its own user alone.
#[test]
fn urls_are_secrets_by_reference() {
    for (name, pod) in pods() {
        let spec = &pod["spec"];
        let secret = word(&spec["volumes"][0]["secret"]["secretName"]);
        let expected = match name.as_str() {
            "rollcall-worker" => "rollcall-worker",
            "rollcall-serve" => "rollcall-reader",
            "rollcall-topology" => "rollcall-topology",
            _ => "rollcall-manager",
        };
        assert_eq!(secret, expected, "{name}");
        for variable in list(&spec["containers"][0]["env"]) {
            let url = word(&variable["name"]);
            let url = url.strip_suffix("_FILE").unwrap_or_else(|| panic!("{name}: {url}"));
            assert_eq!(variable["value"], format!("/run/secrets/rollcall/{url}"), "{name}");
        }
    }
    for file in ["account", "network", "prepare", "serve", "upkeep", "worker"] {
        assert!(!text(&format!("{BASE}/{file}.yaml")).contains("://"), "{file}");
    }
}

/// What pods are told is what the program knows: settings, commands, ports, times, memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pods_are_told_fits_the_program() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let base = yaml(&format!("{BASE}/kustomization.yaml")).remove(0);
    let literals = list(&base["configMapGenerator"][0]["literals"]);
    let told = literals.iter().map(|line| word(line).split('=').next().unwrap_or("").to_owned());
    super::assert_settings_exist(&rig, told).await;
    let drain = super::default_of(&rig, "ROLLCALL_DRAIN_SECS").await;
    for (name, pod) in pods() {
        let container = &pod["spec"]["containers"][0];
        let args: Vec<String> = list(&container["args"]).iter().map(word).collect();
        super::assert_command_exists(&rig, &args).await;
        if !list(&container["ports"]).is_empty() {
            // It sleeps before it is told to drain, where others must hear first that it goes.
            let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
            let stop = sleep.unwrap_or(0) + drain;
            let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().expect("a grace");
            assert!(grace >= stop + 10, "{name}: {grace} s, and its end takes {stop} s");
            assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez", "{name}");
            // Who has a Service stays in it when Redis is away, to say so, and ends after it left.
            let served = args == ["serve"];
            let ready = if served { "/livez" } else { "/readyz" };
            assert_eq!(container["readinessProbe"]["httpGet"]["path"], ready, "{name}");
            assert_eq!(sleep.is_some_and(|seconds| seconds >= 5), served, "{name}");
        }
        if args == ["worker"] {
            let limit = word(&container["resources"]["limits"]["memory"]);
            let mebibytes: u64 = limit.strip_suffix("Mi").and_then(|n| n.parse().ok()).expect("Mi");
            let bytes = (mebibytes << 20).to_string();
            let memory = [("ROLLCALL_MEMORY_MAX_BYTES", bytes.as_str())];
            // 64 where a worker would not start with so little.
            rig.cli_with_env(&["check"], &memory).await.expect(0);
        }
    }
}

/// Policies, budgets and the Service select pods that there are, and let in the ports that they
/// have.
#[test]
fn what_selects_pods_finds_some() {
    let components: BTreeSet<String> = pods()
        .iter()
        .map(|(_, pod)| word(&pod["metadata"]["labels"]["app.kubernetes.io/component"]))
        .collect();
    let mut ports = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for one in resources() {
        let kind = word(&one["kind"]);
        let spec = &one["spec"];
        let selector = match kind.as_str() {
            "PodDisruptionBudget" => &spec["selector"]["matchLabels"],
            "NetworkPolicy" => &spec["podSelector"]["matchLabels"],
            "Service" => &spec["selector"],
            _ => continue,
        };
        assert!(selector.is_object(), "{kind} would select every pod of the namespace");
        let component = &selector["app.kubernetes.io/component"];
        assert!(component.is_null() || components.contains(&word(component)), "{component}");
        for rule in list(&spec["ingress"]) {
            ports.extend(list(&rule["ports"]).iter().filter_map(|port| port["port"].as_u64()));
        }
        kinds.insert(kind);
    }
    assert_eq!(kinds.len(), 3, "{kinds:?}");
    for (name, pod) in pods() {
        for port in list(&pod["spec"]["containers"][0]["ports"]) {
            let port = port["containerPort"].as_u64().expect("a port");
            assert!(ports.contains(&port), "{name}: nobody gets in at {port}");
        }
    }
}

/// A node can be drained while a server is away, and a Job does not stand in the way of the next
/// one.
#[test]
fn what_has_to_go_can() {
    let mut found = BTreeSet::new();
    for one in resources() {
        let (kind, spec) = (word(&one["kind"]), &one["spec"]);
        match kind.as_str() {
            "PodDisruptionBudget" => {
                assert_eq!(spec["unhealthyPodEvictionPolicy"], "AlwaysAllow", "{one}");
            }
            "Job" => {
                assert!(spec["ttlSecondsAfterFinished"].as_u64().is_some_and(|s| s <= 600), "{one}")
            }
            _ => continue,
        }
        found.insert(kind);
    }
    assert_eq!(found.len(), 2, "{found:?}");
}

/// The CRD is not on this machine: what the scaler needs, by its documentation.
#[test]
fn the_scaler_scales_the_workers_by_the_time_to_empty() {
    let scaled = yaml(&format!("{KEDA}/scaledobject.yaml")).remove(0);
    assert_eq!(scaled["apiVersion"], "keda.sh/v1alpha1");
    assert_eq!(scaled["kind"], "ScaledObject");
    let spec = &scaled["spec"];
    let target = word(&spec["scaleTargetRef"]["name"]);
    let there = |one: &Value| one["kind"] == "Deployment" && one["metadata"]["name"] == target;
    assert!(resources().iter().any(there), "{target}");
    let (min, max) = (spec["minReplicaCount"].as_u64(), spec["maxReplicaCount"].as_u64());
    assert!(min >= Some(1) && max > min, "{min:?} {max:?}: the workers tell how much waits");
    let trigger = &spec["triggers"][0];
    assert_eq!((&trigger["type"], &trigger["metricType"]), (&json!("prometheus"), &json!("Value")));
    let metadata = trigger["metadata"].as_object().expect("metadata");
    assert!(metadata.values().all(Value::is_string), "KEDA takes texts alone: {metadata:?}");
    assert!(word(&metadata["query"]).starts_with("rollcall:time_to_empty:seconds"));
    assert!(word(&metadata["threshold"]).parse::<f64>().is_ok_and(|seconds| seconds > 0.0));
    // Who sets the number of replicas takes it from the one who did.
    let component = yaml(&format!("{KEDA}/kustomization.yaml")).remove(0);
    assert_eq!(component["kind"], "Component");
    assert_eq!(component["patches"][0]["target"]["name"], target);
    assert!(word(&component["patches"][0]["patch"]).contains("path: /spec/replicas"));
}
