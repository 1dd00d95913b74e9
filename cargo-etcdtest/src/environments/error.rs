//! What can go wrong with environments.

use std::path::PathBuf;

use miette::Diagnostic;

use super::secret_error::SecretError;
use crate::document::{DocumentError, Mistake};
use crate::store::StoreError;

/// How many errors are shown at once.
const MOST: usize = 20;

/// Why an operation on environments failed.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum EnvironmentError {
    /// A file cannot be read, or something in it is wrong.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] DocumentError),
    /// More than one thing is wrong.
    #[error("{count} mistakes{}", if .count > &.errors.len() { format!(", the first {} are shown", .errors.len()) } else { String::new() })]
    Several {
        /// How many.
        count: usize,
        /// They, or the first of them; none is itself several.
        #[related]
        errors: Vec<EnvironmentError>,
    },
    /// Something in an environment is wrong that no file at hand says.
    #[error("in the environment `{name}` {what}")]
    Fault {
        /// The environment.
        name: String,
        /// What is wrong.
        what: String,
        /// The next step.
        #[help]
        help: Option<String>,
    },
    /// A name that no environment can have.
    #[error("`{name}` cannot be the name of an environment: {reason}")]
    #[diagnostic(help(
        "use letters, digits, `-`, `_` and `.`; a file gives its environment its own name, or --name does"
    ))]
    WrongName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file that is not called `NAME.toml`.
    #[error("{} is not called NAME.toml", .path.display())]
    #[diagnostic(help("rename it, or give the environment's name with --name"))]
    NotToml {
        /// The file.
        path: PathBuf,
    },
    /// A folder with no environment in it.
    #[error("there is no file NAME.toml in {}", .folder.display())]
    NoFiles {
        /// The folder.
        folder: PathBuf,
    },
    /// Two files for one environment.
    #[error("{} and {} are both the environment `{name}`", .first.display(), .second.display())]
    Twice {
        /// The environment.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Names that the store does not know.
    #[error("there {} {}", if .names.len() == 1 { "is no environment" } else { "are no environments" }, quoted(.names))]
    Unknown {
        /// The names.
        names: Vec<String>,
        /// The nearest, and what there is.
        #[help]
        help: String,
    },
    /// An environment never had this version.
    #[error("the environment `{name}` has no version {version}")]
    #[diagnostic(help("its last is {last}; `cargo etcdtest env history {name}` shows all"))]
    UnknownVersion {
        /// The environment.
        name: String,
        /// The number.
        version: u64,
        /// The last there is.
        last: u64,
    },
    /// One environment in two versions in one run.
    #[error("the environment `{name}` is chosen in two versions")]
    #[diagnostic(help("a run stores results by the name of the environment; use a run for each version"))]
    TwoVersions {
        /// The environment.
        name: String,
    },
    /// What an environment extends is not there.
    #[error("the environment `{name}` extends `{base}`, which there is not")]
    #[diagnostic(help("apply `{base}` first, or together with it"))]
    NoBase {
        /// The environment.
        name: String,
        /// What it extends.
        base: String,
    },
    /// What others inherit from would no longer fit.
    #[error("the environment `{name}`, which extends `{base}`, would not hold together any more: {what}")]
    Breaks {
        /// What is to be changed.
        base: String,
        /// What inherits from it.
        name: String,
        /// What is wrong then.
        what: String,
        /// The next step.
        #[help]
        help: String,
    },
    /// Environments that extend each other.
    #[error("the environment `{}` extends itself in the end: {}", .names[0], .names.join(" → "))]
    #[diagnostic(help("change what one of them extends"))]
    Circle {
        /// Their names, the first and the last being the same.
        names: Vec<String>,
    },
    /// Others inherit from what is to be deleted.
    #[error("the environment `{name}` cannot be deleted: {} {} it", quoted(.by), if .by.len() == 1 { "extends" } else { "extend" })]
    #[diagnostic(help("delete them first, or have them extend another"))]
    Extended {
        /// The environment.
        name: String,
        /// Who extends it.
        by: Vec<String>,
    },
    /// Larger than one value of the store.
    #[error("the environment `{name}` is too large: {size} bytes, at most {limit} can be stored")]
    TooLarge {
        /// Its name.
        name: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Somebody else changed or deleted it since it was read.
    #[error("the environment `{name}` was changed by somebody else meanwhile: {change}")]
    #[diagnostic(help("look at it with `cargo etcdtest env show {name}`, then edit it again"))]
    Conflict {
        /// Its name.
        name: String,
        /// What happened to it.
        change: String,
    },
    /// A pattern of a test's `environments` that cannot be one.
    #[error("`{pattern}` is no pattern for names of environments: {reason}")]
    WrongPattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The stored environment holds what TOML cannot express.
    #[error("the environment `{name}` cannot be written as TOML: {reason}")]
    NotWritable {
        /// Its name.
        name: String,
        /// What cannot.
        reason: String,
    },
    /// The file for the editor could not be made or kept.
    #[error("failed to keep the text of `{name}` in a file")]
    Draft {
        /// The environment.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing is left of what was to be edited.
    #[error("`{name}` was not changed: its text is empty")]
    #[diagnostic(help("`cargo etcdtest env delete {name}` deletes an environment"))]
    Abandoned {
        /// The environment.
        name: String,
    },
    /// The editor could not be started, or ended with an error.
    #[error("the editor `{editor}` {reason}")]
    #[diagnostic(help("set VISUAL or EDITOR to the editor to use"))]
    Editor {
        /// The command.
        editor: String,
        /// What became of it.
        reason: String,
    },
    /// A secret cannot be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Secret(#[from] SecretError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EnvironmentError {
    /// All of these as one.
    ///
    /// # Errors
    /// That one, unless there are none.
    pub fn all(errors: Vec<Self>) -> Result<(), Self> {
        let (mut flat, mut count) = (Vec::new(), 0);
        for error in errors {
            match error {
                Self::Several { count: of_these, errors } => {
                    count += of_these;
                    flat.extend(errors);
                }
                error => {
                    count += 1;
                    flat.push(error);
                }
            }
        }
        flat.truncate(MOST);
        match flat.len() {
            0 => Ok(()),
            1 if count == 1 => flat.pop().map_or(Ok(()), Err),
            _ => Err(Self::Several { count, errors: flat }),
        }
    }

    /// Mistakes of one file, at least one, as one error.
    pub(super) fn mistakes(mistakes: Vec<Mistake>) -> Self {
        let errors = mistakes.into_iter().map(|mistake| Box::new(mistake).into()).collect();
        Self::all(errors).err().unwrap_or(Self::Several { count: 0, errors: vec![] })
    }

    /// Whether it is about what somebody wrote, who can write it anew.
    pub fn is_of_file(&self) -> bool {
        matches!(
            self,
            Self::File(_)
                | Self::Several { .. }
                | Self::Fault { .. }
                | Self::Breaks { .. }
                | Self::NoBase { .. }
                | Self::Circle { .. }
        )
    }
}

impl From<Box<Mistake>> for EnvironmentError {
    fn from(mistake: Box<Mistake>) -> Self {
        Self::File(mistake.into())
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
