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
fn every_command_shows_an_example() {
    fn walk(command: &clap::Command) {
        command.get_subcommands().for_each(walk);
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.starts_with("Example"), "{} has no example", command.get_name());
    }
    walk(&Cli::command());
}

/// What stands between backticks in the documents, or in a block of commands: `rollcall ...`, with
/// placeholders in capitals and parts in brackets. Some name a command without all it wants.
#[test]
fn every_command_line_of_the_documents_is_one() {
    let documents = [
        include_str!("../../README.md"),
        include_str!("../../docs/runbook.md"),
        include_str!("../../docs/migration.md"),
        include_str!("../../CHANGELOG.md"),
    ];
    let mut found = 0;
    for piece in documents.iter().flat_map(|text| text.split(['`', '|', '\n', '#', '('])) {
        let piece = piece.trim().trim_start_matches("$ ");
        let piece = piece.split(" && ").next().unwrap_or_default();
        let Some(line) = piece.strip_prefix("rollcall ") else { continue };
        if line.contains('│') {
            continue;
        }
        found += 1;
        let line = line.replace(['[', ']', '…'], "").replace(" N", " 1").replace(" &", "");
        let Err(error) = parse(&line) else { continue };
        let incomplete = [
            ErrorKind::MissingRequiredArgument,
            ErrorKind::MissingSubcommand,
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
            ErrorKind::DisplayVersion,
        ];
        assert!(incomplete.contains(&error.kind()), "rollcall {line}: {error}");
    }
    assert!(found > 40, "{found} were found");
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
        "top",
        "top --once --json",
        "top --json --interval 0.5",
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
        "top --interval 0",
        "top --interval NaN",
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
