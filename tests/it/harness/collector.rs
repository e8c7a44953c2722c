//! An OpenTelemetry collector, as far as a worker sees one: it takes OTLP over HTTP, keeps the
//! spans, and can refuse or be silent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug)]
pub enum Manner {
    Take,
    Answer(u16),
    /// Takes a request and never answers.
    Hang,
}

pub struct Collector {
    addr: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Kept {
    heads: Vec<String>,
    bodies: Vec<Vec<u8>>,
}

impl Collector {
    pub async fn start(manner: Manner) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port");
        let addr = listener.local_addr().expect("it is bound");
        let kept = Arc::new(Mutex::new(Kept::default()));
        let keep = kept.clone();
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                // Ends with the worker that holds the other end.
                tokio::spawn(serve(stream, manner, keep.clone()));
            }
        });
        Collector { addr, kept, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Requests so far, whatever was answered.
    pub fn requests(&self) -> usize {
        self.lock().heads.len()
    }

    /// The head of each request.
    pub fn heads(&self) -> Vec<String> {
        self.lock().heads.clone()
    }

    pub fn bodies(&self) -> Vec<Vec<u8>> {
        self.lock().bodies.clone()
    }

    pub fn spans(&self) -> Spans {
        let mut spans = Vec::new();
        for body in self.bodies() {
            let request = ExportTraceServiceRequest::decode(&*body).expect("OTLP");
            for resource in request.resource_spans {
                let attributes = resource.resource.expect("who sends").attributes;
                assert_eq!(text(&attributes, "service.name"), "rollcall");
                spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        Spans(spans)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// All that arrived.
#[derive(Debug)]
pub struct Spans(pub Vec<Span>);

impl Spans {
    pub fn batches(&self) -> Vec<&Span> {
        self.0.iter().filter(|span| span.name.starts_with("process ")).collect()
    }

    /// Those below it, in the order of their starts.
    pub fn below(&self, batch: &Span) -> Vec<&Span> {
        let is_below =
            |span: &&Span| span.trace_id == batch.trace_id && span.parent_span_id == batch.span_id;
        let mut below: Vec<&Span> = self.0.iter().filter(is_below).collect();
        below.sort_by_key(|span| span.start_time_unix_nano);
        below
    }

    /// The one batch of as many messages.
    #[track_caller]
    pub fn batch_of(&self, messages: i64) -> &Span {
        let counts = |span: &Span| text(&span.attributes, "messaging.batch.message_count");
        let mut found = self.batches();
        found.retain(|span| counts(span) == messages.to_string());
        let all: Vec<String> = self.batches().into_iter().map(counts).collect();
        assert_eq!(found.len(), 1, "batches of {messages} among those of {all:?}");
        found[0]
    }
}

/// An attribute as text; empty where there is none.
pub fn text(attributes: &[KeyValue], name: &str) -> String {
    let attribute = attributes.iter().find(|attribute| attribute.key == name);
    match attribute.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

/// Requests of one connection. An error is the worker's leaving.
async fn serve(mut stream: TcpStream, manner: Manner, kept: Arc<Mutex<Kept>>) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
        });
        let mut body = vec![0; length.expect("a body has its length")];
        stream.read_exact(&mut body).await.ok()?;
        {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.heads.push(head);
            kept.bodies.push(body);
        }
        let status = match manner {
            Manner::Take => 200,
            Manner::Answer(status) => status,
            Manner::Hang => std::future::pending().await,
        };
        let answer = format!("HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}
