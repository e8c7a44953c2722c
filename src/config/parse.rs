//! From text to typed values by the rule of each setting. Collects what is wrong and goes on.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::error::Problem;
use super::redact;
use super::setting::{self, Rule, SETTINGS, Setting};
use super::source::{Given, Origin};
use super::{OpsAddr, Secret};

/// Reads settings one after another. A value that is wrong is reported, and something harmless
/// stands in for it, as nothing is handed out once there is a problem.
pub struct Reader {
    given: Given,
    problems: Vec<Problem>,
    /// Wrong by itself, so that relations to others are not judged as well.
    wrong: HashSet<&'static str>,
    /// What holds, for the start-up dump; secrets reduced to their endpoint.
    shown: HashMap<&'static str, String>,
}

impl Reader {
    pub fn new(given: Given, problems: Vec<Problem>) -> Reader {
        let wrong = given.broken.iter().copied().collect();
        Reader { given, problems, wrong, shown: HashMap::new() }
    }

    /// The problems, or the lines that show what holds.
    pub fn finish(mut self) -> Result<Vec<String>, Vec<Problem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let line = |s: &Setting| Some(format!("{}={}", s.name, self.shown.remove(s.name)?));
        Ok(SETTINGS.iter().filter_map(line).collect())
    }

    /// What the dump says of a setting, where something else decided on it.
    pub fn note(&mut self, setting: &Setting, shown: &str) {
        self.shown.insert(setting.name, shown.to_owned());
    }

    pub fn given(&self, setting: &Setting) -> bool {
        self.given.texts.contains_key(setting.name)
    }

    /// Reports a relation that does not hold, unless one of its sides is wrong by itself.
    pub fn relation(&mut self, sides: &[&Setting], holds: bool, rule: &str, hint: &str) {
        if !holds && !sides.iter().any(|side| self.wrong.contains(side.name)) {
            let names: Vec<&str> = sides.iter().map(|side| side.name).collect();
            self.problems.push(Problem::new(names.join(" and "), rule).hint(hint));
        }
    }

    /// A whole number within the bounds of its rule.
    pub fn whole<T: TryFrom<u64> + std::default::Default>(&mut self, setting: &Setting) -> T {
        self.whole_or_none(setting).unwrap_or_default()
    }

    pub fn whole_or_none<T: TryFrom<u64>>(&mut self, setting: &Setting) -> Option<T> {
        let text = self.text(setting)?;
        let Rule::Whole { min, max, .. } = setting.rule else {
            return self.refuse(setting, &text);
        };
        let number =
            text.parse::<u64>().ok().filter(|n| text.starts_with(|c| c != '+') && *n <= max);
        match number.filter(|n| *n >= min).and_then(|n| T::try_from(n).ok()) {
            Some(number) => Some(number),
            None => self.refuse(setting, &text),
        }
    }

    pub fn secs(&mut self, setting: &Setting) -> Duration {
        Duration::from_secs(self.whole(setting))
    }

    pub fn millis(&mut self, setting: &Setting) -> Duration {
        Duration::from_millis(self.whole(setting))
    }

    pub fn days(&mut self, setting: &Setting) -> Duration {
        days(self.whole(setting))
    }

    pub fn flag(&mut self, setting: &Setting) -> bool {
        match self.text(setting).as_deref() {
            Some("true") => true,
            Some("false") | None => false,
            Some(other) => {
                let other = other.to_owned();
                self.refuse::<()>(setting, &other);
                false
            }
        }
    }

    /// One of the words of the rule.
    pub fn word(&mut self, setting: &Setting) -> Option<&'static str> {
        let text = self.text(setting)?;
        let Rule::OneOf(words) = setting.rule else {
            return self.refuse(setting, &text);
        };
        match words.iter().find(|word| **word == text) {
            Some(word) => Some(word),
            None => self.refuse(setting, &text),
        }
    }

    /// A text whose rule is about its characters.
    pub fn name(&mut self, setting: &Setting) -> String {
        let text = self.text(setting).unwrap_or_default();
        let first = text.chars().next();
        let right = match setting.rule {
            Rule::KeyPrefix => {
                text.len() <= 64
                    && first.is_some_and(|c| c.is_ascii_alphanumeric())
                    && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
            }
            // A short string of AMQP has 255 bytes; amq. is the broker's own. A URL was meant for
            // another variable, and a name is logged.
            Rule::Name => {
                (1..=200).contains(&text.len())
                    && text.chars().all(|c| c.is_ascii_graphic())
                    && !text.starts_with("amq.")
                    && !text.contains("://")
            }
            _ => true,
        };
        if !right {
            self.refuse::<()>(setting, &text);
        }
        text
    }

    /// A text with a grammar of its own, whose mistakes come as sentences.
    pub fn grammar<T>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, Vec<String>>,
    ) -> Option<T> {
        let text = self.text(setting)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(sentences) => {
                self.wrong.insert(setting.name);
                for sentence in sentences {
                    let hint = redact::scrub(&sentence, 300);
                    let problem = Problem::new(setting.name, format!("must be {}", setting.rule));
                    self.problems.push(problem.hint(hint));
                }
                None
            }
        }
    }

    pub fn url(&mut self, setting: &Setting) -> Option<Secret> {
        let Rule::Url(schemes) = setting.rule else {
            return None;
        };
        let Some(text) = self.given.texts.get(setting.name).cloned() else {
            self.note(setting, "unset");
            return None;
        };
        match redact::endpoint(&text, schemes) {
            Ok(endpoint) => self.show(setting, &endpoint),
            Err(why) => {
                self.wrong.insert(setting.name);
                self.problems.push(Problem::against_rule(setting, "").hint(why));
            }
        }
        let file = self.given.paths.get(setting.name).cloned().map(|path| (path, schemes));
        Some(Secret { at_start: text, file })
    }

    pub fn address(&mut self, setting: &Setting) -> OpsAddr {
        let text = self.text(setting).unwrap_or_default();
        let explicit = self.given(setting);
        if text == "off" {
            return OpsAddr { addr: None, explicit };
        }
        let addr: Option<SocketAddr> = match text.parse() {
            Ok(addr) => Some(addr),
            Err(_) => self.refuse(setting, &text),
        };
        OpsAddr { addr, explicit }
    }

    pub fn socket(&mut self, setting: &Setting) -> SocketAddr {
        let text = self.text(setting).unwrap_or_default();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        text.parse().unwrap_or_else(|_| self.refuse(setting, &text).unwrap_or(any))
    }

    /// As a browser sends it: no path, no capitals, no default port.
    pub fn origin(&mut self, setting: &Setting) -> Option<String> {
        let text = self.text(setting)?;
        let plain = |url: url::Url| {
            matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
        };
        match text == "*" || url::Url::parse(&text).is_ok_and(plain) {
            true => Some(text),
            false => self.refuse(setting, &text),
        }
    }

    /// The text that holds, given or by default, noted for the dump.
    fn text(&mut self, setting: &Setting) -> Option<String> {
        let default = match setting.default {
            setting::Default::Text(text) => Some(text.to_owned()),
            setting::Default::Unset { .. } => None,
        };
        let text = self.given.texts.get(setting.name).cloned().or(default);
        match &text {
            Some(text) => self.show(setting, text),
            None => self.note(setting, "unset"),
        }
        text
    }

    fn show(&mut self, setting: &Setting, text: &str) {
        let origin = match self.given.origins.get(setting.name) {
            Some(Origin::File) => " (from its file)",
            Some(Origin::Variable) => "",
            None => " (default)",
        };
        self.note(setting, &format!("{text}{origin}"));
    }

    fn refuse<T>(&mut self, setting: &Setting, found: &str) -> Option<T> {
        // An unreadable one has been reported, and its default is right.
        if self.wrong.insert(setting.name) {
            self.problems.push(Problem::against_rule(setting, found));
        }
        None
    }
}

pub fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}
