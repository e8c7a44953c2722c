//! The command line: every subcommand, option and help text. It only parses; it must never do I/O,
//! and it names no default that belongs to the configuration.

mod dead_letters;
mod publish;
mod top;
mod upkeep;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use dead_letters::{DeadLetters, Filter, Select};
pub use publish::Publish;
pub use top::Top;
pub use upkeep::{AccessArgs, FieldValue, ForgetArgs, IndexArgs, RetentionArgs, Server};

const AFTER_HELP: &str = "\
Examples:
  rollcall manage migrate && rollcall manage topology      # once, and with each new version
  rollcall worker
  rollcall read count cities

Everything is configured by environment variables: `rollcall settings` lists them all.

Exit codes:
  0   done
  1   failed, or not everything was done
  64  wrong usage or configuration
  75  a server is away: try again later";

/// Takes the roll of an event stream: RabbitMQ to Postgres to Redis sets.
///
/// Workers take events in batches from RabbitMQ, store each one once in Postgres and keep sets of
/// distinct members in Redis, so that a reader's question is one O(1) command.
#[derive(Debug, Parser)]
#[command(name = "rollcall", version, after_help = AFTER_HELP)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take events from the queue into Postgres and Redis, until told to stop
    ///
    /// SIGTERM or SIGINT drains: what was prefetched is stored and settled, then the worker exits.
    /// A second signal ends it at once; nothing is lost by that, as the broker delivers again.
    #[command(after_help = "\
Example:
  AMQP_URL=amqp://localhost DATABASE_URL=postgres://localhost/rollcall \\
    REDIS_URL=redis://localhost rollcall worker")]
    Worker,
    /// Answer readers over HTTP, from Redis alone, until told to stop
    ///
    /// Counts, members and one page, read-only: it needs REDIS_URL and ROLLCALL_SETS and no other
    /// server, and its user in Redis needs no right to write. Where Redis is away, or does not hold
    /// all of a set, the answer is 503 and never a no or a 0. SIGTERM ends it when what is under
    /// way is answered. Plain HTTP on ROLLCALL_SERVE_ADDR: TLS and logins are for the proxy before
    /// it.
    #[command(after_help = "\
Example:
  REDIS_URL=redis://localhost rollcall serve &
  curl http://127.0.0.1:9465/api/stats
  curl 'http://127.0.0.1:9465/api/sets/users/contains?member=ann'")]
    Serve,
    /// Watch counts, freshness and the pipeline in this terminal, from Redis alone
    ///
    /// What the page of `rollcall serve` shows; it needs REDIS_URL and ROLLCALL_SETS and no other
    /// server. q ends it; arrows, PgUp and PgDn move. Where there is no terminal it looks once. One
    /// look ends with 0 where the counts are known, and with 75 where Redis is away or holds no
    /// generation. NO_COLOR=1 takes the colours away.
    #[command(after_help = "\
Examples:
  rollcall top
  rollcall top --once
  rollcall top --once --json | jq '.sets[] | {name, cardinality}'
  rollcall top --json --interval 10 >>counts.ndjson")]
    Top(Top),
    /// Prepare and look after Postgres and RabbitMQ, and keep Redis equal to Postgres
    #[command(
        subcommand,
        after_help = "\
Examples:
  rollcall manage migrate && rollcall manage topology      # before the first worker
  rollcall manage status
  rollcall manage verify --repair"
    )]
    Manage(Manage),
    /// Publish sample events, the lines of a file or the rows of a query; each one is confirmed
    Publish(Publish),
    /// Ask the sets in Redis
    #[command(
        subcommand,
        after_help = "\
Examples:
  rollcall read list
  rollcall read count cities
  rollcall read contains users ann"
    )]
    Read(Read),
    /// Look at, replay or purge the events that were refused
    #[command(
        subcommand,
        after_help = "\
Examples:
  rollcall dead-letters count
  rollcall dead-letters list --reason field_type --limit 20
  rollcall dead-letters replay --reason too_old"
    )]
    DeadLetters(DeadLetters),
    /// Check the configuration and reach every server, without side effects
    #[command(after_help = "\
Example:
  rollcall check && rollcall worker")]
    Check(Output),
    /// Ask the worker or `serve` on this machine whether it is well (for containers)
    ///
    /// Asks the ops endpoint at ROLLCALL_OPS_ADDR. Without --ready only the process itself is
    /// judged, so that a container is not restarted for an outage of its neighbours.
    #[command(after_help = "\
