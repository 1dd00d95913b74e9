//! Which environments a test runs in.

use globset::Glob;

use super::error::EnvironmentError;

/// Whether a test with these patterns (`staging-*`, `{eu,us}-?`) runs in the environment;
/// without patterns it runs in every one.
///
/// # Errors
/// [`EnvironmentError::WrongPattern`].
pub fn allows(patterns: &[String], name: &str) -> Result<bool, EnvironmentError> {
    let mut allowed = patterns.is_empty();
    for pattern in patterns {
        let glob = Glob::new(pattern).map_err(|error| EnvironmentError::WrongPattern {
            pattern: pattern.clone(),
            reason: error.kind().to_string(),
        })?;
        allowed |= glob.compile_matcher().is_match(name);
    }
    Ok(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(patterns: &[&str], name: &str) -> bool {
        allows(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>(), name).unwrap()
    }

    #[test]
    fn a_test_runs_where_one_of_its_patterns_matches() {
        assert!(allowed(&[], "local"));
        assert!(allowed(&["local", "staging-*"], "staging-eu"));
        assert!(!allowed(&["staging-*"], "staging"));
        assert!(allowed(&["{eu,us}-?"], "us-1"));
        assert!(!allowed(&["local"], "local2"));
        let error = allows(&["local".into(), "[a".into()], "local").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`[a` is no pattern for names of environments: unclosed character class; missing ']'"
        );
    }
}
