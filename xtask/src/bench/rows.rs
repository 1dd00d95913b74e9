//! What is compared with what.

use anyhow::Result;

use super::contest::{Contender, Contest, Standing, Target};
use super::etcd_server::EtcdServer;
use super::machine::Machine;
use super::makespan::{Makespan, WORKERS, Way};
use super::phases::Phases;
use super::projects::{Binary, Projects};
use super::scale::Scale;
use super::spawn_loop;
use super::store_rate::StoreRate;
use super::suites::{NO_OPS, SLEEP, SLEEPERS, Suite};
use crate::{etcd, tool};

const ANNOTATED_ETCD: &str = "etcdtest, annotated, etcd";
const ANNOTATED_EMBEDDED: &str = "etcdtest, annotated, embedded store";
const PLAIN_ETCD: &str = "etcdtest, plain, etcd";
const PLAIN_EMBEDDED: &str = "etcdtest, plain, embedded store";
const NEXTEST: &str = "cargo nextest run, plain";
const CARGO_TEST: &str = "cargo test, plain, one process";
const SPAWN_LOOP: &str = "posix_spawn loop, plain";

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// Tests that do nothing.
    NoOps,
    /// The start-up.
    One,
    /// The scheduling.
    Sleep,
    /// Where the time goes.
    Phases,
    /// Many workers.
    Makespan,
    /// Many units.
    Scale,
    /// Results per second.
    Store,
}

impl Row {
    /// All, by the names that one types.
    pub(super) const ALL: [(&'static str, Self); 7] = [
        ("no-ops", Self::NoOps),
        ("one", Self::One),
        ("sleep", Self::Sleep),
        ("phases", Self::Phases),
        ("makespan", Self::Makespan),
        ("scale", Self::Scale),
        ("store", Self::Store),
    ];

    /// The tests that it runs.
    fn suite(self) -> Suite {
        match self {
            Self::NoOps | Self::Phases => Suite::NoOp,
            Self::One => Suite::One,
            Self::Sleep => Suite::Sleep,
            Self::Makespan => Suite::Skewed,
            Self::Scale | Self::Store => Suite::Repeated,
        }
    }
}

/// Everything that is needed to measure.
pub(super) struct Bench {
    rows: Vec<Row>,
    quick: bool,
    machine: Machine,
    projects: Projects,
    etcd: EtcdServer,
    nextest: bool,
}

/// What came of it.
pub(super) struct Measured {
    /// On what.
    pub(super) machine: Machine,
    /// The comparisons.
    pub(super) standings: Vec<Standing>,
    /// Where the time of `cargo etcdtest` went, over 2,000 tests.
    pub(super) phases: Vec<Phases>,
    /// Many workers.
    pub(super) makespan: Option<Makespan>,
    /// Many units, the fewest first.
    pub(super) scales: Vec<Scale>,
    /// Results per second.
    pub(super) store: Option<StoreRate>,
}

impl Bench {
    /// Builds what is run and starts an etcd.
    pub(super) fn prepare(rows: Vec<Row>, quick: bool) -> Result<Self> {
        let folder = tool::folder()?.with_file_name("bench");
        let programs = etcd::folder()?;
        let mut suites: Vec<Suite> = Vec::new();
        for suite in rows.iter().map(|row| row.suite()) {
            if !suites.contains(&suite) {
                suites.push(suite);
            }
        }
        let projects = Projects::build(folder.clone(), &suites)?;
        let nextest = projects.nextest();
        if nextest.is_none() {
            println!("cargo-nextest is not installed: nothing is compared with it");
        }
        Ok(Self {
            rows,
            quick,
            machine: Machine::look(&programs, nextest.as_deref()),
            etcd: EtcdServer::start(&programs, folder.join(format!("etcd.{}", std::process::id())))?,
            nextest: nextest.is_some(),
            projects,
        })
    }

    /// How many rounds there are, where so many are enough for a measurement.
    fn rounds(&self, rounds: usize) -> usize {
        if self.quick { rounds.min(2) } else { rounds }
    }

    /// Measures what was asked for.
    pub(super) fn measure(self) -> Result<Measured> {
        let plain = if self.rows.contains(&Row::NoOps) { Some(self.projects.plain_binary()?) } else { None };
        let mut contests = Vec::new();
        let (mut phases, mut makespan, mut scales, mut store) = (Vec::new(), None, Vec::new(), None);
        for row in &self.rows {
            match row {
                Row::NoOps => contests.push(self.no_ops(plain.as_ref())),
                Row::One => contests.push(self.one()),
                Row::Sleep => contests.push(self.sleep()),
                Row::Phases => phases = self.phases()?,
                Row::Makespan => makespan = Some(self.makespan()?),
                Row::Scale => scales = self.scales()?,
                Row::Store => store = Some(StoreRate::measure(&self.etcd.endpoint(), self.rounds(5))?),
            }
        }
        let standings = contests.into_iter().map(Contest::hold).collect::<Result<Vec<_>>>()?;
        Ok(Measured { machine: self.machine, standings, phases, makespan, scales, store })
    }

