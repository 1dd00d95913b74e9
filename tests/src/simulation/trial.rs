//! One trial: workers, a store and a bad network, all decided by a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cargo_etcdtest::execution::{RunError, RunEvent};
use cargo_etcdtest::model::{Claim, Run, RunId, UnitIndex, UnitResult, WorkerId};
use cargo_etcdtest::store::{KeyRange, KeyValue, LeaseId, SharedStore, Store, get_record, keys};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::guard::Guard;
use super::job::{Job, all_labels, some_labels};
use super::judge::{Judge, Promise, Wrong};
use super::lock;
use super::machine::Machine;
use super::memory::MemoryStore;
use super::network::{Link, Network, Weather};
use super::seeds::in_virtual_time;
use super::trouble::TROUBLE;
use super::uses::{self, QUEUES, Uses};
use super::worker::{Fate, work};

/// How long a run may take at the most, once the trouble is over.
const ENOUGH: Duration = Duration::from_hours(1);
/// After so long nothing is under way on the network any more.
const SETTLED: Duration = Duration::from_mins(2);
/// So long after the end of its workers nobody meddles with a run any more.
const MEDDLED: Duration = Duration::from_mins(10);
/// How many workers may take part in a run one after the other.
const WORKERS: usize = 10;

/// Of what there is to be some in many trials.
const NOT_NEEDED: &str = "workers that were not needed any more";
pub(super) const LOCK_LOST: &str = "locks that were lost in the middle of a test";

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
    /// How often there was what a trial is to have now and then.
    pub seen: BTreeMap<&'static str, u64>,
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
    /// Leases that somebody ended who did not keep them.
    pub(super) revoked: Mutex<BTreeSet<i64>>,
    /// Who used which resource.
    pub(super) uses: Uses,
    /// How often there was what a trial is to have now and then.
    seen: Mutex<BTreeMap<&'static str, u64>>,
    /// What else was wrong.
    wrong: Mutex<Vec<Wrong>>,
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
            jobs: Job::any(runs, &folder),
            machines: Mutex::default(),
            announced: Mutex::default(),
            meddled: Mutex::default(),
            deleted: Mutex::default(),
            sent: Mutex::default(),
            revoked: Mutex::default(),
            uses: Uses::default(),
            seen: Mutex::default(),
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
        wrong.extend(world.misuses(&judges));
        for (judge, job) in judges.into_iter().zip(&world.jobs) {
            wrong.extend(judge.end(&world.announced(&job.run.id)));
        }
        wrong.extend(left_locked(network.store()).await);
        Verdict { wrong, met: network.met(), trace: network.trace(), seen: world.seen() }
    }
}

/// A place in the queue for a resource that is left when all is over.
async fn left_locked(store: &MemoryStore) -> Option<Wrong> {
    let left = store.read(KeyRange::prefix(QUEUES).into()).await.expect("the store itself has no faults");
    let left = left.pairs.first()?;
    Some(Wrong::new(Promise::Ends, format!("{} is left when all is over", left.key)))
}

impl World {
    /// Takes in something that is wrong.
    pub(super) fn tell(&self, wrong: Wrong) {
        lock(&self.wrong).push(wrong);
    }

    /// Takes in that there was something.
    pub(super) fn count(&self, what: &'static str) {
        *lock(&self.seen).entry(what).or_default() += 1;
    }

