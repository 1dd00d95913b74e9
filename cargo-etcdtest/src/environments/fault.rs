//! What is wrong within an environment, wherever it was written.

use super::error::EnvironmentError;

/// Something wrong at one value of an environment. It never shows the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The value: `config.limits.pieces`, `probes.0.http`.
    pub path: String,
    /// The part of it that is wrong, as it is written; empty for all of it.
    pub part: String,
    /// What is wrong, in a whole sentence.
    pub message: String,
    /// What is wrong with this very part.
    pub label: String,
    /// The next step.
    pub help: Option<String>,
}

impl Fault {
    /// As an error of this environment, where no file at hand says the value.
    pub fn of(self, environment: &str) -> EnvironmentError {
        EnvironmentError::Fault { name: environment.to_owned(), what: self.whole(), help: self.help }
    }

    /// The same where the first so many probes are inherited: own ones are counted without
    /// them.
    #[must_use]
    pub(super) fn after_probes(self, inherited: usize) -> Self {
        let number = self.path.strip_prefix("probes.").and_then(|rest| rest.split('.').next());
        let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) else { return self };
        let old = format!("probes.{number}");
        let new = match number.checked_sub(inherited) {
            Some(own) => format!("probes.{own}"),
            None => format!("inherited.{old}"),
        };
        let renamed = |text: &str| text.replace(&format!("`{old}."), &format!("`{new}."));
        Self { path: self.path.replacen(&old, &new, 1), message: renamed(&self.message), ..self }
    }

    /// Whether it is wrong in the same place and way, whatever the next step is.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.path, &self.part, &self.label) == (&other.path, &other.part, &other.label)
    }

    /// What is wrong and where, on one line.
    pub(super) fn whole(&self) -> String {
        let part = if self.part.is_empty() { String::new() } else { format!("{}: ", self.part) };
        format!("{}: {part}{} (at `{}`)", self.message, self.label, self.path)
    }
}
