//! `testcase`: what the store knows of test cases, and what people write of them.

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::print::{json_line, print};
use super::testcase_text::{counts_text, details_text, list_text};
use super::{CargoOptions, Exit, Failure};
use crate::config::Format;
use crate::model::{Description, TestCaseId, TestCaseState};
use crate::store::{Revision, SharedStore};
use crate::testcases::{Catalog, CatalogError, StoredTestCase};

/// Arguments of `testcase`.
#[derive(Debug, Args)]
pub(super) struct TestCaseArgs {
    #[command(subcommand)]
    verb: TestCaseVerb,
}

#[derive(Debug, Subcommand)]
enum TestCaseVerb {
    /// List test cases and whether they are implemented, only written, or vanished
    List(ListArgs),
    /// Show a test case with its latest results
    Show {
        /// `package::binary::path`, or `package::name` where that is clear
        id: TestCaseId,
    },
    /// Write a test case by hand, before its code exists
    Create {
        /// `package::name`, or `package::binary::path`
        id: TestCaseId,
        #[command(flatten)]
        written: WrittenArgs,
    },
    /// Change what is written by hand; what is not named stays, an empty text clears
    Update {
        /// The test case
        id: TestCaseId,
        #[command(flatten)]
        written: WrittenArgs,
        /// Clear all that is written by hand, before anything else is set
        #[arg(long)]
        clear: bool,
        /// Only if this is still the revision that `show` names
        #[arg(long, value_name = "REVISION")]
        if_revision: Option<i64>,
    },
    /// Delete a test case
    Delete {
        /// The test case
        id: TestCaseId,
        /// Delete it even though it has code
        #[arg(long)]
        yes: bool,
        /// Only if this is still the revision that `show` names
        #[arg(long, value_name = "REVISION")]
        if_revision: Option<i64>,
    },
    /// Build, and register what the code has
    Sync {
        #[command(flatten)]
        cargo: Box<CargoOptions>,
    },
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Parts of ids
    #[arg(value_name = "FILTER")]
    patterns: Vec<String>,
    /// Test cases in this state
    #[arg(long, value_name = "STATE")]
    state: Vec<State>,
    /// Test cases with this tag
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Test cases of this owner
    #[arg(long, value_name = "OWNER")]
    owner: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// The code exists
    Implemented,
    /// Written by hand only
    Written,
    /// The code existed once
    Vanished,
}

/// What is written by hand.
#[derive(Debug, Args)]
struct WrittenArgs {
    /// What it shows
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A step; repeat it for more
    #[arg(long, value_name = "TEXT")]
    step: Vec<String>,
    /// What then holds
    #[arg(long, value_name = "TEXT")]
    expected: Option<String>,
    /// A tag; repeat it for more
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// The person or team that answers for it
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
}

impl From<State> for TestCaseState {
    fn from(state: State) -> Self {
        match state {
            State::Implemented => Self::Implemented,
            State::Written => Self::Written,
            State::Vanished => Self::Vanished,
        }
    }
}

impl ListArgs {
    fn matches(&self, stored: &StoredTestCase) -> bool {
        let id = stored.case.id.to_string();
        let description = stored.case.description();
        let any =
            |wanted: &[String], is: &dyn Fn(&String) -> bool| wanted.is_empty() || wanted.iter().any(is);
        any(&self.patterns, &|pattern| id.contains(pattern))
            && any(&self.tag, &|tag| description.tags.contains(tag))
            && any(&self.owner, &|owner| description.owner.as_ref() == Some(owner))
            && (self.state.is_empty() || self.state.iter().any(|&state| stored.case.state() == state.into()))
    }
}

impl WrittenArgs {
    fn is_empty(&self) -> bool {
        let Self { description, step, expected, tag, owner } = self;
        description.is_none() && step.is_empty() && expected.is_none() && tag.is_empty() && owner.is_none()
    }

