//! What every test stands on: servers, a world of its own for each test, the binary as a process,
//! raw clients, and the oracle that says what must be true at the end.

mod amqp;
mod authority;
mod browser;
#[cfg(feature = "otlp")]
mod collector;
mod fleet;
mod growth;
pub mod http;
mod kept;
mod laws;
mod message;
pub mod names;
mod oracle;
mod pg;
mod process;
mod producer;
mod programs;
mod proxy;
mod proxy_selftest;
mod publisher;
mod reader;
mod redis;
mod replicas;
mod replicas_selftest;
mod rig;
mod selftest;
mod servers;
mod site;
mod stream;
mod terminal;
mod users;
mod wait;
mod witness;

pub use amqp::{Act, Amqp};
pub use authority::{Authority, Flaw, Identity};
pub use browser::Browser;
#[cfg(feature = "otlp")]
pub use collector::{Collector, Manner, Spans, text};
pub use fleet::Fleet;
pub use growth::Growth;
pub use message::Message;
pub use oracle::Oracle;
pub use pg::Pg;
pub use process::{Env, Run, Running, Worker};
pub use producer::{Producer, Rng, seed};
pub use programs::Language;
pub use proxy::{Ending, Flow, Proxy, Way};
pub use publisher::Publisher;
pub use reader::{Reader, Seen};
pub use redis::{Redis, Reply};
pub use replicas::{RedisReplicas, Replica};
pub use rig::{DEFAULT_SETS, Rig, with_database};
pub use servers::{Server, Verb};
pub use site::Site;
pub use stream::Stream;
pub use terminal::Terminal;
pub use wait::{LONG, SHORT, eventually};
