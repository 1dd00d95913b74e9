//! Executes units: as many at once as there are lanes, each with its retries.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use etcdtest::protocol::{ENVIRONMENT_VARIABLE, Start};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::attempt::{Launch, Leave};
use super::claims::Claims;
use super::error::Result;
use super::events::{AttemptOutput, RunEvent, Unit};
use super::recorder::{self, Dealt, Request};
use super::work::{Work, environment_data};
use crate::model::{Attempt, Fence, Outcome, PlannedUnit, TestKind, UnitIndex, UnitResult};
use crate::testcases::ListedTest;

/// Where events go. A display that went away is no reason to stop.
pub type EventSink = mpsc::UnboundedSender<RunEvent>;

/// A unit that was executed to its end.
#[derive(Debug)]
pub(super) struct Executed {
    /// Its result.
    pub result: UnitResult,
    /// What each attempt printed, in the order of attempts.
    pub outputs: Vec<Arc<AttemptOutput>>,
}

/// Executes units until none is left or the run is stopped, and says whether it was
/// stopped. Every result has been stored when it returns.
///
/// # Errors
/// What the store said, where it failed for good: results since then are not stored.
pub async fn execute(
    work: &Arc<Work>,
    claims: Claims,
    mut leave: watch::Receiver<Leave>,
    events: &EventSink,
) -> Result<(Claims, bool)> {
    let (requests, inbox) = mpsc::unbounded_channel();
    let (outbox, mut dealt) = mpsc::unbounded_channel();
    let recorder = tokio::spawn(recorder::record(work.clone(), claims, inbox, outbox, events.clone()));
    // The lanes go as far as `leave` says, and no further once nothing can be recorded.
    let (say, hear) = watch::channel(*leave.borrow_and_update());

    let mut lanes = JoinSet::new();
    let mut queue: VecDeque<(UnitIndex, Fence)> = VecDeque::new();
    let mut running = BTreeSet::new();
    let (mut asked, mut more, mut giving_up, mut stopped, mut heard) = (false, true, false, false, true);
    loop {
        // A run is cancelled only where something is left that will not run.
        if giving_up && !stopped && !queue.is_empty() {
            stopped = true;
            let _ = requests.send(Request::Stop { reason: "a test failed".into() });
        }
        if *hear.borrow() > Leave::ToFinish && !stopped {
            stopped = true;
            let _ = requests.send(Request::Stop { reason: "it was interrupted".into() });
        }
        while !stopped
            && lanes.len() < work.policy.lanes.get()
            && let Some((index, fence)) = queue.pop_front()
        {
            running.insert(index);
            lanes.spawn(execute_unit(work.clone(), index, fence, hear.clone(), events.clone()));
        }
        if !stopped && more && !asked && queue.len() < work.policy.lanes.get() {
            asked = requests.send(Request::Claim { running: running.iter().copied().collect() }).is_ok();
            more = asked;
        }
        if lanes.is_empty() && (stopped || (queue.is_empty() && !more)) {
            break;
        }
        tokio::select! {
            Some(joined) = lanes.join_next() => {
                let (index, executed) =
                    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
                running.remove(&index);
                let Some(executed) = executed else { continue };
                giving_up |= work.policy.fail_fast && executed.result.outcome.is_failure();
                // A recorder that has ended says why when it is joined.
                let _ = requests.send(Request::Store(executed));
            }
            answer = dealt.recv(), if heard => {
                asked = false;
                match answer {
                    Some(Dealt::Units(units, fence)) => queue.extend(units.into_iter().map(|unit| (unit, fence))),
                    Some(Dealt::NoMore) => more = false,
                    Some(Dealt::Cancelled) => stopped = true,
                    None => {
                        // What is still being executed would be for nothing.
                        (heard, stopped) = (false, true);
                        say.send_if_modified(|now| raise(now, Leave::ToEnd));
                    }
                }
            }
            Ok(()) = leave.changed() => {
                say.send_if_modified(|now| raise(now, *leave.borrow_and_update()));
            }
        }
    }
    drop(requests);
    work.launcher.close().await;
    let claims = recorder.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    Ok((claims, stopped))
}

