//! How a value within an environment is called: `config.limits."a b"`, `probes.0.http`.

/// The path of what stands under `key`, quoted where TOML would quote it.
pub(super) fn below(parent: &str, key: &str) -> String {
    let bare = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let dot = if parent.is_empty() { "" } else { "." };
    if !key.is_empty() && key.chars().all(bare) {
        format!("{parent}{dot}{key}")
    } else {
        format!("{parent}{dot}{key:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_toml_does() {
        assert_eq!(below("", "config"), "config");
        assert_eq!(below(&below("config", "a b"), "c-d_1"), "config.\"a b\".c-d_1");
        assert_eq!(below("config", ""), "config.\"\"");
        assert_eq!(below("config", "a.b\n"), "config.\"a.b\\n\"");
    }
}
