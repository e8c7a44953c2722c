//! RabbitMQ says no. A session that ends returns what it had: here the counts of deliveries grow,
//! within the limit.

use super::{Scene, Told};
use crate::harness::{DEFAULT_SETS, LONG, Message, Producer, Rig, eventually, names, seed};

const CUT: &str = "rabbit_networking:close_all_connections(<<\"bye\">>).";

struct Trouble {
    name: &'static str,
    says: &'static [&'static str],
    needs_hand: bool,
    /// Arguments of `rabbitmqctl`, parted by blanks. `$password` and `$queue` are the worker's.
    breaks: &'static [&'static str],
    mends: &'static [&'static str],
}

const TROUBLES: &[Trouble] = &[
    Trouble {
        name: "a wrong password",
        says: &["ACCESS_REFUSED"],
        needs_hand: true,
        breaks: &["change_password rollcall other"],
        mends: &["change_password rollcall $password"],
    },
    Trouble {
        name: "a user that may not enter the vhost",
        says: &["NOT_ALLOWED"],
        needs_hand: true,
        breaks: &["clear_permissions rollcall"],
        mends: &["set_permissions rollcall .* .* .*"],
    },
    Trouble {
        name: "a user that may not read",
        says: &["ACCESS_REFUSED"],
        needs_hand: true,
        breaks: &["set_permissions rollcall .* .* ^$"],
        mends: &["set_permissions rollcall .* .* .*"],
    },
    Trouble {
        name: "no room for a connection",
        says: &["NOT_ALLOWED"],
        needs_hand: false,
        breaks: &["set_vhost_limits {\"max-connections\":0}"],
        mends: &["clear_vhost_limits"],
    },
    // What a wedged queue is to a worker: it is there, and no consumer can be had of it.
    Trouble {
        name: "a queue without a process",
        says: &["$queue"],
        needs_hand: false,
        breaks: &["eval ra:stop_server(quorum_queues,{'%2F_$queue',node()})."],
        mends: &["eval ra:restart_server(quorum_queues,{'%2F_$queue',node()})."],
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_rabbitmq_says_is_waited_out() {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    rig.set(names::AMQP_TIMEOUT_SECS, "3");
    let mut scene = Scene::new(rig).await;
    let url = scene.rig.env["AMQP_URL"].clone();
    let password = url.split(':').nth(2).and_then(|rest| rest.split('@').next());
    let password = password.expect("the url holds a password");
    let queue = scene.rig.queue().to_owned();
    let fill = |text: &str| text.replace("$password", password).replace("$queue", &queue);
    let run = |rig: &Rig, commands: &[&str]| {
        for command in commands {
            rig.rabbitmqctl(&fill(command).split(' ').collect::<Vec<_>>());
        }
    };
    for trouble in TROUBLES {
        let said = scene.worker.log().len();
        // Taken and not settled, so that there is something to lose.
        let events = scene.events(50);
        let gate = scene.rig.close_gate().await;
        scene.rig.publish_events(&events).await;
        scene.rig.wait_at_gate().await;
        run(&scene.rig, trouble.breaks);
        scene.rig.rabbitmqctl(&["eval", CUT]);
        gate.open().await;
        let says: Vec<String> = trouble.says.iter().map(|text| fill(text)).collect();
        let says: Vec<&str> = says.iter().map(String::as_str).collect();
        let told = Told { dependency: "rabbitmq", says: &says, needs_hand: trouble.needs_hand };
        scene.is_told(trouble.name, told, said).await;
        run(&scene.rig, trouble.mends);
        scene.recover(trouble.name).await;
    }
    let metrics = scene.worker.metrics().await.unwrap();
    // Each trouble ended one session.
    let most = 50.0 * TROUBLES.len() as f64;
    assert!(metrics.sum(names::REDELIVERIES) <= most, "redeliveries");
    assert_eq!(metrics.sum(names::SESSIONS), 1.0 + TROUBLES.len() as f64, "sessions");
    scene.finish().await;
}

/// The processes behind the channels die, which the server tells as an internal error (541).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_dies_at_the_server_is_opened_anew() {
    let mut scene = Scene::new(Rig::breakable(DEFAULT_SETS).await).await;
    let events = scene.events(500);
    let gate = scene.rig.close_gate().await;
    scene.rig.publish_events(&events).await;
    scene.rig.wait_at_gate().await;
    scene.rig.rabbitmqctl(&["eval", "[exit(Pid, kill) || Pid <- rabbit_channel:list()]."]);
    gate.open().await;
    scene.recover("dead channels").await;
    assert_eq!(scene.worker.metrics().await.unwrap().sum(names::SESSIONS), 2.0);
    scene.finish().await;
}

/// Good events are stored while publishers are blocked; the bad one waits to be condemned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_holds_what_is_bad_and_nothing_else() {
    let mut rig = Rig::breakable(DEFAULT_SETS).await;
    rig.set(names::AMQP_TIMEOUT_SECS, "2");
    rig.set(names::BATCH_EVENTS_MAX, "10");
    let mut scene = Scene::new(rig).await;
    // The first dead letter opened the channel for them, or it would be opened under the alarm.
    for warm in [true, false] {
        let before = scene.oracle.payloads.len();
        let said = scene.worker.log().len();
        let gate = scene.rig.close_gate().await;
        let bad = format!("{{ {warm}");
        scene.oracle.bad("json", bad.as_str());
        let mut messages: Vec<_> = scene.events(50).iter().map(Message::object).collect();
        messages.push(Message::raw(bad.as_str()));
        scene.rig.publish(&messages).await;
        scene.rig.wait_at_gate().await;
        watermark(&scene.rig, "0.00001");
        gate.open().await;
        let told = Told {
            dependency: "rabbitmq",
            says: &["publishing a dead letter", "switching publisher confirms on", "a channel"],
            needs_hand: false,
        };
        scene.is_told("an alarm", told, said).await;
        let stored = scene.rig.pg().await.events().await.unwrap();
        assert_eq!(stored as usize, before + 50, "what is good goes on");
        watermark(&scene.rig, "0.4");
        // A letter that was on its way when the try was given up arrives as well.
        scene.oracle.dead_may_repeat = true;
        scene.recover("an alarm").await;
    }
    scene.assert_nothing_returned().await;
    scene.finish().await;
}

