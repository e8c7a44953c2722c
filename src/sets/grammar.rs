//! `ROLLCALL_SETS` -> [`Sets`].
//!
//! ```text
//! set    := name "=" member [ "@" group ] [ "/" window ] [ "~" ]
//! member := field { "+" field }      field := dotted path into the event
//! group  := field { "+" field }      window := hour | day | month
//! ```

use super::{Fields, Kind, Set, Sets, Window, WindowTtl};

/// Sets in one configuration; an [`super::Addition`] names its set by a `u16`.
const SETS_MAX: usize = 256;
/// Keys below the prefix that are no sets: how far to trust them, what was given to Redis, and what
/// workers say of themselves.
pub const RESERVED: [&str; 3] = ["meta", "wm", crate::pipeline::NAME];
/// Fields in one member or group.
const FIELDS_MAX: usize = 8;

pub(super) fn parse(prefix: &str, text: &str, ttl: WindowTtl) -> Result<Sets, Vec<String>> {
    let mut fields = Fields::new();
    let mut definitions: Vec<Set> = Vec::new();
    let mut problems = Vec::new();
    for written in text.split_whitespace() {
        match parse_set(prefix, written, ttl, &mut fields) {
            Ok(set) if definitions.iter().any(|other| other.name == set.name) => {
                problems.push(format!("{written}: the name {} is taken", set.name));
            }
            Ok(set) => definitions.push(set),
            Err(problem) => problems.push(format!("{written}: {problem}")),
        }
    }
    if definitions.is_empty() && problems.is_empty() {
        problems.push("no set is defined".to_owned());
    }
    if definitions.len() > SETS_MAX {
        problems.push(format!("{} sets, at most {SETS_MAX} are kept", definitions.len()));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Sets { prefix: prefix.to_owned(), definitions, fields, ttl })
}

fn parse_set(
    prefix: &str,
    written: &str,
    ttl: WindowTtl,
    fields: &mut Fields,
) -> Result<Set, String> {
    let (name, rest) = written.split_once('=').ok_or("write it as name=field")?;
    check_name(name)?;
    let (rest, kind) = match rest.strip_suffix('~') {
        Some(rest) => (rest, Kind::Estimated),
        None => (rest, Kind::Exact),
    };
    let (rest, window) = match rest.split_once('/') {
        Some((rest, window)) => (rest, Some(parse_window(window)?)),
        None => (rest, None),
    };
    let (member, group) = match rest.split_once('@') {
        Some((member, group)) => (member, Some(group)),
        None => (rest, None),
    };
    // Checked before a slot is taken, so that a refused set leaves no field behind.
    let member = field_paths(member)?;
    let group = group.map(field_paths).transpose()?.unwrap_or_default();
    Ok(Set {
        name: name.to_owned(),
        kind,
        window,
        text: written.to_owned(),
        member_fields: member.len(),
        group_fields: group.len(),
        key: format!("{prefix}:{name}"),
        member: member.into_iter().map(|path| fields.slot(path)).collect(),
        group: group.into_iter().map(|path| fields.slot(path)).collect(),
        ttl: match window {
            Some(Window::Hour) => ttl.hour,
            Some(Window::Day) => ttl.day,
            Some(Window::Month) => ttl.month,
            None => std::time::Duration::ZERO,
        },
    })
}

fn check_name(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    if !starts_well || !bytes.all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')) {
        return Err("a name is lower-case letters, digits and _, a letter first".to_owned());
    }
    if RESERVED.contains(&name) {
        return Err(format!("the name {name} is Rollcall's own"));
    }
    Ok(())
}

fn parse_window(window: &str) -> Result<Window, String> {
    match window {
        "hour" => Ok(Window::Hour),
        "day" => Ok(Window::Day),
        "month" => Ok(Window::Month),
        other => Err(format!("a window is hour, day or month, not {other:?}")),
    }
}

fn field_paths(text: &str) -> Result<Vec<&str>, String> {
    let paths: Vec<&str> = text.split('+').collect();
    if paths.len() > FIELDS_MAX {
        return Err(format!("{} fields joined, at most {FIELDS_MAX}", paths.len()));
    }
    for path in &paths {
        if path.is_empty() {
            return Err("a field is missing".to_owned());
        }
        if path.split('.').any(str::is_empty) {
            return Err(format!("the path {path:?} has an empty part"));
        }
        if path.contains(['=', '@', '/', '~']) {
            return Err(format!(
                "the path {path:?} holds one of = @ / ~ (order: @group /window ~)"
            ));
        }
    }
    Ok(paths)
}
