//! Values of secrets that stand in a file as they are.

use serde_json::Value;

use super::super::error::EnvironmentError;
use super::super::fault::Fault;
use super::super::text::values;
use super::EnvironmentFile;
use crate::redact::Redactor;

impl EnvironmentFile {
    /// Checks that nothing it says holds one of these secrets: it would be stored, and shown to
    /// whoever looks at the environment.
    ///
    /// # Errors
    /// The first that does, at its place; the file is shown without them.
    pub(in super::super) fn check_for(&self, secrets: &Redactor) -> Result<(), EnvironmentError> {
        for (path, value) in values(&self.definition) {
            let text = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let found = [&path, &text].into_iter().find_map(|text| Some(secrets.places(text).first()?.1));
            let Some(name) = found else { continue };
            let named = secrets.text(path.clone());
            let message = format!("`{named}` holds the value of the secret `{name}`");
            let help = format!("write `${{secrets.{name}}}` in its place, or give the secret another value");
            let Some(place) = self.places.get(&path) else {
                let (label, part) = ("not shown here".into(), String::new());
                return Err(Fault { path: named, part, message, label, help: Some(help) }.of(&self.name));
            };
            let hidden = secrets.places(self.document.text()).into_iter().map(|(place, _)| place);
            let document = self.document.clone().hiding(hidden.chain([place.clone()]));
            return Err(document.mistake(message, place.clone(), "not shown here").with_help(help).into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Document, rendered};

    fn check(text: &str) -> Result<(), String> {
        let file = EnvironmentFile::parse("staging", Document::new("staging.toml", text)).unwrap();
        let secrets = Redactor::new([("token", "hunter2/hunter3")]);
        file.check_for(&secrets).map_err(|error| rendered(&error))
    }

    #[test]
    fn a_file_that_holds_a_secret_is_refused_and_shown_without_it() {
        let error = check(
            "[config]\n# not hunter2/hunter3\nurl = \"http://shop:hunter2%2Fhunter3@shop/\"\nother = 'hunter2/hunter3'\n",
        );
        insta::assert_snapshot!(error.unwrap_err());
        for text in [
            "description = \"with hunter2/hunter3\"\n",
            "[config]\nlist = [1, [\"hunter2/hunter3\"]]\n",
            "[config.a]\n\"hunter2/hunter3\" = 1\n",
            "[labels]\nl = \"hunter2/hunter3\"\n",
            "[services.s]\ncommand = \"s\"\nenv = { T = \"hunter2/hunter3\" }\n",
            "[services.s]\ncommand = \"s\"\nargs = [\"--token\", \"hunter2/hunter3\"]\n",
            "[[probes]]\nhttp = \"http://a/?token=aHVudGVyMi9odW50ZXIz\"\n",
        ] {
            let error = check(text).unwrap_err();
            assert!(
                error.contains("the value of the secret `token`") && error.contains("staging.toml:"),
                "{error}"
            );
            assert!(!error.contains("hunter") && !error.contains("aHVudGVy"), "{error}");
        }
        assert_eq!(check("[config]\nurl = \"http://${config.host}/hunter2\"\nhost = \"h\"\n"), Ok(()));
    }
}
