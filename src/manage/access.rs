//! `rollcall manage access`: the users of each server, with no more rights than their work takes,
//! as a script for whoever administers it. The names in it are those of this configuration. It
//! connects nowhere and knows no password: the script takes each from its environment.

mod rabbitmq;
mod redis;

use anyhow::Result;

use crate::cli::{AccessArgs, Outcome, Server};
use crate::config::Config;

/// The roles of Postgres are said there and nowhere else; what they may do to Rollcall's tables,
/// `rollcall manage migrate` grants.
const ROLES: &str = include_str!("../../deploy/postgres/roles.sql");

pub fn run(config: &Config, args: &AccessArgs) -> Result<Outcome> {
    let users = args.users.as_str();
    let script = match args.print {
        Server::Rabbitmq => rabbitmq::script(config.broker()?, users),
        Server::Postgres => postgres(users),
        Server::Redis => redis::script(&config.key_prefix, users),
    };
    say!("{}", script.trim_end());
    Ok(Outcome::Done)
}

/// The names, and then the file.
fn postgres(users: &str) -> String {
    let names =
        ["manager", "worker", "reader"].map(|role| format!("\\set {role} {users}_{role}\n"));
    format!("{}\n{ROLES}", names.concat())
}

/// Where the script finds the password of a role.
fn variable(role: &str) -> String {
    format!("{}_PASSWORD", role.to_uppercase())
}

/// As one word of a shell, whatever it holds.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_quoted_word_is_what_the_shell_makes_of_it() {
        for text in ["plain", "it's", "$HOME `id` \\ \"x\" *", "^a\\.b$"] {
            let script = format!("printf %s {}", quoted(text));
            let ran = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&ran.stdout), text);
        }
    }

    #[test]
    fn the_roles_of_postgres_are_those_of_the_file() {
        let script = postgres("shop");
        assert!(script.ends_with(ROLES));
        assert!(script.contains("\\set worker shop_worker\n"));
    }
}
