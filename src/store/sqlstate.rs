//! What a SQLSTATE means for the batch in hand, and how much of a server's message may be kept.
//! Pure. It must never let a value of an event through: messages end up in headers and logs.

use crate::retry::Class;

/// Longest message that is kept, in characters. Long enough to tell errors apart.
pub const MESSAGE_CHARS_MAX: usize = 200;

/// The class of a server's error.
///
/// `unrouted` tells the two meanings of 23514 apart: a row that breaks a CHECK names the
/// constraint, one for which no partition exists names only the table. The wording is no help, it
/// is translated.
pub fn class(sqlstate: &str, unrouted: bool) -> Class {
    match sqlstate {
        // No partition: it is made, then tried again. Never the event's fault.
        "23514" if unrouted => Class::Transient,
        // Administrator dropped the database; connecting again will not bring it back.
        "57P04" => Class::Config,
        // The data files are damaged. Trying again must not look like a cure.
        "XX001" | "XX002" => Class::Config,
        // Anything else internal is most often DDL that overtook us ("cache lookup failed").
        "XX000" => Class::Transient,
        // A cached plan that DDL made void. A new connection, which this error causes, plans anew.
        "0A000" => Class::Transient,
        _ => class_of_family(sqlstate.get(..2).unwrap_or_default()),
    }
}

/// By the first two characters, for codes that are no exception.
fn class_of_family(family: &str) -> Class {
    match family {
        // Connection lost or refused.
        "08" => Class::Transient,
        // Data exception: the value itself will not do (NUL escape, number too large, bad syntax).
        "22" => Class::Data,
        // A constraint on this row: ours (NOT NULL) or one that the operator added on purpose.
        "23" => Class::Data,
        // Wrong transaction state. 25006, read only, is a node that is no longer the primary.
        "25" => Class::Transient,
        // Serialization failure or deadlock: the other side got through, our turn is next.
        "40" => Class::Transient,
        // Out of disk, memory or connections: frees up, or is freed by somebody.
        "53" => Class::Transient,
        // The row is beyond a limit of the server (nesting, size); it will be tomorrow, too.
        "54" => Class::Data,
        // A lock was not to be had, or an object is in use.
        "55" => Class::Transient,
        // Shutdown, start-up, failover, or a timeout.
        "57" => Class::Transient,
        // The operating system failed the server (I/O error).
        "58" => Class::Transient,
        // The snapshot was too old: the next one is not.
        "72" => Class::Transient,
        // What is left needs a hand: 28 login, 3D database, 3F schema, 42 tables, columns or
        // rights, 26 a pooler that lost our statement, P0 a trigger that somebody wrote.
        // Dead-letter nothing.
        _ => Class::Config,
    }
}

/// Whether the connection is worth keeping after this error: not when the server has ended it, when
/// the node is no longer the primary (the name may lead elsewhere by now), or when plans are stale.
pub fn ends_connection(sqlstate: &str) -> bool {
    match sqlstate {
        "25006" | "25P03" | "0A000" | "XX000" => true,
        "57014" => false,
        _ => matches!(sqlstate.get(..2), Some("08" | "57")),
    }
}

/// The server's primary message for an error in an event: without what stands in quotes, as that is
/// the value, and bounded. DETAIL and CONTEXT quote the payload and are not even looked at.
/// The constraint's name is the operator's, not the event's, and says the most.
pub fn scrubbed(message: &str, constraint: Option<&str>) -> String {
    // The server quotes in the operator's language. From the first mark to the last: a value may
    // hold marks of its own.
    let mark = |c: char| matches!(c, '"' | '«' | '»' | '“' | '”' | '„' | '‹' | '›' | '「' | '」');
    let kept = match (message.find(mark), message.rfind(mark)) {
        (Some(first), Some(last)) => {
            // A lone mark leaves nothing that could be told from the value.
            let tail = if first == last { "" } else { &message[last..] };
            format!("{}…{}", &message[..first], tail.trim_start_matches(mark))
        }
        _ => message.to_owned(),
    };
    match constraint {
        Some(name) => bounded(&format!("{} (constraint {name})", bounded(&kept))),
        None => bounded(&kept),
    }
}

/// The first [`MESSAGE_CHARS_MAX`] characters, line breaks and the like made blanks: it becomes a
/// header.
pub fn bounded(message: &str) -> String {
    let printable = message.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sqlstate_has_the_class_that_it_was_given_a_reason_for() {
        let table = [
            (Class::Transient, "08000 08003 08006 08P01 40001 40P01 53000 53100 53200 53300"),
            (Class::Transient, "55P03 55006 57014 57P01 57P02 57P03 58000 58030 25006 72000 0A000"),
            (Class::Data, "22P02 22P05 22003 22008 22021 23502 23514 23505 54000 54001"),
            (Class::Config, "28000 28P01 3D000 42P01 42501 42703 57P04 26000 P0001 XX001 F0000"),
            (Class::Config, "99999 é"),
        ];
        for (class_, codes) in table {
            for code in codes.split(' ') {
                assert_eq!(class(code, false), class_, "{code}");
            }
        }
        assert_eq!(class("", false), Class::Config);
    }

    #[test]
    fn a_missing_partition_is_never_the_fault_of_the_event() {
        assert_eq!(class("23514", true), Class::Transient);
        assert_eq!(class("23514", false), Class::Data);
        assert_eq!(class("22P02", true), Class::Data);
    }

    #[test]
    fn a_connection_is_kept_after_an_error_of_the_row_or_a_timeout() {
        for code in ["22P05", "23514", "57014", "55P03", "40P01", "53100"] {
            assert!(!ends_connection(code), "{code}");
        }
        for code in ["57P01", "57P02", "57P03", "08006", "25006", "0A000"] {
            assert!(ends_connection(code), "{code}");
        }
    }

    #[test]
    fn a_message_keeps_no_value() {
        let cases = [
            ("unsupported Unicode escape sequence", "unsupported Unicode escape sequence"),
            (
                "invalid input syntax for type numeric: \"s3cret\"",
                "invalid input syntax for type numeric: …",
            ),
            ("value \"a\"s3cret\"b\" is out of range", "value … is out of range"),
            ("ungültige Syntax: „s3cret“", "ungültige Syntax: …"),
            ("syntaxe « s3cret » en entrée", "syntaxe … en entrée"),
            ("unfinished \"s3cret", "unfinished …"),
        ];
        for (message, kept) in cases {
            assert_eq!(scrubbed(message, None), kept);
        }
        assert_eq!(
            scrubbed("new row for \"events\" violates check \"c\"", Some("known_state")),
            "new row for … (constraint known_state)"
        );
    }

    #[test]
    fn a_message_is_bounded_in_characters_and_printable() {
        let long = "é\n".repeat(500);
        assert_eq!(bounded(&long).chars().count(), MESSAGE_CHARS_MAX);
        assert!(!bounded(&long).contains('\n'));
    }
}
