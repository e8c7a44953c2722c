//! What the commands on dead letters take.

use clap::{Args, Subcommand};

use super::Output;

/// Which dead letters are meant.
#[derive(Args, Clone, Debug, Default)]
pub struct Filter {
    /// Only those condemned for this reason; may be repeated
    #[arg(long, value_name = "REASON")]
    pub reason: Vec<String>,
    /// Only the one with this id, or the only one whose id begins so; may be repeated
    #[arg(long, value_name = "ID")]
    pub id: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List them; none is taken out
    #[command(after_help = "\
Examples:
  rollcall dead-letters list --limit 20
  rollcall dead-letters list --reason field_type --json | jq -r .body")]
    List {
        #[command(flatten)]
        filter: Filter,
        /// Stop after this many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// One JSON object a line, with the whole body
        #[arg(long)]
        json: bool,
    },
    /// Show one whole, with its body
    #[command(after_help = "\
Example:
  rollcall dead-letters show 01997c3e")]
    Show {
        /// Its id, or a beginning of it that no other has
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// How many there are, and for which reasons
    #[command(after_help = "\
Example:
  rollcall dead-letters count --json")]
    Count(Output),
    /// Publish them again; each leaves only once the broker has confirmed its return
    #[command(after_help = "\
Examples, after the cause was put right:
  rollcall dead-letters replay --reason field_type
  rollcall dead-letters replay --all")]
    Replay {
        #[command(flatten)]
        select: Select,
        #[command(flatten)]
        output: Output,
    },
    /// Delete them for good
    #[command(after_help = "\
Example:
  rollcall dead-letters purge --reason json --yes")]
    Purge {
        #[command(flatten)]
        select: Select,
        /// Yes, delete: nothing brings them back
        #[arg(long, required = true)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// What replay and purge work on: it must be chosen, so that a forgotten filter touches nothing.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Select {
    #[command(flatten)]
    pub filter: Filter,
    /// All of them
    #[arg(long, conflicts_with_all = ["reason", "id"])]
    #[arg(required_unless_present_any = ["reason", "id"])]
    pub all: bool,
}