/// Raises to what is said, and says whether that was a change.
fn raise(now: &mut Leave, said: Leave) -> bool {
    let raised = said > *now;
    *now = said.max(*now);
    raised
}

/// Executes one unit with its retries; nothing where it was stopped on the way.
async fn execute_unit(
    work: Arc<Work>,
    index: UnitIndex,
    token: Fence,
    leave: watch::Receiver<Leave>,
    events: EventSink,
) -> (UnitIndex, Option<Executed>) {
    let result = |outcome, reason, attempts| UnitResult {
        unit: index,
        outcome,
        reason,
        attempts,
        worker: work.worker.clone(),
        token,
    };
    let Some(planned) = work.plan.unit(index) else { return (index, None) };
    let unit = Unit::new(index, planned);
    let executed = match (&planned.skip, work.tests.get(&planned.test)) {
        (Some(reason), _) => {
            Some(Executed { result: result(Outcome::Skipped, Some(reason.clone()), vec![]), outputs: vec![] })
        }
        (None, None) => None,
        (None, Some(test)) => {
            attempts(&work, planned, test, &unit, token, &leave, &events).await.map(|(attempts, outputs)| {
                let last = attempts.last();
                let outcome = last.map_or(Outcome::Crashed, |attempt| attempt.outcome);
                let reason =
                    last.filter(|_| outcome == Outcome::Skipped).and_then(|attempt| attempt.message.clone());
                Executed { result: result(outcome, reason, attempts), outputs }
            })
        }
    };
    if let Some(executed) = &executed {
        let output = executed.outputs.last().cloned().unwrap_or_default();
        let _ = events.send(RunEvent::Finished { unit, result: executed.result.clone(), output });
    }
    (index, executed)
}

/// All attempts at a unit, the last of them final.
async fn attempts(
    work: &Work,
    planned: &PlannedUnit,
    test: &ListedTest,
    unit: &Unit,
    token: Fence,
    leave: &watch::Receiver<Leave>,
    events: &EventSink,
) -> Option<(Vec<Attempt>, Vec<Arc<AttemptOutput>>)> {
    let of = work.policy.retries_of(test) + 1;
    let (mut attempts, mut outputs) = (Vec::new(), Vec::new());
    for number in 1..=of {
        let _ = events.send(RunEvent::AttemptStarted { unit: unit.clone(), attempt: number });
        let on_slow = |elapsed| {
            let _ = events.send(RunEvent::Slow { unit: unit.clone(), elapsed });
        };
        let launch = launch(work, planned, test, token, number)?;
        let (attempt, output) = launch.run(&work.launcher, leave.clone(), on_slow).await?;
        let output = Arc::new(output);
        outputs.push(output.clone());
        attempts.push(attempt.clone());
        if !attempt.outcome.is_failure() {
            break;
        }
        if number < of {
            let _ = events.send(RunEvent::AttemptFailed { unit: unit.clone(), attempt, output, of });
        }
    }
    Some((attempts, outputs))
}

/// The process of one attempt.
fn launch(
    work: &Work,
    planned: &PlannedUnit,
    test: &ListedTest,
    token: Fence,
    attempt: u32,
) -> Option<Launch> {
    let environment = work.environments.get(&planned.environment)?;
    let mut command = test.binary.command();
    match test.code.kind {
        // How it is spoken to depends on how it is started.
        TestKind::Annotated => {}
        TestKind::Plain => {
            command.args([&test.id.test, "--exact", "--nocapture"]);
            if test.code.ignore.is_some() {
                command.arg("--include-ignored");
            }
        }
    }
    if let Some(file) = work.files.of(&planned.environment) {
        command.env(ENVIRONMENT_VARIABLE, file);
    }
    let start = Start {
        test: test.id.test.clone(),
        environment: environment_data(environment),
        run: work.run.to_string(),
        worker: work.worker.to_string(),
        attempt,
        token: token.0,
        // Neither a code that programs like to exit with, nor one that a shell gives a meaning.
        exit_code: fastrand::i32(30..100),
    };
    Some(Launch {
        command,
        kind: test.code.kind,
        start,
        timeout: work.policy.timeout_of(test),
        grace: work.policy.grace,
        slow: work.policy.slow,
        show: work.policy.show,
    })
}
