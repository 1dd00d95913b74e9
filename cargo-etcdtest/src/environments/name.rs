//! The names that environments can have.

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

#[cfg(test)]
mod tests {
    use super::*;

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
