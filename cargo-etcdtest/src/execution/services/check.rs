//! An environment tried out: its services and probes, and no tests.

use std::time::Instant;

use tokio::sync::watch;

use super::binding::{bound, unbound};
use super::fleet::{Fleet, Ground, tell};
use super::not_ready::{NotReady, Part};
use super::probe;
use crate::environments::{DataError, DataSets};
use crate::execution::{Leave, RunEvent};
use crate::model::Environment;
use crate::store::StoreError;

/// Reads all data sets of an environment, starts all its services, tries all its probes, and
/// stops the services. What is ready is told as an event; what is not is given back: each
/// such data set, and a service or each such probe.
///
/// # Errors
/// As the store fails.
pub async fn check(
    ground: &Ground,
    environment: &Environment,
    sets: &DataSets,
    leave: &watch::Receiver<Leave>,
) -> Result<Vec<NotReady>, StoreError> {
    let mut not_ready = Vec::new();
    for (name, set) in &environment.definition.data {
        not_ready.extend(data(ground, environment, name, sets.get(name, set)).await?);
    }
    not_ready.extend(served(ground, environment, leave).await);
    Ok(not_ready.into_iter().map(|part| part.without_secrets(ground.redactor())).collect())
}

/// What is wrong with a data set, given the reading of it.
async fn data(
    ground: &Ground,
    environment: &Environment,
    name: &str,
    read: impl Future<Output = Result<Vec<u8>, DataError>>,
) -> Result<Option<NotReady>, StoreError> {
    let began = Instant::now();
    let (environment, part) = (environment.name.clone(), Part::Data(name.to_owned()));
    match read.await {
        Ok(_) => {
            let _ =
                ground.events.send(RunEvent::Ready { environment, part, url: None, took: began.elapsed() });
            Ok(None)
        }
        Err(DataError::Store(error)) => Err(error),
        Err(error) => Ok(Some(NotReady { environment, part, reason: error.to_string(), lines: Vec::new() })),
    }
}

/// What of its services and probes is not ready.
async fn served(ground: &Ground, environment: &Environment, leave: &watch::Receiver<Leave>) -> Vec<NotReady> {
    let told = |running: &_| tell(ground, environment, running);
    let fleet = match Fleet::start(ground, environment, unbound(environment, &ground.secrets), |_| true, told)
        .await
    {
        Ok(fleet) => fleet,
        Err(not_ready) => return vec![not_ready],
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
    not_ready
}
