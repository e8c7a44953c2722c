//! CloudEvents 1.0 in its three modes.

use serde_json::{Value, json};

use crate::harness::{DEFAULT_SETS, Message, Oracle, Producer, Rig, seed};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCHED: &str = "application/cloudevents-batch+json";

/// A structured CloudEvent and its parts.
struct Made {
    whole: Value,
    attributes: Value,
    data: Value,
}

fn make(producer: &mut Producer) -> Made {
    let event = producer.event();
    let attributes = json!({
        "specversion": "1.0", "type": "message.posted", "source": "/demo/messages",
        "id": format!("m-{}", producer.rng.next()), "time": event["occurred_at"],
        "subject": "a subject", "datacontenttype": "application/json",
    });
    let data = json!({
        "state": event["state"], "city": event["city"], "username": event["username"],
    });
    let mut whole = attributes.clone();
    whole["data"] = data.clone();
    Made { whole, attributes, data }
}

/// The members of `data`, and the attributes in `cloudevent`.
fn expect(oracle: &mut Oracle, made: &Made) {
    let time = made.attributes["time"].as_str().unwrap();
    let mut payload = made.data.clone();
    payload["cloudevent"] = made.attributes.clone();
    oracle.row(time, &payload.to_string());
    oracle.adds(time, &made.data);
}

fn structured(made: &Made) -> Message {
    Message::object(&made.whole).content_type(STRUCTURED)
}

fn binary(made: &Made) -> Message {
    let Value::Object(attributes) = &made.attributes else { unreachable!("made as an object") };
    let mut message = Message::object(&made.data);
    for (name, value) in attributes {
        if name != "datacontenttype" {
            message = message.header(&format!("cloudEvents:{name}"), value.as_str().unwrap());
        }
    }
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_lands() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let made: Vec<Made> = (0..6).map(|_| make(&mut producer)).collect();
    made[..5].iter().for_each(|made| expect(&mut oracle, made));
    // In binary mode the content type is the data's own and no attribute of the event.
    let mut bare = Made { attributes: made[5].attributes.clone(), ..make(&mut producer) };
    bare.attributes.as_object_mut().unwrap().remove("datacontenttype");
    expect(&mut oracle, &bare);

    let batch: Vec<Value> = made[1..4].iter().map(|made| made.whole.clone()).collect();
    let worker = rig.worker().await;
    rig.publish(&[
        structured(&made[0]),
        Message::array(&batch).content_type(BATCHED),
        Message::object(&made[4].whole).content_type("application/cloudevents+json; charset=utf-8"),
        binary(&bare),
    ])
    .await;
    rig.finish(&oracle, vec![worker]).await;
}

/// `id` and `source` together are the identity: the same in any mode, another for another source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_and_source_are_the_identity() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let mut first = make(&mut producer);
    first.attributes.as_object_mut().unwrap().remove("datacontenttype");
    first.whole.as_object_mut().unwrap().remove("datacontenttype");
    let sources = ["/demo/messages", "/demo/message", "s/demo/messages"];
    let mut messages = Vec::new();
    for source in sources {
        let mut other = Made {
            whole: first.whole.clone(),
            attributes: first.attributes.clone(),
            data: first.data.clone(),
        };
        other.whole["source"] = json!(source);
        other.attributes["source"] = json!(source);
        expect(&mut oracle, &other);
        messages.extend([structured(&other), binary(&other), structured(&other)]);
    }
    let worker = rig.worker().await;
    rig.publish(&messages).await;
    rig.finish(&oracle, vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_cloud_event_is_dead_lettered_alone() {
    let rig = Rig::new(DEFAULT_SETS).await;
    let mut oracle = rig.oracle();
    let mut producer = Producer::new(seed());
    let without = |made: &Made, name: &str| {
        let mut event = made.whole.clone();
        event.as_object_mut().unwrap().remove(name);
        event
    };
    let with = |made: &Made, name: &str, value: Value| {
        let mut event = made.whole.clone();
        event[name] = value;
        event
    };
    let mut made = || make(&mut producer);
    let bad = [
        ("cloud_event", without(&made(), "specversion")),
        ("cloud_event", with(&made(), "specversion", json!("0.3"))),
        ("cloud_event", without(&made(), "source")),
        ("cloud_event", without(&made(), "type")),
        ("cloud_event", with(&made(), "source", json!(7))),
        ("cloud_event", with(&made(), "data", json!("text"))),
        ("cloud_event", with(&made(), "data", json!([1]))),
        ("cloud_event", with(&made(), "data_base64", json!("eA=="))),
        ("missing_id", without(&made(), "id")),
        ("missing_occurred_at", without(&made(), "time")),
        ("occurred_at_format", with(&made(), "time", json!("now"))),
        ("too_old", with(&made(), "time", json!("1970-01-01T00:00:00Z"))),
        ("field_type", with(&made(), "data", json!({"username": {}}))),
    ];
    let mut elements = Vec::new();
    for (reason, event) in bad {
        oracle.bad(reason, event.to_string());
        let good = made();
        expect(&mut oracle, &good);
        elements.extend([event, good.whole]);
    }
    // An event that carries no data is an event all the same.
    let empty = Made { whole: Value::Null, data: json!({}), ..made() };
    expect(&mut oracle, &empty);
    elements.push(empty.attributes.clone());

    let worker = rig.worker().await;
    rig.publish(&[Message::array(&elements).content_type(BATCHED)]).await;
    rig.finish(&oracle, vec![worker]).await;
}
