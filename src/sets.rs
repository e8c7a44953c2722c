//! The set grammar: what one event adds to which key. Pure: no I/O, and the clock is an argument.
//!
//! A set is written `name=member[@group][/window][~]`, see `grammar.rs`. The fields that the sets
//! name are gathered into one [`Fields`] tree, so that one walk over the event captures them all;
//! [`Sets::additions`] then turns what was captured into keys and members. Live ingest and a
//! rebuild from Postgres both go through here: there is no second way to compute a member.

mod additions;
mod encode;
mod fields;
mod grammar;
mod keys;
#[cfg(any(test, fuzzing))]
pub mod laws;
mod source;

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use additions::{Addition, Additions, Fault};
pub use encode::{decode, encode, is_encoded};
pub use fields::{Captured, Fields, ROOT, Scalar};
pub use grammar::RESERVED;
pub use source::{Place, Source};

/// Every set that is kept, and what their keys and fields are.
#[derive(Clone, Debug)]
pub struct Sets {
    prefix: String,
    definitions: Vec<Set>,
    fields: Fields,
    ttl: WindowTtl,
}

/// One line of the grammar.
#[derive(Clone, Debug)]
pub struct Set {
    pub name: String,
    pub kind: Kind,
    pub window: Option<Window>,
    /// The definition as it was written.
    pub text: String,
    /// How many fields make a member, and how many a group (0: one set for all).
    pub member_fields: usize,
    pub group_fields: usize,
    /// `<prefix>:<name>`; the whole key where there is neither bucket nor group.
    key: String,
    member: Vec<usize>,
    group: Vec<usize>,
    ttl: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Redis set.
    Exact,
    /// A HyperLogLog: 12 KiB whatever it holds, 0.81 % standard error.
    Estimated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    Hour,
    Day,
    Month,
}

/// How long a bucket is kept after it has ended.
#[derive(Clone, Copy, Debug)]
pub struct WindowTtl {
    pub hour: Duration,
    pub day: Duration,
    pub month: Duration,
}

/// A reader named a group, bucket or member that the set cannot have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    #[error("no set {set} in ROLLCALL_SETS, which has {known}")]
    Set { set: String, known: String },
    #[error("set {set} takes {want} group value(s), {got} given")]
    Group { set: String, want: usize, got: usize },
    #[error("set {set} has a bucket for each {window}: name one, as in {example}")]
    BucketMissing { set: String, window: &'static str, example: &'static str },
    #[error("set {set} has no window, so no bucket")]
    BucketUnwanted { set: String },
    #[error("{bucket:?} is no {window} bucket of set {set}: write it as {example}")]
    BucketFormat { set: String, bucket: String, window: &'static str, example: &'static str },
    #[error("a member of set {set} joins {want} components by ':', {member:?} has {got}")]
    Member { set: String, member: String, want: usize, got: usize },
    #[error(
        "{component:?} is no component of a member of set {set} as it is stored: in one `%`, `:`, \
         `{{`, `}}` and control bytes are written as `%` and two upper-case hex digits"
    )]
    Component { set: String, component: String },
}

