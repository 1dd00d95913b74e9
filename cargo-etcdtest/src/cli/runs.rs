//! `cargo etcdtest runs`: which runs there were, and how one went.

use std::num::NonZeroUsize;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::print::{json_line, print};
use super::run::failure_of;
use super::run_text::{self, Detail, counts, run_text, warnings};
use super::style::{FAINT, STRONG, ago, local_time};
use super::table::Table;
use super::worker::{self, MachineArgs};
use super::{Exit, Failure, Format, Session};
use crate::config::Settings;
use crate::environments::EnvironmentId;
use crate::execution::{self, Cancelled};
use crate::model::{Cancellation, RunState, RunSummary, Worker, WorkerId};
use crate::reports::history::{self, Found, Life, ListedRun, Shown};
use crate::reports::{
    Counts, LATEST, ReportError, RunDetails, SummaryReport, Unserved, resolve_run, text, unserved_of,
};
use crate::store::SharedStore;

/// List the runs of the store, show how one went, cancel one, or go on with it
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(subcommand)]
    verb: RunsVerb,
}

#[derive(Debug, Subcommand)]
enum RunsVerb {
    #[command(flatten)]
    About(AboutVerb),
    /// Go on with a run that was cancelled or whose workers died: run what has no result yet
    Resume {
        /// Id of the run, the beginning of one, or `latest`
        #[arg(value_name = "RUN")]
        run: String,
        #[command(flatten)]
        machine: Box<MachineArgs>,
    },
}

#[derive(Debug, Subcommand)]
enum AboutVerb {
    /// List runs, newest first
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value = "20")]
        limit: NonZeroUsize,
    },
    /// Show a run: its environments, what failed with message and output, what was slow
    Show {
        /// Id of the run, the beginning of one, or `latest`
        #[arg(value_name = "RUN", default_value = LATEST)]
        run: String,
        /// List every unit
        #[arg(long)]
        all: bool,
        /// Print the whole stored output of failed attempts
        #[arg(long)]
        output: bool,
    },
    /// Cancel a run: its workers, wherever they are, begin no more tests and end those under way
    Cancel {
        /// Id of the run, the beginning of one, or `latest`
        #[arg(value_name = "RUN")]
        run: String,
        /// Why, for those who see that it was cancelled
        #[arg(long, value_name = "TEXT", default_value = "")]
        why: String,
    },
}