Example, in a Dockerfile:
  HEALTHCHECK CMD [\"/usr/local/bin/rollcall\", \"healthcheck\"]")]
    Healthcheck {
        /// Ask whether it can work: the servers that it needs included
        #[arg(long)]
        ready: bool,
    },
    /// List every environment variable with its meaning and default
    #[command(after_help = "\
Example:
  rollcall settings | grep _BYTES")]
    Settings(Output),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  rollcall completions bash > ~/.local/share/bash-completion/completions/rollcall
  rollcall completions zsh > /usr/local/share/zsh/site-functions/_rollcall")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    #[command(after_help = "\
Examples:
  rollcall man | man -l -
  rollcall man --dir /usr/local/share/man/man1")]
    Man {
        /// Write rollcall.1, rollcall-worker.1 and so on into this folder
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// What a command says by its exit code when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 0
    Done,
    /// 1: the answer is no, or not everything was done. It has been said.
    No,
    /// 75: a later try may do better. It has been said.
    TryLater,
}

/// How the answer is written.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Output {
    /// Answer in JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Manage {
    /// Bring the Postgres schema up to date; safe to run at any time and more than once
    ///
    /// Makes the coming partitions too. Run by the manager of deploy/postgres/roles.sql, after that
    /// file, it grants the worker and the reader of that file what they need: until then a worker
    /// of theirs waits.
    #[command(after_help = "\
Example, before the first worker and after each upgrade:
  rollcall manage migrate")]
    Migrate(Output),
    /// Declare the exchanges and queues in RabbitMQ; what is there already is left alone
    #[command(after_help = "\
Example:
  rollcall manage topology")]
    Topology(Output),
    /// Make the coming partitions of the events table ahead of their time
    #[command(after_help = "\
Example, from cron:
  12 3 * * *  rollcall manage partitions")]
    Partitions(Output),
    /// Make sets anew from Postgres while ingest goes on, and put them in place in one step
    ///
    /// Readers see the old set until the new one is whole. Of all sets it begins a new generation.
    /// Killed, it leaves what was there; what it had made expires within 15 minutes. A set that was
    /// just added to ROLLCALL_SETS is filled from all history, once every worker knows it.
    #[command(after_help = "\
Examples:
  rollcall manage rebuild
  rollcall manage rebuild users_by_city --json")]
    Rebuild {
        /// Names of sets, as in ROLLCALL_SETS [default: all]
        set: Vec<String>,
        #[command(flatten)]
        turn: Turn,
        #[command(flatten)]
        output: Output,
    },
    /// Add what Redis is known to lack since it was away or went back
    ///
    /// Workers do it by themselves; this does it now.
    #[command(after_help = "\
Example:
  rollcall manage catch-up")]
    CatchUp {
        #[command(flatten)]
        turn: Turn,
        #[command(flatten)]
        output: Output,
    },
    /// Compare sets with Postgres, both ways, while ingest goes on
    ///
    /// Names what is missing in Redis, and phantoms, which no event supports. Exit code 1 if
    /// anything differs, also where it was repaired. It makes the sets a second time beside the
    /// live ones, so Redis needs room for that.
    #[command(after_help = "\
Examples:
  rollcall manage verify
  rollcall manage verify users --repair
  rollcall manage verify --sample 1000 --json")]
    Verify {
        /// Names of sets, as in ROLLCALL_SETS [default: all]
        set: Vec<String>,
        /// Look at so many events instead of all: finds widespread loss, may miss a little
        #[arg(long, value_name = "N", conflicts_with = "repair")]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
        sample: Option<u64>,
        /// Add what is missing, take out phantoms, put keys right
        #[arg(long)]
        repair: bool,
        /// Name at most so many members each way; all are counted
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
        #[command(flatten)]
        turn: Turn,
        #[command(flatten)]
        output: Output,
    },
    /// Take out the keys of sets that are no longer in ROLLCALL_SETS
    #[command(after_help = "\
Example, once no worker has the set any more:
  rollcall manage prune --dry-run && rollcall manage prune")]
    Prune {
        /// Show what would go; change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        turn: Turn,
        #[command(flatten)]
        output: Output,
    },
    /// Make the expression indexes for the sets' fields, while ingest goes on
    ///
    /// One for each distinct list of fields, on every partition, those to come included. For
    /// queries of your own that look for a value: some thousand times quicker. A count of the whole
    /// table reads the table. Killed or run again, it goes on from what is there.
    #[command(after_help = "\