impl Sets {
    /// Reads the whole of `ROLLCALL_SETS`; every mistake is reported, not just the first.
    pub fn parse(prefix: &str, text: &str, ttl: WindowTtl) -> Result<Self, Vec<String>> {
        grammar::parse(prefix, text, ttl)
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn iter(&self) -> impl Iterator<Item = &Set> {
        self.definitions.iter()
    }

    pub fn find(&self, name: &str) -> Result<&Set, KeyError> {
        let found = self.definitions.iter().find(|set| set.name == name);
        found.ok_or_else(|| {
            let known: Vec<_> = self.iter().map(|set| set.name.as_str()).collect();
            KeyError::Set { set: name.to_owned(), known: known.join(", ") }
        })
    }

    /// These sets alone, in the order of the configuration; all of them where none is named.
    pub fn only(&self, names: &[String]) -> Result<Self, KeyError> {
        for name in names {
            self.find(name)?;
        }
        let wanted = |set: &&Set| names.is_empty() || names.contains(&set.name);
        let text = self.iter().filter(wanted).map(|set| set.text.as_str()).collect::<Vec<_>>();
        // Each was parsed before.
        Ok(Self::parse(&self.prefix, &text.join(" "), self.ttl).unwrap_or_else(|_| self.clone()))
    }

    /// The set that a key belongs to, by number, and the key's suffix. `None` for the
    /// reserved keys and those of sets that are not kept.
    pub fn of_key<'k>(&self, key: &'k str) -> Option<(u16, &'k str)> {
        let name = key.strip_prefix(self.prefix.as_str())?.strip_prefix(':')?;
        let name = name.split(':').next()?;
        let index = self.definitions.iter().position(|set| set.name == name)?;
        // At most SETS_MAX are parsed.
        Some((index as u16, &key[self.prefix.len() + 1 + name.len()..]))
    }

    /// The name of the set that a key belongs to: of a key, all that may be logged.
    pub fn name_of(&self, key: &str) -> Option<&str> {
        self.of_key(key).map(|(set, _)| self.get(set).name.as_str())
    }

    /// The set that an [`Addition`] names by number.
    pub fn get(&self, index: u16) -> &Set {
        &self.definitions[usize::from(index)]
    }

    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The fields of a set, those of its group first.
    pub fn paths<'a>(&'a self, set: &'a Set) -> impl Iterator<Item = &'a str> {
        set.group.iter().chain(&set.member).map(|slot| self.fields.path(*slot))
    }
}

impl Set {
    /// What it is made from, whatever it is called and however it is kept: the definition without
    /// its name and `~`, as in `username@state+city`. What was folded for one set counts for every
    /// other that is made from the same.
    pub fn source(&self) -> &str {
        let text = self.text.split_once('=').map_or("", |(_, rest)| rest);
        text.strip_suffix('~').unwrap_or(text)
    }

    /// The key of one set: `<prefix>:<name>[:<bucket>][:<group>]`.
    pub fn key(&self, bucket: Option<&str>, group: &[String]) -> Result<String, KeyError> {
        let set = || self.name.clone();
        if group.len() != self.group_fields {
            let (want, got) = (self.group_fields, group.len());
            return Err(KeyError::Group { set: set(), want, got });
        }
        let mut key = self.key.clone();
        match (self.window, bucket) {
            (None, None) => {}
            (None, Some(_)) => return Err(KeyError::BucketUnwanted { set: set() }),
            (Some(window), None) => {
                let (window, example) = (window.name(), window.example());
                return Err(KeyError::BucketMissing { set: set(), window, example });
            }
            (Some(window), Some(bucket)) if window.is_bucket(bucket) => {
                key.push(':');
                key.push_str(bucket);
            }
            (Some(window), Some(bucket)) => {
                let (window, example) = (window.name(), window.example());
                let bucket = bucket.to_owned();
                return Err(KeyError::BucketFormat { set: set(), bucket, window, example });
            }
        }
        for component in group {
            key.push(':');
            encode(component, &mut key);
        }
        Ok(key)
    }

    /// The key that live ingest writes: the base and what an [`Addition`] puts behind it.
    pub fn key_with_suffix(&self, suffix: &str) -> String {
        [self.key.as_str(), suffix].concat()
    }

    /// `<prefix>:<name>`: the whole key of a set with neither bucket nor group.
    pub fn base_key(&self) -> &str {
        &self.key
    }

    /// A member as a reader writes it: the plain value of a single field, or the stored form of a
    /// composite (`CA:Fresno`), whose components are encoded.
    ///
    /// # Errors
    /// No event can have such a member: that it is not there would say nothing.
    pub fn member(&self, written: &str) -> Result<String, KeyError> {
        if self.member_fields == 1 {
            let mut member = String::with_capacity(written.len());
            encode(written, &mut member);
            return Ok(member);
        }
        let got = written.split(':').count();
        if got != self.member_fields {
            let (set, member) = (self.name.clone(), written.to_owned());
            return Err(KeyError::Member { set, member, want: self.member_fields, got });
        }
        if let Some(odd) = written.split(':').find(|component| !is_encoded(component)) {
            let (set, component) = (self.name.clone(), odd.to_owned());
            return Err(KeyError::Component { set, component });
        }
        Ok(written.to_owned())
    }

