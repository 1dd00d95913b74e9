//! What a worker's tests are given: environments whose services run, and what those write.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use etcdtest::protocol::{EnvironmentData, Secrets, secret_placeholder};
use futures::future::join_all;
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use tokio::sync::watch;
use tokio::time::sleep;

use super::binding::{bound, config, unbound};
use super::fleet::{Fleet, Ground, Marks, tell};
use super::log::ServiceLog;
use super::not_ready::NotReady;
use super::probe;
use crate::environments::{Bindings, DataFiles};
use crate::execution::Leave;
use crate::execution::error::{Result, RunError};
use crate::model::{Definition, Environment, Scope, Service};

/// How long a service may take to write down why a test failed.
const SETTLE: Duration = Duration::from_millis(50);

/// The environments of a run, ready for its tests. They hold secrets, so it does not print.
pub struct Supply {
    ground: Ground,
    /// What runs, by environment.
    fleets: HashMap<String, Fleet>,
    environments: HashMap<String, Provided>,
    /// Where tests read the data of their environments.
    data: DataFiles,
    /// Where plain tests read their environments.
    files: Option<TempDir>,
}

/// An environment whose services run. It holds secrets, so it does not print.
struct Provided {
    environment: Environment,
    /// What its tests are told; but for one with services of each test's own.
    told: String,
    file: Option<PathBuf>,
    own_services: bool,
}

/// What an attempt is given. It holds secrets, so it does not print.
pub struct Supplied {
    /// The environment as an annotated test is told it.
    pub environment: String,
    /// The file in which a plain test reads the same, but for the secrets.
    pub file: Option<PathBuf>,
    /// The secrets, which a plain test is told as variables.
    pub secrets: Secrets,
    /// The services of its own.
    fleet: Option<Fleet>,
    marks: Marks,
    _file: Option<NamedTempFile>,
}

impl Supply {
    /// Starts what the environments need for the whole run, one after the other, and waits
    /// until all is ready; or until `leave` says that no test will run. `files` is the folder for
    /// tests that read files, where there are any.
    ///
    /// # Errors
    /// [`RunError::NotReady`], and [`RunError::Io`] where the folder for temporary files
    /// cannot be written. All services have been stopped then.
    pub async fn provide(
        ground: Ground,
        environments: &[Environment],
        data: DataFiles,
        files: Option<TempDir>,
        leave: &watch::Receiver<Leave>,
    ) -> Result<Self> {
        let (fleets, provided) = (HashMap::new(), HashMap::new());
        let mut supply = Self { ground, fleets, environments: provided, data, files };
        let mut leaving = leave.clone();
        let begun = tokio::select! {
            begun = supply.begin(environments) => begun,
            Ok(_) = leaving.wait_for(|leave| *leave > Leave::ToFinish) => Ok(()),
        };
        let begun = begun.map_err(|error| match error {
            RunError::NotReady(part) => RunError::NotReady(part.without_secrets(supply.ground.redactor())),
            other => other,
        });
        if begun.is_err() {
            supply.stop(leave).await;
        }
        begun.map(|()| supply)
    }

    async fn begin(&mut self, environments: &[Environment]) -> Result<()> {
        for (index, environment) in environments.iter().enumerate() {
            let on_ready = |running: &_| tell(&self.ground, environment, running);
            let for_all = |service: &Service| service.scope == Scope::Run;
            let bindings = unbound(environment, &self.ground.secrets);
            let fleet = Fleet::start(&self.ground, environment, bindings, for_all, on_ready).await?;
            // From here on it is stopped with the others.
            self.fleets.insert(environment.name.clone(), fleet);
            let fleet = &self.fleets[&environment.name];
            let bound = bound(environment, fleet.bindings())?;
            for (written, probe) in environment.definition.probes.iter().zip(&bound.probes) {
                probe::pass(&self.ground, environment, written, probe).await?;
            }
            let told = self.told_of(environment, &bound, fleet.bindings());
            let file = match &self.files {
                None => None,
                Some(folder) => {
                    let file = folder.path().join(format!("{index}.json"));
                    let content = self.content(environment, fleet.bindings())?;
                    std::fs::write(&file, content).map_err(cannot_write)?;
                    Some(file)
                }
            };
            let own_services = !bound.services.values().all(for_all);
            let provided = Provided { environment: environment.clone(), told, file, own_services };
            self.environments.insert(environment.name.clone(), provided);
        }
        Ok(())
    }

