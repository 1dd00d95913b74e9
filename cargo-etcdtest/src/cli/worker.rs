//! `worker`: a worker for runs that others began.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use backon::BackoffBuilder;
use clap::{ArgGroup, Args};
use tokio::time::sleep;

use super::cargo_options::{CargoLocal, CargoOptions, unless_interrupted};
use super::interrupts::Interrupts;
use super::run::{carry_out, failure_of, this_program};
use super::session::Session;
use super::store_sync::send_left_behind;
use super::style::{STRONG, WARNING, painted};
use super::{Exit, Failure, watch};
use crate::config::{Flags, TestThreads};
use crate::execution::{self, Entry, Order, Policy, RunError, Seen, Selected, Timings};
use crate::model::{Commit, Labels, Run, RunId, WorkerId};
use crate::reports::history::environments_of;
use crate::reports::resolve_run;
use crate::store::{Patience, Read, SharedStore, get_record, keys, pauses};

/// How often a daemon tries to send what was left behind, where the store answers but does not take
/// it, before it looks for runs all the same.
const SENDS: usize = 3;

/// Arguments of `worker`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("runs").args(["run", "daemon"]).required(true)))]
pub(super) struct WorkerArgs {
    /// The run to work for: its id, the beginning of one, or `latest`
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Wait for runs of this project at this commit, and work for one after the other
    #[arg(long)]
    daemon: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

/// What belongs to the machine of a worker, and not to its run.
#[derive(Debug, Args)]
pub(super) struct MachineArgs {
    /// What this machine has that tests may need, with commas between
    #[arg(long, value_name = "LABELS")]
    labels: Option<Labels>,
    /// How many tests run at once: a number, `num-cpus`, or a negative number to leave cores free
    #[arg(short = 'j', long, value_name = "N", allow_negative_numbers = true)]
    test_threads: Option<TestThreads>,
    #[command(flatten)]
    cargo: CargoLocal,
}

impl MachineArgs {
    /// What its flags say of the settings.
    pub(super) fn flags(&self) -> Flags {
        Flags { labels: self.labels.clone(), test_threads: self.test_threads, ..Flags::default() }
    }

    /// The manifest that was named, if one was.
    pub(super) fn manifest_path(&self) -> Option<&Path> {
        self.cargo.manifest_path()
    }
}

impl WorkerArgs {
    /// What it says of this machine.
    pub(super) fn machine(&self) -> &MachineArgs {
        &self.machine
    }
}

/// Works for a run, or for one after the other until it is told to end.
///
/// # Errors
/// As for `run`; with `--daemon` only where it cannot go on waiting.
pub(super) async fn run(args: WorkerArgs, session: &Session) -> Result<Exit, Failure> {
    let store = session.store().await?;
    match &args.run {
        Some(given) => {
            let id = resolve_run(store.as_ref(), given).await?;
            join(&id, session, &store, args.machine.cargo, Entry::Join).await
        }
        None => wait(session, &store, &args.machine.cargo).await,
    }
}

/// Goes on with a run that was cancelled or whose workers died, and works for it.
///
/// # Errors
/// There is nothing to go on with, and as for `run`.
pub(super) async fn resume(given: &str, machine: MachineArgs, session: &Session) -> Result<Exit, Failure> {
    let store = session.store().await?;
    let id = resolve_run(store.as_ref(), given).await?;
    let resumed = execution::resume(&store, &id, session.settings.store_timeout).await;
    resumed.map_err(|error| failure_of(error, &id))?;
    join(&id, session, &store, machine.cargo, Entry::Join).await
}

/// Takes one run after the other, until a signal comes.
async fn wait(session: &Session, store: &SharedStore, cargo: &CargoLocal) -> Result<Exit, Failure> {
    let failed = |error| Failure::usage(miette::miette!("failed to listen to signals: {error}"));
    // It keeps a signal that comes while a run goes on, which ends by it as well.
    let mut interrupts = Interrupts::listen().map_err(failed)?;
    let Some(here) = unless_told(&mut interrupts, commit(session)).await else { return Ok(Exit::Passed) };
    if here.as_ref().is_some_and(|commit| commit.dirty) {
        let warning = painted(WARNING, "warning:");
        anstream::eprintln!("{warning} there are changes that are not committed: no run is taken with them");
    }
    // A daemon that died may have left something.
    let (mut passed, mut left_behind) = (BTreeMap::new(), true);
    loop {
        let next = next_run(session, store, here.as_ref(), &passed, left_behind);
        let Some(next) = unless_told(&mut interrupts, Box::pin(next)).await else { break };
        let (id, seen) = next?;
        anstream::eprintln!("{} for run {id}", painted(STRONG, format_args!("{:>12}", "Working")));
        let prepared = prepare(&id, session, store, cargo.clone(), Entry::JoinWhileNeeded);
        let Some(prepared) = unless_told(&mut interrupts, Box::pin(prepared)).await else { break };
        let joined = match prepared {
            Ok(prepared) => work(prepared, session, store).await,
            Err(failure) => Err(failure),
        };
        // A run has not ended for this worker where its store went away: it is found again.
        left_behind = joined.as_ref().is_err_and(Failure::is_passing);
        if !left_behind {
            passed.insert(id, seen);
        }
        tell(joined);
    }
    Ok(Exit::Passed)
}

/// What `step` comes to; nothing where a signal comes or has come before.
async fn unless_told<T>(interrupts: &mut Interrupts, step: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = interrupts.next() => None,
        done = step => Some(done),
    }
}