    /// The member that these values make, one for each field of it.
    ///
    /// # Errors
    /// There are more or fewer.
    pub fn member_of(&self, values: &[String]) -> Result<String, KeyError> {
        if values.len() != self.member_fields {
            let (set, member, got) = (self.name.clone(), values.join(" "), values.len());
            return Err(KeyError::Member { set, member, want: self.member_fields, got });
        }
        let mut member = String::new();
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                member.push(':');
            }
            encode(value, &mut member);
        }
        Ok(member)
    }

    /// As [`Set::expires_at`], for the bucket that a key's suffix begins with. `None` where the
    /// suffix begins with none: no event makes such a key.
    pub fn suffix_expires_at(&self, suffix: &str) -> Option<Option<i64>> {
        let Some(window) = self.window else { return Some(None) };
        let bucket = suffix.strip_prefix(':')?.get(..window.example().len())?;
        Some(self.expires_at(window.bucket_begin(bucket)?))
    }

    /// When the bucket that holds `at` is dropped (Unix seconds); `None` where there is no window.
    pub fn expires_at(&self, at: OffsetDateTime) -> Option<i64> {
        let end = self.window?.bucket_end(at);
        Some(end.saturating_add(i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX)))
    }
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Estimated => "estimated",
        }
    }
}

impl Window {
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::Hour => "2026-11-23T10",
            Self::Day => "2026-11-23",
            Self::Month => "2026-11",
        }
    }

    /// Whether `bucket` has the shape of this window's buckets.
    fn is_bucket(self, bucket: &str) -> bool {
        let example = self.example();
        bucket.len() == example.len()
            && bucket.bytes().zip(example.bytes()).all(|(b, e)| match e {
                b'0'..=b'9' => b.is_ascii_digit(),
                _ => b == e,
            })
    }

    /// Appends the bucket of `at`, a UTC time: `2026-11-23T10`, `2026-11-23` or `2026-11`.
    fn write_bucket(self, at: OffsetDateTime, out: &mut String) {
        use std::fmt::Write;
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Hour => write!(out, "{year:04}-{month:02}-{day:02}T{:02}", at.hour()),
            Self::Day => write!(out, "{year:04}-{month:02}-{day:02}"),
            Self::Month => write!(out, "{year:04}-{month:02}"),
        };
    }

    /// The bucket of `at`, for a reader who asks for the current one.
    pub fn bucket(self, at: OffsetDateTime) -> String {
        let mut bucket = String::new();
        self.write_bucket(at, &mut bucket);
        bucket
    }

    /// The first moment of a bucket as [`Window::bucket`] writes it.
    fn bucket_begin(self, bucket: &str) -> Option<OffsetDateTime> {
        if !self.is_bucket(bucket) {
            return None;
        }
        let rest = match self {
            Self::Hour => ":00:00Z",
            Self::Day => "T00:00:00Z",
            Self::Month => "-01T00:00:00Z",
        };
        OffsetDateTime::parse(&[bucket, rest].concat(), &Rfc3339).ok()
    }

    /// Unix seconds at which the bucket of `at` is over.
    fn bucket_end(self, at: OffsetDateTime) -> i64 {
        let seconds = at.unix_timestamp();
        match self {
            Self::Hour => seconds.div_euclid(3600).saturating_add(1) * 3600,
            Self::Day => seconds.div_euclid(86_400).saturating_add(1) * 86_400,
            Self::Month => {
                let days_left = i64::from(at.month().length(at.year()) - at.day()) + 1;
                (seconds.div_euclid(86_400) + days_left) * 86_400
            }
        }
    }
}

#[cfg(test)]
mod tests;