    /// How often there was what.
    fn seen(&self) -> BTreeMap<&'static str, u64> {
        let mut seen = lock(&self.seen).clone();
        for what in [NOT_NEEDED, LOCK_LOST] {
            seen.entry(what).or_default();
        }
        seen.insert("watches that missed what was compacted", self.network.compacted());
        seen.insert("tests that waited for a resource", self.uses.waits());
        seen
    }

    /// Whether somebody has ended a lease who did not keep it.
    pub(super) fn was_revoked(&self, lease: i64) -> bool {
        lock(&self.revoked).contains(&lease)
    }

    /// Too many at once who used a resource, of those whose results the runs have.
    fn misuses(&self, judges: &[Judge]) -> Vec<Wrong> {
        let of = |run: &RunId, result: &UnitResult| uses::Unit {
            run: run.clone(),
            index: result.unit,
            worker: result.worker.clone(),
            token: result.token,
        };
        let recorded = judges
            .iter()
            .zip(&self.jobs)
            .flat_map(|(judge, job)| judge.results().map(move |(_, result)| of(&job.run.id, result)));
        self.uses.wrong(&recorded.collect(), &lock(&self.revoked))
    }

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
        let begin = |workers: &mut JoinSet<_>, able: bool, within: u64| {
            let (world, within) = (self.clone(), Duration::from_secs(within));
            workers.spawn_local(async move {
                let end =
                    if able { world.able(job, within).await } else { world.worker(job, within, false).await };
                (able, end)
            });
        };
        let first = fastrand::usize(1..=5);
        // There is always one on its way who can execute whatever there is.
        let mut able = true;
        for number in 0..first {
            begin(&mut workers, number == 0, 20);
        }
        let mut started = first;
        let mut outcomes = Vec::new();
        loop {
            let Some(ended) = workers.join_next().await else {
                // Somebody may go on with a run that was cancelled, or what is late begins one anew.
                sleep(MEDDLED).await;
                if !self.is_open(run).await {
                    break;
                }
                begin(&mut workers, true, 40);
                continue;
            };
            let (was_able, end) = match ended {
                Ok(ended) => ended,
                Err(panicked) => {
                    wrong.push(Wrong::new(Promise::Ends, format!("a worker panicked: {panicked}")));
                    continue;
                }
            };
            able &= !was_able;
            match end {
                End::Done(run) => outcomes.push((run.state, run.summary)),
                End::Failed(..) if lock(&self.deleted).contains(run) => {
                    // Others may begin it anew.
                    if !able && !workers.is_empty() {
                        begin(&mut workers, true, 40);
                        able = true;
                    }
                }
                End::Failed(name, error) => {
                    wrong.push(Wrong::new(Promise::Ends, format!("{name} failed: {error}")));
                }
                End::Died | End::Left | End::Again => {
                    if (!able || fastrand::bool()) && started < WORKERS {
                        started += 1;
                        begin(&mut workers, !able, 40);
                    } else if !able {
                        // A last one that nothing happens to.
                        self.network.set_weather(Weather::default());
                        begin(&mut workers, true, 40);
                    }
                    able = true;
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

    /// One who can execute whatever there is, for as long as there may be something.
    async fn able(self: Arc<Self>, job: usize, within: Duration) -> End {
        loop {
            let end = self.clone().worker(job, within, true).await;
            if !matches!(end, End::Done(_)) {
                return end;
            }
            // Somebody may go on with a run that was cancelled.
            sleep(MEDDLED).await;
            if !self.is_open(&self.jobs[job].run.id).await {
                return end;
            }
        }
    }

    /// One worker, which begins within this time; one that is `able` has all labels that there are.
    pub(super) async fn worker(self: Arc<Self>, job: usize, within: Duration, able: bool) -> End {
        let job = &self.jobs[job];
        sleep(within.mul_f64(fastrand::f64() * fastrand::f64())).await;
        let leaves = (fastrand::u8(..16) == 0).then(|| Duration::from_millis(fastrand::u64(..30_000)));
        let labels = if able { all_labels() } else { some_labels() };
        let fate = Fate { leaves, labels, while_needed: fastrand::u8(..4) == 0 };
        loop {
            let end = self.life(job, &fate).await;
            // Its process goes on, where it was not told to leave.
            match end {
                End::Again if leaves.is_none() => {}
                End::Again => return End::Left,
                end => return end,
            }
        }
    }

    /// What becomes of a worker in one of its lives.
    async fn life(&self, job: &Job, fate: &Fate) -> End {
        let machine = self.machine();
        self.network.note(|| format!("{} begins for {} with `{}`", machine.name(), job.run.id, fate.labels));
        let store: SharedStore = Arc::new(Link::new(self.network.clone(), machine.clone()));
        let (events, heard) = mpsc::unbounded_channel();
        let listener = self.listen(&job.run.id, WorkerId::new(machine.name()), heard);
        let end = tokio::select! {
            biased;
            () = machine.dead() => End::Died,
            done = work(self, &machine, store, job, fate, &events) => match done {
                Ok(Some(details)) => End::Done(Box::new(details.run)),
                Ok(None) => End::Again,
                Err(RunError::Unneeded(_)) => {
                    self.count(NOT_NEEDED);
                    self.check_gave_back(job, machine.name()).await;
                    End::Left
                }
                // Who is sent away from the queue for the environment leaves as well.
                Err(RunError::Left(_) | RunError::Reservation(_)) => End::Left,
                Err(error) => End::Failed(machine.name().into(), error),
            },
            () = listener => unreachable!("the events' sender is still there"),
        };
        if let End::Done(_) | End::Again | End::Left = &end {
            self.check_unlocked(machine.name()).await;
        }
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

    /// A worker that has left by itself holds no units.
    async fn check_gave_back(&self, job: &Job, worker: &str) {
        let (store, run) = (self.network.store(), &job.run.id);
        let found = get_record::<Claim>(store, keys::claim(run, &WorkerId::new(worker))).await;
        let held = found.ok().flatten().filter(|(claim, _)| !claim.left);
        if let Some((claim, _)) = held.filter(|_| !lock(&self.meddled).contains(run)) {
            self.tell(Wrong::new(Promise::Ends, format!("{worker} left with {:?}", claim.units)));
        }
    }

    /// A worker that has ended by itself waits for no resource and holds none, but for what the
    /// store did not hear of.
    async fn check_unlocked(&self, worker: &str) {
        let places = self.network.store().read(KeyRange::prefix(QUEUES).into()).await;
        let places = places.expect("the store itself has no faults").pairs;
        let own =
            |pair: &&KeyValue| {
                pair.key.to_string().rsplit('/').next().is_some_and(|holder| {
                    holder.strip_prefix(worker).is_some_and(|rest| rest.starts_with('.'))
                })
            };
        let unheard = |lease: LeaseId| self.network.is_unended(lease);
        for place in places.iter().filter(own).filter(|pair| !pair.lease.is_some_and(unheard)) {
            self.tell(Wrong::new(Promise::Ends, format!("{worker} has left {} behind", place.key)));
        }
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
