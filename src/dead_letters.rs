//! `rollcall dead-letters`: what the broker folder finds among the dead letters, for people and for
//! programs. Rendering only. What producers wrote must never reach a terminal uncleaned.

use std::collections::BTreeMap;
use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use indicatif::HumanBytes;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::broker::dead_letter_queue::{self, Replayed};
use crate::broker::{BrokerError, Filter, Letter};
use crate::cli::{self, Outcome};
use crate::config;
use crate::progress::Progress;
use crate::retry::Class;
use crate::terminal::shortened;

/// Digits of an id in the table: 32 bits, so two among a thousand letters rarely share them.
const ID_DIGITS: usize = 8;

const DETAIL_CHARS_MAX: usize = 100;

/// Looked at for one beginning of an id. Letters with the same reason, first sight and body have
/// one id, so the first few that match need not be different.
const CANDIDATES_MAX: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum DeadLettersError {
    #[error("working on the dead letters")]
    Broker(#[from] BrokerError),
    #[error("`{text}` is neither an id nor the beginning of one: hexadecimal digits are expected")]
    NotAnId { text: String },
    #[error("no dead letter has an id that begins with {id}")]
    Absent { id: String },
    #[error("more than one dead letter has an id that begins with {id}: give more digits")]
    Ambiguous { id: String },
    #[error("writing the answer")]
    Answer(#[from] io::Error),
}

impl DeadLettersError {
    pub fn class(&self) -> Class {
        match self {
            DeadLettersError::Broker(source) => source.class(),
            // The command line is wrong.
            DeadLettersError::NotAnId { .. } => Class::Config,
            // The letter may have been there, and may not come back.
            DeadLettersError::Absent { .. } | DeadLettersError::Ambiguous { .. } => Class::Data,
            // Whoever read standard output is gone.
            DeadLettersError::Answer(_) => Class::Data,
        }
    }
}

/// Carries out one of the commands and prints its answer.
pub async fn run(
    broker: &config::Broker,
    command: &cli::DeadLetters,
) -> Result<Outcome, DeadLettersError> {
    match command {
        cli::DeadLetters::List { filter, limit, json } => {
            let filter = resolve(broker, filter).await?;
            let letters = browse(broker, *limit, &filter).await?;
            write_list(&mut out(), &letters, *json)?;
        }
        cli::DeadLetters::Show { id, output } => {
            let letter = find(broker, id).await?;
            write_letter(&mut out(), &letter, output.json)?;
        }
        cli::DeadLetters::Count(output) => {
            let counts = with_progress("read", async |progress| {
                dead_letter_queue::count_by_reason(broker, progress).await
            });
            write_counts(&mut out(), &counts.await?, output.json)?;
        }
        cli::DeadLetters::Replay { select, output } => {
            let filter = resolve(broker, &select.filter).await?;
            let replayed = with_progress("replayed", async |progress| {
                dead_letter_queue::replay(broker, &filter, progress).await
            });
            let replayed = replayed.await?;
            write_replayed(&mut out(), replayed, output.json)?;
            if replayed.unroutable > 0 {
                return Ok(Outcome::No);
            }
        }
        // `yes` is required by the command line.
        cli::DeadLetters::Purge { select, output, yes: _ } => {
            let filter = resolve(broker, &select.filter).await?;
            let purged = with_progress("purged", async |progress| {
                dead_letter_queue::purge(broker, &filter, progress).await
            });
            write_purged(&mut out(), purged.await?, output.json)?;
        }
    }
    Ok(Outcome::Done)
}

fn out() -> io::BufWriter<io::StdoutLock<'static>> {
    io::BufWriter::new(io::stdout().lock())
}

/// Runs `work` with a callback that shows how many of how many letters were looked at.
async fn with_progress<T>(
    what: &'static str,
    work: impl AsyncFnOnce(&mut dyn FnMut(u64, u64)) -> Result<T, BrokerError>,
) -> Result<T, BrokerError> {
    let mut shown: Option<Progress> = None;
    let result = work(&mut |done, total| {
        shown.get_or_insert_with(|| Progress::new(what, Some(total))).at(done);
    })
    .await;
    if let Some(progress) = shown {
        progress.finish();
    }
    result
}

async fn browse(
    broker: &config::Broker,
    limit: usize,
    filter: &Filter,
) -> Result<Vec<Letter>, BrokerError> {
    with_progress("read", async |progress| {
        dead_letter_queue::browse(broker, limit, filter, progress).await
    })
    .await
}

/// Beginnings of ids become whole ids, so that what is replayed or purged is what was meant.
async fn resolve(
    broker: &config::Broker,
    filter: &cli::Filter,
) -> Result<Filter, DeadLettersError> {
    let mut ids = Vec::with_capacity(filter.id.len());
    for text in &filter.id {
        ids.push(match text.parse::<Uuid>() {
            Ok(id) => id,
            Err(_) => find(broker, text).await?.id,
        });
    }
    Ok(Filter { reasons: filter.reason.clone(), ids, ..Filter::default() })
}

/// The one letter whose id is or begins with `text`.
async fn find(broker: &config::Broker, text: &str) -> Result<Letter, DeadLettersError> {
    let id_prefix = id_prefix(text)?;
    let filter = Filter { id_prefix, ..Filter::default() };
    let letters = browse(broker, CANDIDATES_MAX, &filter).await?;
    the_one(letters, text)
}

fn the_one(letters: Vec<Letter>, text: &str) -> Result<Letter, DeadLettersError> {
    let mut letters = letters.into_iter();
    let id = || text.to_owned();
    let first = letters.next().ok_or_else(|| DeadLettersError::Absent { id: id() })?;
    match letters.all(|letter| letter.id == first.id) {
        true => Ok(first),
        false => Err(DeadLettersError::Ambiguous { id: id() }),
    }
}

/// As lower-case hexadecimal digits without hyphens.
fn id_prefix(text: &str) -> Result<String, DeadLettersError> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let right = (1..=32).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    match right {
        true => Ok(digits.to_ascii_lowercase()),
        false => Err(DeadLettersError::NotAnId { text: shortened(text, 40) }),
    }
}

