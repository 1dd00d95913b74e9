//! The end of a run: reports, latest results, summary. Done by one worker, under its fence.

use backon::Retryable;
use jiff::Timestamp;

use super::error::Result;
use super::latest::store_latest;
use super::membership::Membership;
use crate::model::{Run, RunId, RunState, Steward};
use crate::reports::history::{self, Found, Shown};
use crate::reports::{REPORTS, ReportError, RunDetails, report_writes};
use crate::store::{KeyRange, SharedStore, StoreError, keys, pauses};

/// Finishes a run whose units all have a result, or that was cancelled.
///
/// # Errors
/// What the store said; the run then stays as it is, and can be finished again.
pub async fn finish(membership: &mut Membership, cancelled: bool) -> Result<RunDetails> {
    let finishing = |run: &Run, by: Steward| {
        let cancelled = cancelled || run.state == RunState::Cancelling;
        let open = match &run.state {
            RunState::Running | RunState::Cancelling => true,
            RunState::Finishing { by: finisher, .. } => finisher.worker == by.worker,
            RunState::Planning { .. } | RunState::Finished { .. } => false,
        };
        open.then(|| Run { state: RunState::Finishing { by, cancelled }, ..run.clone() })
    };
    membership.advance(finishing, vec![]).await?;
    membership.check_open()?;

    let (store, patience) = (membership.store().clone(), membership.patience());
    let mut details = (|| read_details(&store, membership.id()))
        .retry(pauses().with_total_delay(Some(patience)))
        .when(|error| matches!(error, ReportError::Store(error) if error.is_transient()))
        .await?;
    // Whoever stops a run when all of it was under way has stopped nothing.
    let cancelled = cancelled && details.summary().not_run > 0;
    details.run.state = RunState::Finished { cancelled };
    details.run.finished = Some(Timestamp::now());
    details.run.summary = Some(details.summary());

    let reports = async {
        for (name, render) in REPORTS {
            // One after the other: they may be large.
            let content = render(&details)?;
            for (proof, then) in report_writes(membership.id(), name, &content) {
                membership.write(&proof, then).await?;
            }
        }
        Ok(())
    };
    tokio::try_join!(reports, store_latest(&store, &details, patience))?;
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