    /// What an attempt in this environment is given; `None` for an environment that the run
    /// does not have.
    ///
    /// # Errors
    /// A service of the attempt's own is not ready, or its file cannot be written; in words.
    pub async fn for_attempt(&self, environment: &str) -> Option<std::result::Result<Supplied, String>> {
        let (provided, fleet) = (self.environments.get(environment)?, self.fleets.get(environment)?);
        let marks = fleet.marks();
        if !provided.own_services {
            let (environment, file) = (provided.told.clone(), provided.file.clone());
            let secrets = Secrets(fleet.bindings().secrets.clone());
            return Some(Ok(Supplied { environment, file, secrets, fleet: None, marks, _file: None }));
        }
        Some(self.with_own_services(provided, fleet.bindings(), marks).await)
    }

    /// Whether each attempt in this environment has services of its own.
    pub fn has_own_services(&self, environment: &str) -> bool {
        self.environments.get(environment).is_some_and(|provided| provided.own_services)
    }

    async fn with_own_services(
        &self,
        provided: &Provided,
        bindings: &Bindings,
        marks: Marks,
    ) -> std::result::Result<Supplied, String> {
        let environment = &provided.environment;
        let own = |service: &Service| service.scope == Scope::Test;
        let started = Fleet::start(&self.ground, environment, bindings.clone(), own, |_| {}).await;
        let words = |part: NotReady| part.without_secrets(self.ground.redactor()).to_string();
        let fleet = started.map_err(words)?;
        let bound = bound(environment, fleet.bindings()).map_err(words)?;
        let told = self.told_of(environment, &bound, fleet.bindings());
        let content = self.content(environment, fleet.bindings()).map_err(words)?;
        let file = self.files.as_ref().map(|folder| {
            let file = tempfile::Builder::new().suffix(".json").tempfile_in(folder.path())?;
            std::fs::write(file.path(), &content).map(|()| file)
        });
        let file = file.transpose().map_err(|error| cannot_write(error).to_string())?;
        // All that they wrote, from their start on, belongs to the attempt.
        let marks = marks.and(fleet.beginnings());
        let path = file.as_ref().map(|file| file.path().to_owned());
        let secrets = Secrets(fleet.bindings().secrets.clone());
        Ok(Supplied { environment: told, file: path, secrets, fleet: Some(fleet), marks, _file: file })
    }

    fn told_of(&self, environment: &Environment, bound: &Definition, bindings: &Bindings) -> String {
        let data = EnvironmentData {
            name: environment.name.clone(),
            version: environment.version,
            revision: environment.revision,
            config: Value::Object(config(bound, bindings)),
            secrets: Secrets(bindings.secrets.clone()),
            data: self.data.of(&environment.name),
        };
        data.to_json()
    }

    /// What stands in the file of an environment: placeholders instead of its secrets, which come
    /// as variables.
    fn content(
        &self,
        environment: &Environment,
        bindings: &Bindings,
    ) -> std::result::Result<String, NotReady> {
        let names = bindings.secrets.keys();
        let secrets = names.map(|name| (name.clone(), secret_placeholder(name))).collect();
        let bindings = Bindings { secrets, ..bindings.clone() };
        let config = config(&bound(environment, &bindings)?, &bindings);
        let Environment { name, version, revision, .. } = environment;
        let data = self.data.of(name);
        let whole =
            json!({ "name": name, "version": version, "revision": revision, "config": config, "data": data });
        Ok(whole.to_string())
    }

    /// Stops all services, and kills them where `leave` says so.
    pub async fn stop(&self, leave: &watch::Receiver<Leave>) {
        join_all(self.fleets.values().map(|fleet| fleet.stop(leave))).await;
    }
}

impl Supplied {
    /// What the services wrote until now.
    pub async fn logs(&self) -> Vec<ServiceLog> {
        if self.marks.is_empty() {
            return Vec::new();
        }
        sleep(SETTLE).await;
        self.marks.logs()
    }

    /// Stops the attempt's own services.
    pub async fn stop(self, leave: &watch::Receiver<Leave>) {
        if let Some(fleet) = self.fleet {
            fleet.stop(leave).await;
        }
    }
}

fn cannot_write(source: std::io::Error) -> RunError {
    RunError::Io { what: "write the environments for the tests".into(), source }
}
