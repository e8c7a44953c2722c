//! What there is to publish: events from a sample plan, the lines of a file or the rows of a query,
//! packed into messages. It must never judge a line: what is bad is the worker's to dead-letter.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use super::PublishError;
use super::left_out::LeftOut;
use super::rows::Rows;
use crate::sample::{Kind, Samples};

/// Longest line of a file: what RabbitMQ 4 takes as one message by default. Far above what a
/// worker takes, so that its limits can be tried from here.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Several events share a message only up to here: what a worker takes by default.
const SHARED_BYTES_MAX: usize = 1024 * 1024;

/// Read at once from a file: fewer round trips to the blocking pool than the usual 8 KiB.
const READ_BYTES: usize = 256 * 1024;

/// How many events of each kind. Lines of a file are of no known kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub events: u64,
    pub good: u64,
    pub duplicates: u64,
    pub bad: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.events += other.events;
        self.good += other.good;
        self.duplicates += other.duplicates;
        self.bad += other.bad;
    }

    fn one(kind: Option<Kind>) -> Tally {
        let mut tally = Tally { events: 1, ..Tally::default() };
        match kind {
            Some(Kind::Good) => tally.good = 1,
            Some(Kind::Duplicate) => tally.duplicates = 1,
            Some(Kind::Bad(_)) => tally.bad = 1,
            None => {}
        }
        tally
    }
}

/// One message, kept until the broker has confirmed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pub body: Bytes,
    pub content_type: &'static str,
    pub tally: Tally,
}

enum Source {
    Samples(Box<Samples>),
    Lines(Lines),
    Rows(Box<Rows>),
}

/// Packs what its source yields. `next` is cancel-safe: all that was taken stays in here.
pub struct Feed {
    source: Source,
    per_message: u64,
    body: Vec<u8>,
    tally: Tally,
    /// The event that no longer fitted into the last message.
    carried: Option<(Bytes, Option<Kind>)>,
}

impl Feed {
    pub fn samples(samples: Samples, per_message: u32) -> Feed {
        Feed::new(Source::Samples(Box::new(samples)), per_message)
    }

    /// The lines of a file, or of standard input where the path is `-`.
    pub async fn file(path: &Path, per_message: u32) -> Result<Feed, PublishError> {
        let reader: Box<dyn AsyncBufRead + Send + Unpin> = if path == Path::new("-") {
            Box::new(BufReader::with_capacity(READ_BYTES, tokio::io::stdin()))
        } else {
            let file = tokio::fs::File::open(path)
                .await
                .map_err(|source| PublishError::File { path: path.to_owned(), source })?;
            Box::new(BufReader::with_capacity(READ_BYTES, file))
        };
        Ok(Feed::new(Source::Lines(Lines::new(path, reader)), per_message))
    }

    pub fn rows(rows: Rows, per_message: u32) -> Feed {
        Feed::new(Source::Rows(Box::new(rows)), per_message)
    }

    fn new(source: Source, per_message: u32) -> Feed {
        Feed {
            source,
            per_message: u64::from(per_message),
            body: Vec::new(),
            tally: Tally::default(),
            carried: None,
        }
    }

    /// What of a file or a query was not published so far.
    pub fn left_out(&self) -> Option<&LeftOut> {
        match &self.source {
            Source::Samples(_) => None,
            Source::Lines(lines) => Some(&lines.left_out),
            Source::Rows(rows) => Some(rows.left_out()),
        }
    }

    /// The next message; `None` where the source has ended.
    pub async fn next(&mut self) -> Result<Option<Packed>, PublishError> {
        while self.tally.events < self.per_message {
            let (bytes, kind) = match self.carried.take() {
                Some(event) => event,
                None => match self.source.next().await? {
                    Some(event) => event,
                    None => break,
                },
            };
            if self.per_message == 1 {
                let tally = Tally::one(kind);
                let content_type = "application/json";
                return Ok(Some(Packed { body: bytes, content_type, tally }));
            }
            if self.tally.events > 0 && self.body.len() + bytes.len() + 1 > SHARED_BYTES_MAX {
                self.carried = Some((bytes, kind));
                break;
            }
            self.body.extend_from_slice(&bytes);
            self.body.push(b'\n');
            self.tally.add(Tally::one(kind));
        }
        if self.tally.events == 0 {
            return Ok(None);
        }
        Ok(Some(Packed {
            body: Bytes::from(std::mem::take(&mut self.body)),
            content_type: "application/x-ndjson",
            tally: std::mem::take(&mut self.tally),
        }))
    }
}

impl Source {
    async fn next(&mut self) -> Result<Option<(Bytes, Option<Kind>)>, PublishError> {
        match self {
            Source::Samples(samples) => {
                Ok(samples.next().map(|sample| (sample.bytes, Some(sample.kind))))
            }
            Source::Lines(lines) => Ok(lines.next().await?.map(|line| (line, None))),
            Source::Rows(rows) => Ok(rows.next().await?.map(|row| (row, None))),
        }
    }
}

struct Lines {
    path: PathBuf,
    reader: Box<dyn AsyncBufRead + Send + Unpin>,
    /// The beginning of a line whose end was not yet read.
    partial: Vec<u8>,
    /// That line is too long: what is left of it is read and dropped.
    too_long: bool,
    number: u64,
    left_out: LeftOut,
}

