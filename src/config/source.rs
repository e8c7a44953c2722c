//! From the environment to text by setting: names checked, files read, envy asked. Parses nothing.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::error::Problem;
use super::setting::{Plain, Prefixed, SETTINGS};

const PREFIX: &str = Prefixed::PREFIX;
const FILE: &str = "_FILE";
/// No setting is longer; a wrong path must not fill the memory.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What Postgres's driver would add to every URL by itself, with no way to take it back.
const OF_DRIVER: [&str; 3] = ["PGOPTIONS", "PGSSLCERT", "PGSSLKEY"];

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Variable,
    File,
}

/// The texts that were given, by the name of their setting.
#[derive(Default)]
pub struct Given {
    pub texts: HashMap<&'static str, String>,
    pub origins: HashMap<&'static str, Origin>,
    /// The files that were read.
    pub paths: HashMap<&'static str, PathBuf>,
    /// What could not be read at all, and so must not be reported as missing as well.
    pub broken: Vec<&'static str>,
}

/// Takes what is ours out of the environment.
pub fn gather(
    vars: impl Iterator<Item = (OsString, OsString)>,
    problems: &mut Vec<Problem>,
) -> Given {
    let mut given = Given::default();
    let mut plain: HashMap<String, String> = HashMap::new();
    let mut paths: HashMap<&'static str, OsString> = HashMap::new();
    for (name, value) in vars {
        let name = name.to_string_lossy();
        let own = SETTINGS.iter().find(|s| s.name == name);
        let file = SETTINGS.iter().find(|s| name.strip_suffix(FILE) == Some(s.name));
        if OF_DRIVER.contains(&&*name) {
            let why = "it would change every connection to Postgres: the URL says all there is";
            problems.push(Problem::new(name, "must not be set").hint(why));
            continue;
        }
        match (own, file) {
            _ if value.is_empty() => {
                if own.is_none() && file.is_none() {
                    problems.extend(unknown(&name, ""));
                }
            }
            (Some(setting), _) => match value.into_string() {
                Ok(text) => {
                    plain.insert(setting.name.to_owned(), text);
                }
                Err(_) => {
                    problems.push(Problem::new(setting.name, "must be UTF-8"));
                    given.broken.push(setting.name);
                }
            },
            (None, Some(setting)) => {
                paths.insert(setting.name, value);
            }
            (None, None) => problems.extend(unknown(&name, &value.to_string_lossy())),
        }
    }
    // In the order of the table, so that the problems come in the same order each time.
    for setting in SETTINGS {
        let Some(path) = paths.get(setting.name) else {
            continue;
        };
        let variable = format!("{}{FILE}", setting.name);
        if plain.remove(setting.name).is_some() || given.broken.contains(&setting.name) {
            problems.push(Problem::new(
                format!("{} and {variable}", setting.name),
                "must not both be set",
            ));
            given.broken.push(setting.name);
            continue;
        }
        match read(Path::new(path)) {
            Ok(text) => {
                plain.insert(setting.name.to_owned(), text);
                given.origins.insert(setting.name, Origin::File);
                given.paths.insert(setting.name, path.into());
            }
            Err(why) => {
                problems.push(
                    Problem::new(variable, "must be the path of a readable text file").hint(why),
                );
                given.broken.push(setting.name);
            }
        }
    }
    let pairs = pairs::<Plain>(Plain::PREFIX, &plain, Plain::into_pairs, problems)
        .into_iter()
        .chain(pairs::<Prefixed>(PREFIX, &plain, Prefixed::into_pairs, problems));
    for (name, text) in pairs {
        given.origins.entry(name).or_insert(Origin::Variable);
        given.texts.insert(name, text);
    }
    given
}

fn pairs<T: DeserializeOwned>(
    prefix: &str,
    vars: &HashMap<String, String>,
    into_pairs: fn(T) -> Vec<(&'static str, String)>,
    problems: &mut Vec<Problem>,
) -> Vec<(&'static str, String)> {
    let vars = vars.iter().map(|(name, text)| (name.clone(), text.clone()));
    match envy::prefixed(prefix).from_iter::<_, T>(vars) {
        Ok(raw) => into_pairs(raw),
        // All fields are optional text, so this does not happen; envy's words would hold a value.
        Err(_) => {
            problems.push(Problem::new(format!("{prefix}*"), "could not be read"));
            Vec::new()
        }
    }
}

/// # Errors
/// Why not, in words that name neither the path nor the content.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
    }
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(text.to_owned())
}

/// A variable that looks like ours and is none. Its value is never shown: it may be a password
/// under a name we do not know.
fn unknown(name: &str, value: &str) -> Option<Problem> {
    if !name.to_ascii_uppercase().starts_with(PREFIX) || service_link(name, value) {
        return None;
    }
    let problem = Problem::new(name, "is not a setting");
    Some(match nearest(name) {
        Some(near) => problem.hint(format!("did you mean {near}?")),
        None => problem.hint("`rollcall settings` lists them all"),
    })
}

fn nearest(name: &str) -> Option<String> {
    let name = name.to_ascii_uppercase();
    let names = SETTINGS.iter().flat_map(|s| [s.name.to_owned(), format!("{}{FILE}", s.name)]);
    // ROLLCALL_AMQP_URL: right, but for the prefix.
    let bare = name.strip_prefix(PREFIX).unwrap_or(&name).to_owned();
    // A third of the letters wrong is another word.
    let reach = (bare.len() / 3).max(2);
    names
        .map(|known| {
            let distance = strsim::damerau_levenshtein(&name, &known)
                .min(strsim::damerau_levenshtein(&bare, &known));
            (distance, known)
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= reach)
        .map(|(_, known)| known)
}

/// Kubernetes puts `<SERVICE>_PORT`, `<SERVICE>_SERVICE_HOST`, `<SERVICE>_PORT_80_TCP_ADDR` … of
/// every service of the namespace into each container: one named `rollcall` must not stop us.
fn service_link(name: &str, value: &str) -> bool {
    let url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let numbered = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        rest.split_once('_').is_some_and(|(port, protocol)| {
            port.parse::<u16>().is_ok()
                && ["TCP", "UDP", "SCTP"].iter().any(|p| protocol.starts_with(p))
        })
    });
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && url)
        || numbered
}
