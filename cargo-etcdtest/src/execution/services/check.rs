//! An environment tried out: its services and probes, and no tests.

use tokio::sync::watch;

use super::binding::Bindings;
use super::fleet::{Fleet, Ground, tell};
use super::not_ready::NotReady;
use super::probe;
use crate::execution::Leave;
use crate::model::Environment;

/// Starts all services of an environment, tries all its probes, and stops the services. What
/// is ready is told as an event; what is not is given back: a service, or each such probe.
pub async fn check(
    ground: &Ground,
    environment: &Environment,
    leave: &watch::Receiver<Leave>,
) -> Vec<NotReady> {
    let name = &environment.name;
    let services = environment.definition.services.iter().collect();
    let told = |running: &_| tell(ground, name, running);
    let fleet = match Fleet::start(ground, name, services, &Bindings::default(), told).await {
        Ok(fleet) => fleet,
        Err(not_ready) => return vec![not_ready],
    };
    let bindings = fleet.bindings();
    let mut not_ready = Vec::new();
    for probe in &environment.definition.probes {
        not_ready.extend(probe::pass(ground, name, probe, &bindings).await.err());
    }
    fleet.stop(&mut leave.clone()).await;
    not_ready
}
