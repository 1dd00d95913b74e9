//! One trial with real processes: a cluster of three, a proxy before each member, workers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use cargo_etcdtest::model::{Fence, Outcome, RunId, UnitIndex, Worker, WorkerId};
use cargo_etcdtest::store::etcd::{EtcdOptions, EtcdStore};
use cargo_etcdtest::store::{Change, Op, Revision, Store, Txn, decode};
use rustix::process::Signal;

use super::bystander::Bystander;
use super::witness::{Witness, Written};
use crate::etcd::{Cluster, Etcd};
use crate::processes::{PATIENCE, eventually};
use crate::proxy::{Proxy, Traffic};
use crate::running::{Ran, Running};
use crate::simulation::{Judge, Promise, Wrong};
use crate::subject::Subject;

/// The run that all workers share.
const RUN: &str = "trial";

/// All that takes part in a trial.
#[derive(Debug)]
pub struct Arena {
    /// The store.
    pub cluster: Cluster,
    options: EtcdOptions,
    proxies: Vec<Proxy>,
    subject: Subject,
    workers: Vec<Running>,
    killed: BTreeSet<usize>,
    witness: Witness,
}

impl Arena {
    /// How many tests the run has.
    pub const TESTS: usize = 60;

    /// A run with so many workers. With `users`, etcd
    /// asks for a password, and what it gives for it is good for a second only.
    pub fn with(workers: usize, users: bool) -> Self {
        // What is dear about a password is of no interest here.
        let few = ["--auth-token=simple", "--auth-token-ttl=1", "--bcrypt-cost=4"];
        let flags: &[&str] = if users { &few } else { &[] };
        let cluster = Cluster::with(flags);
        let mut options = cluster.options();
        if users {
            block_on(cluster.members[0].enable_auth());
            options =
                EtcdOptions { endpoints: options.endpoints, ..cluster.members[0].options_as("root", "root") };
        }
        let proxies: Vec<_> = cluster.members.iter().map(|etcd| Proxy::before(&etcd.endpoint())).collect();
        let endpoints: Vec<String> = proxies.iter().map(Proxy::endpoint).collect();
        let witness = Witness::of(options.clone());
        let subject = Subject::swarm();
        let endpoints = endpoints.join(",");
        let mut arguments = vec!["run", "--run-id", RUN, "--endpoints", &endpoints, "--test-threads", "2"];
        arguments.extend(["--no-fail-fast", "--format", "json"]);
        if users {
            arguments.extend(["--user", "root:root"]);
        }
        subject.write(".config/etcdtest.toml", "[profile.default]\nstore-timeout = \"5m\"\n");
        let workers = (0..workers).map(|_| subject.start(&arguments)).collect();
        Self { cluster, options, proxies, subject, workers, killed: BTreeSet::new(), witness }
    }

    /// Waits until so many tests have been executed.
    ///
    /// # Panics
    /// They are not, in good time.
    pub fn wait_for_executions(&self, count: usize) {
        let enough = || (executions(&self.subject).len() >= count).then_some(());
        eventually(enough, &format!("the execution of {count} tests"));
    }

    /// How many tests have been executed.
    pub fn executions(&self) -> usize {
        executions(&self.subject).len()
    }

    /// Ends a worker with SIGKILL.
    pub fn kill(&mut self, worker: usize) {
        self.killed.insert(worker);
        self.workers[worker].signal(Signal::KILL);
    }

    /// Stops a worker for a while.
    pub fn freeze(&self, worker: usize, time: Duration) {
        self.workers[worker].signal(Signal::STOP);
        std::thread::sleep(time);
        self.workers[worker].signal(Signal::CONT);
    }

    /// What becomes of the bytes between workers and store, for a while.
    pub fn traffic(&self, traffic: Traffic, time: Duration) {
        self.proxies.iter().for_each(|proxy| proxy.set(traffic));
        std::thread::sleep(time);
        self.proxies.iter().for_each(|proxy| proxy.set(Traffic::Passes));
    }

    /// What becomes from now on of the bytes between workers and one member.
    pub fn traffic_of(&self, member: usize, traffic: Traffic) {
        self.proxies[member].set(traffic);
    }

    /// The member that leads.
    ///
    /// # Panics
    /// None does.
    pub fn leader(&self) -> usize {
        let members = block_on(async {
            let store = EtcdStore::connect(self.options.clone()).await.expect("the store is there");
            store.status().await.expect("the store says how it is").members
        });
        let leader = members.iter().find(|(_, state)| state == "leader").expect("one leads").0.clone();
        let endpoint = |etcd: &Etcd| leader.contains(&etcd.endpoint());
        self.cluster.members.iter().position(endpoint).expect("the leader is a member")
    }