impl RunsArgs {
    /// What it says of this machine, where that matters.
    pub(super) fn machine(&self) -> Option<&MachineArgs> {
        match &self.verb {
            RunsVerb::Resume { machine, .. } => Some(machine),
            RunsVerb::About(_) => None,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// No such run, or the store failed.
pub(crate) async fn run(arguments: RunsArgs, session: &Session) -> Result<Exit, Failure> {
    let mut verb = match arguments.verb {
        RunsVerb::Resume { run, machine } => return worker::resume(&run, *machine, session).await,
        RunsVerb::About(verb) => verb,
    };
    let store = session.store().await?;
    if let AboutVerb::Cancel { run, why } = &mut verb
        && !why.is_empty()
    {
        let run = resolve_run(&*store, run).await?;
        let used = history::environments_of(&*store, &run).await?.into_iter();
        let used = used.map(|used| EnvironmentId { name: used.name, version: Some(used.version) });
        *why = session.without_secrets(why, used, &store).await?;
    }
    let answer = answer(verb, &store, &session.settings, Timestamp::now(), &TimeZone::system()).await?;
    print(&answer.value)?;
    // What could not be read goes to stderr, so that the rest can be piped on.
    anstream::eprint!("{}", warnings(&answer.broken));
    Ok(Exit::Passed)
}

async fn answer(
    verb: AboutVerb,
    shared: &SharedStore,
    settings: &Settings,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<Found<String>, Failure> {
    let (store, format) = (&**shared, settings.format);
    match verb {
        AboutVerb::List { limit } => {
            let mut found = history::runs(store).await?;
            found.value.truncate(limit.get());
            let value = match format {
                Format::Human => list_text(&found.value, now, zone),
                Format::Json => list_json(&found.value),
            };
            Ok(Found { value, broken: found.broken })
        }
        AboutVerb::Show { run, all, output } => {
            let run = resolve_run(store, &run).await?;
            let mut found = history::read(store, &run).await?;
            let shown = if output { Shown::WHOLE } else { Shown::BRIEF };
            history::load_output(store, &mut found.value, shown).await?;
            let life = history::life(store, &found.value.run).await?;
            let unserved = unserved_of(store, &found.value).await?;
            let value = match format {
                Format::Human => {
                    run_text(&found.value, &Detail { all, life, unserved: &unserved, now, zone })
                }
                Format::Json => json_line(&show_json(&found.value, life, &unserved)),
            };
            Ok(Found { value, broken: found.broken })
        }
        AboutVerb::Cancel { run, why } => {
            Ok(Found { value: cancel(shared, &run, &why, settings).await?, broken: Vec::new() })
        }
    }
}

/// Cancels a run, and says what came of it.
async fn cancel(store: &SharedStore, run: &str, why: &str, settings: &Settings) -> Result<String, Failure> {
    let (author, host) = (crate::author::author(), crate::author::host());
    let reason = match why {
        "" => format!("{author} cancelled it"),
        why => format!("{author} cancelled it: {}", text::one_line(why, text::MESSAGE)),
    };
    let id = resolve_run(&**store, run).await?;
    let worker = Worker::new(WorkerId::generate(&host), host, id.clone());
    let cancellation = Cancellation { reason, ends_tests: true };
    let cancelled = execution::cancel(store, worker, &cancellation, settings.store_timeout).await;
    let workers = match cancelled.map_err(|error| failure_of(error, &id))? {
        Cancelled::ByWorkers(workers) => workers,
        Cancelled::Over => 0,
    };
    Ok(match (settings.format, workers) {
        (Format::Json, workers) => json_line(&json!({ "run": id, "workers": workers })),
        (Format::Human, 0) => format!("run {id} is cancelled\n"),
        (Format::Human, 1) => format!("run {id} is being cancelled by its worker\n"),
        (Format::Human, workers) => format!("run {id} is being cancelled by its {workers} workers\n"),
    })
}

/// How far a run is, in a word. A run that nobody works for is queued or stalled.
pub(crate) fn state_word(state: &RunState, life: Life) -> &'static str {
    match state {
        RunState::Finished { cancelled: false } => "finished",
        RunState::Finished { cancelled: true } => "cancelled",
        _ if life == Life::Awaited => "queued",
        _ if life == Life::Stalled => "stalled",
        RunState::Planning { .. } => "planning",
        RunState::Running => "running",
        RunState::Cancelling => "cancelling",
        RunState::Finishing { .. } => "finishing",
    }
}

fn list_text(runs: &[ListedRun], now: Timestamp, zone: &TimeZone) -> String {
    if runs.is_empty() {
        return "no runs yet: `cargo etcdtest run` makes one\n".into();
    }
    let mut table =
        Table::new(&["RUN", "STATE", "CREATED", "", "RESULTS", "ENVIRONMENTS", "COMMIT", "AUTHOR"]);
    for ListedRun { run, life } in runs {
        let environments: Vec<String> = run.environments.iter().map(run_text::environment).collect();
        table.row([
            (run.id.to_string(), STRONG),
            (state_word(&run.state, *life).into(), run_text::state_style(&run.state, *life)),
            (local_time(run.created, zone), anstyle::Style::new()),
            (ago(run.created, now), FAINT),
            match run.summary {
                Some(summary) => (counts(&by_verdict(summary)), run_text::summary_style(&summary)),
                None => (run_text::units(run.units), FAINT),
            },
            (environments.join(", "), anstyle::Style::new()),
            (run.commit.as_ref().map(run_text::short_commit).unwrap_or_default(), anstyle::Style::new()),
            (run.author.clone(), FAINT),
        ]);
    }
    table.to_string()
}

/// The summary with all that failed, however it did, as one number: a list has little room.
fn by_verdict(summary: RunSummary) -> RunSummary {
    let failed = summary.failed + summary.timed_out + summary.crashed;
    RunSummary { failed, timed_out: 0, crashed: 0, ..summary }
}

fn list_json(runs: &[ListedRun]) -> String {
    runs.iter()
        .map(|ListedRun { run, life }| {
            json_line(&json!({
                "run": run.id,
                "state": state_word(&run.state, *life),
                "created": run.created,
                "finished": run.finished,
                "units": run.units,
                "counts": run.summary.map(Counts::from),
                "environments": run.environments,
                "commit": run.commit,
                "author": run.author,
                "command": run.command,
            }))
        })
        .collect()
}

/// `summary.json` with what only the records tell: how far the run is and what it waits for, the
/// configuration it used, and the output that was loaded.
fn show_json(details: &RunDetails, life: Life, unserved: &Unserved) -> Value {
    let mut document = json!(SummaryReport::from(details));
    document["state"] = state_word(&details.run.state, life).into();
    document["reason"] = json!(details.run.cancelled.as_ref().map(|cancelled| &cancelled.reason));
    let waiting = unserved.iter().map(|(labels, units)| json!({ "labels": labels, "units": units }));
    document["waiting"] = waiting.collect();
    document["snapshots"] = json!(details.environments);
    for (unit, place) in details.units.iter().zip(0..) {
        for output in &unit.output {
            let attempts = document["units"][place]["attempts"].as_array_mut();
            let attempt = attempts
                .into_iter()
                .flatten()
                .find(|attempt| attempt["number"].as_u64() == Some(output.attempt.into()));
            let streams = attempt.and_then(|attempt| attempt["output"].as_array_mut());
            let stream = streams.into_iter().flatten().find(|stream| stream["name"] == output.name.as_str());
            if let Some(stream) = stream {
                stream["text"] = output.text.as_str().into();
            }
        }
    }
    document
}

impl From<ReportError> for Failure {
    fn from(error: ReportError) -> Self {
        let help = error.help();
        match (error, help) {
            (ReportError::Store(error), _) => error.into(),
            (error, Some(help)) => Self::usage(miette::miette!(help = help, "{error}")),
            (error, None) => Self::usage(miette::miette!("{error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::GlobalArgs;
    use crate::config::Flags;
    use crate::model::{Commit, EnvironmentVersion, NextPosition, Outcome, RunId};
    use crate::reports::sample::{self, TestStore, at, attempt, every_kind, unit};
    use crate::store::{Op, Txn, encode, keys};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        global: GlobalArgs,
        #[command(flatten)]
        runs: RunsArgs,
    }

    /// What the verb prints two hours after the sample's run began, without colours.
    async fn printed(store: &TestStore, arguments: &[&str]) -> Result<String, Failure> {
        let cli = Cli::try_parse_from(std::iter::once(&"runs").chain(arguments)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::load(cli.global.merge(Flags::default()), folder.path(), []).unwrap();
        let RunsVerb::About(verb) = cli.runs.verb else { panic!("it needs a project") };
        let answer = answer(verb, &store.store, &settings, at(7200), &TimeZone::UTC).await?;
        let text = answer.value + &warnings(&answer.broken);
        Ok(anstream::adapter::strip_str(&text).to_string())
    }

    #[tokio::test]
    async fn list_shows_the_newest_first_and_tells_what_it_cannot_read() {
        let store = TestStore::new();
        assert_eq!(
            printed(&store, &["list"]).await.unwrap(),
            "no runs yet: `cargo etcdtest run` makes one\n"
        );
        store.write(&every_kind()).await;
        let mut named = sample::run(vec![unit(0, "a", vec![attempt(1, Outcome::Passed, "")])]);
        named.run.id = RunId::new("aaa-nightly");
        named.run.created = at(3600);
        named.run.environments[0].version = 0;
        named.run.commit =
            Some(Commit { id: "ab".into(), branch: None, folder: String::new(), dirty: false });
        store.write(&named).await;
        let mut stalled = named.clone();
        stalled.run.id = RunId::new("zzz");
        stalled.run.created = at(-86_400 * 3);
        (stalled.run.state, stalled.run.summary, stalled.run.commit) = (RunState::Running, None, None);
        store.write(&stalled).await;
        let dealt = encode(&NextPosition { dealt: 1 });
        store.put(vec![(keys::next_position(&stalled.run.id, 0), dealt)]).await;
        let mut queued = stalled.clone();
        (queued.run.id, queued.run.created) = (RunId::new("yyy"), at(-86_400 * 2));
        store.write(&queued).await;
        let broken = Op::put(keys::run(&RunId::new("broken")), "{\"schema\":9}");
        store.store.txn(Txn { then: vec![broken], ..Txn::default() }).await.unwrap();

        insta::assert_snapshot!(printed(&store, &["list"]).await.unwrap());
        insta::assert_snapshot!(
            printed(&store, &["list", "--format", "json", "--limit", "2"]).await.unwrap()
        );
    }

    #[tokio::test]
    async fn show_tells_what_failed_with_its_output_and_what_was_slow() {
        let store = TestStore::new();
        store.write(&every_kind()).await;
        insta::assert_snapshot!(printed(&store, &["show"]).await.unwrap());
        let all = printed(&store, &["show", "2026", "--all"]).await.unwrap();
        let (_, units) = all.split_once("\nUnits\n").unwrap();
        insta::assert_snapshot!(units);
    }

    #[tokio::test]
    async fn show_of_a_run_that_goes_on_tells_where_each_unit_runs() {
        let store = TestStore::new();
        let mut elsewhere = unit(1, "a", vec![attempt(1, Outcome::Failed, "no")]);
        elsewhere.planned.environment = "prod".into();
        let mut waiting = unit(2, "b", vec![]);
        (waiting.result, waiting.planned.needs) = (None, "gpu".parse().unwrap());
        let mut details =
            sample::run(vec![unit(0, "a", vec![attempt(1, Outcome::Passed, "")]), elsewhere, waiting]);
        let run = &mut details.run;
        (run.state, run.finished, run.summary, run.commit) = (RunState::Running, None, None, None);
        run.environments.push(EnvironmentVersion { name: "prod".into(), version: 0, revision: 0 });
        let id = WorkerId::new("host-1-abc");
        let worker = Worker { lanes: 4, ..Worker::new(id, "host", run.id.clone()) };
        store.write(&details).await;
        store.put(vec![(keys::worker(&worker.id), encode(&worker))]).await;
        insta::assert_snapshot!(printed(&store, &["show", "--all"]).await.unwrap());
        let document: Value =
            serde_json::from_str(&printed(&store, &["show", "--format", "json"]).await.unwrap()).unwrap();
        assert_eq!(document["waiting"], json!([{ "labels": ["gpu"], "units": 1 }]));
    }

    #[tokio::test]
    async fn show_as_json_is_the_summary_with_state_snapshots_and_output() {
        let store = TestStore::new();
        let details = every_kind();
        store.write(&details).await;
        let document = printed(&store, &["show", "latest", "--format", "json"]).await.unwrap();
        let mut document: Value = serde_json::from_str(&document).unwrap();
        assert_eq!(document["state"], "finished");
        assert_eq!(document["snapshots"][0]["config"]["limits"]["open"], 3);
        let stream = &mut document["units"][2]["attempts"][1]["output"][0];
        assert_eq!(stream["text"].take(), "id\tstate\n1\topen\n");
        assert_eq!(document["counts"], json!(SummaryReport::from(&details))["counts"]);
    }

    #[tokio::test]
    async fn output_is_bounded_unless_it_is_asked_for() {
        let store = TestStore::new();
        let mut failed = unit(0, "a", vec![attempt(1, Outcome::Failed, "no")]);
        let lines: Vec<String> = (0..1000).map(|line| format!("line {line}\n")).collect();
        sample::print(&mut failed, 1, "output", &lines.concat());
        store.write(&sample::run(vec![failed])).await;
        let brief = printed(&store, &["show"]).await.unwrap();
        assert!(
            brief.contains("line 0\n") && brief.contains("bytes left out") && brief.contains("line 999\n")
        );
        assert!(!brief.contains("line 500\n"));
        let whole = printed(&store, &["show", "--output"]).await.unwrap();
        assert!((0..1000).all(|line| whole.contains(&format!(" line {line}\n"))));
    }

    #[tokio::test]
    async fn an_unknown_run_is_wrong_usage_and_names_the_nearest() {
        let store = TestStore::new();
        store.write(&every_kind()).await;
        let failure = printed(&store, &["show", "20261231-235959-x7k2pz"]).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        let text = failure.to_string();
        assert!(text.contains("no run `20261231-235959-x7k2pz`"), "{text}");
        assert!(text.contains("`20261231-235959-x7k2pq`"), "{text}");
    }
}
