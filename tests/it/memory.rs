//! P6: memory is bounded by configuration, whatever arrives, and a bound that cannot be kept is
//! refused.

use serde_json::{Value, json};

use crate::harness::{DEFAULT_SETS, Message, Producer, Rig, Worker, names, seed};

const MIB: u64 = 1 << 20;
const LARGE: usize = 900 << 10;

/// What the worker says at its start that it may take.
fn bound(worker: &Worker) -> u64 {
    let log = worker.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut bounds = lines.filter_map(|line| line.get("memory_bytes_max")?.as_u64());
    bounds.next().unwrap_or_else(|| panic!("no bound in {log}"))
}

fn large(producer: &mut Producer) -> Value {
    let mut event = producer.event();
    event["pad"] = json!("p".repeat(LARGE));
    event
}

/// Large ones among small ones, more of them than the bound allows at once, while Postgres takes
/// nothing and again while it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_among_small_ones_stay_within_the_bound() {
    let mut rig = Rig::new(DEFAULT_SETS).await;
    rig.set(names::PREFETCH_BYTES, &(4 * MIB).to_string());
    rig.set(names::BATCH_BYTES_MAX, &MIB.to_string());
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let worker = rig.warm_worker(&mut oracle, &mut producer).await;
    let amqp = rig.amqp().await;
    let gate = rig.close_gate().await;
    for _ in 0..15 {
        let mut events = producer.events(40);
        for _ in 0..10 {
            let at = producer.rng.below(events.len() as u64) as usize;
            events.insert(at, large(&mut producer));
        }
        oracle.all_good(&events);
        let messages: Vec<_> = events.iter().map(Message::object).collect();
        amqp.publish(rig.exchange(), &messages).await;
    }
    rig.wait_at_gate().await;
    gate.open().await;
    rig.wait_arrived(&oracle).await;
    let (peak, bound) = (worker.peak_memory(), bound(&worker));
    println!("{} MiB at most, {} MiB allowed", peak / MIB, bound / MIB);
    assert!(peak <= bound, "{peak} bytes were resident, {bound} is the bound");
    rig.finish(&oracle, vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_may_take_more_than_it_is_allowed_does_not_start() {
    let rig = Rig::bare(DEFAULT_SETS).await;
    let changes = [(names::MEMORY_MAX_BYTES, "100000000")];
    let said = rig.cli_with_env(&["worker"], &changes).await.expect(64).said();
    assert!(said.contains("ROLLCALL_PREFETCH_BYTES"), "{said}");
    assert!(said.contains("ROLLCALL_MEMORY_MAX_BYTES allows 100000000"), "{said}");
}
