//! Redis: the sets, derived from Postgres and disposable. The only folder that may say fred.
//!
//! `write` adds what a batch adds, `marker` says how far to trust it, `watermark` shows what was
//! lost, `server_info` whether the server may evict it, `read` asks, `client` keeps the one
//! connection, `settings` says how. Nothing here decides when to write or whether to try again: that
//! is `ingest`'s. No key is built here either: `sets` hands over finished keys.
//!
//! `reader` is the way of those who only read, `counts` asks about many keys at once, and
//! `pipeline` keeps what workers say of themselves.
//!
//! `build` makes sets anew beside the live ones, `scan` and `look` walk over what is there, and
//! `remove` takes out what Postgres no longer supports, when it is told to.
//!
//! Never: log a member or the URL, claim in `<prefix>:meta` what was not applied.

mod build;
mod client;
mod counts;
mod error;
mod look;
mod marker;
mod overview;
mod pipeline;
mod read;
mod reader;
mod remove;
mod scan;
mod server_info;
mod settings;
mod watermark;
mod write;

pub use build::Build;
pub use client::Projection;
pub use counts::{Common, Counts};
pub use error::ProjectionError;
pub use look::Found;
pub use marker::{Begun, Meta, State};
pub use overview::Size;
pub use read::{Answer, Keys, Page, escape_glob};
pub use reader::Reader;
pub use scan::KeyScan;
pub use server_info::{Eviction, ServerInfo};
pub use watermark::{POSTGRES, SERVER, Sighting, Tick, joined};
pub use write::{Applied, KeyAdditions, Mark};