Examples:
  rollcall manage index
  rollcall manage index users_by_city
  rollcall manage index --prune")]
    Index(IndexArgs),
    /// Drop the partitions that are older than ROLLCALL_RETENTION_DAYS, and keep their members
    ///
    /// The distinct members of a partition's events are kept in Postgres before it goes, so that a
    /// set that says "ever" stays true through every rebuild. A window's members go when it does.
    /// A partition goes when its last moment is too old. Killed or run again, it goes on from what
    /// is there. Exit code 75 where a partition is in use all the time, or a rebuild is under way.
    #[command(after_help = "\
Examples:
  rollcall manage retention --dry-run
  30 3 * * *  rollcall manage retention      # from cron")]
    Retention(RetentionArgs),
    /// Erase: delete the events that hold a value, and what nothing else supports in Redis
    ///
    /// Every event with VALUE at FIELD, alone or in an array, goes from every partition; retired
    /// members that name it go too; and from Redis go exactly the members that no other event and
    /// no retired member supports. Reads the whole table. Killed, the next run finishes it. What is
    /// still in RabbitMQ, dead letters included, is not touched.
    #[command(after_help = "\
Examples:
  rollcall manage forget username=ann --dry-run
  rollcall manage forget user.email=ann@example.org --json")]
    Forget(ForgetArgs),
    /// Print the users of a server, each with no more rights than its work takes
    ///
    /// A script for whoever administers it, with the names of this configuration. No password is in
    /// it: it takes them from its environment. Nothing is asked or changed by this command.
    #[command(after_help = "\
Examples:
  rollcall manage access --print postgres | psql \"$ADMIN_URL\"
  rollcall manage access --print rabbitmq | sh
  rollcall manage access --print redis | sh")]
    Access(AccessArgs),
    /// Show what there is: partitions, indexes, replica, queue, dead letters, and each set
    ///
    /// A server that is away is shown as that and the others all the same; the exit code is 75
    /// then.
    #[command(after_help = "\
Examples:
  rollcall manage status
  rollcall manage status --json | jq .postgres.projection")]
    Status(Output),
}

/// One repairer works at a time in the whole fleet.
#[derive(Args, Clone, Copy, Debug)]
pub struct Turn {
    /// How long to wait while another process repairs, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 600)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub wait: u32,
}

/// One of the sets that make up a definition: its group and bucket.
#[derive(Args, Clone, Debug, Default)]
pub struct Which {
    /// The set's name, as in ROLLCALL_SETS
    pub set: String,
    /// Values of the group's fields, in order
    #[arg(long, value_name = "V", num_args = 1..)]
    pub group: Vec<String>,
    /// UTC bucket of a windowed set: 2026-11-23T10, 2026-11-23 or 2026-11 [default: the present]
    #[arg(long, value_name = "B")]
    pub bucket: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Read {
    /// How many distinct members a set has
    ///
    /// Where Redis holds no generation it was emptied, and the answer is `unknown` (exit code 75),
    /// not zero.
    #[command(after_help = "\
Examples:
  rollcall read count cities
  rollcall read count users_by_city --group CA Fresno
  rollcall read count users_daily --bucket 2026-11-23 --json")]
    Count {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        output: Output,
    },
    /// Whether something is a member of a set: `yes` or `no`, or `unknown` (exit code 75)
    ///
    /// One line a member. Both `yes` and `no` are answers, with exit code 0.
    #[command(after_help = "\
Examples:
  rollcall read contains users ann
  rollcall read contains users ann bob
  rollcall read contains cities CA:Fresno
  rollcall read contains users_by_city ann --group CA Fresno")]
    Contains {
        #[command(flatten)]
        which: Which,
        /// Members. Of a set of single fields, the plain values; of a composite, its components
        /// joined by ':' as stored (`%`, `:`, `{`, `}` in one are %-encoded), or one value a field
        #[arg(required = true)]
        member: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// The members of a set, one a line, in no order
    #[command(after_help = "\
Examples:
  rollcall read members cities --limit 20
  rollcall read members users_by_city --group CA Fresno | sort")]
    Members {
        #[command(flatten)]
        which: Which,
        /// Stop after this many [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        #[command(flatten)]
        output: Output,
    },
    /// The sets as configured, and how far Redis can be trusted
    #[command(after_help = "\
Example:
  rollcall read list --json")]
    List(Output),
}

#[cfg(test)]
mod tests;