    /// Somebody who watches the store through the proxies of these members.
    pub fn bystander(&self, members: &[usize]) -> Bystander {
        let endpoints = members.iter().map(|member| self.proxies[*member].endpoint()).collect();
        Bystander::of(EtcdOptions { endpoints, ..self.options.clone() })
    }

    /// How often members have refused a token.
    pub fn refused_tokens(&self) -> usize {
        self.cluster.members.iter().map(Etcd::refused_tokens).sum()
    }

    /// Has the store forget all history up to now. Whoever is cut off from it has missed something.
    ///
    /// # Panics
    /// The store is away.
    pub fn compact(&self) {
        block_on(async {
            let store = EtcdStore::connect(self.options.clone()).await.expect("the store is there");
            for number in 0..2 {
                let put = Op::put("/missed", number.to_string());
                let written = store.txn(Txn { then: vec![put], ..Txn::default() }).await;
                written.expect("the store takes it");
            }
            let Revision(now) = store.status().await.expect("the store says how it is").revision;
            self.witness.wait_for(Revision(now));
            store.compact(Revision(now)).await.expect("there is history");
        });
    }

    /// Waits for the end of the run, and says what was wrong with it.
    ///
    /// # Panics
    /// The store is away at the end.
    pub fn judge(self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let (mut told, mut ended) = (BTreeMap::new(), Vec::new());
        let until = Instant::now() + PATIENCE;
        for (number, worker) in self.workers.into_iter().enumerate() {
            let id = worker.id();
            let ran: Ran = match worker.output_within(until.saturating_duration_since(Instant::now())) {
                Ok(output) => output.into(),
                Err(stuck) => {
                    wrong.push(Wrong::new(Promise::Ends, stuck));
                    continue;
                }
            };
            // The last line of one that was killed may be cut.
            let lines = ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok());
            let stored = lines.filter(|event: &serde_json::Value| event["event"] == "unit-finished");
            let units = stored.filter_map(|event| u32::try_from(event["unit"].as_u64()?).ok().map(UnitIndex));
            told.insert(id, units.collect::<Vec<_>>());
            if !self.killed.contains(&number) {
                ended.push(ran);
            }
        }
        let executions = executions(&self.subject);
        let log = self.witness.end();
        let workers = worker_ids(&log);
        let announced = told.into_iter().flat_map(|(process, units)| {
            let worker = workers.get(&process).cloned();
            units.into_iter().filter_map(move |unit| Some((worker.clone()?, unit)))
        });
        let judge = Judge::of(&RunId::new(RUN), &log, &BTreeMap::new());
        let crashed = judge.results().filter(|(_, result)| result.outcome == Outcome::Crashed).count();
        // A test that lost three workers is given up.
        let code = if self.killed.len() >= 3 && crashed > 0 { 100 } else { 0 };
        let others = ended.into_iter().filter(|ran| ran.code != Some(code));
        let how = |Ran { code, stdout, stderr }: Ran| {
            let last = stdout.lines().last().unwrap_or_default().to_owned();
            format!("a worker ended with {code:?} after {last}:\n{stderr}")
        };
        wrong.extend(others.map(|ran| Wrong::new(Promise::Ends, how(ran))));
        wrong.extend(judge.results().filter(|(_, result)| result.outcome != Outcome::Crashed).filter_map(
            |(test, result)| {
                let Fence(token) = result.token;
                let executed = (test.test.clone(), result.worker.to_string(), token);
                let how = || format!("nobody executed {executed:?}");
                (!executions.contains(&executed)).then(|| Wrong::new(Promise::NoneStale, how()))
            },
        ));
        wrong.extend(judge.end(&announced.collect()));
        wrong
    }
}

/// The tests that were executed to their end: the test, the worker, and its fencing token.
fn executions(subject: &Subject) -> BTreeSet<(String, String, i64)> {
    let noted = fs::read_to_string(subject.meeting("executions")).unwrap_or_default();
    let done = noted.lines().filter_map(|line| {
        let mut words = line.strip_prefix("done ")?.split(' ').map(str::to_owned);
        Some((words.next()?, words.next()?, words.next()?.parse().ok()?))
    });
    done.collect()
}

/// The workers that were ever registered, by their process ids.
fn worker_ids(log: &[Written]) -> BTreeMap<u32, WorkerId> {
    let changes = log.iter().flat_map(|(_, changes)| changes);
    let workers = changes.filter_map(|change| match change {
        Change::Put(pair) if pair.key.as_bytes().starts_with(b"/workers/") => decode::<Worker>(pair).ok(),
        _ => None,
    });
    workers.map(|worker| (worker.pid, worker.id)).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be had").block_on(future)
}
