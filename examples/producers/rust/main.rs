//! A producer in Rust: takes the fields of an event from each line of standard input, publishes it,
//! and prints what was published once RabbitMQ has confirmed it.
//!
//!     echo '{"state": "CA", "city": "Fresno", "username": "ann"}' |
//!         AMQP_URL=amqp://localhost cargo run --example producer

use std::io::BufRead;

use anyhow::Context;
use rollcall::config::Config;
use rollcall::publish::Producer;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

/// Made once, when the thing happens: id and occurred_at are its identity. From here on it is
/// bytes, and every retry sends the same ones.
fn new_event(mut fields: Map<String, Value>) -> anyhow::Result<String> {
    fields.insert("id".to_owned(), Uuid::now_v7().to_string().into());
    fields.insert("occurred_at".to_owned(), OffsetDateTime::now_utc().format(&Rfc3339)?.into());
    Ok(Value::Object(fields).to_string())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let config = Config::load(std::env::vars_os())?;
    let mut producer = Producer::new(config.broker()?.clone(), "example.rust");
    for line in std::io::stdin().lock().lines() {
        let fields = serde_json::from_str(&line?).context("a line is not a JSON object")?;
        let event = new_event(fields)?;
        producer.publish(event.clone()).await?;
        println!("{event}");
    }
    producer.close().await;
    Ok(())
}
