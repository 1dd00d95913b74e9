//! The one task of a worker that writes to the store: claims units and stores results,
//! never both at once.

use std::collections::{BTreeSet, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::batches::batches;
use super::claims::{Claimed, Claims, Hand, News};
use super::error::{Result, RunError};
use super::events::{EventSink, RunEvent, Unit};
use super::executed::Executed;
use super::journal::Journal;
use super::membership::Duty;
use super::pace::Pace;
use super::plan::Plan;
use crate::config::MaxFail;
use crate::config::OutputWhen;
use crate::model::{Attempt, Cancellation, Fence, Labels, Loss, Outcome, RunState, UnitIndex, UnitResult};
use crate::reports::unserved_text;
use crate::store::{Key, Op};

/// How long a result may wait for others that are stored with it.
const LINGER: Duration = Duration::from_millis(200);
/// How many results are stored together at the most.
const BATCH: usize = 500;
/// After how long somebody is told that the store does not answer.
const AWAY: Duration = Duration::from_secs(3);
/// How many bytes and operations one transaction of output carries.
const OUTPUT_BYTES: usize = 900 << 10;
const OUTPUT_OPERATIONS: usize = 64;

/// What a recorder has to know of a run.
#[derive(Clone, Debug)]
pub struct Share {
    /// All units.
    pub plan: Arc<Plan>,
    /// How many attempts the worker executes at once.
    pub lanes: NonZeroUsize,
    /// Where results are kept until a store elsewhere has them.
    pub journal: Option<Arc<Journal>>,
    /// After how many failures of all workers no more tests are begun.
    pub max_fail: MaxFail,
}

/// What a worker asks of its recorder.
#[derive(Debug)]
pub enum Request {
    /// More units, while these are being executed. The answer comes when there are some, or
    /// when it is clear that there will be none.
    Claim {
        /// What is being executed.
        running: Vec<UnitIndex>,
        /// How many lanes have nothing to do.
        idle: usize,
    },
    /// A unit was executed.
    Store(Executed),
    /// No unit of the run shall be dealt any more.
    Stop(Cancellation),
    /// This worker takes no more units. Where it is the only one, the run is cancelled.
    Leave,
}

/// What a recorder tells its worker: answers to a claim, and what happened meanwhile.
#[derive(Debug)]
pub enum Dealt {
    /// These units.
    Units(Vec<UnitIndex>, Fence),
    /// This one, which was lost with other workers: nothing else may be executed meanwhile.
    Alone(UnitIndex, Fence),
    /// These units were taken over by others: they need not be begun any more.
    Withdrawn(Vec<UnitIndex>),
    /// None that it would do to take ahead: they are for whoever has nothing to do.
    Later,
    /// Units of the run have failed by now, on whichever worker.
    Failed {
        /// How many.
        all: u32,
        /// Others have some that they may not have begun, or will be dealt some.
        unbegun: bool,
    },
    /// What is left of the run needs labels that this worker does not have. It is answered all the
    /// same when that changes.
    Unneeded,
    /// Every unit of the run has its result.
    NoMore,
    /// The run was cancelled.
    Cancelled {
        /// Tests under way are to be ended.
        ends_tests: bool,
    },
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
    /// The units that the worker has been dealt and did not give back yet.
    dealt: HashSet<UnitIndex>,
    /// The worker waits for an answer to its claim.
    asked: bool,
    /// How many of its lanes had nothing to do when it asked.
    idle: usize,
    /// When to look again for units that it may take.
    again: Option<Instant>,
    /// The worker was told that the run is cancelled.
    cancelled: bool,
    /// What was told that tests wait for.
    needs: BTreeSet<Labels>,
    /// How many units of the run had failed when that was last read.
    failures: u32,
    answers: mpsc::UnboundedSender<Dealt>,
    events: EventSink,
    pace: Pace,
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
    answers: mpsc::UnboundedSender<Dealt>,
    events: EventSink,
) -> Result<(Claims, LocksHeld)> {
    let pace = Pace::new(&share.plan);
    let mut recorder = Recorder {
        share,
        claims,
        running: Vec::new(),
        waiting: Vec::new(),
        dealt: HashSet::new(),
        asked: false,
        idle: 0,
        again: None,
        cancelled: false,
        needs: BTreeSet::new(),
        failures: 0,
        answers,
        events,
        pace,
    };
    match recorder.serve(&mut requests).await {
        Ok(()) => Ok((recorder.claims, LocksHeld(true))),
        Err(RunError::LockLost(_)) => Ok((recorder.claims, LocksHeld(false))),
        Err(error) => Err(error),
    }
}

impl Recorder {
    async fn serve(&mut self, requests: &mut mpsc::UnboundedReceiver<Request>) -> Result<()> {
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                request = requests.recv() => match request {
                    Some(Request::Claim { running, idle }) => {
                        (self.running, self.idle, self.asked) = (running, idle, true);
                        self.answer().await?;
                    }
                    Some(Request::Store(executed)) => {
                        let failed = executed.result.outcome.is_failure();
                        self.take(executed);
                        let linger = if failed && self.bears_no_more() { Duration::ZERO } else { LINGER };
                        let latest = Instant::now() + linger;
                        due = Some(due.map_or(latest, |due| due.min(latest)));
                        // Nobody may be waiting for more than this to be stored.
                        if self.asked && self.dealt.is_empty() {
                            due = None;
                            self.flush().await?;
                            self.answer().await?;
                        }
                    }
                    Some(Request::Stop(cancellation)) => self.stop(cancellation).await?,
                    Some(Request::Leave) => self.leave().await?,
                    None => return self.flush().await,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    self.flush().await?;
                }
                () = sleep_until(self.again.unwrap_or_else(Instant::now)), if self.again.is_some() => {
                    self.answer().await?;
                }
                news = self.claims.news() => self.hear(news?).await?,
            }
            if self.waiting.len() >= BATCH || due.is_some_and(|due| due <= Instant::now()) {
                due = None;
                self.flush().await?;
            }
        }
    }

    fn take(&mut self, executed: Executed) {
        self.pace.add(&self.share.plan, &executed.result);
        let unit = executed.result.unit;
        self.running.retain(|running| *running != unit);
        self.dealt.remove(&unit);
        self.waiting.push(executed);
    }

    /// Whether so many have failed that others are not to begin any more.
    fn bears_no_more(&self) -> bool {
        let failed = self.waiting.iter().filter(|executed| executed.result.outcome.is_failure()).count();
        let all = self.failures.saturating_add(u32::try_from(failed).unwrap_or(u32::MAX));
        self.share.max_fail.is_reached(all)
    }

    /// Answers the worker's claim, if there is something to answer it with.
    async fn answer(&mut self) -> Result<()> {
        self.again = None;
        while self.asked {
            let answer = match self.claim().await? {
                Claimed::Units(units, token) => {
                    self.dealt.extend(&units);
                    Dealt::Units(units, token)
                }
                Claimed::Alone(unit, token, losses) => {
                    self.dealt.insert(unit);
                    self.running = vec![unit];
                    self.tell_taken_over(unit, &losses);
                    Dealt::Alone(unit, token)
                }
                Claimed::Crashed(unit, token, losses) => {
                    self.crashed(unit, token, &losses);
                    self.flush().await?;
                    continue;
                }
                Claimed::Later => Dealt::Later,
                Claimed::Wait(again) => {
                    self.tell_needs();
                    if self.claims.is_unneeded() {
                        let _ = self.answers.send(Dealt::Unneeded);
                    }
                    self.again = again.map(|again| Instant::now() + again);
                    break;
                }
                Claimed::Exhausted => Dealt::NoMore,
                Claimed::Cancelled => {
                    self.tell_cancelled();
                    self.asked = false;
                    break;
                }
            };
            self.asked = false;
            // A worker that has stopped needs no answer.
            let _ = self.answers.send(answer);
        }
        self.tell_superseded();
        Ok(())
    }

    async fn claim(&mut self) -> Result<Claimed> {
        let hand = Hand { idle: self.idle, empty: self.dealt.is_empty() };
        let claim = self.claims.claim(&self.share.plan, &self.pace, hand, &self.running);
        patiently(claim, &self.share, &self.events).await
    }

    /// A unit that was lost so often that it is not begun any more gets its result.
    fn crashed(&mut self, unit: UnitIndex, token: Fence, losses: &[Loss]) {
        let Some(planned) = self.share.plan.unit(unit) else { return };
        let attempt = |(number, loss): (u32, &Loss)| Attempt {
            started: loss.noticed,
            message: Some(format!("the worker {} was lost while it held this test", loss.worker)),
            ..Attempt::begun(number, Outcome::Crashed)
        };
        let mut attempts: Vec<Attempt> = (1..).zip(losses).map(attempt).collect();
        if let Some(last) = attempts.last_mut() {
            last.message = Some(story(losses));
        }
        let worker = self.claims.membership().worker().id.clone();
        let result = UnitResult { unit, outcome: Outcome::Crashed, reason: None, attempts, worker, token };
        let executed = Executed { result: result.clone(), output: Vec::new() };
        executed.keep(self.share.journal.as_deref(), &self.events);
        let _ = self.events.send(RunEvent::Finished {
            unit: Unit::new(unit, planned),
            result,
            output: Arc::default(),
            shown: OutputWhen::ImmediateFinal,
        });
        self.waiting.push(executed);
    }

    /// Acts upon what has happened elsewhere.
    async fn hear(&mut self, news: News) -> Result<()> {
        match news {
            News::Run => patiently(self.claims.look(), &self.share, &self.events).await?,
            News::LeaseLost => patiently(self.claims.renew(), &self.share, &self.events).await?,
            News::Shares => {}
        }
        self.tell_superseded();
        if self.claims.membership().run().state == RunState::Cancelling {
            self.tell_cancelled();
        }
        self.answer().await
    }

    /// Says which tests wait for a worker that has what they need, once.
    fn tell_needs(&mut self) {
        let run = self.claims.membership().id();
        for (needs, units) in self.claims.unserved() {
            if self.needs.insert(needs.clone()) {
                let _ = self.events.send(RunEvent::Notice { text: unserved_text(run, needs, *units) });
            }
        }
    }

    fn tell_cancelled(&mut self) {
        if !std::mem::replace(&mut self.cancelled, true) {
            let cancelled = self.claims.membership().run().cancelled.clone();
            let (reason, ends_tests) = match cancelled {
                Some(Cancellation { reason, ends_tests }) => (reason, ends_tests),
                None => ("somebody said so".into(), false),
            };
            let _ = self.events.send(RunEvent::Cancelled { reason });
            let _ = self.answers.send(Dealt::Cancelled { ends_tests });
        }
    }

    fn tell_taken_over(&self, unit: UnitIndex, losses: &[Loss]) {
        if let (Some(planned), Some(loss)) = (self.share.plan.unit(unit), losses.last()) {
            let (unit, worker) = (Unit::new(unit, planned), loss.worker.clone());
            let _ = self.events.send(RunEvent::TakenOver { unit, worker });
        }
    }

    /// Forgets the units that others took meanwhile, and says so.
    fn tell_superseded(&mut self) {
        let units = self.claims.take_superseded();
        if units.is_empty() {
            return;
        }
        let gone: HashSet<UnitIndex> = units.iter().copied().collect();
        self.waiting.retain(|executed| !gone.contains(&executed.result.unit));
        self.dealt.retain(|unit| !gone.contains(unit));
        self.settle(&units);
        let _ = self.answers.send(Dealt::Withdrawn(units.clone()));
        let _ = self.events.send(RunEvent::Superseded { units });
    }

    /// These units' results are not to be stored any more: they are, or never will be.
    fn settle(&self, units: &[UnitIndex]) {
        if let Some(journal) = &self.share.journal {
            journal.settle(units);
        }
    }

    async fn stop(&mut self, cancellation: Cancellation) -> Result<()> {
        // Those that are the reason come first.
        self.flush().await?;
        self.cancelled = true;
        let _ = self.events.send(RunEvent::Cancelled { reason: cancellation.reason.clone() });
        let cancel = self.claims.membership_mut().cancel(cancellation);
        patiently(cancel, &self.share, &self.events).await.map(drop)
    }

    async fn leave(&mut self) -> Result<()> {
        self.flush().await?;
        let others = self.claims.membership().others().await?.len();
        if others == 0 {
            return self.stop(Cancellation { reason: "it was interrupted".into(), ends_tests: true }).await;
        }
        let _ = self.events.send(RunEvent::Leaving { others });
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.waiting.retain(|executed| self.claims.holds(executed.result.unit, executed.result.token));
        let mut units: Vec<_> = self.waiting.iter().map(|executed| executed.result.unit).collect();
        let counts = self.share.max_fail != MaxFail::All;
        let failed = counts && self.waiting.iter().any(|executed| executed.result.outcome.is_failure());
        let store = store(&mut self.claims, std::mem::take(&mut self.waiting), &self.running);
        match patiently(store, &self.share, &self.events).await {
            Ok(()) => {}
            // Somebody finishes the run without this worker: nothing of it is its own any more.
            Err(RunError::Superseded { .. }) => self.claims.look().await?,
            Err(error) => return Err(error),
        }
        let superseded: HashSet<UnitIndex> = self.claims.superseded().iter().copied().collect();
        units.retain(|unit| !superseded.contains(unit));
        self.tell_superseded();
        self.settle(&units);
        let _ = self.events.send(RunEvent::Stored { units });
        // Whoever stores the last of them that the run bears, sees all of them.
        if failed {
            let failures = self.claims.failures(&self.share.plan);
            let (all, unbegun) = patiently(failures, &self.share, &self.events).await?;
            self.failures = all;
            let _ = self.answers.send(Dealt::Failed { all, unbegun });
        }
        Ok(())
    }
}