/// Above it the memory alarm is on, and publishers are blocked.
fn watermark(rig: &Rig, share: &str) {
    let set = format!("vm_memory_monitor:set_vm_memory_high_watermark({share}).");
    rig.rabbitmqctl(&["eval", &set]);
}

/// The stream of a consumer whose queue is deleted ends without an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted_is_declared_again() {
    let mut scene = Scene::new(Rig::new(DEFAULT_SETS).await).await;
    scene.rig.amqp().await.delete_queue(scene.rig.queue()).await;
    eventually(LONG, "a new session", async || {
        match scene.worker.metrics().await?.sum(names::SESSIONS) {
            2.0 => Ok(()),
            n => Err(format!("it is session {n}")),
        }
    })
    .await;
    scene.worker.wait_ready().await;
    let told = scene.worker.complaints(&["cancelled the consumer"]);
    assert_eq!(told.len(), 1, "told once: {told:#?}");
    let events = scene.events(50);
    scene.rig.publish_events(&events).await;
    scene.finish().await;
}

/// Where a worker may not declare, it waits for somebody who may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_may_not_be_declared_is_waited_for() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set(names::DECLARE_TOPOLOGY, "false");
    let mut scene = Scene::new(rig).await;
    let said = scene.worker.log().len();
    scene.rig.amqp().await.delete_queue(scene.rig.queue()).await;
    let told =
        Told { dependency: "rabbitmq", says: &["rollcall manage topology"], needs_hand: true };
    scene.is_told("no queue", told, said).await;
    scene.rig.set(names::DECLARE_TOPOLOGY, "true");
    scene.rig.cli(&["manage", "topology"]).await.expect(0);
    let events = scene.events(50);
    scene.rig.publish_events(&events).await;
    scene.recover("no queue").await;
    scene.finish().await;
}

/// A vhost that somebody forgot to make: the worker begins by itself when it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vhost_that_is_missing_is_waited_for() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    let vhost = format!("{}-vhost", rig.prefix());
    let url = rig.env["AMQP_URL"].replace("/%2f", &format!("/{vhost}"));
    rig.set("AMQP_URL", &url);
    rig.set(names::RETRY_MAX_SECS, "1");
    let worker = rig.worker_unready().await;
    let oracle = rig.oracle();
    let producer = Producer::new(seed());
    let mut scene = Scene { rig, worker, oracle, producer };
    let told = Told { dependency: "rabbitmq", says: &["NOT_ALLOWED"], needs_hand: true };
    scene.is_told("no vhost", told, 0).await;
    scene.rig.rabbitmqctl(&["add_vhost", &vhost]);
    scene.rig.rabbitmqctl(&["set_permissions", "-p", &vhost, "rollcall", ".*", ".*", ".*"]);
    scene.worker.wait_ready().await;
    let events = scene.events(50);
    scene.rig.publish_events(&events).await;
    scene.recover("no vhost").await;
    scene.finish().await;
}
