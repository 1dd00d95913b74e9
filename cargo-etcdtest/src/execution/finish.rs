//! The end of a run: reports, latest results, summary. Done by one worker, under its fence.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use backon::Retryable;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::batches::batches;
use super::error::{Result, RunError};
use super::membership::{Duty, Membership, is_gone};
use super::plan::Plan;
use crate::model::{
    Claim, EnvironmentVersion, LatestResult, NextPosition, RecentOutcome, Run, RunId, RunState, Steward,
    UnitResult,
};
use crate::reports::history::{self, Found, Shown};
use crate::reports::{ReportError, RunDetails, UnitDetails, render_all, report_writes};
use crate::store::{
    Commit, Compare, Key, KeyRange, KeyValue, Op, Revision, SharedStore, StoreError, Txn, Wake, commit,
    decode, encode, get, keys, list_keys, pauses,
};

/// How many latest results one transaction carries.
const BATCH: usize = 100;
/// How many bytes of results it carries.
const BATCH_BYTES: usize = 768 << 10;
/// About how many bytes a latest result has beside the result itself.
const BESIDE: usize = 8 << 10;
/// How many such transactions are under way at once.
const AT_ONCE: usize = 4;

/// The latest results as they were when the run was planned, with what they were read from.
pub type Latest = HashMap<Key, (LatestResult, Revision)>;

/// Sees a run to its end, whose units all have a result, or that was cancelled: waits for what
/// other workers still have under way, and finishes it, or waits for the worker that does.
///
/// # Errors
/// What the store said; the run then stays as it is, and can be finished by others.
pub async fn conclude(membership: &mut Membership, plan: &Plan, latest: &Latest) -> Result<RunDetails> {
    let mut wake = None;
    loop {
        let view = View::read(membership, &mut wake).await?;
        let run = membership.run().clone();
        match run.state.clone() {
            RunState::Finished { .. } => return details_of(membership).await,
            RunState::Finishing { by, .. } if by == membership.steward() => {
                match finish(membership, latest).await {
                    // Somebody took this one for dead.
                    Err(RunError::Superseded { .. }) => {}
                    done => return done,
                }
                continue;
            }
            RunState::Finishing { by, cancelled } if !view.is_alive(&by) => {
                let state = RunState::Finishing { by: membership.steward(), cancelled };
                membership.try_advance(Run { state, ..run }, vec![is_gone(&by)], vec![]).await?;
                continue;
            }
            RunState::Running if view.is_complete(plan) => {
                let state = RunState::Finishing { by: membership.steward(), cancelled: false };
                membership.try_advance(Run { state, ..run }, view.complete(membership), vec![]).await?;
                continue;
            }
            RunState::Cancelling if view.is_quiet() => {
                let state = RunState::Finishing { by: membership.steward(), cancelled: true };
                membership.try_advance(Run { state, ..run }, vec![], vec![]).await?;
                continue;
            }
            RunState::Planning { .. } => return Err(membership.superseded()),
            RunState::Finishing { .. } | RunState::Running | RunState::Cancelling => {}
        }
        if let Some(wake) = &mut wake {
            wake.changed().await?;
        }
    }
}

/// Whether a run can be concluded at once: nobody is to execute anything for it, nor does
/// anybody finish it.
///
/// # Errors
/// As for any read of the store.
pub(super) async fn is_ripe(membership: &mut Membership, plan: &Plan) -> Result<bool> {
    let view = View::read(membership, &mut None).await?;
    Ok(match &membership.run().state {
        RunState::Running => view.is_complete(plan),
        RunState::Cancelling => view.is_quiet(),
        RunState::Finishing { by, .. } => !view.is_alive(by),
        RunState::Planning { .. } | RunState::Finished { .. } => false,
    })
}

/// How far a run is, at one revision.
struct View {
    claims: Vec<KeyValue>,
    next: Vec<KeyValue>,
    workers: Vec<KeyValue>,
}

impl View {
    /// Reads it together with the run's record; from its revision on `wake` tells of changes.
    async fn read(membership: &mut Membership, wake: &mut Option<Wake>) -> Result<Self> {
        let [claims, next, workers] =
            [keys::claims(membership.id()), keys::next_positions(membership.id()), keys::WORKERS.into()]
                .map(KeyRange::prefix);
        let mut questions = membership.questions();
        questions.extend([&claims, &next, &workers].map(|range| Op::Get(range.clone().into())));
        let outcome = membership.ask(questions).await?;
        if wake.is_none() {
            let ranges = [KeyRange::key(keys::run(membership.id())), claims, workers];
            let after = Revision(outcome.revision.0 + 1);
            *wake = Some(Wake::new(membership.store().as_ref(), ranges, after).await?);
        }
        let mut pages = outcome.pages();
        if !membership.take_answers(&mut pages)? {
            membership.register_again().await?;
        }
        let mut pairs = || pages.next().unwrap_or_default().pairs;
        Ok(Self { claims: pairs(), next: pairs(), workers: pairs() })
    }

