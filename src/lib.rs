//! Rollcall takes the roll of an event stream: RabbitMQ -> Postgres -> Redis sets.
//!
//! # One event, file by file
//!
//! 1. A producer publishes to the exchange; the quorum queue keeps the message. [`broker`]
//!    `topology` declares both and refuses a queue whose arguments are not ours. `rollcall publish`
//!    ([`publish`], [`sample`]) is such a producer; [`publish::Producer`] is for programs in Rust.
//! 2. [`ingest::supervisor`] keeps a session alive; `ingest/session` opens one when both stores
//!    take a write: connections to RabbitMQ and some lanes, the first of them on probation. A lane
//!    (`ingest/lane`) is a channel, a consumer and a Postgres connection, in the one task that may
//!    settle on that channel. `broker/consume` gives it the delivery, with the token that will
//!    settle it once.
//! 3. [`event`] takes the message apart and checks each event in one walk over its text; [`sets`]
//!    says which members it adds to which keys. Both are pure. What is no event is rejected by
//!    itself, with one of the reasons in `event/reason`.
//! 4. [`ingest::batch`] gathers, and says when a batch closes. [`ingest::prefetch`] says how much
//!    may wait in memory, [`ingest::breaker`] whether too much of it is bad. Pure as well.
//! 5. `ingest/flush` writes a batch through all stages, and says at each point what a crash there
//!    costs. **The order of effects is on that page and nowhere else.** First [`store`]: one
//!    INSERT of sorted rows, committed; `store/insert` finds the rows that it refuses. While
//!    Postgres is away `ingest/hold` waits. (Of an idle
//!    worker's neighbours it is `ingest/watch` that looks whether they answer.)
//! 6. Then [`projection`]: one SADD or PFADD for each key, and when all are answered the mark in
//!    `<prefix>:meta`. Also for events that Postgres had already: they may have come this far and
//!    no further the last time.
//! 7. Then `broker/dead_letter`: what was rejected, confirmed one by one. And last of all
//!    `broker/settle`: one ack for the batch. Whatever fails before it, the batch comes again, and
//!    each step finds its work done.
//!
//! # What keeps Redis equal to Postgres
//!
//! The second stream. A worker counts in `<prefix>:wm` what it gave to Redis; `ingest/ledger` tells
//! from it that something was lost, and what bounds it, and `ingest/guard` notes that in Postgres
//! (`store/marks`) before anything hides it; `ingest/history` does where Postgres itself went back.
//! The same note is left for each batch that goes past a Redis that is away. `ingest/keeper` then
//! has it mended. [`repair`] is how: `repair/pass` reads events from Postgres, or from a replica
//! that has come far enough (`store/reader`), and adds what they add; **`repair/rebuild` is the
//! page with the order of effects** of sets that are made anew and put in place; `repair/verify`
//! compares, and takes out only what a newer snapshot does not support either. It all rests on one
//! order: a worker adds to Redis only after its COMMIT.
//!
//! A reader asks Redis: [`read`] and [`top`] on a terminal, [`serve`] over HTTP, the third stream,
//! which holds nothing but a way to read. [`snapshot`] is all that Redis tells at one moment, and
//! [`pipeline`] what workers say there of themselves. An operator uses [`manage`] and
//! [`dead_letters`]; [`health`] and [`telemetry`] tell how a worker is, and [`terminal`] keeps what others wrote
//! from steering the reader's. [`app`] starts each role,
//! and [`shutdown`] ends it.
//!
//! # Promises
//!
//! | | |
//! |---|---|
//! | P1 | An event whose publish was confirmed is in Postgres, or dead-lettered with a reason. |
//! | P2 | It is in Postgres once, however often it is delivered: identity is (occurred_at, id). |
//! | P3 | When ingest is quiet, every Redis set equals the distinct values in Postgres. |
//! | P4 | One bad event never delays, fails or takes with it a good one. |
//! | P5 | An outage of Postgres, Redis or RabbitMQ needs no hand: work resumes by itself. |
//! | P6 | Memory is bounded by configuration, whatever arrives. |
//! | P7 | A reader never sees a half-built set. |
//!
//! What is left of P3 is in the README's "Not there yet". Delivery is at least once, and
//! every effect is idempotent; nothing here happens "exactly once".
//!
//! # Deliberately absent
//!
//! - **A second retry loop.** `ingest/flush` retries a step, the supervisor a session; [`retry`]
//!   only says how long to wait. Clients never repair themselves behind our back: lapin's recovery
//!   is off, as a delivery of a lost connection would look like any other.
//! - **Requeueing.** While a store is away the batch is held; withheld acks are the back-pressure.
//! - **A detached task.** Whoever starts one awaits it.
//! - **An unbounded buffer of ours.** Prefetch bounds the one that lapin has.
//! - **A second way to compute a member.** What repairs Redis from Postgres must go through
//!   [`event::stored_additions`], the walk that live ingest takes.
//! - **Traits with one implementation, and mocks.** Tests run real servers. [`ingest::servers`] are
//!   the only traits: `ingest/simulation` runs the core against models of the three that fail,
//!   reorder and lose answers, on a clock of its own.
//! - **Payloads, members and credentials in logs, metrics and errors.**
//!
//! # Where the client crates live
//!
//! | crate | only in | |
//! |---|---|---|
//! | lapin | [`broker`] | RabbitMQ |
//! | sqlx | [`store`] | Postgres |
//! | fred | [`projection`] | Redis |
//! | backoff | [`retry`] | intervals |
//! | envy | [`config`] | environment variables |
//! | rustls | [`tls`] | certificates, for the three clients; `telemetry/spans` names its provider |
//! | axum, hyper | [`http`], [`health`], [`serve`] | the ops endpoint, and the readers' one |
//! | ureq | [`health`], `telemetry/spans` | asking the ops endpoint; sending spans |
//! | opentelemetry | `telemetry/spans` | spans, with the feature `otlp` alone |
//! | clap, clap_complete, clap_mangen | [`cli`] | the command line (and `main`, which calls it) |
//! | crossterm | [`top`] | the terminal |
//!
//! [`broker`], [`store`] and [`projection`] never import each other. [`event`], [`sets`],
//! [`ingest::batch`], [`ingest::breaker`], [`ingest::prefetch`] and `ingest/ledger` do no I/O and
//! take the clock as an argument.

#![forbid(unsafe_code)]

/// `println!` that fails where standard output has gone: `rollcall read members s | head` has got
/// all that it wanted, and `main` takes that for a success.
macro_rules! say {
    ($($text:tt)*) => {
        std::io::Write::write_fmt(
            &mut std::io::stdout().lock(),
            format_args!("{}\n", format_args!($($text)*)),
        )?
    };
}

// In the order in which data flows; the blank lines keep rustfmt from sorting them.
pub mod broker;

pub mod event;
pub mod fault;

pub mod sets;

pub mod ingest;

pub mod store;

pub mod projection;

pub mod repair;

// The other commands, and what every role stands on.
pub mod app;
pub mod cli;
pub mod config;
pub mod dead_letters;
pub mod health;
pub mod http;
pub mod manage;
pub mod pipeline;
pub mod progress;
pub mod publish;
pub mod read;
pub mod retry;
pub mod sample;
pub mod serve;
pub mod shutdown;
pub mod snapshot;
pub mod telemetry;
pub mod terminal;
pub mod tls;
pub mod top;
