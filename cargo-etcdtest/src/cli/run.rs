//! `run`, the default verb: build, list, register, execute, report.

use std::collections::HashMap;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio::sync::watch;

use super::cargo_options::{CargoOptions, unless_interrupted};
use super::filter_options::FilterOptions;
use super::global::without_password;
use super::interrupts::Interrupts;
use super::needs::check_needs;
use super::report::write_file;
use super::requirements::require;
use super::session::Session;
use super::store_gc::kept;
use super::watch::display;
use super::{Exit, Failure, GlobalArgs, verb};
use crate::config::{
    FinalStatusLevel, Flags, Format, MaxFail, OutputWhen, PassOrFail, Retries, Settings, SlowTimeout,
    StatusLevel, StoreOutput, TestThreads, Value,
};
use crate::environments::{EnvironmentId, Environments, ReservationError, allows};
use crate::execution::{self, Entry, Kept, Leave, Order, Policy, RunError, Selected, Timings};
use crate::model::{Environment, Labels, RunId, WorkerId};
use crate::reports::history::environments_of;
use crate::reports::{JUNIT, Reports, RunDetails, resolve_run};
use crate::store::{SharedStore, Store, StoreError, gc};
use crate::testcases::{self, Catalog, Filter, ListedTest, TestList};

/// How long a display may take once nobody wants to wait any more.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How many characters the id of a run may have.
const LONGEST_ID: usize = 128;

/// How long old runs may be deleted for after a run.
const TIDYING: Duration = Duration::from_secs(2);

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    filter: FilterOptions,
    #[command(flatten)]
    cargo: CargoOptions,
    #[command(flatten)]
    how: HowArgs,
}

/// How tests are run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Execution")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
struct HowArgs {
    /// Environment to run against, or an old version of one; several times for a matrix
    #[arg(long = "env", value_name = "NAME[@VERSION]")]
    environments: Vec<EnvironmentId>,
    /// Run against exactly the environments that another run used, as they were then: its id, the
    /// beginning of one, or `latest`
    #[arg(long, value_name = "RUN", conflicts_with = "environments")]
    env_from: Option<String>,
    /// What this machine has that tests may need, with commas between
    #[arg(long, value_name = "LABELS")]
    labels: Option<Labels>,
    /// How many tests run at once: a number, `num-cpus`, or a negative number to leave cores free
    #[arg(short = 'j', long, value_name = "N", allow_negative_numbers = true)]
    test_threads: Option<TestThreads>,
    /// How often a failed test is tried again, whatever the test says
    #[arg(long, value_name = "N")]
    retries: Option<Retries>,
    /// What a test counts as that passed after a failed attempt
    #[arg(long, value_name = "RESULT")]
    flaky_result: Option<PassOrFail>,
    /// What a test counts as that passed and left processes behind
    #[arg(long, value_name = "RESULT")]
    leaky_result: Option<PassOrFail>,
    /// How long an attempt may take, whatever the test says
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// After how long a running test is shown as slow
    #[arg(long, value_name = "DURATION")]
    slow_timeout: Option<SlowTimeout>,
    /// How long the tests of the run may take altogether
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    global_timeout: Option<Duration>,
    /// Begin no more tests once so many have failed, or `all` to run all
    #[arg(long, value_name = "N", overrides_with_all = ["max_fail", "fail_fast", "no_fail_fast"])]
    max_fail: Option<MaxFail>,
    /// Run all tests, however many fail: `--max-fail all`
    #[arg(long, overrides_with_all = ["max_fail", "fail_fast"])]
    no_fail_fast: bool,
    /// Begin no more tests once one has failed, the default: `--max-fail 1`
    #[arg(long, overrides_with_all = ["max_fail", "no_fail_fast"])]
    fail_fast: bool,
    /// Which tests get a line as things happen to them: those of the level and of all before it
    #[arg(long, value_name = "LEVEL")]
    status_level: Option<StatusLevel>,
    /// Which tests are listed at the end of the run
    #[arg(long, value_name = "LEVEL")]
    final_status_level: Option<FinalStatusLevel>,
    /// When the output of tests that pass is shown
    #[arg(long, value_name = "WHEN")]
    success_output: Option<OutputWhen>,
    /// When the output of tests that fail is shown
    #[arg(long, value_name = "WHEN")]
    failure_output: Option<OutputWhen>,
    /// Run the tests in an order left to chance; the same SEED gives the same order
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true, value_parser = parse_seed, default_missing_value = "")]
    shuffle: Option<u64>,
    /// Run each test so many times
    #[arg(long, value_name = "N", default_value = "1")]
    stress: NonZeroU32,
    /// Show the output of tests as it comes, one test at a time
    #[arg(long, alias = "nocapture")]
    no_capture: bool,
    /// Whose output is stored
    #[arg(long, value_name = "WHOSE")]
    store_output: Option<StoreOutput>,
    /// How long environments are waited for that others have reserved
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    reserve_timeout: Option<Duration>,
    /// Create the run and follow it, without executing any of it here: workers do
    #[arg(long)]
    queue: bool,
    /// Id of the run, instead of one made from the time. Whoever types the same command with the same
    /// id, on this machine or another, takes part in the same run
    #[arg(long, value_name = "ID", value_parser = parse_run_id)]
    run_id: Option<RunId>,
    /// Exit with the outcome of the tests that this machine ran, instead of that of the whole run
    #[arg(long, requires = "run_id")]
    own_results: bool,
}

