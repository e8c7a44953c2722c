//! `manage status`: what it says is what there is, and one server that is away hides nothing.

use serde_json::json;

use crate::harness::{Message, Producer, Rig, seed};

const SETS: &str = "cities=state+city users=username texts=text~ users_daily=username/day";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_what_there_is() {
    let rig = Rig::with_roles(SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    oracle.bad("json", "{");
    rig.publish(&[Message::raw("{")]).await;
    rig.wait_arrived(&oracle).await;
    rig.cli(&["manage", "index", "users"]).await.expect(0);
    let mut pg = rig.pg().await;
    pg.run("ANALYZE events; INSERT INTO retired_members VALUES ('a', '', 'b', '\\x00')").await;

    let all = rig.cli(&["manage", "status", "--json"]).await.expect(0).json();
    let (postgres, rabbitmq, redis) = (&all["postgres"], &all["rabbitmq"], &all["redis"]);
    for part in [postgres, rabbitmq, redis] {
        assert_eq!(part["status"], "ok", "{all}");
    }
    let partitions = postgres["partitions"].as_array().unwrap();
    let count = pg.int("SELECT count(*) FROM rollcall_partitions").await;
    assert_eq!(partitions.len() as i64, count);
    let rows: i64 = partitions.iter().filter_map(|one| one["rows_estimated"].as_i64()).sum();
    assert_eq!(rows, 100);
    assert_eq!(postgres["indexes"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!(postgres["indexes"][0]["valid"], true);
    assert_eq!(postgres["retired_members"], 1);
    assert_eq!(postgres["replica"], json!(null));
    assert_eq!((&rabbitmq["ready"], &rabbitmq["dead_letters"]), (&json!(0), &json!(1)));
    assert_eq!(redis["maxmemory_policy"], "noeviction");
    assert!(redis["memory_bytes"].as_u64().unwrap() > 0, "{redis}");
    let set = |name: &str| {
        redis["sets"].as_array().unwrap().iter().find(|set| set["set"] == name).unwrap().clone()
    };
    assert_eq!(set("users")["cardinality"], oracle.members("users").len());
    assert_eq!(set("cities")["cardinality"], oracle.members("cities").len());
    assert!(set("users_daily")["keys"].as_u64().unwrap() > 0);

    let table = rig.cli(&["manage", "status"]).await.expect(0).stdout;
    for text in ["events_by_username", "1 dead letter", "users_daily", "PARTITION"] {
        assert!(table.contains(text), "{text} is not in\n{table}");
    }
    rig.finish(&oracle, vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_away_hides_no_other() {
    let rig = Rig::new(SETS).await;
    for (name, variable, url) in [
        ("rabbitmq", "AMQP_URL", "amqp://u:s3cret@127.0.0.1:9/%2f"),
        ("postgres", "DATABASE_URL", "postgres://u:s3cret@127.0.0.1:9/x?sslmode=disable"),
        ("redis", "REDIS_URL", "redis://:s3cret@127.0.0.1:9/0"),
    ] {
        for form in [&["manage", "status", "--json"][..], &["manage", "status"]] {
            let run = rig.cli_with_env(form, &[(variable, url)]).await.expect(75);
            assert!(!run.said().contains("s3cret"), "{}", run.said());
            if form.len() == 2 {
                assert!(run.stdout.contains(&format!("{name}: FAILED")), "{}", run.stdout);
                continue;
            }
            let all = run.json();
            for part in ["rabbitmq", "postgres", "redis"] {
                let wanted = if part == name { "failed" } else { "ok" };
                assert_eq!(all[part]["status"], wanted, "{all}");
            }
        }
        // One that nobody has configured is not away.
        let run = rig.cli_with_env(&["manage", "status", "--json"], &[(variable, "")]).await;
        assert_eq!(run.expect(0).json()[name]["status"], "not_configured");
    }
    let away = [("DATABASE_REPLICA_URL", "postgres://u:s3cret@127.0.0.1:9/x?sslmode=disable")];
    let run = rig.cli_with_env(&["manage", "status", "--json"], &away).await.expect(75).json();
    assert_eq!(run["postgres"]["status"], "ok", "{run}");
    assert!(run["postgres"]["replica"]["error"].is_string(), "{run}");
}