    /// Sets what was named; empty texts clear.
    fn apply(self, to: &mut Description) {
        let list = |given: Vec<String>| given.into_iter().filter(|text| !text.is_empty()).collect();
        if let Some(description) = self.description {
            to.description = description;
        }
        if !self.step.is_empty() {
            to.steps = list(self.step);
        }
        if let Some(expected) = self.expected {
            to.expected = expected;
        }
        if !self.tag.is_empty() {
            to.tags = list(self.tag);
        }
        if let Some(owner) = self.owner {
            to.owner = Some(owner).filter(|owner| !owner.is_empty());
        }
    }
}

impl TestCaseArgs {
    /// The manifest that was named, if one was.
    pub(super) fn manifest_path(&self) -> Option<&Path> {
        match &self.verb {
            TestCaseVerb::Sync { cargo } => cargo.manifest_path(),
            _ => None,
        }
    }
}

/// Does what was asked for. Each binary may take `timeout` to list its tests.
///
/// # Errors
/// The store fails, there is no such test case, somebody else changed it, or the build or
/// the listing failed.
pub(super) async fn run(
    args: TestCaseArgs,
    store: SharedStore,
    format: Format,
    timeout: Duration,
) -> Result<Exit, Failure> {
    print(&answer(args.verb, &Catalog::new(store), format, timeout).await?)?;
    Ok(Exit::Passed)
}

async fn answer(
    verb: TestCaseVerb,
    catalog: &Catalog,
    format: Format,
    timeout: Duration,
) -> Result<String, Failure> {
    Ok(match verb {
        TestCaseVerb::List(args) => {
            let mut found = catalog.list().await?;
            let all = found.len();
            found.retain(|stored| args.matches(stored));
            match format {
                Format::Human => list_text(&found, all),
                Format::Json => found.iter().map(|stored| json_line(&json_of(stored))).collect(),
            }
        }
        TestCaseVerb::Show { id } => {
            let found = catalog.get(&id).await?;
            let latest = catalog.latest_results(&found.case.id).await?;
            match format {
                Format::Human => details_text(&found, &latest, Timestamp::now()),
                Format::Json => {
                    let mut document = json_of(&found);
                    document["latest_results"] = json!(latest);
                    json_line(&document)
                }
            }
        }
        TestCaseVerb::Create { id, written } => {
            let mut description = Description::default();
            written.apply(&mut description);
            changed("created", &catalog.create(id, description).await?, format)
        }
        TestCaseVerb::Update { id, written, clear, if_revision } => {
            if written.is_empty() && !clear {
                return Err(Failure::usage(miette::miette!(
                    help = "name at least one of --description, --step, --expected, --tag, --owner, --clear",
                    "there is nothing to change"
                )));
            }
            let edit = |description: &mut Description| {
                if clear {
                    *description = Description::default();
                }
                written.apply(description);
            };
            changed("updated", &catalog.update(&id, if_revision.map(Revision), edit).await?, format)
        }
        TestCaseVerb::Delete { id, yes, if_revision } => {
            changed("deleted", &catalog.delete(&id, if_revision.map(Revision), yes).await?, format)
        }
        TestCaseVerb::Sync { cargo } => {
            let counts = catalog.sync(&cargo.list_tests(timeout).await?).await?;
            match format {
                Format::Human => counts_text(&counts),
                Format::Json => json_line(&counts),
            }
        }
    })
}

/// One document of stable JSON: the record, its id as people write it, its state, the
/// description as it is read, and the revision for `--if-revision`.
fn json_of(stored: &StoredTestCase) -> Value {
    json!({
        "id": stored.case.id.to_string(),
        "state": stored.case.state(),
        "revision": stored.revision.0,
        "description": stored.case.description(),
        "code": stored.case.code,
        "written": stored.case.written,
        "vanished": stored.case.vanished,
    })
}

fn changed(what: &str, stored: &StoredTestCase, format: Format) -> String {
    match format {
        Format::Human => format!("{what} {} at revision {}\n", stored.case.id, stored.revision),
        Format::Json => json_line(&json_of(stored)),
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        if let CatalogError::Store(error) = error {
            return error.into();
        }
        match error.help() {
            Some(help) => Self::usage(miette::miette!(help = help, "{error}")),
            None => Self::usage(miette::miette!("{error}")),
        }
    }
}
