//! Why an environment cannot be run against.

use std::fmt;

use crate::model::Environment;
use crate::redact::Redactor;

/// A part of an environment that is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// The environment.
    pub environment: String,
    /// What is not ready.
    pub part: Part,
    /// Why.
    pub reason: String,
    /// The last lines that it wrote.
    pub lines: Vec<String>,
}

/// A part of an environment that can be ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// What it says of itself: a reference stands for nothing.
    Definition,
    /// A service, by name.
    Service(String),
    /// A probe, as its file says it: without what its references stand for.
    Probe(String),
    /// A data set, by name.
    Data(String),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Definition => f.write_str("definition"),
            Self::Service(name) => write!(f, "service `{name}`"),
            Self::Probe(text) => write!(f, "probe `{text}`"),
            Self::Data(name) => write!(f, "data set `{name}`"),
        }
    }
}

impl NotReady {
    /// A service that could not even be started.
    pub(super) fn service(environment: &Environment, name: &str, reason: String) -> Self {
        let part = Part::Service(name.to_owned());
        Self { environment: environment.name.clone(), part, reason, lines: Vec::new() }
    }

    /// The same without secrets, which the reason may hold; the lines come without them.
    #[must_use]
    pub(super) fn without_secrets(self, redactor: &Redactor) -> Self {
        Self { reason: redactor.text(self.reason), ..self }
    }

    /// What is not ready and why, on one line.
    pub fn headline(&self) -> String {
        format!("{} of environment `{}` is not ready: {}", self.part, self.environment, self.reason)
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        if !self.lines.is_empty() {
            f.write_str("; its last lines:")?;
        }
        self.lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for NotReady {}
