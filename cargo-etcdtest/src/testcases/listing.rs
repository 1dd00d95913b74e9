//! Reading what a binary prints when it is asked for its tests.

use std::collections::BTreeSet;
use std::process::ExitStatus;
use std::time::Duration;

use camino::Utf8Path;
use etcdtest::protocol::{Listed, Listing};

use crate::model::{Code, Description, Labels, TestKind};

/// What is wrong with a binary's answer.
#[derive(Debug, thiserror::Error)]
pub enum ListingFault {
    /// It could not be started.
    #[error("it could not be started: {0}")]
    Start(std::io::Error),
    /// Its output could not be read.
    #[error("its output could not be read: {0}")]
    Read(std::io::Error),
    /// It did not end in time.
    #[error("it did not finish its list within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// It ended without success.
    #[error("it ended with {status}{}", said(.stderr))]
    Status {
        /// How it ended.
        status: ExitStatus,
        /// The first lines it wrote to stderr.
        stderr: Vec<String>,
    },
    /// It printed more than is read.
    #[error("it printed more than {} MiB", .0 >> 20)]
    TooLarge(u64),
    /// It printed bytes that are no text.
    #[error("line {line} of its list is not UTF-8: {found}")]
    NotUtf8 {
        /// The line, from 1.
        line: usize,
        /// The line as far as it can be shown.
        found: String,
    },
    /// It printed something else than a list.
    #[error("expected lines like `name: test`, but line {line} is `{found}`")]
    Garbage {
        /// The line, from 1.
        line: usize,
        /// The line, shortened.
        found: String,
    },
    /// It speaks the protocol, but not as this runner does.
    #[error("{0}")]
    Protocol(String),
}

/// What a binary answered when asked the first time.
#[derive(Debug, PartialEq)]
pub(super) enum FirstAnswer {
    /// It speaks the protocol, and this is all it has.
    Annotated(Vec<Listed>),
    /// It speaks libtest's command line: the names of its tests.
    Plain(Vec<String>),
}

/// How much of an offending line is shown, in characters.
const SHOWN: usize = 120;

fn said(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!(" and said: {}", lines.join("\n  ")) }
}

impl ListingFault {
    /// What the user can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Start(_) | Self::Read(_) | Self::Status { .. } => {
                "run it by hand with `--list --format terse` to see why"
            }
            Self::Timeout(_) => {
                "a binary must answer `--list --format terse` at once; raise `list-timeout` if it is only slow"
            }
            Self::TooLarge(_) | Self::NotUtf8 { .. } | Self::Garbage { .. } => {
                "a target with `harness = false` needs `etcdtest::main!()` or another harness that answers \
                 `--list --format terse`; leave it out with `test = false` in Cargo.toml, or select others \
                 with --test, --lib, --bins"
            }
            Self::Protocol(_) => "use the same version of `etcdtest` and `cargo-etcdtest`",
        }
    }
}

/// Reads the answer to the first question.
pub(super) fn first_answer(output: &[u8]) -> Result<FirstAnswer, ListingFault> {
    for line in output.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{")) {
        let listing = str::from_utf8(line).ok().and_then(Listing::from_line);
        if let Some(listing) = listing {
            return Ok(FirstAnswer::Annotated(listing.map_err(ListingFault::Protocol)?.tests));
        }
    }
    plain_names(output).map(FirstAnswer::Plain)
}

/// Reads libtest's terse list; benchmarks are no tests.
pub(super) fn plain_names(output: &[u8]) -> Result<Vec<String>, ListingFault> {
    let mut names = Vec::new();
    for (line, bytes) in (1..).zip(output.split(|&byte| byte == b'\n')) {
        let Ok(text) = str::from_utf8(bytes) else {
            return Err(ListingFault::NotUtf8 { line, found: shorten(&String::from_utf8_lossy(bytes)) });
        };
        let text = text.trim_end_matches('\r');
        if let Some(name) = text.strip_suffix(": test").filter(|name| !name.is_empty()) {
            names.push(name.to_owned());
        } else if !(text.is_empty() || text.ends_with(": benchmark") || text.ends_with(": bench")) {
            return Err(ListingFault::Garbage { line, found: shorten(text) });
        }
    }
    Ok(names)
}

/// One line as it may be shown: without control characters, and not too long.
pub(super) fn shorten(line: &str) -> String {
    let mut shown: String =
        line.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if line.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// What an annotated test's code says.
pub(super) fn annotated(test: Listed, workspace_root: &Utf8Path) -> Code {
    let file = Utf8Path::new(&test.file);
    Code {
        kind: TestKind::Annotated,
        description: Description {
            description: test.description,
            steps: test.steps,
            expected: test.expected,
            tags: test.tags,
            owner: test.owner,
        },
        timeout: test.timeout,
        retries: test.retries,
        environments: test.environments,
        exclusive: test.exclusive,
        // The macro lets no others pass.
        needs: Labels::new(test.needs).unwrap_or_default(),
        ignore: test.ignore,
        file: Some(file.strip_prefix(workspace_root).unwrap_or(file).to_string()),
        line: Some(test.line),
    }
}

/// What is known of plain tests: their names, and which are ignored.
pub(super) fn plain(names: Vec<String>, ignored: &BTreeSet<String>) -> Vec<(String, Code)> {
    let code = |name: &String| Code {
        kind: TestKind::Plain,
        description: Description::default(),
        timeout: None,
        retries: None,
        environments: Vec::new(),
        exclusive: None,
        needs: Labels::default(),
        ignore: ignored.contains(name).then(String::new),
        file: None,
        line: None,
    };
    names.into_iter().map(|name| (name.clone(), code(&name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terse_list_is_read_without_its_benchmarks() {
        let names =
            plain_names(b"a::b: test\nslow: benchmark\nfast: bench\n\nwith: colon: test\r\n").unwrap();
        assert_eq!(names, ["a::b", "with: colon"]);
        assert_eq!(plain_names(b"").unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_list_is_shown_with_its_line() {
        let garbage = plain_names(b"a: test\nHello \x1b[31mworld\n").unwrap_err().to_string();
        assert_eq!(garbage, "expected lines like `name: test`, but line 2 is `Hello \u{fffd}[31mworld`");
        let long = plain_names("x".repeat(500).as_bytes()).unwrap_err().to_string();
        assert!(long.contains(&format!("`{}…`", "x".repeat(SHOWN))), "{long}");
        assert!(matches!(plain_names(b"\n\xff\xfe: test"), Err(ListingFault::NotUtf8 { line: 2, .. })));
        assert!(matches!(plain_names(b": test"), Err(ListingFault::Garbage { .. })));
    }

    #[test]
    fn a_listing_of_the_protocol_is_recognised_among_other_lines() {
        let listing = Listing { tests: vec![Listed { name: "a".into(), ..Listed::default() }] };
        let output = format!("{{ not ours\nallocator ready\n{}\n", listing.to_line());
        assert_eq!(first_answer(output.as_bytes()).unwrap(), FirstAnswer::Annotated(listing.tests));
        let newer = first_answer(br#"{"etcdtest":9,"tests":[]}"#).unwrap_err();
        assert!(newer.to_string().contains("version 9"), "{newer}");
        assert!(newer.help().contains("same version"));
    }
}