    fn no_ops<'a>(&'a self, plain: Option<&'a Binary>) -> Contest<'a> {
        let mut contest = self.contest(&format!("{NO_OPS} tests that do nothing"), "no-op", self.rounds(5));
        contest.contenders.extend(plain.map(|plain| Contender {
            name: SPAWN_LOOP,
            work: Box::new(|| spawn_loop::run(plain, self.machine.cores)),
        }));
        contest.targets = vec![
            target(ANNOTATED_ETCD, NEXTEST, "≤ 0.15, then 0.10"),
            target(ANNOTATED_EMBEDDED, NEXTEST, "≤ 0.15, then 0.10"),
            target(PLAIN_ETCD, NEXTEST, "≤ 0.45"),
            target(PLAIN_EMBEDDED, NEXTEST, "≤ 0.45"),
            target(PLAIN_ETCD, SPAWN_LOOP, "≤ 1.3"),
            target(PLAIN_EMBEDDED, SPAWN_LOOP, "≤ 1.3"),
            target(ANNOTATED_ETCD, CARGO_TEST, ""),
        ];
        contest
    }

    fn one(&self) -> Contest<'_> {
        let mut contest = self.contest("1 test: the start-up", "one", self.rounds(15));
        contest.targets = vec![
            target(ANNOTATED_ETCD, NEXTEST, ""),
            target(ANNOTATED_EMBEDDED, NEXTEST, ""),
            target(PLAIN_EMBEDDED, NEXTEST, ""),
            target(ANNOTATED_EMBEDDED, CARGO_TEST, ""),
        ];
        contest
    }

    fn sleep(&self) -> Contest<'_> {
        let ideal = SLEEPERS * SLEEP / self.machine.cores;
        let name = format!("{SLEEPERS} tests of {SLEEP} ms, {ideal} ms at the least: the scheduling");
        let mut contest = self.contest(&name, "sleep", self.rounds(5));
        contest.targets = vec![
            target(ANNOTATED_ETCD, NEXTEST, ""),
            target(PLAIN_ETCD, NEXTEST, ""),
            target(ANNOTATED_ETCD, CARGO_TEST, ""),
        ];
        contest
    }

    fn phases(&self) -> Result<Vec<Phases>> {
        let ways = [
            (ANNOTATED_ETCD, "no-op-annotated", true),
            (ANNOTATED_EMBEDDED, "no-op-annotated", false),
            (PLAIN_ETCD, "no-op-plain", true),
            (PLAIN_EMBEDDED, "no-op-plain", false),
        ];
        let phases = ways.map(|(name, package, etcd)| {
            Phases::measure(name, self.rounds(5), || {
                let arguments = self.arguments(package, etcd);
                self.projects.output(arguments.iter().map(String::as_str).chain(["--format", "json"]))
            })
        });
        phases.into_iter().collect()
    }

    fn makespan(&self) -> Result<Makespan> {
        let own = self.arguments("skewed-annotated", true);
        // A run has one id, which no run of an earlier bench on this etcd has.
        let joined = move |round: usize, _: usize| {
            let more = ["-j1", "--run-id", &format!("makespan-{round}")].map(String::from);
            own.iter().cloned().chain(more).collect()
        };
        let mut ways = vec![Way { name: "etcdtest, one run of all workers", arguments: Box::new(joined) }];
        if self.nextest {
            let partition = |_: usize, worker: usize| {
                let share = format!("hash:{}/{WORKERS}", worker + 1);
                let words = ["nextest", "run", "--package", "skewed-plain", "-j1", "--partition", &share];
                words.map(String::from).to_vec()
            };
            ways.push(Way { name: "cargo nextest run --partition hash", arguments: Box::new(partition) });
        }
        Makespan::measure(&self.projects, &ways, self.rounds(5))
    }

    fn scales(&self) -> Result<Vec<Scale>> {
        let arguments = self.arguments("repeated-annotated", true);
        let sizes = [(1_000, 5), (10_000, 3), (100_000, 1)];
        let measure =
            |(units, rounds)| Scale::measure(&self.projects, &arguments, units, self.rounds(rounds));
        // The largest takes as long as all others together: a quick look goes without.
        let sizes = sizes.into_iter().filter(|(units, _)| !self.quick || *units < 100_000);
        sizes.map(measure).collect()
    }

    /// The arguments with which cargo runs a package's tests as ours.
    fn arguments(&self, package: &str, etcd: bool) -> Vec<String> {
        let mut arguments = ["etcdtest", "run", "--package", package].map(String::from).to_vec();
        if etcd {
            arguments.extend(["--endpoints".to_owned(), self.etcd.endpoint()]);
        }
        arguments
    }

    /// One suite, run in all ways.
    fn contest(&self, name: &str, suite: &str, rounds: usize) -> Contest<'_> {
        let own = |name, kind, etcd| (name, self.arguments(&format!("{suite}-{kind}"), etcd));
        let plain = format!("{suite}-plain");
        let peer = |name, arguments: &[&str]| {
            (
                name,
                [arguments, &["--package", plain.as_str()]]
                    .concat()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            )
        };
        let mut ways = vec![
            own(ANNOTATED_ETCD, "annotated", true),
            own(ANNOTATED_EMBEDDED, "annotated", false),
            own(PLAIN_ETCD, "plain", true),
            own(PLAIN_EMBEDDED, "plain", false),
            peer(CARGO_TEST, &["test"]),
        ];
        if self.nextest {
            ways.push(peer(NEXTEST, &["nextest", "run"]));
        }
        let contenders = ways.into_iter().map(|(name, arguments): (_, Vec<String>)| Contender {
            name,
            work: Box::new(move || self.projects.run(arguments.iter().map(String::as_str))),
        });
        Contest { name: name.to_owned(), contenders: contenders.collect(), targets: Vec::new(), rounds }
    }
}

fn target(of: &'static str, by: &'static str, wanted: &'static str) -> Target {
    Target { of, by, wanted }
}
