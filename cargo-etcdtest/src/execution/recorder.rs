//! The one task of a worker that writes to the store: claims units and stores results,
//! never both at once.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::batches::batches;
use super::claims::{Claimed, Claims};
use super::error::{Result, RunError};
use super::events::{AttemptOutput, RunEvent};
use super::plan::Plan;
use super::worker::EventSink;
use crate::config::StoreOutput;
use crate::model::{Attempt, Fence, Run, RunState, StoredOutput, UnitIndex, UnitResult};
use crate::store::{Key, Op, encode_output};

/// How long a result may wait for others that are stored with it.
const LINGER: Duration = Duration::from_millis(200);
/// How many results are stored together at the most.
const BATCH: usize = 500;
/// How much time a claim should take, at the most.
const SLICE: Duration = Duration::from_secs(1);
/// How long a unit is expected to take that was never executed.
const UNKNOWN: Duration = Duration::from_millis(100);
/// After how long somebody is told that the store does not answer.
const AWAY: Duration = Duration::from_secs(3);
/// How many bytes and operations one transaction of output carries.
const OUTPUT_BYTES: usize = 900 << 10;
const OUTPUT_OPERATIONS: usize = 64;

/// A unit that was executed to its end.
#[derive(Debug)]
pub struct Executed {
    /// Its result.
    pub result: UnitResult,
    /// What each attempt printed, in the order of attempts.
    pub outputs: Vec<Arc<AttemptOutput>>,
}

/// What a recorder knows of the worker whose results it records.
#[derive(Clone, Debug)]
pub struct Share {
    /// All units.
    pub plan: Arc<Plan>,
    /// How many attempts are executed at once.
    pub lanes: NonZeroUsize,
    /// Which output is stored.
    pub store_output: StoreOutput,
}

/// What a worker asks of its recorder.
#[derive(Debug)]
pub enum Request {
    /// More units, while these are being executed.
    Claim {
        /// What is being executed.
        running: Vec<UnitIndex>,
    },
    /// A unit was executed.
    Store(Executed),
    /// No unit shall be dealt any more.
    Stop {
        /// Why.
        reason: String,
    },
}

/// What a recorder answers to a claim.
#[derive(Debug)]
pub enum Dealt {
    /// These units.
    Units(Vec<UnitIndex>, Fence),
    /// All have been dealt.
    NoMore,
    /// The run was cancelled.
    Cancelled,
}

/// Whether the run held its locks to the end of its execution: if not, what was not stored
/// before that is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocksHeld(pub bool);

struct Recorder {
    share: Share,
    claims: Claims,
    running: Vec<UnitIndex>,
    waiting: Vec<Executed>,
    events: EventSink,
    pace: Pace,
}

/// How long units take against what was expected.
#[derive(Debug)]
struct Pace {
    expected: Duration,
    taken: Duration,
    units: u32,
    /// What is expected of all units that are not dealt yet.
    undealt: Duration,
}

/// Serves requests until nobody is left to ask, then stores what is left. Where the run does
/// not hold a lock any more, nothing more is stored: that is told with the claims.
///
/// # Errors
/// What the store said, where it failed for good.
pub async fn record(
    share: Share,
    claims: Claims,
    mut requests: mpsc::UnboundedReceiver<Request>,
    dealt: mpsc::UnboundedSender<Dealt>,
    events: EventSink,
) -> Result<(Claims, LocksHeld)> {
    let undealt = share.plan.units().map(|(_, unit)| unit.estimate.unwrap_or(UNKNOWN)).sum();
    let pace = Pace { expected: Duration::ZERO, taken: Duration::ZERO, units: 0, undealt };
    let mut recorder = Recorder { share, claims, running: Vec::new(), waiting: Vec::new(), events, pace };
    match recorder.serve(&mut requests, &dealt).await {
        Ok(()) => Ok((recorder.claims, LocksHeld(true))),
        Err(RunError::LockLost(_)) => Ok((recorder.claims, LocksHeld(false))),
        Err(error) => Err(error),
    }
}

