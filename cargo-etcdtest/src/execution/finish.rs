//! The end of a run: reports, latest results, summary. Done by one worker, under its fence.

use backon::Retryable;
use jiff::Timestamp;

use super::error::{Result, RunError};
use super::latest::store_latest;
use super::membership::{Duty, Membership, is_gone};
use super::plan::Plan;
use crate::model::{Claim, NextPosition, Run, RunId, RunState, Steward};
use crate::reports::history::{self, Found, Shown};
use crate::reports::{REPORTS, ReportError, RunDetails, report_writes};
use crate::store::{
    Compare, KeyRange, KeyValue, Op, Revision, SharedStore, StoreError, Wake, decode, keys, pauses,
};

/// Sees a run to its end, whose units all have a result, or that was cancelled: waits for what
/// other workers still have under way, and finishes it, or waits for the worker that does. `None`
/// where somebody has resumed it: there is something to be executed again.
///
/// # Errors
/// What the store said; the run then stays as it is, and can be finished by others.
pub async fn conclude(membership: &mut Membership, plan: &Plan) -> Result<Option<RunDetails>> {
    let mut wake = None;
    loop {
        let view = View::read(membership, &mut wake).await?;
        let run = membership.run().clone();
        match run.state.clone() {
            RunState::Finished { .. } => return details_of(membership).await.map(Some),
            RunState::Finishing { by, .. } if by == membership.steward() => {
                match finish(membership).await {
                    // Somebody took this one for dead.
                    Err(RunError::Superseded { .. }) => {}
                    done => return done.map(Some),
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
            RunState::Running => return Ok(None),
            RunState::Cancelling if view.is_quiet() => {
                let state = RunState::Finishing { by: membership.steward(), cancelled: true };
                membership.try_advance(Run { state, ..run }, vec![], vec![]).await?;
                continue;
            }
            RunState::Planning { .. } => return Err(membership.superseded()),
            RunState::Finishing { .. } | RunState::Cancelling => {}
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
async fn finish(membership: &mut Membership) -> Result<RunDetails> {
    let cancelled = matches!(membership.run().state, RunState::Finishing { cancelled: true, .. });
    let mut details = details_of(membership).await?;
    // Whoever stops a run when all of it was under way has stopped nothing.
    let cancelled = cancelled && details.summary().not_run > 0;
    details.run.state = RunState::Finished { cancelled };
    details.run.finished = Some(Timestamp::now());
    details.run.summary = Some(details.summary());

    let (store, patience) = (membership.store().clone(), membership.patience().limit());
    let run = &details.run.id;
    let reports = async {
        for (name, render) in REPORTS {
            // Piece by piece: they may be large, and meanwhile other things are done.
            for (proof, then) in report_writes(run, name, render(&details)) {
                membership.write(Duty::Finish, &proof, then).await?;
            }
        }
        Ok(())
    };
    // What has to be asked first: a report is made while the store answers.
    tokio::try_join!(store_latest(&store, &details, patience), reports)?;
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