impl HowArgs {
    /// What these flags say of the settings.
    fn flags(&self) -> Flags {
        Flags {
            labels: self.labels.clone(),
            test_threads: self.test_threads,
            retries: self.retries,
            flaky_result: self.flaky_result,
            leaky_result: self.leaky_result,
            timeout: self.timeout,
            slow_timeout: self.slow_timeout,
            global_timeout: self.global_timeout,
            reserve_timeout: self.reserve_timeout,
            max_fail: match (self.fail_fast, self.no_fail_fast) {
                (true, _) => Some(MaxFail::After(NonZeroU32::MIN)),
                (_, true) => Some(MaxFail::All),
                _ => self.max_fail,
            },
            status_level: self.status_level,
            final_status_level: self.final_status_level,
            success_output: self.success_output,
            failure_output: self.failure_output,
            store_output: self.store_output,
            ..Flags::default()
        }
    }

    fn policy(&self, settings: &Settings) -> Policy {
        // Machine-readable events carry the output: beside them it would break the lines.
        let show = self.no_capture && settings.format == Format::Human;
        Policy::new(settings, self.no_capture, show)
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text).ok_or_else(|| format!("expected {}", Duration::EXPECTED))
}

/// A seed, or a new one that is short enough to be typed again.
fn parse_seed(text: &str) -> Result<u64, std::num::ParseIntError> {
    if text.is_empty() { Ok(fastrand::u32(..).into()) } else { text.parse() }
}

/// An id that can be typed wherever it is shown, with no quotes around it.
fn parse_run_id(text: &str) -> Result<RunId, &'static str> {
    let plain = |letter: char| letter.is_alphanumeric() || "-_.:/@+=,%".contains(letter);
    match text {
        "" => Err("it may not be empty"),
        "latest" => Err("`latest` names the newest run"),
        _ if text.starts_with('-') => Err("it may not begin with `-`, as a flag does"),
        _ if !text.chars().all(plain) => Err("it may have letters, digits, and `-_.:/@+=,%` only"),
        _ if text.chars().count() > LONGEST_ID => Err("it may have 128 characters at the most"),
        _ => Ok(RunId::new(text)),
    }
}

