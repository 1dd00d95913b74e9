//! An environment as text, to be changed in an editor.

use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use tokio::process::Command;

use super::error::EnvironmentError;
use super::file::EnvironmentFile;
use crate::document::Document;
use crate::model::Environment;

/// The text of an environment in a file of its own, which goes away with the draft unless
/// it is kept. Only its owner can read it.
#[derive(Debug)]
pub struct Draft {
    name: String,
    file: NamedTempFile,
    /// What it said at first.
    text: String,
}

impl Draft {
    /// A draft that says what the environment is.
    ///
    /// # Errors
    /// Where it cannot be written as TOML, or the file cannot be made.
    pub fn new(environment: &Environment) -> Result<Self, EnvironmentError> {
        let text = environment.to_toml()?;
        let write = || {
            let prefix = format!("{}-", environment.name);
            let mut file = tempfile::Builder::new().prefix(&prefix).suffix(".toml").tempfile()?;
            file.write_all(text.as_bytes())?;
            Ok(file)
        };
        let name = environment.name.clone();
        match write() {
            Ok(file) => Ok(Self { name, file, text }),
            Err(source) => Err(EnvironmentError::Draft { name, source }),
        }
    }

    /// Opens it in an editor, a command line such as `code --wait`, and waits for its end.
    ///
    /// # Errors
    /// [`EnvironmentError::Editor`].
    pub async fn open(&self, editor: &str) -> Result<(), EnvironmentError> {
        let failed = |reason: String| EnvironmentError::Editor { editor: editor.to_owned(), reason };
        let words = shlex::split(editor).filter(|words| !words.is_empty());
        let words = words.ok_or_else(|| failed("is no command".into()))?;
        let status = Command::new(&words[0]).args(&words[1..]).arg(self.file.path()).status().await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(failed(format!("ended with {status}"))),
            Err(error) => Err(failed(format!("did not start: {error}"))),
        }
    }

    /// What it says now.
    ///
    /// # Errors
    /// [`EnvironmentError::Abandoned`] where it says nothing; else as
    /// [`EnvironmentFile::read`].
    pub fn read(&self) -> Result<EnvironmentFile, EnvironmentError> {
        // Read by its path: many editors write a new file and move it there.
        let document = Document::read(self.file.path(), Path::new(&format!("{}.toml", self.name)))?;
        let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        // As in other editors of one text, this is how one changes one's mind.
        if !document.text().lines().any(says) {
            return Err(EnvironmentError::Abandoned { name: self.name.clone() });
        }
        EnvironmentFile::parse(&self.name, document)
    }

    /// Whether it says something else than at first, if only in a comment.
    pub fn is_changed(&self) -> bool {
        std::fs::read(self.file.path()).is_ok_and(|text| text != self.text.as_bytes())
    }

    /// Keeps the file and says where.
    ///
    /// # Errors
    /// [`EnvironmentError::Draft`].
    pub fn keep(self) -> Result<PathBuf, EnvironmentError> {
        let name = self.name;
        self.file
            .into_temp_path()
            .keep()
            .map_err(|error| EnvironmentError::Draft { name, source: error.error })
    }
}

/// The editor that the user chose: `VISUAL`, else `EDITOR`, else `vi`.
///
/// # Errors
/// [`EnvironmentError::Editor`] where none was chosen and there is no terminal for `vi`.
pub fn editor() -> Result<String, EnvironmentError> {
    let chosen = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|variable| std::env::var(variable).ok().filter(|editor| !editor.trim().is_empty()));
    if chosen.is_none() && !std::io::stdin().is_terminal() {
        return Err(EnvironmentError::Editor {
            editor: "vi".into(),
            reason: "has no terminal to run in".into(),
        });
    }
    Ok(chosen.unwrap_or_else(|| "vi".into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::model::Definition;

    fn environment(description: &str, config: Map<String, Value>) -> Environment {
        let definition = Definition { description: description.into(), config, ..Definition::default() };
        Environment::unstored("staging", definition, "me@here")
    }

    fn small() -> Environment {
        environment("the shop", Map::from_iter([("a".to_owned(), 1.into())]))
    }

    /// An editor that does this to the file `$1`.
    #[cfg(unix)]
    fn script(folder: &Path, commands: &str) -> String {
        let path = folder.join("my editor.sh");
        std::fs::write(&path, commands).unwrap();
        format!("sh '{}'", path.display())
    }

    #[tokio::test]
    #[cfg(unix)]
    async fn a_draft_is_private_and_reads_what_the_editor_wrote() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let draft = Draft::new(&small()).unwrap();
        assert_eq!(draft.file.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!draft.is_changed());
        // As editors do that write a new file and move it into place.
        let commands = "sed s/1/2/ \"$1\" > \"$1.new\" && mv \"$1.new\" \"$1\"";
        draft.open(&script(folder.path(), commands)).await.unwrap();
        assert!(draft.is_changed());
        assert_eq!(draft.read().unwrap().definition.config["a"], 2);
        let kept = draft.keep().unwrap();
        assert!(std::fs::read_to_string(&kept).unwrap().contains("a = 2"));
        std::fs::remove_file(kept).unwrap();
    }

    #[tokio::test]
    #[cfg(unix)]
    async fn an_editor_that_fails_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let draft = Draft::new(&small()).unwrap();
        let failing = script(folder.path(), "exit 3");
        for editor in [failing.as_str(), "/there/is/no/such/editor", "vi 'unclosed", "  "] {
            let error = draft.open(editor).await.unwrap_err().to_string();
            assert!(error.contains(editor), "{error}");
        }
        let path = draft.file.path().to_owned();
        drop(draft);
        assert!(!path.exists());
    }

    #[test]
    fn what_toml_cannot_say_is_refused() {
        let error = environment("", Map::from_iter([("a".to_owned(), Value::from(vec![Value::Null]))]));
        assert!(matches!(error.to_toml(), Err(EnvironmentError::NotWritable { .. })));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e300..1e300).prop_map(Value::from),
            ".*".prop_map(|text| text.replace("${", "$${").into()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn an_environment_written_as_toml_reads_back(
            description in ".*",
            config in prop::collection::btree_map(".*", value(), 0..5),
        ) {
            let environment = environment(&description, config.into_iter().collect());
            let document = Document::new("staging.toml", environment.to_toml().unwrap());
            let read = EnvironmentFile::parse("staging", document).unwrap();
            prop_assert_eq!(read.definition, environment.definition);
        }
    }
}
