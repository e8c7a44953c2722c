//! What the commands that look after the store take.

use clap::{Args, ValueEnum};

use super::{Output, Turn};

/// Which indexes.
#[derive(Args, Clone, Debug)]
pub struct IndexArgs {
    /// Only for these sets of ROLLCALL_SETS [default: all]
    #[arg(value_name = "SET")]
    pub sets: Vec<String>,
    /// Drop the indexes that no set in ROLLCALL_SETS needs
    #[arg(long)]
    pub prune: bool,
    #[command(flatten)]
    pub output: Output,
}

/// What to erase.
#[derive(Args, Clone, Debug)]
pub struct ForgetArgs {
    /// A dotted path into the event, and the value there, as text
    #[arg(value_name = "FIELD=VALUE", value_parser = field_and_value)]
    pub what: FieldValue,
    /// Show what would go; change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub turn: Turn,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldValue {
    pub field: String,
    pub value: String,
}

/// How to drop partitions.
#[derive(Args, Clone, Copy, Debug)]
pub struct RetentionArgs {
    /// Show what would go; change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub turn: Turn,
    #[command(flatten)]
    pub output: Output,
}

/// Whose users.
#[derive(Args, Clone, Debug)]
pub struct AccessArgs {
    /// The server that the script is for
    #[arg(long, value_name = "SERVER")]
    pub print: Server,
    /// What the users' names begin with: STEM_worker, STEM_reader, ...
    #[arg(long, value_name = "STEM", default_value = "rollcall", value_parser = stem)]
    pub users: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Server {
    Rabbitmq,
    Postgres,
    Redis,
}

/// A name that no server's syntax, and no shell, takes for anything else.
fn stem(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match text.starts_with(|c: char| c.is_ascii_lowercase()) && text.len() <= 40 {
        true if text.chars().all(plain) => Ok(text.to_owned()),
        _ => Err("expected 1 to 40 of a-z 0-9 _, the first a letter".to_owned()),
    }
}

/// The value may hold an equals sign, the field may not.
fn field_and_value(text: &str) -> Result<FieldValue, String> {
    match text.split_once('=') {
        Some((field, value)) if !field.split('.').any(str::is_empty) => {
            Ok(FieldValue { field: field.to_owned(), value: value.to_owned() })
        }
        _ => Err("expected FIELD=VALUE, as in user.email=ann@example.org".to_owned()),
    }
}