/// Runs tests.
pub(super) async fn run(args: RunArgs, global: &GlobalArgs, arguments: &[OsString]) -> Result<Exit, Failure> {
    let RunArgs { filter, cargo, how } = args;
    let mut timings = Timings::start();
    let session = Session::new(global, how.flags(), cargo.manifest_path())?;
    let settings = &session.settings;
    let patterns = filter.patterns().to_vec();
    let filter = filter.filter()?;
    let store = session.store().await?;
    let chosen = if let Some(run) = &how.env_from {
        environments_of(&*store, &resolve_run(&*store, run).await?).await?
    } else {
        let environments = Environments::new(store.clone());
        environments.resolve(&how.environments, &settings.default_environment).await?
    };
    // Whoever cannot read the secrets hears of it before anything is built.
    let secrets = session.secrets(store.clone())?.of(&chosen).await?;
    timings.end("open");

    // Git looks at the code while cargo does.
    let root = session.root.clone();
    let commit = tokio::task::spawn_blocking(move || execution::commit_of(&root));
    let built = cargo.build().await?;
    timings.end("build");
    let program_folders = built.program_folders.iter().cloned().collect();
    let list = CargoOptions::list_built(built, settings.list_timeout).await?;
    let tests = select(&list, &filter, &chosen)?;
    if tests.is_empty() {
        return Err(nothing_to_run(&list, &patterns));
    }
    let policy = how.policy(settings);
    check_needs(&tests, &policy, &settings.labels, how.queue || how.run_id.is_some())?;
    let found = execution::requirements(&tests, &chosen, &secrets, settings.list_timeout);
    require(&unless_interrupted(async { Ok(found.await) }).await?, settings.format)?;
    timings.end("list");
    Catalog::new(store.clone()).sync(&list).await?;
    timings.end("register");
    let tests_digest = list.digest();
    // They may be many, and the selected ones are all that is needed from now on.
    drop(list);

    let host = crate::author::host();
    let order = Order {
        id: how.run_id.clone().unwrap_or_else(RunId::generate),
        tests: tests.into_iter().collect(),
        tests_digest,
        environments: chosen,
        secrets,
        policy,
        shuffle: how.shuffle,
        repetitions: how.stress,
        labels: settings.labels.clone(),
        command: without_password(arguments),
        author: crate::author::author(),
        host: host.clone(),
        worker: WorkerId::generate(&host),
        entry: if how.queue { Entry::Queue } else { Entry::CreateOrJoin },
        keeper: this_program(),
        root: session.root.clone(),
        built: program_folders,
        build: cargo.portable(&session.root),
        commit: commit.await.unwrap_or_default(),
        patience: settings.store_timeout,
        journals: session.journals(&*store),
        timings,
    };
    carry_out(&store, order, settings, how.own_results).await
}

/// Executes an order, and says what to exit with: by what came of the run, or with `own`, by
/// what this worker did of it itself.
pub(super) async fn carry_out(
    store: &SharedStore,
    order: Order,
    settings: &Settings,
    own: bool,
) -> Result<Exit, Failure> {
    let (id, worker) = (order.id.clone(), order.worker.clone());
    let (ended, interrupted) = execute(store, order, settings).await;
    // A run that lost its environments has its reports all the same.
    if let Ok(_)
    | Err(RunError::Reservation(ReservationError::Lost { .. } | ReservationError::TakenAway { .. })) =
        &ended
    {
        write_junit(store, &id, settings.junit.as_deref()).await?;
    }
    match ended {
        Ok(details) => {
            tidy(&**store, &id, settings).await;
            let not_run = details.run.summary.is_some_and(|summary| summary.not_run > 0);
            Ok(match interrupted && not_run {
                true => Exit::Interrupted,
                false if own => exit_of_worker(&details, &worker),
                false => exit_of(&details),
            })
        }
        Err(RunError::Unsent { cause, kept }) => Err(failure_of(*cause, &id).with_help(&unsent(&kept))),
        Err(error) => Err(failure_of(error, &id)),
    }
}

/// Deletes a few old runs, as the settings say. It is no part of the run that has ended: what
/// fails is told, and changes nothing else.
async fn tidy(store: &dyn Store, ended: &RunId, settings: &Settings) {
    let Some(keep) = kept(settings) else { return };
    let tidied = tokio::time::timeout(TIDYING, gc::tidy(store, keep, ended, Timestamp::now())).await;
    if let Ok(Err(error)) = tidied {
        anstream::eprintln!("warning: old runs were not deleted: {error}");
    }
}

/// The file of this program: the one that runs, even if another was installed since.
pub(super) fn this_program() -> PathBuf {
    let running = Path::new("/proc/self/exe");
    if running.exists() { running.to_owned() } else { std::env::current_exe().unwrap_or_default() }
}

