//! What people do instead: the programs under benches/peers, beside a worker in the same run.
//!
//! Each gets the same events from a queue of its own, and the same table. `scripts/peers` runs one,
//! compares what it left with what it was given, and prints its figures; one that got a row or a
//! member wrong fails the run.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use serde_json::json;

use crate::events::{Events, PLAIN};
use crate::goals::{CAREFUL, DEMO};
use crate::publish::{self, To};
use crate::shared::Servers;
use crate::worker;

const QUEUE: &str = "rollcall.bench.peers";
const TO: To<'static> = To { exchange: "", key: QUEUE };

pub struct Peer {
    pub name: &'static str,
    /// What `scripts/peers` calls it.
    program: &'static str,
    /// Some ten seconds of its work.
    pub events: u64,
    processes: u32,
    message: Message,
}

#[derive(Clone, Copy)]
enum Message {
    /// One event, as a worker gets it.
    Event,
    /// One call of a task, as Celery's `delay` sends it.
    Task,
}

/// Each as one process, and as two: a worker is one process that uses both cores.
pub const PEERS: [Peer; 8] = [
    Peer::new(DEMO, "demo", 1, 15_000, Message::Event),
    Peer::new("the demo's way, 2 processes", "demo", 2, 20_000, Message::Event),
    Peer::new(CAREFUL, "careful", 1, 120_000, Message::Event),
    Peer::new("a careful consumer, Python, 2 processes", "careful", 2, 160_000, Message::Event),
    Peer::new("celery-batches, Python", "celery", 1, 40_000, Message::Task),
    Peer::new("celery-batches, Python, 2 processes", "celery", 2, 60_000, Message::Task),
    Peer::new("batches, Node", "node", 1, 160_000, Message::Event),
    Peer::new("batches, Node, 2 processes", "node", 2, 160_000, Message::Event),
];

impl Peer {
    const fn new(
        name: &'static str,
        program: &'static str,
        processes: u32,
        events: u64,
        message: Message,
    ) -> Peer {
        Peer { name, program, events, processes, message }
    }
}

pub struct Drained {
    pub events_per_second: f64,
    /// From when it began to consume: neither its start nor its imports.
    pub micros: f64,
    /// Of all its processes.
    pub peak_mib: f64,
}

/// Their packages, where they are missing.
pub fn install(servers: &Servers) -> Result<()> {
    scripts_peers(servers, &["install"]).map(drop)
}

/// Fills a queue, then lets one peer drain it: from the start of consuming to the last ack.
pub async fn drain(servers: &Servers, peer: &Peer) -> Result<Drained> {
    worker::reset(servers).await?;
    let (connection, channel) = servers.channel().await?;
    publish::fresh_queue(&channel, QUEUE).await?;
    connection.close(200, "done".into()).await?;
    let events = Events::new(PLAIN);
    match peer.message {
        Message::Event => publish::fill(servers, TO, &events, peer.events, 1).await?,
        Message::Task => {
            let calls = (0..peer.events).map(|number| call(&events.get(number).body));
            publish::publish(servers, TO, calls).await?;
        }
    }
    let (count, processes) = (peer.events.to_string(), peer.processes.to_string());
    let arguments = [peer.program, QUEUE, &count, "--processes", &processes];
    let line = scripts_peers(servers, &arguments)?;
    let figures: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [events_per_second, micros, peak_mib] = figures[..] else {
        anyhow::bail!("not three figures: {line}");
    };
    Ok(Drained { events_per_second, micros, peak_mib })
}

/// Its standard output. What it says on standard error goes to ours.
fn scripts_peers(servers: &Servers, arguments: &[&str]) -> Result<String> {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/peers"))
        .args(arguments)
        .env("AMQP_URL", &servers.amqp)
        .env("DATABASE_URL", &servers.database)
        .env("REDIS_URL", &servers.redis)
        .stderr(Stdio::inherit())
        .output()
        .context("scripts/peers")?;
    ensure!(output.status.success(), "scripts/peers {arguments:?}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// A call of `record(event)` in Celery's protocol 2, with the headers that Celery 5.6 sends.
fn call(event: &str) -> (BasicProperties, Vec<u8>) {
    let id = uuid::Uuid::now_v7().to_string();
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_priority(0)
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_correlation_id(id.as_str().into())
        .with_reply_to("".into())
        .with_headers(headers(&id, event));
    let embed = json!({"callbacks": null, "errbacks": null, "chain": null, "chord": null});
    (properties, format!("[[{event}], {{}}, {embed}]").into_bytes())
}

fn headers(id: &str, event: &str) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let none = AMQPValue::Void;
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("lang", text("py")),
        ("task", text("record")),
        ("id", text(id)),
        ("shadow", none.clone()),
        ("eta", none.clone()),
        ("expires", none.clone()),
        ("group", none.clone()),
        ("group_index", none.clone()),
        ("retries", AMQPValue::LongInt(0)),
        ("timelimit", AMQPValue::FieldArray(FieldArray::from(vec![none.clone(), none.clone()]))),
        ("root_id", text(id)),
        ("parent_id", none.clone()),
        // Python's repr of the arguments, for logs; about the same length.
        ("argsrepr", text(&format!("({event},)"))),
        ("kwargsrepr", text("{}")),
        ("origin", text("gen1@producer")),
        ("ignore_result", AMQPValue::Boolean(true)),
        ("replaced_task_nesting", AMQPValue::LongInt(0)),
        ("stamped_headers", none.clone()),
        ("stamps", AMQPValue::FieldTable(FieldTable::default())),
    ] {
        headers.insert(name.into(), value);
    }
    headers
}
