//! One trial: workers, a store and a bad network, all decided by a seed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cargo_etcdtest::execution::{Histories, Plan, RunError, RunEvent};
use cargo_etcdtest::model::{
    Definition, Environment, PlannedUnit, Run, RunId, RunState, TestCaseId, UnitIndex, WorkerId,
};
use cargo_etcdtest::reports::RunDetails;
use cargo_etcdtest::store::{SharedStore, Store};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::guard::Guard;
use super::judge::{Judge, Promise, Wrong};
use super::lock;
use super::machine::Machine;
use super::memory::MemoryStore;
use super::network::{Link, Network, Weather};
use super::seeds::in_virtual_time;
use super::worker::{Fate, Job, work};

/// For how long there is trouble.
const TROUBLE: Duration = Duration::from_mins(3);
/// How long a run may take at the most, once the trouble is over.
const ENOUGH: Duration = Duration::from_hours(1);
/// After so long nothing is under way on the network any more.
const SETTLED: Duration = Duration::from_mins(2);
/// How many workers may take part one after the other.
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
struct World {
    network: Arc<Network>,
    job: Job,
    machines: Mutex<Vec<Arc<Machine>>>,
    /// Which results were announced as stored, and by whom.
    announced: Mutex<BTreeSet<(WorkerId, UnitIndex)>>,
}

/// How a worker ended.
#[derive(Debug)]
enum End {
    Done(Box<RunDetails>),
    Failed(String, RunError),
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
        let world = Arc::new(World {
            network: network.clone(),
            job: job(),
            machines: Mutex::default(),
            announced: Mutex::default(),
        });
        let trouble = tokio::spawn(world.clone().trouble());
        let mut wrong = match timeout(TROUBLE + ENOUGH, world.work()).await {
            Ok(wrong) => wrong,
            Err(_) => vec![Wrong::new(Promise::Ends, "it does not come to an end")],
        };
        trouble.abort();
        sleep(SETTLED).await;
        let judge = Judge::of(&world.job.run.id, &network.store().log());
        wrong.extend(judge.end(&world.announced()));
        Verdict { wrong, met: network.met(), trace: network.trace() }
    }
}

/// A run of a few units that take longer or shorter.
fn job() -> Job {
    let count = [1, 6, 20, 48][fastrand::usize(..4)];
    let planned = |number| PlannedUnit {
        test: TestCaseId::new("shop", "lib", format!("t{number}")),
        environment: "local".into(),
        estimate: None,
        repetition: None,
        skip: None,
    };
    let plan = Plan::new((0..count).map(planned), &Histories::new(), None);
    let millis = || if fastrand::u8(..10) == 0 { 2_000..30_000 } else { 10..3_000 };
    let durations = (0..count).map(|_| Duration::from_millis(fastrand::u64(millis()))).collect();
    let run = Run {
        id: RunId::new("run"),
        state: RunState::Running,
        created: Timestamp::now(),
        finished: None,
        command: vec![],
        author: "ann@desk".into(),
        commit: None,
        environments: vec![Environment::unstored("local", Definition::default(), "ann@desk").identity()],
        units: count,
        stripes: u32::try_from(plan.stripes()).unwrap_or(u32::MAX),
        tests_digest: String::new(),
        plan_digest: plan.digest(),
        shuffle: None,
        summary: None,
        cancelled: None,
    };
    let reserves = fastrand::u8(..4) == 0;
    let max_fail = (fastrand::u8(..8) == 0).then(|| fastrand::u32(1..3));
    Job { run, plan, durations, reserves, max_fail }
}

impl World {
    fn announced(&self) -> BTreeSet<(WorkerId, UnitIndex)> {
        lock(&self.announced).clone()
    }

    /// A machine more.
    fn machine(&self) -> Arc<Machine> {
        let mut machines = lock(&self.machines);
        let machine = Arc::new(Machine::new(format!("w{}", machines.len())));
        machines.push(machine.clone());
        machine
    }

