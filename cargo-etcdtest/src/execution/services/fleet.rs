//! The services of an environment: started as they need each other, stopped the other way
//! round.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

use super::binding::{port_of, refers, wants_port};
use super::log::{Log, Mark, ServiceLog};
use super::not_ready::{NotReady, Part};
use super::port::FreePort;
use super::program::Places;
use super::service::{Plan, Running};
use crate::environments::{Bindings, SecretValues};
use crate::execution::events::EventSink;
use crate::execution::launcher::Launcher;
use crate::execution::{Leave, RunEvent};
use crate::model::{Environment, Service};
use crate::redact::Redactor;

/// What services are started with.
#[derive(Clone, Debug)]
pub struct Ground {
    pub(super) launcher: Arc<Launcher>,
    pub(super) places: Places,
    pub(super) secrets: SecretValues,
    pub(super) events: EventSink,
}

/// Services that run, with the ports that they were given.
#[derive(Debug)]
pub(super) struct Fleet {
    running: BTreeMap<String, Running>,
    bindings: Bindings,
}

impl Ground {
    /// `root` is the workspace's, `built` the folders of the programs that cargo built,
    /// `secrets` those of the environments.
    pub fn new(
        launcher: Arc<Launcher>,
        root: PathBuf,
        built: Vec<PathBuf>,
        secrets: SecretValues,
        events: EventSink,
    ) -> Self {
        Self { launcher, places: Places { root, built }, secrets, events }
    }

    pub(super) fn redactor(&self) -> &Redactor {
        self.launcher.redactor()
    }
}

impl Fleet {
    /// Starts those services of an environment that are `chosen`, each as soon as all that it
    /// needs of them is ready. `bindings` has the ports of the others. `told` hears of each
    /// that is ready.
    ///
    /// # Errors
    /// The first that is not ready. The others have been stopped then.
    pub(super) async fn start(
        ground: &Ground,
        environment: &Environment,
        bindings: Bindings,
        chosen: impl Fn(&Service) -> bool,
        told: impl Fn(&Running),
    ) -> Result<Self, NotReady> {
        let services = environment.definition.services.iter().filter(|(_, service)| chosen(service));
        let services: BTreeMap<&String, &Service> = services.collect();
        let mut fleet = Self { running: BTreeMap::new(), bindings };
        let mut ports = BTreeMap::new();
        for (name, service) in &services {
            let number = if wants_port(service) {
                let port = FreePort::find().map_err(|error| {
                    NotReady::service(environment, name, format!("there is no free port: {error}"))
                })?;
                let number = port.number();
                ports.insert(*name, port);
                number
            } else {
                port_of(&service.url)
            };
            fleet.bindings.ports.insert((*name).clone(), number);
        }
        let started = fleet.start_all(ground, environment, &services, ports, told).await;
        if started.is_err() {
            fleet.stop(&watch::channel(Leave::ToFinish).1).await;
        }
        started.map(|()| fleet)
    }

    async fn start_all(
        &mut self,
        ground: &Ground,
        environment: &Environment,
        services: &BTreeMap<&String, &Service>,
        mut ports: BTreeMap<&String, FreePort>,
        told: impl Fn(&Running),
    ) -> Result<(), NotReady> {
        let mut waiting = services.clone();
        let mut starting = FuturesUnordered::new();
        loop {
            let is_due = |service: &Service| {
                let mut needs = service.needs.iter();
                needs.all(|need| !services.contains_key(need) || self.running.contains_key(need))
            };
            let due: Vec<_> = waiting.extract_if(.., |_, service| is_due(service)).collect();
            for (name, _) in due {
                // Who refers to it without needing it may have been told its port already.
                let knows = |(other, service): (&&String, &&Service)| {
                    *other != name && !service.needs.contains(name) && refers(service, name)
                };
                let plan = Plan {
                    environment,
                    name,
                    bindings: self.bindings.clone(),
                    may_move: !services.iter().any(knows),
                };
                let port = ports.remove(name);
                starting.push(async move { plan.start(ground, port).await });
            }
            match starting.next().await {
                Some(running) => {
                    let running = running?;
                    told(&running);
                    self.bindings.ports.insert(running.name.clone(), running.port);
                    self.running.insert(running.name.clone(), running);
                }
                None => break,
            }
        }
        let Some(name) = waiting.keys().next() else { return Ok(()) };
        let circle = waiting.keys().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        Err(NotReady::service(environment, name, format!("these need each other: {circle}")))
    }

    /// What its environment's references stand for.
    pub(super) fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// What follows in their logs.
    pub(super) fn marks(&self) -> Marks {
        self.marks_at(Log::mark)
    }

    /// All that their logs have.
    pub(super) fn beginnings(&self) -> Marks {
        self.marks_at(|_| Mark::default())
    }

    fn marks_at(&self, mark: impl Fn(&Log) -> Mark) -> Marks {
        let marked = |running: &Running| (running.name.clone(), Arc::clone(&running.log), mark(&running.log));
        Marks(self.running.values().map(marked).collect())
    }

    /// Stops each once nothing that runs needs it any more.
    pub(super) async fn stop(&self, leave: &watch::Receiver<Leave>) {
        let mut left: BTreeSet<&String> = self.running.keys().collect();
        let mut begun = BTreeSet::new();
        let mut stopping = FuturesUnordered::new();
        loop {
            for (name, running) in &self.running {
                let needed = left.iter().any(|other| self.running[*other].needs().contains(name));
                if !needed && begun.insert(name) {
                    let mut leave = leave.clone();
                    stopping.push(async move {
                        running.stop(&mut leave).await;
                        name
                    });
                }
            }
            match stopping.next().await {
                Some(name) => left.remove(name),
                None => return,
            };
        }
    }
}

/// Places in logs, and with that what was written since.
#[derive(Debug)]
pub(super) struct Marks(Vec<(String, Arc<Log>, Mark)>);

impl Marks {
    /// Those of others as well.
    pub(super) fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// What each service wrote since; nothing of one that wrote nothing.
    pub(super) fn logs(&self) -> Vec<ServiceLog> {
        let logs = self.0.iter().map(|(service, log, mark)| {
            let (size, end) = log.since(*mark);
            ServiceLog { service: service.clone(), size, end }
        });
        logs.filter(|log| log.size > 0).collect()
    }

    /// Whether there is no service.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Says that a service is ready.
pub(super) fn tell(ground: &Ground, environment: &Environment, running: &Running) {
    let _ = ground.events.send(RunEvent::Ready {
        environment: environment.name.clone(),
        part: Part::Service(running.name.clone()),
        url: Some(ground.redactor().text(running.url.clone())),
        took: running.took,
    });
}