/// Waits for a run to work for, beyond what has `passed`, and for the store where that is away. What
/// was left behind is sent before, so that nothing of it is executed again.
async fn next_run(
    session: &Session,
    store: &SharedStore,
    here: Option<&Commit>,
    passed: &BTreeMap<RunId, Seen>,
    left_behind: bool,
) -> Result<(RunId, Seen), Failure> {
    let of = here.map(|commit| format!(" of commit {}", commit.id)).unwrap_or_default();
    let mut sends = if left_behind { SENDS } else { 0 };
    let mut pauses = pauses().build();
    loop {
        until_it_answers(store).await?;
        if sends > 0 {
            sends = match send_left_behind(session, store).await {
                Err(failure) => {
                    failure.print();
                    sends - 1
                }
                Ok(()) => 0,
            };
        }
        if sends == 0 {
            anstream::eprintln!("{} for runs{of}", painted(STRONG, format_args!("{:>12}", "Waiting")));
            let patience = session.settings.store_timeout;
            match execution::next_joinable(store, &session.root, passed, patience).await {
                Err(RunError::Store(error)) if error.is_transient() => {}
                next => return next.map_err(|error| failure_of(error, &RunId::new(""))),
            }
        }
        // A store may answer this and not that.
        sleep(pauses.next().unwrap_or_default()).await;
    }
}

/// Says what went wrong, where something did.
fn tell<T>(result: Result<T, Failure>) {
    if let Err(failure) = result {
        failure.print();
    }
}

/// Waits for a store that does not answer, for as long as it takes.
async fn until_it_answers(store: &SharedStore) -> Result<(), Failure> {
    let ask = || store.read(Read::key(keys::RUNS));
    match ask().await {
        Err(error) if error.is_transient() => {
            let label = painted(WARNING, format_args!("{:>12}", "Waiting"));
            anstream::eprintln!("{label} for the store, which does not answer");
        }
        answer => return Ok(answer.map(drop)?),
    }
    Ok(Patience::from(Duration::MAX).lasts(ask).await.map(drop)?)
}

/// Works for one run, by its rules, and exits as it ends.
async fn join(
    id: &RunId,
    session: &Session,
    store: &SharedStore,
    cargo: CargoLocal,
    entry: Entry,
) -> Result<Exit, Failure> {
    let prepared = unless_interrupted(Box::pin(prepare(id, session, store, cargo, entry))).await?;
    work(prepared, session, store).await
}

/// What is known of a run before anything of it is executed here.
enum Prepared {
    /// It has ended.
    Over(Box<Run>),
    /// This is to be executed.
    Ordered(Box<Order>),
}

/// Finds out what a run wants, builds its tests and lists them.
async fn prepare(
    id: &RunId,
    session: &Session,
    store: &SharedStore,
    cargo: CargoLocal,
    entry: Entry,
) -> Result<Prepared, Failure> {
    let settings = &session.settings;
    let mut timings = Timings::start();
    let run = execution::planned(store, id).await.map_err(|error| failure_of(error, id))?;
    if run.is_over() {
        return Ok(Prepared::Over(Box::new(run)));
    }
    let environments = environments_of(store.as_ref(), id).await?;
    let secrets = session.secrets(store.clone())?.of(&environments).await?;
    let own = Policy::new(settings, false, false);
    let rules = get_record::<Policy>(store.as_ref(), keys::rules(id)).await?;
    let policy = rules.map_or(own.clone(), |(rules, _)| own.under(rules));
    let here = commit(session).await;
    warn_of_other_code(here.as_ref(), run.commit.as_ref());
    timings.end("open");

    let built = CargoOptions::elsewhere(&run.build, &session.root, cargo)?.build().await?;
    timings.end("build");
    let program_folders = built.program_folders.iter().cloned().collect();
    let list = CargoOptions::list_built(built, settings.list_timeout).await?;
    timings.end("list");
    let host = crate::author::host();
    let order = Order {
        id: id.clone(),
        tests_digest: list.digest(),
        tests: list.tests.into_iter().map(|test| Selected { test, skipped: HashMap::new() }).collect(),
        environments,
        secrets,
        policy,
        shuffle: run.shuffle,
        repetitions: NonZeroU32::MIN,
        labels: settings.labels.clone(),
        command: run.command,
        author: crate::author::author(),
        worker: WorkerId::generate(&host),
        host,
        entry,
        keeper: this_program(),
        root: session.root.clone(),
        built: program_folders,
        build: run.build,
        commit: here,
        patience: settings.store_timeout,
        journals: session.journals(&**store),
        timings,
    };
    Ok(Prepared::Ordered(Box::new(order)))
}

/// Executes what was prepared, and says what to exit with.
async fn work(prepared: Prepared, session: &Session, store: &SharedStore) -> Result<Exit, Failure> {
    match prepared {
        Prepared::Over(run) => Ok(watch::show_over(&run, &session.settings).await),
        Prepared::Ordered(order) => carry_out(store, *order, &session.settings, false).await,
    }
}

/// The code that is here. Git may take its time.
async fn commit(session: &Session) -> Option<Commit> {
    let root = session.root.clone();
    tokio::task::spawn_blocking(move || execution::commit_of(&root)).await.unwrap_or_default()
}

/// The same tests may do other things at another commit.
fn warn_of_other_code(here: Option<&Commit>, there: Option<&Commit>) {
    if let (Some(here), Some(there)) = (here, there)
        && here.id != there.id
    {
        let (warning, here, there) = (painted(WARNING, "warning:"), &here.id, &there.id);
        anstream::eprintln!("{warning} the code here is of commit {here}, that of the run of {there}");
    }
}
