//! One trial: workers, a store and a bad network, all decided by a seed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cargo_etcdtest::execution::{JournalFolder, RunError, RunEvent};
use cargo_etcdtest::model::{Definition, Environment, Run, RunId, TestCaseId, UnitIndex, WorkerId};
use cargo_etcdtest::store::etcd::EtcdOptions;
use cargo_etcdtest::store::{SharedStore, StoreOptions, get_record, keys};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::guard::Guard;
use super::judge::{Judge, Promise, Wrong};
use super::lock;
use super::machine::Machine;
use super::memory::MemoryStore;
use super::network::{Link, Network, Weather};
use super::seeds::in_virtual_time;
use super::trouble::TROUBLE;
use super::worker::{Fate, Job, work};

/// How long a run may take at the most, once the trouble is over.
const ENOUGH: Duration = Duration::from_hours(1);
/// After so long nothing is under way on the network any more.
const SETTLED: Duration = Duration::from_mins(2);
/// So long after the end of its workers nobody meddles with a run any more.
const MEDDLED: Duration = Duration::from_mins(10);
/// How many workers may take part in a run one after the other.
const WORKERS: usize = 10;

/// What is tried.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// Decides all that is left to chance.
    pub seed: u64,
    /// A compare that is left out of every transaction.
    pub without: Option<Guard>,
    /// Note what happens.
    pub trace: bool,
}

/// What came of a trial.
#[derive(Debug)]
pub struct Verdict {
    /// What was wrong; nothing, if all is well.
    pub wrong: Vec<Wrong>,
    /// The compares that were made.
    pub met: BTreeSet<Guard>,
    /// What happened, where that was wanted.
    pub trace: Vec<String>,
}

/// All that takes part.
#[derive(Debug)]
pub(super) struct World {
    pub(super) network: Arc<Network>,
    pub(super) jobs: Vec<Job>,
    pub(super) machines: Mutex<Vec<Arc<Machine>>>,
    /// Which results were announced as stored, and by whom.
    announced: Mutex<BTreeSet<(RunId, WorkerId, UnitIndex)>>,
    /// Runs that somebody from outside has meddled with: not all their workers end alike.
    pub(super) meddled: Mutex<BTreeSet<RunId>>,
    /// Those of them that were deleted: who works for one then may fail as it likes.
    pub(super) deleted: Mutex<BTreeSet<RunId>>,
    /// How many results of whom were said to be sent from what dead workers left.
    pub(super) sent: Mutex<Vec<(RunId, WorkerId, usize)>>,
    /// What else was wrong.
    pub(super) wrong: Mutex<Vec<Wrong>>,
}

/// How a worker ended.
#[derive(Debug)]
pub(super) enum End {
    Done(Box<Run>),
    Failed(String, RunError),
    /// The run goes on after it has ended its part.
    Again,
    Died,
    Left,
}

impl Trial {
    /// Carries it out: always in the same way.
    pub fn run(&self) -> Verdict {
        in_virtual_time(self.seed, self.carry_out())
    }

    async fn carry_out(&self) -> Verdict {
        let network = Network::new(MemoryStore::new(), Weather::any(), self.without.clone(), self.trace);
        let network = Arc::new(network);
        let runs = if fastrand::u8(..6) == 0 { 2 } else { 1 };
        let folder = tempfile::tempdir().expect("a folder can be made");
        let world = Arc::new(World {
            network: network.clone(),
            jobs: jobs(runs, &folder),
            machines: Mutex::default(),
            announced: Mutex::default(),
            meddled: Mutex::default(),
            deleted: Mutex::default(),
            sent: Mutex::default(),
            wrong: Mutex::default(),
        });
        let trouble = tokio::task::spawn_local(world.clone().trouble(self.seed % 4 == 3));
        let all = async {
            let mut wrong = Vec::new();
            let mut runs = JoinSet::new();
            for job in 0..world.jobs.len() {
                runs.spawn_local(world.clone().work(job));
            }
            while let Some(ended) = runs.join_next().await {
                match ended {
                    Ok(told) => wrong.extend(told),
                    Err(error) => wrong.push(Wrong::new(Promise::Ends, error.to_string())),
                }
            }
            wrong
        };
        let mut wrong = match timeout(TROUBLE + ENOUGH, all).await {
            Ok(wrong) => wrong,
            Err(_) => vec![Wrong::new(Promise::Ends, "it does not come to an end")],
        };
        trouble.abort();
        sleep(SETTLED).await;
        let (log, writers) = (network.store().log(), network.writers());
        let judges: Vec<Judge> =
            world.jobs.iter().map(|job| Judge::of(&job.run.id, &log, &writers)).collect();
        wrong.extend(Judge::latest(&judges));
        wrong.append(&mut lock(&world.wrong));
        wrong
            .extend(judges.iter().zip(&world.jobs).flat_map(|(judge, job)| world.unsent(judge, &job.run.id)));
        for (judge, job) in judges.into_iter().zip(&world.jobs) {
            wrong.extend(judge.end(&world.announced(&job.run.id)));
        }
        Verdict { wrong, met: network.met(), trace: network.trace() }
    }
}

