//! The black-box suite: the real `rollcall` binary against real servers that the suite starts.
//!
//! Each file is a theme, each test a property of the contract. Nothing here may call into the
//! crate's own decoding or set code: what is expected comes from `harness::oracle`, which is
//! written a second time on purpose. Nothing here sleeps; `harness::eventually` waits.

mod harness;

mod access;
mod bad_input;
mod built;
mod canary;
mod chaos;
mod classified;
mod cli;
mod cloudevents;
mod contract;
mod crash;
mod cuts;
mod dead_letters;
mod demo_defects;
mod deploy;
mod documented;
mod drain;
mod emptied;
mod examples;
mod failover;
mod flood;
mod forget;
mod frozen;
mod full_disk;
mod hold;
mod import;
mod index;
mod lagging_replica;
mod long_outage;
mod loss;
mod memory;
mod moments;
mod nobody;
mod ops;
mod page;
mod papers;
mod partitions;
mod pipeline;
mod pipeline_report;
mod put_back;
mod quiet;
mod rebuild;
mod recomputed;
mod renewed;
mod retention;
mod roles;
mod rolling;
mod schema;
mod serve;
mod serve_bounds;
mod serve_schema;
mod sets;
mod status;
mod tls;
mod top;
mod topology;
#[cfg(feature = "otlp")]
mod traces;
mod verify;
mod versions;
mod watchdog;
mod without_redis;
