//! The tests of this binary, as the macro left them.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use crate::Context;
use crate::protocol::{Listed, Listing};
use crate::result::Failure;

/// One test, as the macro writes it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Entry {
    /// Module path with the crate's name, function and case.
    pub path: &'static str,
    /// Fills the parameters and calls the function.
    pub call: fn(&Context) -> Result<(), Failure>,
    pub description: &'static str,
    pub steps: &'static [&'static str],
    pub expected: &'static str,
    pub tags: &'static [&'static str],
    pub owner: Option<&'static str>,
    pub timeout: Option<Duration>,
    pub retries: Option<u32>,
    pub environments: &'static [&'static str],
    pub exclusive: Option<&'static str>,
    /// Why it is ignored; an empty text without a reason.
    pub ignore: Option<&'static str>,
    pub should_panic: ShouldPanic,
    pub file: &'static str,
    pub line: u32,
    /// The folder of the package that the test was built from.
    pub package: Option<&'static str>,
}

/// Whether a test passes by panicking.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum ShouldPanic {
    No,
    Anyhow,
    /// With this text in its message.
    With(&'static str),
}

inventory::collect!(Entry);

/// Two tests of one name: neither could be chosen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SameName {
    name: &'static str,
    places: [(&'static str, u32); 2],
}

impl fmt::Display for SameName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let [(file, line), (other, other_line)] = self.places;
        write!(f, "two tests are named `{}`: {file}:{line} and {other}:{other_line}", self.name)
    }
}

impl Entry {
    /// The name that libtest would give it: the path without the crate.
    pub(crate) fn name(&self) -> &'static str {
        self.path.split_once("::").map_or(self.path, |(_, name)| name)
    }

    fn listed(&self) -> Listed {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Listed {
            name: self.name().to_owned(),
            description: self.description.to_owned(),
            steps: owned(self.steps),
            expected: self.expected.to_owned(),
            tags: owned(self.tags),
            owner: self.owner.map(str::to_owned),
            timeout: self.timeout,
            retries: self.retries,
            environments: owned(self.environments),
            exclusive: self.exclusive.map(str::to_owned),
            ignore: self.ignore.map(str::to_owned),
            should_panic: !matches!(self.should_panic, ShouldPanic::No),
            file: self.file.to_owned(),
            line: self.line,
        }
    }
}

/// All tests of the binary in the order of their names.
pub(crate) fn entries() -> Result<&'static [&'static Entry], SameName> {
    static ENTRIES: OnceLock<Result<Vec<&'static Entry>, SameName>> = OnceLock::new();
    ENTRIES.get_or_init(sorted).as_deref().map_err(Clone::clone)
}

fn sorted() -> Result<Vec<&'static Entry>, SameName> {
    let mut entries: Vec<_> = inventory::iter::<Entry>.into_iter().collect();
    // Every attempt in a process of its own sorts: unoptimised, finding a name costs more than comparing two.
    entries.sort_by_cached_key(|entry| (entry.name(), entry.file, entry.line));
    match entries.windows(2).find(|pair| pair[0].name() == pair[1].name()) {
        Some(pair) => Err(SameName {
            name: pair[0].name(),
            places: [(pair[0].file, pair[0].line), (pair[1].file, pair[1].line)],
        }),
        None => Ok(entries),
    }
}

/// The test of this name.
pub(crate) fn find(name: &str) -> Result<Option<&'static Entry>, SameName> {
    let entries = entries()?;
    Ok(entries.binary_search_by_key(&name, |entry| entry.name()).ok().map(|at| entries[at]))
}

/// What the runner is told of the tests.
pub(crate) fn listing() -> Result<Listing, SameName> {
    Ok(Listing { tests: entries()?.iter().map(|entry| entry.listed()).collect() })
}
