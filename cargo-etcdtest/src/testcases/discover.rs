//! Asking every binary for its tests.

use std::collections::BTreeSet;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use etcdtest::protocol::{LIST_VARIABLE, Listed, VERSION};
use futures::{StreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::binary::Binary;
use super::build::Built;
use super::group::Group;
use super::listing::{self, FirstAnswer, ListingFault};
use super::test_list::{ListedTest, TestList};
use crate::model::{Code, TestCaseId};

/// The most that is read of a list, in bytes: a hundred thousand annotated tests.
const LIST_LIMIT: u64 = 64 << 20;
/// The most that is kept of what a listing binary writes to stderr.
const STDERR_LIMIT: u64 = 64 << 10;
/// How many lines of it are shown.
const STDERR_LINES: usize = 3;

/// The binaries that could not be listed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("failed to list the tests of {}", count(.failures.len()))]
pub struct ListError {
    /// Each of them.
    #[related]
    pub failures: Vec<ListFailure>,
}

/// A binary that could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("{binary} ({path}): {fault}")]
pub struct ListFailure {
    /// The binary, `package::name`.
    pub binary: String,
    /// Its file.
    pub path: String,
    /// What is wrong.
    pub fault: ListingFault,
}

impl miette::Diagnostic for ListFailure {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(self.fault.help()))
    }
}

fn count(binaries: usize) -> String {
    if binaries == 1 { "a binary".into() } else { format!("{binaries} binaries") }
}

/// Lists the tests of all binaries, as many at a time as there are cores.
///
/// # Errors
/// At least one binary could not be listed; all that could not are named.
pub async fn discover(built: Built, timeout: Duration) -> Result<TestList, ListError> {
    let Built { workspace_root, binaries, targets, .. } = built;
    let lanes = std::thread::available_parallelism().map_or(1, Into::into);
    let binaries: Vec<_> = binaries.into_iter().map(Arc::new).collect();
    let answers: Vec<_> = stream::iter(binaries.iter().cloned())
        .map(|binary| {
            let root = &workspace_root;
            async move {
                let answer = tokio::time::timeout(timeout, tests_of(&binary, root)).await;
                (binary, answer.unwrap_or(Err(ListingFault::Timeout(timeout))))
            }
        })
        .buffered(lanes)
        .collect()
        .await;

    let mut list = TestList { binaries, targets, ..TestList::default() };
    let mut failures = Vec::new();
    for (binary, answer) in answers {
        match answer {
            Ok(tests) => add(&mut list, &binary, tests),
            Err(fault) => failures.push(ListFailure {
                binary: binary.to_string(),
                path: relative(&binary.path, &workspace_root),
                fault,
            }),
        }
    }
    list.tests.sort_by(|a, b| a.id.cmp(&b.id));
    if failures.is_empty() { Ok(list) } else { Err(ListError { failures }) }
}

fn relative(path: &Utf8Path, root: &Utf8Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string()
}

fn add(list: &mut TestList, binary: &Arc<Binary>, tests: Tests) {
    if let Tests::Silent = tests {
        list.warnings.push(format!(
            "{binary} lists no tests, and not in the way of libtest: what its `main` tests is not run; \
             end it with `etcdtest::main!()`, or leave it out with `test = false`"
        ));
    }
    let Tests::Listed(tests) = tests else { return };
    let mut names = BTreeSet::new();
    for Found { name, code, typed } in tests {
        if names.insert(name.clone()) {
            let id = TestCaseId::new(&binary.package, &binary.name, name);
            let code = Arc::new(code);
            list.tests.push(ListedTest { id, code, typed, binary: Arc::clone(binary) });
        } else {
            list.warnings.push(format!("{binary} lists `{name}` twice: it is run once"));
        }
    }
}

/// What a binary has.
enum Tests {
    /// These tests.
    Listed(Vec<Found>),
    /// Nothing was printed, not even the closing line in which libtest counts no tests.
    Silent,
}

/// A test that a binary has.
struct Found {
    name: String,
    code: Code,
    typed: bool,
}

async fn tests_of(binary: &Binary, workspace_root: &Utf8Path) -> Result<Tests, ListingFault> {
    let first = ask(binary, &["--list", "--format", "terse"], None).await?;
    let names = match listing::first_answer(&first)? {
        FirstAnswer::Annotated(tests) => {
            let found = |test: Listed| Found {
                name: test.name.clone(),
                typed: test.typed,
                code: listing::annotated(test, workspace_root),
            };
            return Ok(Tests::Listed(tests.into_iter().map(found).collect()));
        }
        FirstAnswer::Plain(names) => names,
    };
    if names.is_empty() {
        let silent = first.is_empty() && ask(binary, &["--list"], None).await?.is_empty();
        return Ok(if silent { Tests::Silent } else { Tests::Listed(Vec::new()) });
    }
    let ignored = ask(binary, &["--list", "--format", "terse", "--ignored"], None).await?;
    let ignored = listing::plain_names(&ignored)?.into_iter().collect();
    let found = |(name, code)| Found { name, code, typed: false };
    Ok(Tests::Listed(listing::plain(names, &ignored).into_iter().map(found).collect()))
}

/// Starts the binary with these arguments, tells it the question if there is one, and returns
/// what it prints.
pub(super) async fn ask(
    binary: &Binary,
    arguments: &[&str],
    question: Option<String>,
) -> Result<Vec<u8>, ListingFault> {
    let mut command = Command::from(binary.command());
    let stdin = if question.is_some() { Stdio::piped() } else { Stdio::null() };
    command.args(arguments).env(LIST_VARIABLE, VERSION.to_string()).stdin(stdin);
    let (mut child, group) =
        Group::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())).map_err(ListingFault::Start)?;
    let stdin = child.stdin.take();
    let say = async {
        if let (Some(mut stdin), Some(question)) = (stdin, question) {
            // One that does not listen says why in its own words.
            let _ = stdin.write_all(question.as_bytes()).await;
        }
        Ok(())
    };
    let (output, errors, ()) =
        tokio::try_join!(read_list(child.stdout.take()), read_head(child.stderr.take(), STDERR_LIMIT), say)?;
    let status = child.wait().await.map_err(ListingFault::Read)?;
    group.ended();
    if status.success() { Ok(output) } else { Err(ended(status, &errors)) }
}

fn ended(status: ExitStatus, errors: &[u8]) -> ListingFault {
    let errors = String::from_utf8_lossy(errors);
    let lines = errors.lines().filter(|line| !line.trim().is_empty()).take(STDERR_LINES);
    ListingFault::Status { status, stderr: lines.map(listing::shorten).collect() }
}

async fn read_list(from: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, ListingFault> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(LIST_LIMIT + 1).read_to_end(&mut bytes).await.map_err(ListingFault::Read)?;
    }
    if bytes.len() as u64 > LIST_LIMIT { Err(ListingFault::TooLarge(LIST_LIMIT)) } else { Ok(bytes) }
}

/// Reads to the end, keeping the first `limit` bytes.
async fn read_head(from: Option<impl AsyncRead + Unpin>, limit: u64) -> Result<Vec<u8>, ListingFault> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        (&mut from).take(limit).read_to_end(&mut bytes).await.map_err(ListingFault::Read)?;
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await.map_err(ListingFault::Read)?;
    }
    Ok(bytes)
}
