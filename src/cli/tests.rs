use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("rollcall").chain(line.split_whitespace()))
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_leaf_command_shows_an_example() {
    fn walk(command: &clap::Command) {
        if command.has_subcommands() {
            command.get_subcommands().for_each(walk);
            return;
        }
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.starts_with("Example"), "{} has no example", command.get_name());
    }
    walk(&Cli::command());
}

#[test]
fn every_documented_command_line_parses() {
    for line in [
        "worker",
        "manage migrate",
        "manage topology",
        "manage partitions --json",
        "manage access --print redis --users shop",
        "publish",
        "publish --count 200000 --rate 12.5 --seed 7 --duplicates 5 --bad 1 \
         --events-per-message 100 --routing-key a.b --spread-hours 48 --json",
        "publish --file - --events-per-message 500",
        "read count cities",
        "read count users_by_city --group CA Fresno --bucket 2026-11-23",
        "read contains cities CA Fresno",
        "read contains users_by_city ann --group CA Fresno --json",
        "read members cities --limit 20",
        "read list --json",
        "dead-letters list --reason field_type --json",
        "dead-letters show 0199",
        "dead-letters count",
        "dead-letters replay --all",
        "dead-letters replay --reason field_type --json",
        "dead-letters purge --id 0199 --yes",
        "check --json",
        "healthcheck --ready",
        "settings",
        "completions bash",
        "man",
        "man --dir d",
        "publish --from-postgres q --events-per-message 100 --rate 5 --routing-key a --json",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn usage_errors_are_found() {
    for line in [
        "",
        "wrokers",
        "manage access",
        "manage access --print redis --users a'b",
        "publish --bad 101",
        "publish --bad NaN",
        "publish --rate 0",
        "publish --events-per-message 0",
        "publish --file x --count 3",
        "publish --file x --from-postgres q",
        "publish --from-postgres q --bad 1",
        "completions cmd",
        "publish --ending-at yesterday",
        "read contains cities",
        "dead-letters replay",
        "dead-letters replay --all --reason x",
        "dead-letters purge --all",
        "dead-letters purge --yes",
    ] {
        let error = parse(line).expect_err(line);
        assert!(error.use_stderr(), "{line}");
    }
    assert_eq!(parse("--version").unwrap_err().kind(), ErrorKind::DisplayVersion);
    assert_eq!(parse("publish --help").unwrap_err().kind(), ErrorKind::DisplayHelp);
}

#[test]
fn components_and_groups_keep_their_order() {
    let cli = parse("read contains s CA Fresno --group x --group y").unwrap();
    let Command::Read(Read::Contains { which, member, .. }) = cli.command else {
        panic!("{cli:?}");
    };
    assert_eq!(member, ["CA", "Fresno"]);
    assert_eq!(which.group, ["x", "y"]);
}
