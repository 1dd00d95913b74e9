//! `cargo etcdtest store gc`: deletes old runs.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use super::print::{json_line, print};
use super::run::duration;
use super::style::{FAINT, STRONG, ago, local_time};
use super::table::Table;
use super::{Exit, Failure, Session};
use crate::config::{Format, Settings};
use crate::model::RunId;
use crate::store::gc::{Keep, OldRun, delete_remains, delete_run, old_runs};
use crate::store::{KeyRange, Read, Revision, Store, StoreError, keys};

/// Arguments of `store gc`. Without one of the first two, the settings hold.
#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Delete none of the newest N runs
    #[arg(long, value_name = "N")]
    keep_runs: Option<usize>,
    /// Delete only runs that were created longer ago than this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// Say which runs would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Forget the history of all records too, so that their space can be used again; on etcd that
    /// is the history of the whole cluster
    #[arg(long, conflicts_with = "dry_run")]
    compact: bool,
}

/// What was done, or would be.
#[derive(Debug, Default)]
struct Collected {
    runs: Vec<OldRun>,
    /// Runs that changed while they were to be deleted.
    changed: Vec<RunId>,
    /// How many records went with the runs.
    records: u64,
    /// How many were left of runs that had gone before.
    remains: u64,
    compacted: Option<Revision>,
}

/// What the settings say is kept; `None` where everything is.
pub(super) fn kept(settings: &Settings) -> Option<Keep> {
    let newest = settings.gc_keep_runs.count()?;
    Some(Keep { newest: newest.get(), younger_than: settings.gc_older_than })
}

/// Runs the verb.
///
/// # Errors
/// The store failed.
pub(super) async fn run(args: &GcArgs, session: &Session) -> Result<Exit, Failure> {
    let settings = &session.settings;
    let keep = match (args.keep_runs, args.older_than) {
        (None, None) => kept(settings),
        (newest, older_than) => {
            Some(Keep { newest: newest.unwrap_or_default(), younger_than: older_than.unwrap_or_default() })
        }
    };
    let store = session.store().await?;
    let now = Timestamp::now();
    let collected = collect(&*store, keep, args, now).await?;
    print(&match settings.format {
        Format::Human => text(&collected, args.dry_run, now, &TimeZone::system()),
        Format::Json => json_line(&json!({
            "dry_run": args.dry_run,
            "runs": collected.runs.iter().map(|run| &run.id).collect::<Vec<_>>(),
            "changed": collected.changed,
            "records": collected.records,
            "remains": collected.remains,
            "compacted": collected.compacted.map(|revision| revision.0),
        })),
    })?;
    Ok(Exit::Passed)
}

async fn collect(
    store: &dyn Store,
    keep: Option<Keep>,
    args: &GcArgs,
    now: Timestamp,
) -> Result<Collected, StoreError> {
    let mut collected = Collected::default();
    let old = match keep {
        Some(keep) => old_runs(store, keep, now, usize::MAX).await?,
        None => Vec::new(),
    };
    for run in old {
        if !args.dry_run {
            let Some(records) = delete_run(store, &run).await? else {
                collected.changed.push(run.id);
                continue;
            };
            collected.records += records;
        }
        collected.runs.push(run);
    }
    collected.remains = delete_remains(store, args.dry_run).await?;
    if args.compact {
        // A read tells the revision to whoever may delete runs, the status not to everyone.
        let first = Read { limit: Some(1), keys_only: true, ..KeyRange::prefix(keys::RUNS).into() };
        let now = store.read(first).await?.revision;
        match store.compact(now).await {
            // Somebody else was faster.
            Ok(()) | Err(StoreError::Compacted(_)) => collected.compacted = Some(now),
            Err(error) => return Err(error),
        }
    }
    Ok(collected)
}

/// So many of something, in words.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn text(collected: &Collected, dry_run: bool, now: Timestamp, zone: &TimeZone) -> String {
    let mut lines = Vec::new();
    if !collected.runs.is_empty() {
        let mut table = Table::new(&["RUN", "CREATED", ""]);
        for run in &collected.runs {
            let created = local_time(run.created, zone);
            table.row([
                (run.id.to_string(), STRONG),
                (created, anstyle::Style::new()),
                (ago(run.created, now), FAINT),
            ]);
        }
        lines.push(table.to_string());
    }
    let runs = counted(collected.runs.len() as u64, "run");
    let remains = counted(collected.remains, "record");
    let would = if dry_run { " would be" } else { "" };
    lines.push(if dry_run {
        format!("{runs} would be deleted")
    } else {
        format!("{runs} deleted, with {}", counted(collected.records, "record"))
    });
    if collected.remains > 0 {
        lines.push(format!("{remains} of runs that had gone before{would} deleted"));
    }
    lines.extend(collected.changed.iter().map(|run| format!("kept: {run}, which is worked on again")));
    if let Some(revision) = collected.compacted {
        lines.push(format!("history up to revision {revision} is forgotten"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::{RunId, RunState};
    use crate::reports::sample::{TestStore, at, every_kind};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: GcArgs,
    }

    async fn collected(store: &TestStore, arguments: &[&str]) -> (Collected, String) {
        let cli = Cli::try_parse_from(std::iter::once(&"gc").chain(arguments)).unwrap();
        let keep = Keep {
            newest: cli.args.keep_runs.unwrap_or_default(),
            younger_than: cli.args.older_than.unwrap_or_default(),
        };
        let collected = collect(&*store.store, Some(keep), &cli.args, at(7200)).await.unwrap();
        let text = text(&collected, cli.args.dry_run, at(7200), &TimeZone::UTC);
        (collected, anstream::adapter::strip_str(&text).to_string())
    }

    #[tokio::test]
    async fn a_dry_run_shows_what_goes_and_deletes_nothing() {
        let store = TestStore::new();
        let mut details = every_kind();
        for (id, created) in [("one", 0), ("two", 3600), ("three", 7000)] {
            (details.run.id, details.run.created) = (RunId::new(id), at(created));
            store.write(&details).await;
        }
        let before = store.store.count(KeyRange::prefix("/")).await.unwrap();
        let (_, said) = collected(&store, &["--older-than", "30m", "--dry-run"]).await;
        insta::assert_snapshot!(said);
        assert_eq!(store.store.count(KeyRange::prefix("/")).await.unwrap(), before);

        let (done, said) = collected(&store, &["--keep-runs", "1", "--compact"]).await;
        assert_eq!(done.runs.len(), 2);
        let after = store.store.count(KeyRange::prefix("/")).await.unwrap();
        assert_eq!(done.records, before - after);
        assert!(said.contains("2 runs deleted, with "), "{said}");
        assert_eq!(done.compacted, Some(store.store.status().await.unwrap().revision));
        let (done, said) = collected(&store, &["--keep-runs", "1", "--compact"]).await;
        assert_eq!((done.runs.len(), said.contains("0 runs deleted, with 0 records")), (0, true), "{said}");
    }

    #[tokio::test]
    async fn a_run_under_way_that_nobody_works_for_is_old_as_well() {
        let store = TestStore::new();
        let mut details = every_kind();
        details.run.state = RunState::Running;
        store.write(&details).await;
        assert_eq!(collected(&store, &[]).await.0.runs.len(), 1);
    }
}
