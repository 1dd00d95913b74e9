//! What a worker's tests are given: environments whose services run, and what those write.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use etcdtest::protocol::EnvironmentData;
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use tokio::sync::watch;
use tokio::time::sleep;

use super::binding::Bindings;
use super::fleet::{Fleet, Ground, Marks, tell};
use super::log::ServiceLog;
use super::probe;
use crate::execution::Leave;
use crate::execution::error::{Result, RunError};
use crate::model::{Environment, Scope, Service};

/// How long a service may take to write down why a test failed.
const SETTLE: Duration = Duration::from_millis(50);

/// The environments of a run, ready for its tests.
#[derive(Debug)]
pub struct Supply {
    ground: Ground,
    environments: HashMap<String, Provided>,
    /// Where plain tests read their environments.
    files: Option<TempDir>,
}

/// An environment whose services run.
#[derive(Debug)]
struct Provided {
    environment: Environment,
    fleet: Fleet,
    /// What its tests are told; but for one with services of each test's own.
    data: EnvironmentData,
    file: Option<PathBuf>,
    own_services: bool,
}

/// What an attempt is given.
#[derive(Debug)]
pub struct Supplied {
    /// The environment as an annotated test is told it.
    pub data: EnvironmentData,
    /// The file in which a plain test reads the same.
    pub file: Option<PathBuf>,
    /// The services of its own.
    fleet: Option<Fleet>,
    marks: Marks,
    _file: Option<NamedTempFile>,
}

impl Supply {
    /// Starts what the environments need for the whole run, one after the other, and waits
    /// until all is ready; or until `leave` says that no test will run. `files` says whether
    /// there are tests that read files.
    ///
    /// # Errors
    /// [`RunError::NotReady`], and [`RunError::Io`] where the folder for temporary files
    /// cannot be written. All services have been stopped then.
    pub async fn provide(
        ground: Ground,
        environments: &[Environment],
        files: bool,
        leave: &watch::Receiver<Leave>,
    ) -> Result<Self> {
        let mut supply = Self { ground, environments: HashMap::new(), files: None };
        let mut leaving = leave.clone();
        let begun = tokio::select! {
            begun = supply.begin(environments, files) => begun,
            _ = leaving.wait_for(|leave| *leave > Leave::ToFinish) => Ok(()),
        };
        if begun.is_err() {
            supply.stop(leave).await;
        }
        begun.map(|()| supply)
    }

    async fn begin(&mut self, environments: &[Environment], files: bool) -> Result<()> {
        if files {
            let folder = tempfile::Builder::new().prefix("etcdtest-").tempdir();
            self.files = Some(folder.map_err(cannot_write)?);
        }
        for (index, environment) in environments.iter().enumerate() {
            let name = &environment.name;
            let (own, whole) = services_of(environment);
            let told = |running: &_| tell(&self.ground, name, running);
            let fleet = Fleet::start(&self.ground, name, whole, &Bindings::default(), told).await?;
            let bindings = fleet.bindings();
            let data = data_of(environment, &bindings);
            let file = match &self.files {
                None => None,
                Some(folder) => {
                    let file = folder.path().join(format!("{index}.json"));
                    std::fs::write(&file, content(&data)).map_err(cannot_write)?;
                    Some(file)
                }
            };
            let provided = Provided {
                environment: environment.clone(),
                fleet,
                data,
                file,
                own_services: !own.is_empty(),
            };
            // From here on it is stopped with the others.
            self.environments.insert(name.clone(), provided);
            for probe in &environment.definition.probes {
                probe::pass(&self.ground, name, probe, &bindings).await?;
            }
        }
        Ok(())
    }

    /// What an attempt in this environment is given; `None` for an environment that the run
    /// does not have.
    ///
    /// # Errors
    /// A service of the attempt's own is not ready, or its file cannot be written; in words.
    pub async fn for_attempt(&self, environment: &str) -> Option<std::result::Result<Supplied, String>> {
        let provided = self.environments.get(environment)?;
        let marks = provided.fleet.marks();
        if !provided.own_services {
            let (data, file) = (provided.data.clone(), provided.file.clone());
            return Some(Ok(Supplied { data, file, fleet: None, marks, _file: None }));
        }
        Some(self.with_own_services(provided, marks).await)
    }

    async fn with_own_services(
        &self,
        provided: &Provided,
        marks: Marks,
    ) -> std::result::Result<Supplied, String> {
        let environment = &provided.environment;
        let (own, _) = services_of(environment);
        let mut bindings = provided.fleet.bindings();
        let started = Fleet::start(&self.ground, &environment.name, own, &bindings, |_| {}).await;
        let fleet = started.map_err(|not_ready| not_ready.to_string())?;
        bindings.0.extend(fleet.bindings().0);
        let data = data_of(environment, &bindings);
        let file = self.files.as_ref().map(|folder| {
            let file = tempfile::Builder::new().suffix(".json").tempfile_in(folder.path())?;
            std::fs::write(file.path(), content(&data)).map(|()| file)
        });
        let file = file.transpose().map_err(|error| cannot_write(error).to_string())?;
        // All that they wrote, from their start on, belongs to the attempt.
        let marks = marks.and(fleet.beginnings());
        let path = file.as_ref().map(|file| file.path().to_owned());
        Ok(Supplied { data, file: path, fleet: Some(fleet), marks, _file: file })
    }

    /// Stops all services, and kills them where `leave` says so.
    pub async fn stop(&self, leave: &watch::Receiver<Leave>) {
        for provided in self.environments.values() {
            provided.fleet.stop(&mut leave.clone()).await;
        }
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
            fleet.stop(&mut leave.clone()).await;
        }
    }
}

type Services<'a> = BTreeMap<&'a String, &'a Service>;

/// The services of each test's own, and those for all.
pub(super) fn services_of(environment: &Environment) -> (Services<'_>, Services<'_>) {
    environment.definition.services.iter().partition(|(_, service)| service.scope == Scope::Test)
}

fn data_of(environment: &Environment, bindings: &Bindings) -> EnvironmentData {
    EnvironmentData {
        name: environment.name.clone(),
        version: environment.version,
        revision: environment.revision,
        config: Value::Object(bindings.config(&environment.definition)),
    }
}

fn content(data: &EnvironmentData) -> String {
    let EnvironmentData { name, version, revision, config } = data;
    json!({ "name": name, "version": version, "revision": revision, "config": config }).to_string()
}

fn cannot_write(source: std::io::Error) -> RunError {
    RunError::Io { what: "write the environments for the tests".into(), source }
}
