//! The pure part of the worker, by links to its files: it needs none of the client crates, so the
//! fuzzer is built in seconds. Whatever `event` and `sets` came to use beside each other would
//! fail to compile here.

pub mod event;
pub mod sets;
