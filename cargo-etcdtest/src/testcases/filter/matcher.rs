//! How a name is compared in a filter expression.

use std::fmt;

use globset::GlobMatcher;
use regex::Regex;

/// A condition on a name.
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    /// It is this.
    Equal(String),
    /// It has this in it.
    Contains(String),
    /// A part of it matches.
    Regex(Regex),
    /// It matches as a whole.
    Glob(Box<GlobMatcher>),
}

/// The kinds of matcher, each with the sign before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MatcherKind {
    Equal,
    Contains,
    Regex,
    Glob,
}

impl Matcher {
    /// A matcher of this kind; the error says what is wrong with the pattern.
    pub(super) fn new(kind: MatcherKind, pattern: String) -> Result<Self, String> {
        Ok(match kind {
            MatcherKind::Equal => Self::Equal(pattern),
            MatcherKind::Contains => Self::Contains(pattern),
            MatcherKind::Regex => Self::Regex(Regex::new(&pattern).map_err(last_line)?),
            MatcherKind::Glob => {
                let glob = globset::Glob::new(&pattern).map_err(|error| error.kind().to_string())?;
                Self::Glob(Box::new(glob.compile_matcher()))
            }
        })
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Equal(text) => name == text,
            Self::Contains(text) => name.contains(text),
            Self::Regex(regex) => regex.is_match(name),
            Self::Glob(glob) => glob.is_match(name),
        }
    }
}

/// What regex says is several lines that show the pattern; the last one is the reason.
fn last_line(error: impl fmt::Display) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

impl MatcherKind {
    /// The kind that a sign announces.
    pub(super) fn of_sign(sign: char) -> Option<Self> {
        Some(match sign {
            '=' => Self::Equal,
            '~' => Self::Contains,
            '/' => Self::Regex,
            '#' => Self::Glob,
            _ => return None,
        })
    }
}
