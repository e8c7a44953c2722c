//! RabbitMQ: taking messages in, settling them, condemning the bad ones, publishing new ones.
//!
//! The only folder that names `lapin`. It knows nothing of Postgres or Redis, never retries
//! (whoever holds a batch decides that), and never settles a delivery unless told to.
//!
//! Read in the order of a delivery's life: `connect` -> `topology` -> `session` -> `consume` ->
//! `settle`, or `dead_letter`. Beside that path: `publish` for producers, and `dead_letter_queue`
//! for the operator who looks at what was condemned.

mod connect;
mod consume;
mod dead_letter;
pub mod dead_letter_queue;
mod error;
mod headers;
mod letter;
mod publish;
mod session;
mod settle;
pub mod topology;

pub use consume::{Delivery, Incoming, LaneConsumer, Properties};
pub use dead_letter::DeadLetter;
pub use error::{BrokerError, Cause};
pub use letter::{Filter, Letter};
pub use publish::{Outgoing, PendingConfirm, Publisher};
pub use session::{Looker, Session};
pub use settle::{Token, Tokens};