/// The selected tests, each with the reasons for which it is skipped.
fn select(list: &TestList, filter: &Filter, environments: &[Environment]) -> Result<Vec<Selected>, Failure> {
    let mut selected = Vec::new();
    for test in &list.tests {
        let Some(fate) = filter.select(test) else { continue };
        let mut skipped = HashMap::new();
        for environment in environments {
            if let Some(reason) = reason_to_skip(test, fate, &environment.name)? {
                skipped.insert(environment.name.clone(), reason);
            }
        }
        selected.push(Selected { test: test.clone(), skipped });
    }
    Ok(selected)
}

fn reason_to_skip(
    test: &ListedTest,
    fate: testcases::Selected,
    environment: &str,
) -> Result<Option<String>, Failure> {
    if fate == testcases::Selected::Ignored {
        return Ok(Some(match test.code.ignore.as_deref() {
            None | Some("") => "ignored".into(),
            Some(why) => format!("ignored: {why}"),
        }));
    }
    let allowed = test.code.environments.is_empty() || allows(&test.code.environments, environment)?;
    Ok((!allowed).then(|| format!("runs only in {}", test.code.environments.join(", "))))
}

fn nothing_to_run(list: &TestList, patterns: &[String]) -> Failure {
    let verb = patterns.first().and_then(|pattern| verb::nearest_verb(pattern));
    let (message, help) = match verb {
        _ if list.tests.is_empty() => {
            ("there are no tests", "write one with `#[etcdtest::test]` or `#[test]`".to_owned())
        }
        Some(verb) => (
            "no test was selected",
            format!("did you mean `cargo etcdtest {verb}`? `cargo etcdtest list` shows all tests"),
        ),
        None => ("no test was selected", "`cargo etcdtest list` shows all tests".to_owned()),
    };
    Failure::new(Exit::NothingToRun, miette::miette!(help = help, "{message}"))
}

/// Executes the order, showing what happens, and says whether a signal came meanwhile.
async fn execute(
    store: &SharedStore,
    order: Order,
    settings: &Settings,
) -> (Result<RunDetails, RunError>, bool) {
    let (events, shown) = display(settings, order.policy.show);
    let (leave, told) = watch::channel(Leave::ToFinish);
    let signals = tokio::spawn(listen_to_signals(leave));
    let result = Box::pin(execution::run(store.clone(), order, told.clone(), &events)).await;
    let interrupted = *told.borrow() > Leave::ToFinish;
    signals.abort();
    drop(events);
    // A display that failed has said so; the run itself went on without it.
    let patience = if matches!(result, Err(RunError::Interrupted(_))) { LAST_WORDS } else { Duration::MAX };
    let _ = tokio::time::timeout(patience, shown.end()).await;
    (result, interrupted)
}

/// The first signal lets tests end, a second one kills them, a third one ends the program.
pub(super) async fn listen_to_signals(leave: watch::Sender<Leave>) -> std::io::Result<()> {
    let mut interrupts = Interrupts::listen()?;
    for next in [Leave::ToEnd, Leave::ToDie, Leave::ToQuit] {
        interrupts.next().await;
        leave.send_replace(next);
    }
    std::future::pending().await
}

/// Where results are that are not stored, and how they get there.
fn unsent(kept: &Kept) -> String {
    let (are, them) = if kept.results == 1 { ("1 result is", "it") } else { ("{} results are", "them") };
    let are = are.replace("{}", &kept.results.to_string());
    let path = kept.path.display();
    format!("{are} only in {path}: `cargo etcdtest store sync` sends {them} once the store is back")
}