impl Recorder {
    async fn serve(
        &mut self,
        requests: &mut mpsc::UnboundedReceiver<Request>,
        dealt: &mpsc::UnboundedSender<Dealt>,
    ) -> Result<()> {
        let mut due: Option<Instant> = None;
        loop {
            let request = tokio::select! {
                biased;
                request = requests.recv() => request,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    self.flush().await?;
                    continue;
                }
            };
            match request {
                Some(Request::Claim { running }) => {
                    self.running = running;
                    // A worker that has stopped needs no answer.
                    let _ = dealt.send(self.claim().await?);
                }
                Some(Request::Store(executed)) => {
                    self.pace.add(&executed, &self.share.plan);
                    self.running.retain(|unit| *unit != executed.result.unit);
                    self.waiting.push(executed);
                    due.get_or_insert_with(|| Instant::now() + LINGER);
                }
                Some(Request::Stop { reason }) => self.stop(reason).await?,
                None => return self.flush().await,
            }
            if self.waiting.len() >= BATCH || due.is_some_and(|due| due <= Instant::now()) {
                due = None;
                self.flush().await?;
            }
        }
    }

    async fn claim(&mut self) -> Result<Dealt> {
        let lanes = u32::try_from(self.share.lanes.get()).unwrap_or(u32::MAX);
        let factor = self.pace.factor();
        let wanted = SLICE.min(self.pace.undealt.mul_f64(factor) / lanes.saturating_mul(2));
        let plan = self.share.plan.clone();
        let expected = |unit| expected(&plan, unit);
        let estimate = |unit| expected(unit).mul_f64(factor);
        let claim = self.claims.claim(&plan, wanted, estimate, &self.running);
        Ok(match patiently(claim, &self.events).await? {
            Claimed::Units(units, fence) => {
                let taken = units.iter().map(|&unit| expected(unit)).sum();
                self.pace.undealt = self.pace.undealt.saturating_sub(taken);
                Dealt::Units(units, fence)
            }
            Claimed::Exhausted => Dealt::NoMore,
            Claimed::Cancelled => Dealt::Cancelled,
        })
    }

    async fn stop(&mut self, reason: String) -> Result<()> {
        // Those that are the reason come first.
        self.flush().await?;
        let _ = self.events.send(RunEvent::Cancelled { reason });
        let events = self.events.clone();
        let cancel = self.claims.membership_mut().advance(
            |run, _| {
                let running = run.state == RunState::Running;
                running.then(|| Run { state: RunState::Cancelling, ..run.clone() })
            },
            vec![],
        );
        patiently(cancel, &events).await.map(drop)
    }

    /// Stores output first, then the results that name it.
    async fn flush(&mut self) -> Result<()> {
        let units = self.waiting.iter().map(|executed| executed.result.unit).collect();
        let mut results = Vec::with_capacity(self.waiting.len());
        let mut writes = Vec::new();
        for mut executed in std::mem::take(&mut self.waiting) {
            let UnitResult { unit, token, .. } = executed.result;
            for (attempt, output) in executed.result.attempts.iter_mut().zip(&executed.outputs) {
                self.store_output(unit, token, attempt, output, &mut writes);
            }
            executed.result.shorten();
            results.push(executed.result);
        }
        let events = self.events.clone();
        let store = async {
            let size = |(key, value): &(Key, Vec<u8>)| key.as_bytes().len() + value.len();
            for batch in batches(writes, OUTPUT_OPERATIONS, OUTPUT_BYTES, size) {
                let Some((proof, _)) = batch.last().cloned() else { continue };
                let puts = batch.into_iter().map(|(key, value)| Op::put(key, value)).collect();
                self.claims.membership_mut().write(&proof, puts).await?;
            }
            self.claims.flush(results, &self.running).await
        };
        patiently(store, &events).await?;
        let _ = events.send(RunEvent::Stored { units });
        Ok(())
    }

    /// Notes what is to be stored of an attempt, in the attempt and in `writes`.
    fn store_output(
        &self,
        unit: UnitIndex,
        token: Fence,
        attempt: &mut Attempt,
        output: &AttemptOutput,
        writes: &mut Vec<(Key, Vec<u8>)>,
    ) {
        let wanted = match self.share.store_output {
            StoreOutput::None => return,
            StoreOutput::Failed => attempt.outcome.is_failure(),
            StoreOutput::All => true,
        };
        let run = self.claims.membership().id();
        let mut put = |name: String, content: &[u8], size, left_out| {
            let chunks = encode_output(run, unit, token, attempt.number, &name, content);
            attempt.output.push(StoredOutput { name, size, left_out, chunks: chunks.len() });
            writes.extend(chunks);
        };
        let printed = &output.printed;
        if wanted && !printed.is_empty() {
            put("output".into(), &printed.bytes(), printed.size(), printed.left_out());
        }
        for log in &output.services {
            if wanted {
                put(format!("services/{}", log.service), &log.bytes(), log.size, log.left_out());
            }
        }
        // What a test attaches it wants kept.
        let mut used = HashSet::<String>::new();
        for (name, content) in &output.attachments {
            let numbered = (2..).map(|number| format!("{name}.{number}"));
            let mut names = std::iter::once(name.clone()).chain(numbered);
            let Some(name) = names.find(|name| used.insert(name.clone())) else { continue };
            put(format!("attachments/{name}"), content, content.len() as u64, 0);
        }
    }
}

impl Pace {
    fn add(&mut self, executed: &Executed, plan: &Plan) {
        if !executed.result.attempts.is_empty() {
            self.units += 1;
            self.taken += executed.result.attempts.iter().map(|attempt| attempt.duration).sum::<Duration>();
            self.expected += expected(plan, executed.result.unit);
        }
    }

    /// By how much more time units take than was expected; 1 until a few have been seen.
    fn factor(&self) -> f64 {
        if self.units < 8 {
            return 1.0;
        }
        (self.taken.as_secs_f64() / self.expected.as_secs_f64().max(1e-6)).clamp(1e-3, 1e3)
    }
}

fn expected(plan: &Plan, unit: UnitIndex) -> Duration {
    plan.unit(unit).and_then(|unit| unit.estimate).unwrap_or(UNKNOWN)
}

/// Waits for the store, and says so once where that takes long.
async fn patiently<T>(request: impl Future<Output = Result<T>>, events: &EventSink) -> Result<T> {
    tokio::pin!(request);
    tokio::select! {
        biased;
        done = &mut request => return done,
        () = sleep(AWAY) => {}
    }
    let _ = events.send(RunEvent::StoreAway);
    request.await
}