    /// Has workers work until the run is over, and says what was wrong with them.
    async fn work(self: &Arc<Self>) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let mut workers = JoinSet::new();
        let first = fastrand::usize(1..=5);
        for _ in 0..first {
            workers.spawn_local(self.clone().worker(Duration::from_secs(20)));
        }
        let mut started = first;
        let mut outcomes = Vec::new();
        while let Some(ended) = workers.join_next().await {
            match ended {
                Ok(End::Done(details)) => outcomes.push(details.run.summary),
                Ok(End::Failed(name, error)) => {
                    wrong.push(Wrong::new(Promise::Ends, format!("{name} failed: {error}")))
                }
                Ok(End::Died | End::Left) => {
                    let wanted = workers.is_empty() || fastrand::bool();
                    if wanted && started < WORKERS {
                        started += 1;
                        workers.spawn_local(self.clone().worker(Duration::from_secs(40)));
                    } else if workers.is_empty() {
                        // A last one that nothing happens to.
                        self.network.set_weather(Weather::default());
                        workers.spawn_local(self.clone().worker(Duration::from_secs(40)));
                    }
                }
                Err(panicked) => {
                    wrong.push(Wrong::new(Promise::Ends, format!("a worker panicked: {panicked}")))
                }
            }
        }
        outcomes.dedup();
        if outcomes.len() > 1 {
            wrong.push(Wrong::new(
                Promise::Ends,
                format!("workers ended with different outcomes: {outcomes:?}"),
            ));
        }
        wrong
    }

    /// One worker, which begins within this time.
    async fn worker(self: Arc<Self>, within: Duration) -> End {
        sleep(within.mul_f64(fastrand::f64() * fastrand::f64())).await;
        let machine = self.machine();
        self.network.note(|| format!("{} begins", machine.name()));
        let store: SharedStore = Arc::new(Link::new(self.network.clone(), machine.clone()));
        let leaves = (fastrand::u8(..16) == 0).then(|| Duration::from_millis(fastrand::u64(..30_000)));
        let fate = Fate { leaves };
        let (events, heard) = mpsc::unbounded_channel();
        let listener = self.listen(WorkerId::new(machine.name()), heard);
        let end = tokio::select! {
            biased;
            () = machine.dead() => End::Died,
            done = work(&machine, store, &self.job, fate, &events) => match done {
                Err(RunError::Left(_)) => End::Left,
                Ok(details) => End::Done(Box::new(details)),
                Err(error) => End::Failed(machine.name().into(), error),
            },
            () = listener => unreachable!("the events' sender is still there"),
        };
        self.network.note(|| match &end {
            End::Done(_) => format!("{} is done", machine.name()),
            End::Failed(_, error) => format!("{} failed: {error}", machine.name()),
            End::Died => format!("{} died", machine.name()),
            End::Left => format!("{} left", machine.name()),
        });
        end
    }

    async fn listen(&self, worker: WorkerId, mut events: mpsc::UnboundedReceiver<RunEvent>) {
        while let Some(event) = events.recv().await {
            self.network.note(|| match &event {
                RunEvent::Finished { result, .. } => {
                    format!("{worker} tells {} {:?}", result.unit, result.outcome)
                }
                event => format!("{worker} tells {event:?}"),
            });
            if let RunEvent::Stored { units } = event {
                lock(&self.announced).extend(units.into_iter().map(|unit| (worker.clone(), unit)));
            }
        }
    }

    /// What else happens meanwhile.
    async fn trouble(self: Arc<Self>) {
        let end = Instant::now() + TROUBLE;
        let kinds: Vec<Trouble> = Trouble::ALL.into_iter().filter(|_| fastrand::bool()).collect();
        while Instant::now() < end && !kinds.is_empty() {
            sleep(Duration::from_millis(fastrand::u64(100..30_000))).await;
            self.make(kinds[fastrand::usize(..kinds.len())]).await;
        }
        self.network.set_weather(Weather::default());
        self.network.note(|| "the trouble is over".into());
    }

    async fn make(self: &Arc<Self>, trouble: Trouble) {
        let machines = lock(&self.machines).clone();
        let living: Vec<_> = machines.into_iter().filter(|machine| !machine.is_dead()).collect();
        let one = (!living.is_empty()).then(|| living[fastrand::usize(..living.len())].clone());
        let seconds = |range| Duration::from_millis(fastrand::u64(range) * 100);
        let store = self.network.store();
        self.network.note(|| format!("trouble: {trouble:?} {}", one.as_ref().map_or("", |one| one.name())));
        match (trouble, one) {
            (Trouble::Death, Some(machine)) => machine.die(),
            (Trouble::Freeze, Some(machine)) => {
                machine.freeze();
                let time = seconds(1..600);
                tokio::spawn(async move {
                    sleep(time).await;
                    machine.thaw();
                });
            }
            (Trouble::Revoked, _) => {
                let leases = store.leases();
                if !leases.is_empty() {
                    // It may have ended by itself.
                    let _ = store.revoke(leases[fastrand::usize(..leases.len())]).await;
                }
            }
            (Trouble::Outage, _) => self.network.cut(seconds(1..400)),
            (Trouble::Compaction, _) => {
                let revision = store.status().await.map(|status| status.revision);
                // There may be nothing new to forget.
                let _ = store.compact(revision.unwrap_or_default()).await;
            }
            (Trouble::Death | Trouble::Freeze, None) => {}
        }
    }
}

/// Trouble of the larger kind.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// A worker dies.
    Death,
    /// A worker is stopped for a while.
    Freeze,
    /// Somebody ends a lease.
    Revoked,
    /// The store is away.
    Outage,
    /// The store forgets its history.
    Compaction,
}

impl Trouble {
    const ALL: [Self; 5] = [Self::Death, Self::Freeze, Self::Revoked, Self::Outage, Self::Compaction];
}
