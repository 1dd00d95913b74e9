//! An environment tried out: its services and probes, and no tests.

use tokio::sync::watch;

use super::binding::{bound, unbound};
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
    let told = |running: &_| tell(ground, environment, running);
    let fleet = match Fleet::start(ground, environment, unbound(environment, &ground.secrets), |_| true, told)
        .await
    {
        Ok(fleet) => fleet,
        Err(not_ready) => return vec![not_ready.without_secrets(ground.redactor())],
    };
    let mut not_ready = Vec::new();
    match bound(environment, fleet.bindings()) {
        Ok(bound) => {
            for (written, probe) in environment.definition.probes.iter().zip(&bound.probes) {
                not_ready.extend(probe::pass(ground, environment, written, probe).await.err());
            }
        }
        Err(fault) => not_ready.push(fault),
    }
    fleet.stop(leave).await;
    not_ready.into_iter().map(|part: NotReady| part.without_secrets(ground.redactor())).collect()
}
