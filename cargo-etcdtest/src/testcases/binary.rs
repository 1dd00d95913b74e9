//! Test binaries, and what a process of one needs.

use std::ffi::OsString;
use std::fmt;
use std::process::Command;

use camino::Utf8PathBuf;

use cargo_metadata::TargetKind;

use crate::config::CREDENTIALS;

/// A test binary that cargo built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// The cargo package it belongs to.
    pub package: String,
    /// Its name within the package, as in a [`TestCaseId`](crate::model::TestCaseId):
    /// `lib`, an integration test's name, `bin/NAME`, `example/NAME` or `bench/NAME`; an
    /// integration test that is itself called `lib` is `test/lib`.
    pub name: String,
    /// The name of the cargo target, which for a library is that of the crate.
    pub target: String,
    /// What kind of target it was built from.
    pub kind: BinaryKind,
    /// The executable file, absolute.
    pub path: Utf8PathBuf,
    /// The package's root, absolute: where its processes run.
    pub directory: Utf8PathBuf,
    /// The variables that cargo would set for its processes.
    pub variables: Vec<(String, OsString)>,
}

/// The kind of target a test binary was built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BinaryKind {
    /// The unit tests of a library.
    Lib,
    /// The unit tests of a library of procedural macros.
    ProcMacro,
    /// An integration test.
    Test,
    /// The unit tests of a program.
    Bin,
    /// An example.
    Example,
    /// A benchmark.
    Bench,
}

impl Binary {
    /// Its id as nextest writes it: the package alone for a library's unit tests, else
    /// `package::name`.
    pub fn nextest_id(&self) -> String {
        match self.kind {
            BinaryKind::Lib | BinaryKind::ProcMacro => self.package.clone(),
            _ => self.to_string(),
        }
    }

    /// A process of it with cargo's variables, in the package's root; the caller's own
    /// variables are inherited, but for those that give access to the store and its secrets.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        for credential in CREDENTIALS {
            command.env_remove(credential);
        }
        command.current_dir(&self.directory).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.package, self.name)
    }
}

impl BinaryKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Lib, Self::ProcMacro, Self::Test, Self::Bin, Self::Example, Self::Bench];

    /// The kind of a cargo target; `None` for a build script.
    pub(super) fn of(target: &cargo_metadata::Target) -> Option<Self> {
        Some(match target.kind.first()? {
            TargetKind::CustomBuild => return None,
            TargetKind::ProcMacro => Self::ProcMacro,
            TargetKind::Test => Self::Test,
            TargetKind::Bin => Self::Bin,
            TargetKind::Example => Self::Example,
            TargetKind::Bench => Self::Bench,
            _ => Self::Lib,
        })
    }

    /// The name that a test case id has for a target of this kind.
    pub(super) fn binary_name(self, target: &str) -> String {
        match self {
            Self::Lib | Self::ProcMacro => "lib".to_owned(),
            Self::Test if target == "lib" => "test/lib".to_owned(),
            Self::Test => target.to_owned(),
            Self::Bin | Self::Example | Self::Bench => format!("{self}/{target}"),
        }
    }
}

impl fmt::Display for BinaryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lib => "lib",
            Self::ProcMacro => "proc-macro",
            Self::Test => "test",
            Self::Bin => "bin",
            Self::Example => "example",
            Self::Bench => "bench",
        })
    }
}
