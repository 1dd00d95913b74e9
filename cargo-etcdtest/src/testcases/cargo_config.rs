//! The `[env]` table of cargo's configuration, which cargo applies to tests that it runs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The variables that the configuration files above `directory`, the one of cargo's home,
/// and `--config` arguments ask for. Files that cannot be read are left to cargo, which
/// complains of them when it builds.
pub(super) fn variables(directory: &Path, arguments: &[String]) -> BTreeMap<String, OsString> {
    let mut variables: BTreeMap<String, Wanted> = BTreeMap::new();
    for (table, base) in layers(directory, arguments) {
        let Some(Value::Table(entries)) = table.get("env") else { continue };
        for (name, value) in entries {
            if let Some(wanted) = Wanted::read(value, &base) {
                variables.entry(name.clone()).or_insert(wanted);
            }
        }
    }
    variables.retain(|name, wanted| wanted.force || std::env::var_os(name).is_none());
    variables.into_iter().map(|(name, wanted)| (name, wanted.value)).collect()
}

/// What the configuration asks of one variable.
struct Wanted {
    value: OsString,
    /// It wins over what the caller has set.
    force: bool,
}

impl Wanted {
    /// Reads an entry of `[env]`; `None` where it is malformed.
    fn read(entry: &Value, base: &Path) -> Option<Self> {
        if let Value::String(value) = entry {
            return Some(Self { value: value.into(), force: false });
        }
        let flag = |key| entry.get(key).and_then(Value::as_bool).unwrap_or(false);
        let value = entry.get("value")?.as_str()?;
        let value = if flag("relative") { base.join(value).into_os_string() } else { value.into() };
        Some(Self { value, force: flag("force") })
    }
}

/// All layers, the strongest first, each with the folder its relative paths start at.
fn layers(directory: &Path, arguments: &[String]) -> Vec<(Table, PathBuf)> {
    let mut layers: Vec<_> = arguments
        .iter()
        .rev()
        .filter_map(|argument| {
            let path = directory.join(argument);
            if path.is_file() {
                let base = path.parent().and_then(Path::parent).unwrap_or(directory).to_owned();
                Some((read(&path)?, base))
            } else {
                Some((argument.parse().ok()?, directory.to_owned()))
            }
        })
        .collect();
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let folders = directory.ancestors().map(|ancestor| ancestor.join(".cargo"));
    let mut seen = Vec::new();
    for folder in folders.chain(home) {
        if seen.contains(&folder) {
            continue;
        }
        let file = ["config", "config.toml"].map(|name| folder.join(name)).into_iter().find(|f| f.is_file());
        if let Some(table) = file.and_then(|file| read(&file)) {
            layers.push((table, folder.parent().unwrap_or(directory).to_owned()));
        }
        seen.push(folder);
    }
    layers
}

fn read(path: &Path) -> Option<Table> {
    std::fs::read_to_string(path).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_configuration_wins_and_relative_values_start_at_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("inner");
        for (folder, text) in [
            (
                root.path(),
                "[env]\nETT_A = 'outer'\nETT_B = { value = 'data', relative = true }\nPATH = 'x'\n",
            ),
            (&inner, "[env]\nETT_A = 'inner'\nHOME = { value = '/h', force = true }\n"),
        ] {
            std::fs::create_dir_all(folder.join(".cargo")).unwrap();
            std::fs::write(folder.join(".cargo/config.toml"), text).unwrap();
        }
        let found = variables(&inner, &["env.ETT_C = 'argument'".into()]);
        let of = |name: &str| found.get(name).cloned();
        assert_eq!(of("ETT_A"), Some("inner".into()));
        assert_eq!(of("ETT_B"), Some(root.path().join("data").into()));
        assert_eq!(of("ETT_C"), Some("argument".into()));
        assert_eq!(of("HOME"), Some("/h".into()));
        assert_eq!(of("PATH"), None, "what the caller has set is kept");
    }
}
