//! The services of an environment: started as they need each other, stopped the other way
//! round.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use regex::Regex;
use tokio::sync::watch;

use super::binding::{Bindings, each_text};
use super::log::{Log, Mark, ServiceLog};
use super::not_ready::{NotReady, Part};
use super::program::Places;
use super::service::Running;
use crate::execution::process::Launcher;
use crate::execution::worker::EventSink;
use crate::execution::{Leave, RunEvent};
use crate::model::Service;

/// What services are started with.
#[derive(Clone, Debug)]
pub struct Ground {
    pub(super) launcher: Arc<Launcher>,
    pub(super) places: Places,
    pub(super) events: EventSink,
}

/// Services that run, with what each of them needs.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    running: BTreeMap<String, (Running, BTreeSet<String>)>,
}

impl Ground {
    /// `root` is the workspace's, `built` the folders of the programs that cargo built.
    pub fn new(launcher: Arc<Launcher>, root: PathBuf, built: Vec<PathBuf>, events: EventSink) -> Self {
        Self { launcher, places: Places { root, built }, events }
    }
}

impl Fleet {
    /// Starts services, each as soon as all that it needs is ready; what they need besides is
    /// in `others`. `told` hears of each that is ready.
    ///
    /// # Errors
    /// The first that is not ready. The others have been stopped then.
    pub(super) async fn start(
        ground: &Ground,
        environment: &str,
        services: BTreeMap<&String, &Service>,
        others: &Bindings,
        told: impl Fn(&Running),
    ) -> Result<Self, NotReady> {
        let mut fleet = Self::default();
        let mut bindings = others.clone();
        let mut waiting: BTreeMap<&String, (&Service, BTreeSet<String>)> =
            services.into_iter().map(|(name, service)| (name, (service, needs_of(name, service)))).collect();
        let mut starting = FuturesUnordered::new();
        loop {
            let due = |(_, needs): &(&Service, BTreeSet<String>)| {
                needs.iter().all(|need| bindings.0.contains_key(need))
            };
            let begun: Vec<_> = waiting.extract_if(.., |_, service| due(service)).collect();
            for (name, (service, needs)) in begun {
                let bound = bindings.service(service);
                starting.push(async move {
                    let running = Running::start(ground, environment, name, &bound).await;
                    running.map(|running| (name, running, needs))
                });
            }
            match starting.next().await {
                Some(Ok((name, running, needs))) => {
                    told(&running);
                    bindings.0.insert(name.clone(), running.address.clone());
                    fleet.running.insert(name.clone(), (running, needs));
                }
                Some(Err(not_ready)) => {
                    // Those on the way end with this.
                    starting.clear();
                    fleet.stop(&mut never_in_a_hurry()).await;
                    return Err(not_ready);
                }
                None => break,
            }
        }
        let Some((name, (_, needs))) = waiting.first_key_value() else { return Ok(fleet) };
        let missing: Vec<&str> =
            needs.iter().filter(|need| !bindings.0.contains_key(*need)).map(String::as_str).collect();
        let not_ready = NotReady {
            environment: environment.to_owned(),
            part: Part::Service((*name).clone()),
            reason: format!("it needs what is not started before it: {}", missing.join(", ")),
            lines: Vec::new(),
        };
        fleet.stop(&mut never_in_a_hurry()).await;
        Err(not_ready)
    }

    /// Where the services are.
    pub(super) fn bindings(&self) -> Bindings {
        Bindings(
            self.running.iter().map(|(name, (running, _))| (name.clone(), running.address.clone())).collect(),
        )
    }

    /// What follows in their logs.
    pub(super) fn marks(&self) -> Marks {
        Marks(
            self.running
                .values()
                .map(|(running, _)| (running.name.clone(), Arc::clone(&running.log), running.log.mark()))
                .collect(),
        )
    }

    /// All that their logs have.
    pub(super) fn beginnings(&self) -> Marks {
        let all = self.running.values();
        Marks(all.map(|(running, _)| (running.name.clone(), running.log.clone(), Mark::default())).collect())
    }

    /// Stops each once nothing that runs needs it any more.
    pub(super) async fn stop(&self, leave: &mut watch::Receiver<Leave>) {
        let mut left: BTreeSet<&String> = self.running.keys().collect();
        let mut begun = BTreeSet::new();
        let mut stopping = FuturesUnordered::new();
        loop {
            for (name, (running, _)) in &self.running {
                let needed = left.iter().any(|other| self.running[*other].1.contains(name));
                if left.contains(name) && !needed && begun.insert(name) {
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

/// A run in which nobody is in a hurry.
fn never_in_a_hurry() -> watch::Receiver<Leave> {
    watch::channel(Leave::ToFinish).1
}

/// What a service needs: what it says, and what it refers to.
fn needs_of(name: &str, service: &Service) -> BTreeSet<String> {
    static REFERENCE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\$\{services\.([^.}]+)\.").expect("the pattern is right"));
    let mut needs: BTreeSet<String> = service.needs.iter().cloned().collect();
    each_text(&mut service.clone(), |text| {
        needs.extend(REFERENCE.captures_iter(text).map(|found| found[1].to_owned()));
    });
    needs.remove(name);
    needs
}

/// Says that a service is ready.
pub(super) fn tell(ground: &Ground, environment: &str, running: &Running) {
    let _ = ground.events.send(RunEvent::Ready {
        environment: environment.to_owned(),
        part: Part::Service(running.name.clone()),
        url: Some(running.address.url.clone()),
        took: running.took,
    });
}
