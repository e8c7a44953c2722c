//! `/openapi.json` says what is so: every route in it answers, with just the fields that it names.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Producer, Rig, SHORT, eventually, seed};

const SETS: &str = "cities=state+city users=username seen=username~ by=username@state \
                    daily=username/day by_daily=username@state/day";

/// What is wrong with a value, by a schema as the document has them.
fn check(document: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.trim_start_matches('#')).expect("it is defined");
        return check(document, schema, value, at, wrong);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = any.iter().any(|one| {
            let mut wrong = Vec::new();
            check(document, one, value, at, &mut wrong);
            wrong.is_empty()
        });
        if !fits {
            wrong.push(format!("{at}: {value} is none of {any:?}"));
        }
        return;
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(some) => some.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = types.contains(&kind) || (kind == "integer" && types.contains(&"number"));
    if !types.is_empty() && !fits {
        wrong.push(format!("{at}: {value} is no {types:?}"));
    }
    if let Some(some) = schema["enum"].as_array()
        && !some.contains(value)
    {
        wrong.push(format!("{at}: {value} is none of {some:?}"));
    }
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{at}[{n}]"), wrong);
    }
    let Some(fields) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            wrong.push(format!("{at}: {name} is missing"));
        }
    }
    for (name, field) in fields {
        let at = format!("{at}.{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => wrong.push(format!("{at} is not documented")),
            (Value::Null, Value::Null) => {}
            (Value::Null, others) => check(document, others, field, &at, wrong),
            (schema, _) => check(document, schema, field, &at, wrong),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_as_documented() {
    let rig = Rig::new(SETS).await;
    let mut oracle = rig.oracle();
    oracle.bad("json", "{");
    let worker = rig.worker().await;
    rig.publish(&[crate::harness::Message::raw("{")]).await;
    let events = Producer::new(seed()).events(100);
    oracle.all_good(&events);
    rig.publish_events(&events).await;
    rig.wait_arrived(&oracle).await;
    let site = rig.site().await;
    site.wait_status("/api/stats", 200).await;
    let document = site.json("/openapi.json").await;
    eventually(SHORT, "groups and workers to be seen", async || {
        let seen = site.json("/api/snapshot").await;
        match seen["pipeline"].is_object() && seen["sets"][3]["groups"].is_array() {
            true => Ok(()),
            false => Err(seen.to_string()),
        }
    })
    .await;
    let asked = [
        ("/", vec!["/"]),
        ("/api/sets", vec!["/api/sets"]),
        (
            "/api/sets/{name}",
            vec![
                "/api/sets/users",
                "/api/sets/seen",
                "/api/sets/by",
                "/api/sets/by?group=CA",
                "/api/sets/daily",
                "/api/sets/daily?bucket=2999-01-01",
                "/api/sets/by_daily",
                "/api/sets/by_daily?group=CA",
                "/api/sets/daily?bucket=2020-01-01",
                "/api/sets/none",
                "/api/sets/users?x",
            ],
        ),
        (
            "/api/sets/{name}/contains",
            vec![
                "/api/sets/users/contains?member=a&member=b",
                "/api/sets/by/contains?member=a&group=CA",
                "/api/sets/users/contains",
                "/api/sets/seen/contains?member=a",
            ],
        ),
        (
            "/api/sets/{name}/members",
            vec!["/api/sets/users/members?count=1", "/api/sets/users/members?count=a"],
        ),
        (
            "/api/intersect",
            vec!["/api/intersect?sets=users,daily", "/api/intersect?sets=users,none"],
        ),
        ("/api/stats", vec!["/api/stats"]),
        ("/api/snapshot", vec!["/api/snapshot"]),
        ("/openapi.json", vec!["/openapi.json"]),
    ];
    let mut wrong = Vec::new();
    for (route, paths) in &asked {
        let long = format!("{}?{}", paths[0], "x".repeat(9_000));
        for path in paths.iter().copied().chain([long.as_str()]) {
            let reply = site.get(path).await;
            let shown = &path[..path.len().min(60)];
            let mut answer =
                &document["paths"][route]["get"]["responses"][reply.status.to_string()];
            if let Some(name) = answer["$ref"].as_str() {
                answer = document.pointer(name.trim_start_matches('#')).expect("it is defined");
            }
            assert!(answer.is_object(), "{shown}: {} is not documented", reply.status);
            for header in answer["headers"].as_object().into_iter().flatten() {
                assert!(reply.header(header.0).is_some(), "{shown}: no {}", header.0);
            }
            let kind = reply.header("content-type").expect("a type");
            let kind = kind.split(';').next().unwrap();
            let content = &answer["content"][kind];
            assert!(content.is_object(), "{shown}: {kind} is not documented");
            if kind.ends_with("json") {
                check(&document, &content["schema"], &reply.json(), shown, &mut wrong);
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    let seen: BTreeSet<&str> = asked.iter().map(|(route, _)| *route).chain(["/api/live"]).collect();
    let documented: BTreeSet<&str> =
        document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(seen, documented, "a route that is not tried");
    site.process.terminate().await;
    rig.finish(&oracle, vec![worker]).await;
}

/// The checker itself must be able to fail.
#[test]
fn what_is_not_documented_is_found() {
    let document = json!({"S": {"type": "object", "required": ["a"], "additionalProperties": false,
                          "properties": {"a": {"type": ["integer", "null"]},
                                         "b": {"type": "array", "items": {"enum": ["x"]}}}}});
    let count = |value: Value| {
        let mut wrong = Vec::new();
        check(&document, &json!({"$ref": "#/S"}), &value, "", &mut wrong);
        wrong.len()
    };
    assert_eq!(count(json!({"a": 1, "b": ["x"]})), 0);
    assert_eq!(count(json!({"a": null})), 0);
    for bad in [
        json!({}),
        json!({"a": 1.5}),
        json!({"a": 1, "c": 1}),
        json!({"a": 1, "b": ["y"]}),
        json!([]),
    ] {
        assert_eq!(count(bad.clone()), 1, "{bad}");
    }
}