/// Stores output first, then the results that name it.
///
/// # Errors
/// As for any transaction of the run.
pub(super) async fn store(claims: &mut Claims, units: Vec<Executed>, running: &[UnitIndex]) -> Result<()> {
    let (results, output): (Vec<_>, Vec<_>) =
        units.into_iter().map(|unit| (unit.result, unit.output)).unzip();
    let size = |(key, value): &(Key, Vec<u8>)| key.as_bytes().len() + value.len();
    for batch in batches(output.into_iter().flatten(), OUTPUT_OPERATIONS, OUTPUT_BYTES, size) {
        let Some((proof, _)) = batch.last().cloned() else { continue };
        let puts = batch.into_iter().map(|(key, value)| Op::put(key, value)).collect();
        claims.membership_mut().write(Duty::Execute, &proof, puts).await?;
    }
    claims.flush(results, running).await
}

/// What is told of a unit that was lost too often.
fn story(losses: &[Loss]) -> String {
    let workers: Vec<_> =
        losses.iter().map(|loss| format!("{} (noticed at {})", loss.worker, loss.noticed)).collect();
    format!(
        "{} workers were lost while they held this test, and it is not tried again: {}",
        losses.len(),
        workers.join(", ")
    )
}

/// Waits for the store. Where that takes long it is said once, and what is not stored yet is
/// brought to the disk: who knows what else goes.
async fn patiently<T>(
    request: impl Future<Output = Result<T>>,
    share: &Share,
    events: &EventSink,
) -> Result<T> {
    tokio::pin!(request);
    tokio::select! {
        biased;
        done = &mut request => return done,
        () = sleep(AWAY) => {}
    }
    let _ = events.send(RunEvent::StoreAway);
    if let Some(journal) = &share.journal {
        journal.sync();
    }
    request.await
}