/// One letter for a program.
#[derive(Serialize)]
struct Answer<'a> {
    id: String,
    reason: &'a str,
    detail: &'a str,
    stage: &'a str,
    sqlstate: Option<&'a str>,
    first_seen: Option<String>,
    delivery_count: u64,
    exchange: Option<&'a str>,
    routing_key: &'a str,
    content_type: Option<&'a str>,
    size_bytes: usize,
    /// `utf-8`: body is the text itself. `base64`: it was no text, and nothing of it is lost.
    body_encoding: &'static str,
    body: String,
}

impl<'a> Answer<'a> {
    fn of(letter: &'a Letter) -> Answer<'a> {
        let (body_encoding, body) = match std::str::from_utf8(&letter.body) {
            Ok(text) => ("utf-8", text.to_owned()),
            Err(_) => ("base64", BASE64.encode(&letter.body)),
        };
        Answer {
            id: letter.id.to_string(),
            reason: &letter.reason,
            detail: &letter.detail,
            stage: &letter.stage,
            sqlstate: letter.sqlstate.as_deref(),
            first_seen: letter.first_seen.and_then(|at| at.format(&Rfc3339).ok()),
            delivery_count: letter.delivery_count,
            exchange: letter.original_exchange.as_deref(),
            routing_key: &letter.original_routing_key,
            content_type: letter.content_type.as_deref(),
            size_bytes: letter.body.len(),
            body_encoding,
            body,
        }
    }
}

fn write_json(out: &mut impl Write, answer: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, answer).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn write_list(out: &mut impl Write, letters: &[Letter], json: bool) -> io::Result<()> {
    if json {
        return letters.iter().try_for_each(|letter| write_json(out, &Answer::of(letter)));
    }
    if letters.is_empty() {
        writeln!(out, "no dead letters")?;
        return out.flush();
    }
    let heads = ["ID", "REASON", "FIRST SEEN", "ROUTING KEY", "SIZE", "DETAIL"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(heads)
        .chain(letters.iter().map(|letter| {
            [
                letter.id.simple().to_string()[..ID_DIGITS].to_owned(),
                shortened(&letter.reason, 40),
                first_seen(letter),
                shortened(&letter.original_routing_key, 30),
                HumanBytes(letter.body.len() as u64).to_string(),
                shortened(&letter.detail, DETAIL_CHARS_MAX),
            ]
        }))
        .collect();
    write_table(out, &rows)?;
    out.flush()
}

/// Columns as wide as their widest cell; the last one as it comes.
fn write_table(out: &mut impl Write, rows: &[[String; 6]]) -> io::Result<()> {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; 5] = std::array::from_fn(width);
    for row in rows {
        for (cell, width) in row.iter().zip(widths) {
            write!(out, "{cell:width$}  ")?;
        }
        writeln!(out, "{}", row[5])?;
    }
    Ok(())
}

fn write_letter(out: &mut impl Write, letter: &Letter, json: bool) -> io::Result<()> {
    let answer = Answer::of(letter);
    if json {
        return write_json(out, &answer);
    }
    let rest = usize::MAX;
    writeln!(out, "id              {}", answer.id)?;
    writeln!(out, "reason          {}", shortened(answer.reason, rest))?;
    writeln!(out, "detail          {}", shortened(answer.detail, rest))?;
    writeln!(out, "stage           {}", shortened(answer.stage, rest))?;
    if let Some(sqlstate) = answer.sqlstate {
        writeln!(out, "sqlstate        {}", shortened(sqlstate, rest))?;
    }
    writeln!(out, "first seen      {}", first_seen(letter))?;
    writeln!(out, "delivery count  {}", answer.delivery_count)?;
    writeln!(out, "exchange        {}", shortened(answer.exchange.unwrap_or("unknown"), rest))?;
    writeln!(out, "routing key     {}", shortened(answer.routing_key, rest))?;
    writeln!(out, "content type    {}", shortened(answer.content_type.unwrap_or("none"), rest))?;
    writeln!(out, "size            {} bytes", answer.size_bytes)?;
    if answer.body_encoding == "base64" {
        writeln!(out, "\nbody, which is not UTF-8, as base64:")?;
    }
    writeln!(out)?;
    for line in answer.body.lines() {
        writeln!(out, "{}", shortened(line, rest))?;
    }
    out.flush()
}

fn write_counts(
    out: &mut impl Write,
    counts: &BTreeMap<String, u64>,
    json: bool,
) -> io::Result<()> {
    #[derive(Serialize)]
    struct Counts<'a> {
        total: u64,
        by_reason: &'a BTreeMap<String, u64>,
    }
    let total = counts.values().sum();
    if json {
        return write_json(out, &Counts { total, by_reason: counts });
    }
    let mut rows: Vec<_> = counts.iter().collect();
    rows.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), *reason));
    for (reason, count) in rows {
        writeln!(out, "{count:>10}  {}", shortened(reason, 100))?;
    }
    writeln!(out, "{total:>10}  in all")?;
    out.flush()
}

fn write_replayed(out: &mut impl Write, replayed: Replayed, json: bool) -> io::Result<()> {
    #[derive(Serialize)]
    struct Counts {
        replayed: u64,
        unroutable: u64,
        kept: u64,
    }
    let Replayed { replayed, unroutable, kept } = replayed;
    if json {
        return write_json(out, &Counts { replayed, unroutable, kept });
    }
    writeln!(out, "{replayed} replayed, {kept} not asked for and kept")?;
    if unroutable > 0 {
        writeln!(out, "{unroutable} kept as no queue would take them: is the topology declared?")?;
    }
    out.flush()
}

fn write_purged(out: &mut impl Write, purged: u64, json: bool) -> io::Result<()> {
    #[derive(Serialize)]
    struct Counts {
        purged: u64,
    }
    if json {
        return write_json(out, &Counts { purged });
    }
    writeln!(out, "{purged} purged")?;
    out.flush()
}

fn first_seen(letter: &Letter) -> String {
    // Whole seconds are enough for a person.
    let at = letter.first_seen.and_then(|at| at.replace_nanosecond(0).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests;