    fn is_alive(&self, by: &Steward) -> bool {
        let key = keys::worker(&by.worker);
        self.workers.iter().any(|worker| worker.key == key && worker.created.0 == by.identity)
    }

    /// Every unit was dealt, and nobody holds one.
    fn is_complete(&self, plan: &Plan) -> bool {
        let exhausted = |(stripe, pair): (usize, &KeyValue)| {
            decode::<NextPosition>(pair).is_ok_and(|next| plan.dealt(stripe, next.dealt).is_none())
        };
        self.claims.is_empty()
            && self.next.len() == plan.stripes()
            && self.next.iter().enumerate().all(exhausted)
    }

    /// Hold as long as that is so.
    fn complete(&self, membership: &Membership) -> Vec<Compare> {
        let claims = Compare::absent(KeyRange::prefix(keys::claims(membership.id())));
        let next = self.next.iter().map(|pair| Compare::modified(pair.key.clone(), pair.modified));
        next.chain([claims]).collect()
    }

    /// Whoever holds units has given them up, or is dead.
    fn is_quiet(&self) -> bool {
        let busy = |pair: &KeyValue| {
            let Ok(claim) = decode::<Claim>(pair) else { return false };
            let Some(owner) = keys::claim_owner(&pair.key) else { return false };
            let alive =
                |worker: &KeyValue| worker.created.0 == claim.owner && worker.key == keys::worker(&owner);
            !claim.left && self.workers.iter().any(alive)
        };
        !self.claims.iter().any(busy)
    }
}

/// A finished run, as the store has it.
async fn details_of(membership: &Membership) -> Result<RunDetails> {
    let (store, patience) = (membership.store().clone(), membership.patience().limit());
    let details = (|| read_details(&store, membership.id()))
        .retry(pauses().with_total_delay(Some(patience)))
        .when(|error| matches!(error, ReportError::Store(error) if error.is_transient()))
        .await?;
    Ok(details)
}

/// Finishes a run that is this worker's to finish.
async fn finish(membership: &mut Membership, latest: &Latest) -> Result<RunDetails> {
    let cancelled = matches!(membership.run().state, RunState::Finishing { cancelled: true, .. });
    let mut details = details_of(membership).await?;
    // Whoever stops a run when all of it was under way has stopped nothing.
    let cancelled = cancelled && details.summary().not_run > 0;
    details.run.state = RunState::Finished { cancelled };
    details.run.finished = Some(Timestamp::now());
    details.run.summary = Some(details.summary());

    let (store, patience) = (membership.store().clone(), membership.patience().limit());
    let rendered = render_all(&details)?;
    let reports = async {
        for (name, content) in &rendered {
            for (proof, then) in report_writes(membership.id(), name, content) {
                membership.write(Duty::Finish, &proof, then).await?;
            }
        }
        Ok(())
    };
    let age = Age::read(&store, &details.run.id, patience).await?;
    tokio::try_join!(reports, store_latest(&store, &details, latest, &age, patience))?;
    let finished = |run: &Run, by: Steward| {
        let mine =
            matches!(&run.state, RunState::Finishing { by: finisher, .. } if finisher.worker == by.worker);
        mine.then(|| details.run.clone())
    };
    if membership.advance(finished, vec![]).await? { Ok(details) } else { Err(membership.superseded()) }
}

/// Everything about a run, with its output.
async fn read_details(store: &SharedStore, run: &RunId) -> std::result::Result<RunDetails, ReportError> {
    let Found { value: mut details, broken } = history::read(store.as_ref(), run).await?;
    // A test case adds its description to the reports; they can do without.
    let needed = |error: &StoreError| match error {
        StoreError::Record { key, .. } => !KeyRange::prefix(keys::TEST_CASES).contains(key),
        _ => true,
    };
    if let Some(error) = broken.into_iter().find(needed) {
        return Err(error.into());
    }
    history::load_output(store.as_ref(), &mut details, Shown::REPORT).await?;
    Ok(details)
}

/// Which runs are newer than one: by where the store created their records, for clocks of two
/// machines are not compared.
struct Age {
    store: SharedStore,
    own: Revision,
    /// The runs that there were when the run ended.
    known: HashMap<Key, Revision>,
    patience: Duration,
}

impl Age {
    async fn read(store: &SharedStore, run: &RunId, patience: Duration) -> Result<Self> {
        let range = KeyRange::prefix(keys::RUNS);
        let read = || list_keys(store.as_ref(), range.clone());
        let page =
            read.retry(pauses().with_total_delay(Some(patience))).when(StoreError::is_transient).await?;
        let known: HashMap<_, _> = page.pairs.into_iter().map(|pair| (pair.key, pair.created)).collect();
        let own = known.get(&keys::run(run)).copied().unwrap_or_default();
        Ok(Self { store: store.clone(), own, known, patience })
    }

