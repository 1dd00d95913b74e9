//! What the program exits with, and how it says what went wrong.

use crate::environments::{DataError, EnvironmentError, ReservationError, SecretError};
use crate::execution::NotReady;
use crate::store::StoreError;

/// The exit codes, all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All tests passed, or the verb did what it was asked.
    Passed = 0,
    /// Wrong usage or configuration.
    Usage = 2,
    /// No test was selected.
    NothingToRun = 4,
    /// A test failed.
    TestsFailed = 100,
    /// The build, or the listing of a test binary, failed.
    BuildFailed = 101,
    /// The environment is missing, not ready or reserved.
    Environment = 102,
    /// The store could not be reached.
    Store = 103,
    /// A signal ended it before it was done.
    Interrupted = 130,
}

/// Why a verb ended early: what to exit with, and what to print.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    report: miette::Report,
    passing: bool,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(exit: Exit, report: impl Into<miette::Report>) -> Self {
        Self { exit, report: report.into(), passing: false }
    }

    /// Wrong usage or configuration.
    pub fn usage(report: impl Into<miette::Report>) -> Self {
        Self::new(Exit::Usage, report)
    }

    /// The same, with what can be done about it first.
    #[must_use]
    pub fn with_help(self, first: &str) -> Self {
        let then = self.report.help().map(|help| format!("; {help}")).unwrap_or_default();
        let report = miette::miette!(help = format!("{first}{then}"), "{}", self.report);
        Self { report, ..self }
    }

    /// The same, where the store did not answer: it may go well once it does.
    #[must_use]
    pub fn passing(self) -> Self {
        Self { passing: true, ..self }
    }

    /// Whether it may go well by itself once the store answers.
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    /// A signal came first.
    pub fn interrupted(report: impl Into<miette::Report>) -> Self {
        Self::new(Exit::Interrupted, report)
    }

    /// What the program exits with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Prints what went wrong to stderr and says what to exit with.
    pub fn print(self) -> Exit {
        anstream::eprintln!("{:?}", self.report);
        self.exit
    }
}

/// Has errors drawn with colours always: the stream that prints them takes colours out
/// where they are not wanted. What is to be copied, as a path, is not broken into two.
pub(super) fn draw_with_color() {
    // It fails where the program is called as a library twice: then it is done already.
    let _ = miette::set_hook(Box::new(|_| {
        Box::new(
            miette::MietteHandlerOpts::new().color(true).terminal_links(false).break_words(false).build(),
        )
    }));
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.report)?;
        self.report.help().map_or(Ok(()), |help| write!(f, " ({help})"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match error {
            StoreError::Unavailable { .. }
            | StoreError::UnknownOutcome { .. }
            | StoreError::NoSpace { .. } => Exit::Store,
            _ => Exit::Usage,
        };
        let report = match error.help() {
            Some(help) => miette::miette!(help = help, "{error}"),
            None => miette::miette!("{error}"),
        };
        Self { passing: error.is_transient(), ..Self::new(exit, report) }
    }
}

impl From<ReservationError> for Failure {
    fn from(error: ReservationError) -> Self {
        match error {
            ReservationError::Store(error) => error.into(),
            ReservationError::NoCapacity { .. }
            | ReservationError::Exists(_)
            | ReservationError::TooLong { .. }
            | ReservationError::NoHolder { .. }
            | ReservationError::Several { .. } => Self::usage(error),
            ReservationError::Interrupted { .. } => Self::interrupted(error),
            error => Self::new(Exit::Environment, error),
        }
    }
}

impl From<NotReady> for Failure {
    fn from(not_ready: NotReady) -> Self {
        let help =
            format!("`cargo etcdtest env check {}` tries it without running tests", not_ready.environment);
        Self::new(Exit::Environment, miette::miette!(help = help, "{not_ready}"))
    }
}

impl From<EnvironmentError> for Failure {
    fn from(error: EnvironmentError) -> Self {
        match error {
            EnvironmentError::Store(error) => error.into(),
            EnvironmentError::Secret(error) => error.into(),
            EnvironmentError::Unknown { .. } | EnvironmentError::UnknownVersion { .. } => {
                Self::new(Exit::Environment, error)
            }
            error => Self::usage(error),
        }
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Store(error) => error.into(),
            DataError::Damaged { .. } => Self::new(Exit::Environment, error),
            DataError::Files(_) => Self::usage(error),
        }
    }
}

impl From<SecretError> for Failure {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Store(error) => error.into(),
            error if error.is_of_environment() => Self::new(Exit::Environment, error),
            error => Self::usage(error),
        }
    }
}