/// Runs of the same few tests, which take longer or shorter. Some keep journals in a folder.
fn jobs(runs: usize, folder: &TempDir) -> Vec<Job> {
    let count = [1, 6, 20, 40][fastrand::usize(..4)];
    let millis = || if fastrand::u8(..10) == 0 { 2_000..30_000 } else { 10..3_000 };
    let test = |number| {
        let duration = Duration::from_millis(fastrand::u64(millis()));
        (TestCaseId::new("shop", "lib", format!("t{number}")), duration)
    };
    let tests: Vec<_> = (0..count).map(test).collect();
    let reserves = fastrand::u8(..3) == 0;
    let max_fail = (fastrand::u8(..8) == 0).then(|| fastrand::u32(1..3));
    let environment = Environment::unstored("local", Definition::default(), "ann@desk").identity();
    let run = |number| Run {
        environments: vec![environment.clone()],
        ..Run::new(RunId::new(format!("run{number}")), "ann@desk")
    };
    let keeps = fastrand::u8(..3) == 0;
    let journals = |number| {
        let etcd = EtcdOptions { endpoints: vec!["here:1".into()], ..EtcdOptions::default() };
        let local = folder.path().join(format!("run{number}/.etcdtest"));
        JournalFolder::of(&StoreOptions { etcd, local }, &MemoryStore::new()).filter(|_| keeps)
    };
    let job = |number| {
        let (run, journals) = (run(number), journals(number));
        Job { run, tests: tests.clone(), reserves, journals, max_fail }
    };
    (0..runs).map(job).collect()
}

impl World {
    fn announced(&self, run: &RunId) -> BTreeSet<(WorkerId, UnitIndex)> {
        let announced = lock(&self.announced);
        let of_run = announced.iter().filter(|(of, ..)| of == run);
        of_run.map(|(_, worker, unit)| (worker.clone(), *unit)).collect()
    }

    /// What was said to be sent of a run and is not there.
    fn unsent(&self, judge: &Judge, run: &RunId) -> Vec<Wrong> {
        if lock(&self.deleted).contains(run) {
            return Vec::new();
        }
        let sent = lock(&self.sent);
        let of_run = sent.iter().filter(|(of, ..)| of == run);
        let lost = of_run.filter(|(_, worker, count)| {
            judge.results().filter(|(_, result)| result.worker == *worker).count() < *count
        });
        let how = |worker, count| format!("{count} results of {worker} were said to be sent");
        lost.map(|(_, worker, count)| Wrong::new(Promise::NoneLost, how(worker, count))).collect()
    }

    /// A machine more.
    pub(super) fn machine(&self) -> Arc<Machine> {
        let mut machines = lock(&self.machines);
        let machine = Arc::new(Machine::new(format!("w{}", machines.len())));
        machines.push(machine.clone());
        machine
    }

