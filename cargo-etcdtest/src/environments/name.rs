//! The names that environments can have.

use std::str::FromStr;

use super::error::EnvironmentError;

/// The longest name, in bytes: it is part of keys, file names and report properties.
const LONGEST: usize = 100;

/// Checks a name: letters, digits, `-`, `_` and `.`, the first a letter or digit. So a
/// name is one segment of a key, never a pattern, and never hides a file.
///
/// # Errors
/// [`EnvironmentError::WrongName`].
pub fn check_name(name: &str) -> Result<(), EnvironmentError> {
    let allowed = |letter: char| letter.is_alphanumeric() || "-_.".contains(letter);
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > LONGEST {
        "it is too long"
    } else if !name.starts_with(char::is_alphanumeric) {
        "it does not begin with a letter or a digit"
    } else if !name.chars().all(allowed) {
        "it has characters that a name may not have"
    } else {
        return Ok(());
    };
    let name = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    Err(EnvironmentError::WrongName { name, reason })
}

/// An environment that somebody names: `NAME`, or `NAME@VERSION` for one of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentId {
    /// Its name.
    pub name: String,
    /// The version that is meant; the current one if none is said.
    pub version: Option<u64>,
}

impl EnvironmentId {
    /// An environment as it is now.
    pub fn current(name: &str) -> Self {
        Self { name: name.to_owned(), version: None }
    }
}

impl FromStr for EnvironmentId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((name, version)) = text.split_once('@') else { return Ok(Self::current(text)) };
        match version.parse() {
            Ok(version @ 1..) => Ok(Self { name: name.to_owned(), version: Some(version) }),
            _ => Err("the number of a version is expected after `@`, as in `staging@3`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_after_an_at_sign() {
        let id = |text: &str| text.parse::<EnvironmentId>().map(|id| (id.name, id.version));
        assert_eq!(id("staging"), Ok(("staging".into(), None)));
        assert_eq!(id("staging@12"), Ok(("staging".into(), Some(12))));
        for wrong in ["staging@", "staging@0", "staging@x", "staging@1@2", "staging@-1"] {
            assert!(id(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_is_one_segment_and_no_pattern() {
        for name in ["local", "staging-2", "eu.west_1", "Übung", "7"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let long = "a".repeat(LONGEST + 1);
        for name in ["", "a/b", "a@3", ".hidden", "-x", "a b", "a\n", "sta*", "{a,b}", "a\u{1b}[m", &long] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}
