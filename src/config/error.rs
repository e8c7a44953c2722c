//! Everything that is wrong with the settings, at once. Never holds the value of a secret.

use std::fmt;

use super::redact;
use super::setting::Setting;
use crate::retry::Class;

/// All problems found in one pass; never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

/// One thing to put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable, or the variables of a relation, joined by " and ".
    pub variable: String,
    /// What must hold.
    pub rule: String,
    /// What was found instead: bounded, and never of a secret.
    pub found: Option<String>,
    pub hint: Option<String>,
}

impl ConfigErrors {
    pub(super) fn new(problems: Vec<Problem>) -> ConfigErrors {
        ConfigErrors(problems)
    }

    pub fn problems(&self) -> &[Problem] {
        &self.0
    }

    pub fn class(&self) -> Class {
        // Only whoever set the variables can put them right.
        Class::Config
    }
}

impl Problem {
    pub(super) fn new(variable: impl Into<String>, rule: impl Into<String>) -> Problem {
        Problem { variable: variable.into(), rule: rule.into(), found: None, hint: None }
    }

    /// A value that breaks the rule of its setting.
    pub(super) fn against_rule(setting: &Setting, found: &str) -> Problem {
        let problem = Problem::new(setting.name, format!("must be {}", setting.rule));
        if setting.secret() {
            problem
        } else {
            Problem { found: Some(redact::bounded(found)), ..problem }
        }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Problem {
        Problem { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.rule)?;
        if let Some(found) = &self.found {
            write!(f, ", not {found}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings are not usable:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}
