//! What a worker executes, and by which rules.

use std::collections::HashMap;
use std::path::PathBuf;

use etcdtest::protocol::EnvironmentData;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::error::{Result, RunError};
use super::plan::Plan;
use super::policy::Policy;
use super::process::Launcher;
use crate::model::{Environment, RunId, TestCaseId, TestKind, WorkerId};
use crate::testcases::ListedTest;

/// A run as one worker sees it.
#[derive(Debug)]
pub struct Work {
    /// The run.
    pub run: RunId,
    /// The worker.
    pub worker: WorkerId,
    /// All units.
    pub plan: Plan,
    /// The tests that the units name.
    pub tests: HashMap<TestCaseId, ListedTest>,
    /// The environments that the units name.
    pub environments: HashMap<String, Environment>,
    /// The same as files, for tests that are not told by socket.
    pub files: EnvironmentFiles,
    /// The rules.
    pub policy: Policy,
    /// What starts its attempts.
    pub launcher: Launcher,
}

/// A folder with a file for each environment, gone with this value.
#[derive(Debug, Default)]
pub struct EnvironmentFiles {
    folder: Option<TempDir>,
    names: HashMap<String, String>,
}

impl EnvironmentFiles {
    /// Writes the environments, readable by this user only, if there is a plain test that
    /// needs them.
    ///
    /// # Errors
    /// [`RunError::Io`] where the folder for temporary files cannot be written.
    pub fn write<'a>(
        environments: impl IntoIterator<Item = &'a Environment>,
        tests: &HashMap<TestCaseId, ListedTest>,
    ) -> Result<Self> {
        if tests.values().all(|test| test.code.kind == TestKind::Annotated) {
            return Ok(Self::default());
        }
        let failed = |source| RunError::Io { what: "write the environments for the tests".into(), source };
        let folder = tempfile::Builder::new().prefix("etcdtest-").tempdir().map_err(failed)?;
        let mut names = HashMap::new();
        for (index, environment) in environments.into_iter().enumerate() {
            let name = format!("{index}.json");
            let content = json!({
                "name": environment.name,
                "version": environment.version,
                "revision": environment.revision,
                "config": environment.definition.config,
            });
            std::fs::write(folder.path().join(&name), content.to_string()).map_err(failed)?;
            names.insert(environment.name.clone(), name);
        }
        Ok(Self { folder: Some(folder), names })
    }

    /// The folder, if there is one.
    pub fn folder(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().to_owned())
    }

    /// The file of an environment.
    pub fn of(&self, environment: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.path().join(self.names.get(environment)?))
    }
}

/// An environment as a test is told it.
pub(super) fn environment_data(environment: &Environment) -> EnvironmentData {
    EnvironmentData {
        name: environment.name.clone(),
        version: environment.version,
        revision: environment.revision,
        config: Value::Object(environment.definition.config.clone()),
    }
}
