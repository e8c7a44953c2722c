//! The order of effects: queue -> Postgres COMMIT -> Redis -> dead letters confirmed -> ack.
//!
//! `supervisor` keeps a `session` alive, `lane` runs one consumer of it, `batch` gathers (pure),
//! `prefetch` decides how much may wait in memory (pure), `plan` what goes to Redis (pure), and
//! `flush` writes a batch through all stages on one page. Nothing else in the crate knows that
//! order. `servers` is what they ask of the three servers, and `simulation` runs all of it against
//! models of those.
//!
//! What is given to Redis can be lost there: `ledger` knows what bounds the loss (pure), `guard`
//! notes it, `history` whether Postgres is another, `outage` says when ingest goes on without Redis
//! (pure), `watch` looks and `keeper` has mended what they find. `report` says in Redis how this
//! worker does, for those who watch.

pub mod batch;
pub mod breaker;
#[cfg(test)]
mod cost;
mod flush;
mod generation;
pub mod guard;
mod history;
mod hold;
pub mod keeper;
mod lane;
pub mod ledger;
pub mod outage;
mod plan;
pub mod prefetch;
pub mod report;
pub mod servers;
mod session;
#[cfg(test)]
mod simulation;
pub mod supervisor;
pub mod watch;

pub use session::close_max;