/// What a run that failed exits with.
pub(super) fn failure_of(error: RunError, run: &RunId) -> Failure {
    match error {
        RunError::Store(error @ (StoreError::Unavailable { .. } | StoreError::UnknownOutcome { .. })) => {
            Failure::new(
                Exit::Store,
                miette::miette!(
                    help = "what was stored before is safe: `cargo etcdtest runs show` shows it once the store is back; \
                        `store-timeout` says how long a run waits for it",
                    "the run `{run}` ended before its results were stored: {error}"
                ),
            )
            .passing()
        }
        RunError::Unfinished { cancelled, .. } => {
            let verb = if cancelled { "cancel" } else { "resume" };
            Failure::new(
                Exit::Store,
                miette::miette!(
                    help = format!(
                        "once the store is back, `cargo etcdtest runs {verb} {run}` writes its reports; \
                            `store-timeout` says how long a run waits for it"
                    ),
                    "{error}"
                ),
            )
            .passing()
        }
        RunError::Interrupted(_) => Failure::interrupted(miette::miette!(
            help = format!("what was stored before is safe: `cargo etcdtest runs show {run}` shows it"),
            "{error}"
        )),
        RunError::Store(error) => error.into(),
        RunError::NotReady(not_ready) => not_ready.into(),
        RunError::Data(error) => error.into(),
        RunError::Report(error) => error.into(),
        RunError::Exists(_) => {
            Failure::usage(miette::miette!(help = "choose another --run-id, or leave it out", "{error}"))
        }
        RunError::Io { .. } => Failure::usage(miette::miette!(
            help = "make room there, or name another folder for temporary files in TMPDIR",
            "{error}"
        )),
        RunError::Reservation(error) => error.into(),
        RunError::Unsent { cause, .. } => failure_of(*cause, run),
        RunError::Differs { .. } => Failure::usage(miette::miette!(
            help = "take part with the same command and the same code, or choose another --run-id",
            "{error}"
        )),
        RunError::Unneeded(_) => Failure::usage(miette::miette!(
            help = format!("`cargo etcdtest worker --run {run} --labels …` where a machine has them"),
            "{error}"
        )),
        RunError::Over { .. } | RunError::Ending(_) => Failure::usage(miette::miette!(
            help = format!("`cargo etcdtest runs show {run}` shows what came of it"),
            "{error}"
        )),
        RunError::Left(_) => Failure::interrupted(miette::miette!(
            help = format!("`cargo etcdtest runs cancel {run}` ends it for all"),
            "{error}"
        )),
        RunError::Unfollowed(_) => Failure::interrupted(miette::miette!(
            help = format!(
                "`cargo etcdtest watch {run}` follows it again, `cargo etcdtest runs cancel {run}` ends it"
            ),
            "{error}"
        )),
        RunError::Unplanned(_) => Failure::usage(miette::miette!(
            help = format!("type the command that began it again, with `--run-id {run}`"),
            "{error}"
        )),
        RunError::LockLost(_) | RunError::Gone(_) | RunError::Plan(_) | RunError::Superseded { .. } => {
            Failure::usage(miette::miette!(
                help = "run the tests again; `cargo etcdtest runs list` shows what the store has",
                "{error}"
            ))
        }
    }
}

/// Writes the JUnit report to the file that the settings name.
async fn write_junit(store: &SharedStore, run: &RunId, path: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let content = Reports::new(store.clone()).get(run, JUNIT).await?;
    write_file(path, &content).map_err(|error| {
        Failure::usage(miette::miette!(
            help =
                "the report is in the store as well: `cargo etcdtest report export --format junit -o FILE`",
            "failed to write the JUnit report to {}: {error}",
            path.display()
        ))
    })
}

/// What a finished run exits with.
pub(super) fn exit_of(details: &RunDetails) -> Exit {
    let summary = details.run.summary.unwrap_or_default();
    exit_of_summary(&summary)
}

/// What one worker's part of a finished run exits with.
fn exit_of_worker(details: &RunDetails, worker: &WorkerId) -> Exit {
    let own = details.units.iter().filter_map(|unit| unit.result.as_ref());
    let mut own = own.filter(|result| result.worker.is_of(worker));
    if own.any(|result| result.outcome.is_failure()) { Exit::TestsFailed } else { Exit::Passed }
}

/// What a run that came to this exits with.
pub(super) fn exit_of_summary(summary: &crate::model::RunSummary) -> Exit {
    if summary.failed + summary.timed_out + summary.crashed + summary.not_run > 0 {
        Exit::TestsFailed
    } else {
        Exit::Passed
    }
}
