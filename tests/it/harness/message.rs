//! A message as a producer publishes it: bytes, a content type, headers.

use lapin::types::AMQPValue;
use serde_json::Value;

#[derive(Clone, Debug, Default)]
pub struct Message {
    pub body: Vec<u8>,
    pub content_type: Option<String>,
    pub headers: Vec<(String, String)>,
    /// Those that are no text.
    pub odd_headers: Vec<(String, AMQPValue)>,
}

impl Message {
    pub fn raw(body: impl Into<Vec<u8>>) -> Message {
        Message {
            body: body.into(),
            content_type: Some("application/json".to_owned()),
            headers: Vec::new(),
            odd_headers: Vec::new(),
        }
    }

    pub fn object(event: &Value) -> Message {
        Message::raw(event.to_string())
    }

    pub fn array(events: &[Value]) -> Message {
        Message::array_of(events.iter().map(Value::to_string))
    }

    /// An array of elements that need not be JSON that serde_json would write.
    pub fn array_of(elements: impl IntoIterator<Item = String>) -> Message {
        let elements: Vec<String> = elements.into_iter().collect();
        Message::raw(format!("[{}]", elements.join(",")))
    }

    pub fn ndjson(lines: impl IntoIterator<Item = String>) -> Message {
        let lines: Vec<String> = lines.into_iter().collect();
        Message::raw(lines.join("\n") + "\n").content_type("application/x-ndjson")
    }

    pub fn content_type(mut self, content_type: &str) -> Message {
        self.content_type = Some(content_type.to_owned());
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Message {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn odd_header(mut self, name: &str, value: AMQPValue) -> Message {
        self.odd_headers.push((name.to_owned(), value));
        self
    }
}