    /// Whether the run that a latest result came from is newer. One that was deleted is not.
    async fn is_newer(&self, result: &LatestResult) -> Result<bool> {
        let key = keys::run(&result.run);
        if let Some(created) = self.known.get(&key) {
            return Ok(*created > self.own);
        }
        let read = || get(self.store.as_ref(), key.clone());
        let read = read.retry(pauses().with_total_delay(Some(self.patience)));
        Ok(read.when(StoreError::is_transient).await?.is_some_and(|pair| pair.created > self.own))
    }
}

/// Writes the latest result of every unit, unless there is one of a newer run.
async fn store_latest(
    store: &SharedStore,
    details: &RunDetails,
    latest: &Latest,
    age: &Age,
    patience: Duration,
) -> Result<()> {
    let run = &details.run;
    let mut units: Vec<_> = details.units.iter().filter(|unit| unit.result.is_some()).collect();
    // Of several repetitions the last one counts.
    units.sort_by_key(|unit| {
        (&unit.planned.test, &unit.planned.environment, Reverse(unit.planned.repetition))
    });
    units.dedup_by_key(|unit| (&unit.planned.test, &unit.planned.environment));
    let writes: Vec<_> = units
        .into_iter()
        .filter_map(|unit| {
            let UnitDetails { planned, result, .. } = unit;
            let environment =
                run.environments.iter().find(|environment| environment.name == planned.environment)?;
            Some((keys::latest_result(&planned.test, &planned.environment), result.as_ref()?, environment))
        })
        .collect();
    stream::iter(batches(writes, BATCH, BATCH_BYTES, |(_, result, _)| result.size() + BESIDE))
        .map(|batch| store_batch(store, batch, run, latest, age, patience))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

type Write<'a> = (Key, &'a UnitResult, &'a EnvironmentVersion);

/// Writes several at once where nothing has changed since the run was planned; else one by one.
async fn store_batch(
    store: &SharedStore,
    batch: Vec<Write<'_>>,
    run: &Run,
    latest: &Latest,
    age: &Age,
    patience: Duration,
) -> Result<()> {
    let mut txn = Txn::default();
    for (key, result, environment) in &batch {
        let known = latest.get(key);
        txn.compares
            .push(Compare::modified(key.clone(), known.map_or(Revision(0), |(_, revision)| *revision)));
        if let Some(next) = newest(known.map(|(latest, _)| latest), result, environment, run, age).await? {
            txn.then.push(Op::put(key.clone(), encode(&next)));
        }
    }
    let Some(Op::Put { key: proof, .. }) = txn.then.last().cloned() else { return Ok(()) };
    if let Commit::Applied(_) = commit(store.as_ref(), &txn, &proof, patience).await? {
        return Ok(());
    }
    for (key, result, environment) in &batch {
        let read = || get(store.as_ref(), key.clone());
        let read = || read.retry(pauses().with_total_delay(Some(patience))).when(StoreError::is_transient);
        let mut pair = read().await?;
        // A record of a newer version is newer than this run.
        while let Ok(before) = pair.as_ref().map(decode::<LatestResult>).transpose() {
            let Some(next) = newest(before.as_ref(), result, environment, run, age).await? else { break };
            let modified = pair.as_ref().map_or(Revision(0), |pair| pair.modified);
            let txn = Txn {
                compares: vec![Compare::modified(key.clone(), modified)],
                then: vec![Op::put(key.clone(), encode(&next))],
                otherwise: vec![],
            };
            if let Commit::Applied(_) = commit(store.as_ref(), &txn, key, patience).await? {
                break;
            }
            pair = read().await?;
        }
    }
    Ok(())
}

/// The record to write after this run; `None` where a newer run has written one already.
async fn newest(
    before: Option<&LatestResult>,
    result: &UnitResult,
    environment: &EnvironmentVersion,
    run: &Run,
    age: &Age,
) -> Result<Option<LatestResult>> {
    if let Some(before) = before
        && age.is_newer(before).await?
    {
        return Ok(None);
    }
    let outcome = RecentOutcome {
        run: run.id.clone(),
        created: run.created,
        verdict: result.verdict(),
        duration: result.duration(),
    };
    let earlier = before.into_iter().flat_map(|before| before.recent.iter().cloned());
    let earlier = earlier.filter(|recent| recent.run != run.id);
    Ok(Some(LatestResult {
        run: run.id.clone(),
        created: run.created,
        environment: environment.clone(),
        commit: run.commit.as_ref().map(|commit| commit.id.clone()),
        result: result.clone(),
        recent: std::iter::once(outcome).chain(earlier).take(LatestResult::RECENT).collect(),
    }))
}