    /// Has workers work until a run is over, and says what was wrong with them.
    async fn work(self: Arc<Self>, job: usize) -> Vec<Wrong> {
        let run = &self.jobs[job].run.id;
        let mut wrong = Vec::new();
        let mut workers = JoinSet::new();
        let first = fastrand::usize(1..=5);
        for _ in 0..first {
            workers.spawn_local(self.clone().worker(job, Duration::from_secs(20)));
        }
        let mut started = first;
        let mut outcomes = Vec::new();
        loop {
            let Some(ended) = workers.join_next().await else {
                // Somebody may go on with a run that was cancelled.
                sleep(MEDDLED).await;
                if !self.is_open(run).await {
                    break;
                }
                workers.spawn_local(self.clone().worker(job, Duration::from_secs(40)));
                continue;
            };
            match ended {
                Ok(End::Done(run)) => outcomes.push((run.state, run.summary)),
                Ok(End::Failed(..)) if lock(&self.deleted).contains(run) => {}
                Ok(End::Failed(name, error)) => {
                    wrong.push(Wrong::new(Promise::Ends, format!("{name} failed: {error}")));
                }
                Ok(End::Died | End::Left | End::Again) => {
                    let wanted = workers.is_empty() || fastrand::bool();
                    if wanted && started < WORKERS {
                        started += 1;
                        workers.spawn_local(self.clone().worker(job, Duration::from_secs(40)));
                    } else if workers.is_empty() {
                        // A last one that nothing happens to.
                        self.network.set_weather(Weather::default());
                        workers.spawn_local(self.clone().worker(job, Duration::from_secs(40)));
                    }
                }
                Err(panicked) => {
                    wrong.push(Wrong::new(Promise::Ends, format!("a worker panicked: {panicked}")));
                }
            }
        }
        outcomes.dedup();
        if outcomes.len() > 1 && !lock(&self.meddled).contains(run) {
            wrong.push(Wrong::new(
                Promise::Ends,
                format!("workers ended with different outcomes: {outcomes:?}"),
            ));
        }
        wrong
    }

    /// Whether there is something left to do for a run with which somebody has meddled.
    async fn is_open(&self, run: &RunId) -> bool {
        let found = get_record::<Run>(self.network.store(), keys::run(run)).await;
        lock(&self.meddled).contains(run) && found.is_ok_and(|run| run.is_some_and(|(run, _)| !run.is_over()))
    }

    /// One worker, which begins within this time.
    pub(super) async fn worker(self: Arc<Self>, job: usize, within: Duration) -> End {
        let job = &self.jobs[job];
        sleep(within.mul_f64(fastrand::f64() * fastrand::f64())).await;
        let leaves = (fastrand::u8(..16) == 0).then(|| Duration::from_millis(fastrand::u64(..30_000)));
        loop {
            let end = self.life(job, Fate { leaves }).await;
            // Its process goes on, where it was not told to leave.
            match end {
                End::Again if leaves.is_none() => {}
                End::Again => return End::Left,
                end => return end,
            }
        }
    }

    /// What becomes of a worker in one of its lives.
    async fn life(&self, job: &Job, fate: Fate) -> End {
        let machine = self.machine();
        self.network.note(|| format!("{} begins for {}", machine.name(), job.run.id));
        let store: SharedStore = Arc::new(Link::new(self.network.clone(), machine.clone()));
        let (events, heard) = mpsc::unbounded_channel();
        let listener = self.listen(&job.run.id, WorkerId::new(machine.name()), heard);
        let end = tokio::select! {
            biased;
            () = machine.dead() => End::Died,
            done = work(&machine, store, job, fate, &events) => match done {
                Ok(Some(details)) => End::Done(Box::new(details.run)),
                Ok(None) => End::Again,
                // Who is sent away from the queue for the environment leaves as well.
                Err(RunError::Left(_) | RunError::Reservation(_)) => End::Left,
                Err(error) => End::Failed(machine.name().into(), error),
            },
            () = listener => unreachable!("the events' sender is still there"),
        };
        // Nothing is left of its process.
        machine.die();
        self.network.note(|| match &end {
            End::Done(_) => format!("{} is done", machine.name()),
            End::Failed(_, error) => format!("{} failed: {error}", machine.name()),
            End::Again => format!("{} is to begin again", machine.name()),
            End::Died => format!("{} died", machine.name()),
            End::Left => format!("{} left", machine.name()),
        });
        end
    }

    async fn listen(&self, run: &RunId, worker: WorkerId, mut events: mpsc::UnboundedReceiver<RunEvent>) {
        while let Some(event) = events.recv().await {
            self.network.note(|| match &event {
                RunEvent::Finished { result, .. } => {
                    format!("{worker} tells {} {:?}", result.unit, result.outcome)
                }
                event => format!("{worker} tells {event:?}"),
            });
            if let RunEvent::Stored { units } = event {
                let announced = units.into_iter().map(|unit| (run.clone(), worker.clone(), unit));
                lock(&self.announced).extend(announced);
            }
        }
    }
}
