//! The tests of this binary, as the macro left them.

use std::cmp::Ordering;
use std::fmt;
use std::ptr;
use std::sync::OnceLock;
use std::time::Duration;

use crate::Context;
use crate::extract::Declared;
use crate::prepare::{self, Need, Provider};
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
    /// Its parameters but for those that a case fills.
    pub parameters: &'static [Declared],
    pub description: &'static str,
    pub steps: &'static [&'static str],
    pub expected: &'static str,
    pub tags: &'static [&'static str],
    pub owner: Option<&'static str>,
    pub timeout: Option<Duration>,
    pub retries: Option<u32>,
    pub environments: &'static [&'static str],
    pub exclusive: Option<&'static str>,
    pub needs: &'static [&'static str],
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

/// A place in the source.
type Place = (&'static str, u32);

/// Why the tests of the binary cannot be listed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wrong {
    /// Two tests of one name: neither could be chosen.
    SameName { name: &'static str, places: [Place; 2] },
    /// Two functions prepare one type: neither could be chosen.
    SameType { ty: &'static str, places: [Place; 2] },
    /// No function prepares what a test takes.
    NotPrepared { ty: &'static str, test: &'static str, place: Place },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::SameName { name, places: [(file, line), (other, other_line)] } => {
                write!(f, "two tests are named `{name}`: {file}:{line} and {other}:{other_line}")
            }
            Self::SameType { ty, places: [(file, line), (other, other_line)] } => {
                write!(f, "two functions prepare a `{ty}`: {file}:{line} and {other}:{other_line}")
            }
            Self::NotPrepared { ty, test, place: (file, line) } => write!(
                f,
                "the test `{test}` ({file}:{line}) takes a `&Prepared<{ty}>`, but no function of this \
                 binary prepares one: put `#[etcdtest::prepare]` on a function that returns a `{ty}`"
            ),
        }
    }
}

impl Entry {
    /// The name that libtest would give it: the path without the crate.
    pub(crate) fn name(&self) -> &'static str {
        without_crate(self.path)
    }

    fn place(&self) -> Place {
        (self.file, self.line)
    }

    /// What has to be prepared for it.
    pub(crate) fn needed(&self) -> impl Iterator<Item = Need> {
        self.parameters.iter().filter_map(|parameter| (parameter.need)())
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
            needs: owned(self.needs),
            ignore: self.ignore.map(str::to_owned),
            should_panic: !matches!(self.should_panic, ShouldPanic::No),
            typed: self.parameters.iter().any(|parameter| parameter.check.is_some()),
            file: self.file.to_owned(),
            line: self.line,
        }
    }
}

/// A path as people know it, who see only one crate at a time.
pub(crate) fn without_crate(path: &'static str) -> &'static str {
    path.split_once("::").map_or(path, |(_, name)| name)
}

/// A test with its name, which is cut out of its path once: unoptimised, cutting costs more than comparing.
pub(crate) type Named = (&'static str, &'static Entry);

/// All tests of the binary in the order of their names.
pub(crate) fn entries() -> Result<&'static [Named], Wrong> {
    static ENTRIES: OnceLock<Result<Vec<Named>, Wrong>> = OnceLock::new();
    ENTRIES.get_or_init(sorted).as_deref().map_err(Clone::clone)
}

// Whoever builds tests builds this: of what is generic there is as little as it takes.
fn sorted() -> Result<Vec<Named>, Wrong> {
    let mut entries = Vec::new();
    for entry in inventory::iter::<Entry> {
        entries.push((entry.name(), entry));
    }
    entries.sort_unstable_by(|(a, one), (b, other)| (a, one.place()).cmp(&(b, other.place())));
    for pair in entries.windows(2) {
        if pair[0].0 == pair[1].0 {
            return Err(Wrong::SameName { name: pair[0].0, places: [pair[0].1.place(), pair[1].1.place()] });
        }
    }
    check_prepared(&entries)?;
    Ok(entries)
}

fn check_prepared(entries: &[Named]) -> Result<(), Wrong> {
    for provider in inventory::iter::<Provider> {
        for other in inventory::iter::<Provider> {
            let (place, behind) = ((provider.file, provider.line), (other.file, other.line));
            if !ptr::eq(provider, other) && place <= behind && (provider.id)() == (other.id)() {
                return Err(Wrong::SameType { ty: (provider.ty)(), places: [place, behind] });
            }
        }
    }
    for (name, entry) in entries {
        for need in entry.needed() {
            if prepare::provider(need.id).is_none() {
                return Err(Wrong::NotPrepared { ty: need.ty, test: name, place: entry.place() });
            }
        }
    }
    Ok(())
}

/// The test of this name.
pub(crate) fn find(name: &str) -> Result<Option<Named>, Wrong> {
    let entries = entries()?;
    // A search of std's is far more code where nothing is optimised, and each attempt makes one.
    let (mut from, mut to) = (0, entries.len());
    while from < to {
        let middle = from + (to - from) / 2;
        match entries[middle].0.cmp(name) {
            Ordering::Less => from = middle + 1,
            Ordering::Equal => return Ok(Some(entries[middle])),
            Ordering::Greater => to = middle,
        }
    }
    Ok(None)
}

/// What the runner is told of the tests.
pub(crate) fn listing() -> Result<Listing, Wrong> {
    Ok(Listing { tests: entries()?.iter().map(|(_, entry)| entry.listed()).collect() })
}
