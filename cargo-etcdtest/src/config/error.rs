//! What can be wrong with settings.

use miette::Diagnostic;

use crate::document::{DocumentError, Mistake};

/// Why the settings are not accepted.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum SettingsError {
    /// The settings file cannot be read, or something in it is wrong.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] DocumentError),
    /// A variable begins with `ETCDTEST_` but sets nothing.
    #[error("the environment variable {name} sets nothing")]
    UnknownVariable {
        /// Its name.
        name: String,
        /// Which one it may have been meant to be.
        #[help]
        help: Option<String>,
    },
    /// A variable has a value that its setting does not accept.
    #[error("the environment variable {name} has a wrong value: expected {expected}")]
    WrongVariable {
        /// Its name.
        name: String,
        /// What is accepted.
        expected: &'static str,
        /// What it is.
        #[help]
        help: Option<String>,
    },
    /// The profile that was chosen does not exist.
    #[error("there is no profile `{name}`, chosen by {chosen_by}")]
    UnknownProfile {
        /// Its name.
        name: String,
        /// The flag or the variable.
        chosen_by: &'static str,
        /// Which ones there are, or where to write one.
        #[help]
        help: Option<String>,
    },
    /// An endpoint with a user in it, and so perhaps with a password, which is not shown.
    #[error("an endpoint of the store has a user in it")]
    #[diagnostic(help("name the user with --user NAME, and set ETCDTEST_PASSWORD"))]
    UserInEndpoint,
    /// A setting that means nothing without another.
    #[error("`{given}` is set, but `{missing}` is not")]
    Incomplete {
        /// The one that is set.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
        /// How to set it.
        #[help]
        help: &'static str,
    },
}

impl From<Box<Mistake>> for SettingsError {
    fn from(mistake: Box<Mistake>) -> Self {
        Self::File(mistake.into())
    }
}