impl Lines {
    fn new(path: &Path, reader: Box<dyn AsyncBufRead + Send + Unpin>) -> Lines {
        let left_out = LeftOut::new(format!("lines of {}", path.display()));
        let path = path.to_owned();
        Lines { path, reader, partial: Vec::new(), too_long: false, number: 0, left_out }
    }

    /// The next line that is not blank, without its line feed. Cancel-safe: `fill_buf` is, and
    /// nothing is awaited between taking bytes from it and keeping them.
    async fn next(&mut self) -> Result<Option<Bytes>, PublishError> {
        loop {
            let read = self.reader.fill_buf().await;
            let bytes =
                read.map_err(|source| PublishError::File { path: self.path.clone(), source })?;
            let end_of_file = bytes.is_empty();
            let line_feed = bytes.iter().position(|byte| *byte == b'\n');
            let piece = &bytes[..line_feed.unwrap_or(bytes.len())];
            if self.partial.len() + piece.len() > LINE_BYTES_MAX {
                self.too_long = true;
                self.partial = Vec::new();
            }
            if !self.too_long {
                self.partial.extend_from_slice(piece);
            }
            let taken = piece.len() + usize::from(line_feed.is_some());
            self.reader.consume(taken);
            if line_feed.is_none() && !end_of_file {
                continue;
            }
            self.number += 1;
            let line = std::mem::take(&mut self.partial);
            if std::mem::take(&mut self.too_long) {
                self.left_out.add(self.number, "longer than 16 MiB");
            } else if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(Bytes::from(line)));
            }
            if end_of_file {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::sample::Plan;

    fn lines(text: &[u8], per_message: u32, capacity: usize) -> Feed {
        let reader = BufReader::with_capacity(capacity, std::io::Cursor::new(text.to_vec()));
        let lines = Lines::new(Path::new("f"), Box::new(reader));
        Feed::new(Source::Lines(lines), per_message)
    }

    async fn all(mut feed: Feed) -> Vec<Packed> {
        let mut messages = Vec::new();
        while let Some(message) = feed.next().await.unwrap() {
            messages.push(message);
        }
        messages
    }

    #[tokio::test]
    async fn each_non_empty_line_is_one_message_as_it_is() {
        for capacity in 1..20 {
            let text = b"{\"a\":1}\n\n  \nbad \xff line\r\n\r\nlast";
            let bodies: Vec<_> =
                all(lines(text, 1, capacity)).await.into_iter().map(|m| m.body).collect();
            assert_eq!(bodies, [&b"{\"a\":1}"[..], b"bad \xff line\r", b"last"]);
        }
        assert!(all(lines(b"", 1, 10)).await.is_empty());
        assert!(all(lines(b"\n \n", 3, 10)).await.is_empty());
    }

    #[tokio::test]
    async fn several_lines_travel_as_ndjson_and_the_rest_goes_alone() {
        let messages = all(lines(b"1\n2\n\n3\n4\n5", 2, 4)).await;
        let bodies: Vec<_> = messages.iter().map(|m| &m.body[..]).collect();
        assert_eq!(bodies, [b"1\n2\n", b"3\n4\n", &b"5\n"[..]]);
        assert!(messages.iter().all(|m| m.content_type == "application/x-ndjson"));
        assert_eq!(messages.iter().map(|m| m.tally.events).sum::<u64>(), 5);
    }

    #[tokio::test]
    async fn lines_share_a_message_only_up_to_its_limit() {
        let line = vec![b'x'; SHARED_BYTES_MAX / 2];
        let text = [&line[..], &line, &line, b"y"].join(&b'\n');
        let messages = all(lines(&text, 100, READ_BYTES)).await;
        assert_eq!(messages.iter().map(|m| m.tally.events).collect::<Vec<_>>(), [1, 1, 2]);
        assert!(messages.iter().all(|m| m.body.len() <= SHARED_BYTES_MAX));
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_left_out_and_the_next_is_whole() {
        let longest = vec![b'x'; LINE_BYTES_MAX];
        let too_long = vec![b'x'; 3 * LINE_BYTES_MAX];
        // One that ends with its line feed, one that ends with the file.
        let text = [b"ok\n\n", &too_long[..], b"\n", &longest, b"\nnext\n", &too_long].concat();
        let mut feed = lines(&text, 1, READ_BYTES);
        let mut bodies = Vec::new();
        while let Some(message) = feed.next().await.unwrap() {
            bodies.push(message.body);
        }
        assert_eq!(bodies, [&b"ok"[..], &longest, b"next"]);
        let told = feed.left_out().and_then(LeftOut::told).unwrap();
        assert_eq!(told, "left out of the lines of f: 2; 3, 6 (longer than 16 MiB)");
    }

    #[tokio::test]
    async fn the_tallies_add_up_to_the_plan() {
        let samples = Samples::new(Plan {
            seed: 1,
            count: 1003,
            ending_at: datetime!(2026-11-23 10:00 UTC),
            spread: time::Duration::HOUR,
            duplicates_pct: 10.0,
            bad_pct: 10.0,
        });
        let mut total = Tally::default();
        for message in all(Feed::samples(samples, 100)).await {
            assert_eq!(
                message.body.split(|b| *b == b'\n').count() as u64,
                message.tally.events + 1
            );
            total.add(message.tally);
        }
        assert_eq!(total, Tally { events: 1003, good: 803, duplicates: 100, bad: 100 });
    }
}
