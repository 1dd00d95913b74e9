//! What is compared with what.

use anyhow::Result;

use super::contest::{Contender, Contest, Standing, Target};
use super::etcd_server::EtcdServer;
use super::machine::Machine;
use super::phases::Phases;
use super::projects::{Binary, NO_OPS, Projects, SLEEP, SLEEPERS};
use super::spawn_loop;
use crate::{etcd, tool};

const ANNOTATED_ETCD: &str = "etcdtest, annotated, etcd";
const ANNOTATED_EMBEDDED: &str = "etcdtest, annotated, embedded store";
const PLAIN_ETCD: &str = "etcdtest, plain, etcd";
const PLAIN_EMBEDDED: &str = "etcdtest, plain, embedded store";
const NEXTEST: &str = "cargo nextest run, plain";
const CARGO_TEST: &str = "cargo test, plain, one process";
const SPAWN_LOOP: &str = "posix_spawn loop, plain";

/// Everything that is needed to measure.
pub(super) struct Bench {
    machine: Machine,
    projects: Projects,
    plain: Binary,
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
}

impl Bench {
    /// Builds what is run and starts an etcd.
    pub(super) fn prepare() -> Result<Self> {
        let folder = tool::folder()?.with_file_name("bench");
        let programs = etcd::folder()?;
        let projects = Projects::build(folder.clone())?;
        let plain = projects.plain_binary()?;
        let nextest = projects.nextest();
        if nextest.is_none() {
            println!("cargo-nextest is not installed: nothing is compared with it");
        }
        Ok(Self {
            machine: Machine::look(&programs, nextest.as_deref()),
            etcd: EtcdServer::start(&programs, folder.join(format!("etcd.{}", std::process::id())))?,
            nextest: nextest.is_some(),
            projects,
            plain,
        })
    }

    /// Measures everything, with few rounds where it shall be quick.
    pub(super) fn measure(self, quick: bool) -> Result<Measured> {
        let rounds = |rounds: usize| if quick { 2 } else { rounds };
        let target = |of, by, wanted| Target { of, by, wanted };

        let mut no_ops = self.contest(&format!("{NO_OPS} tests that do nothing"), "no-op", rounds(5));
        no_ops.contenders.push(Contender {
            name: SPAWN_LOOP,
            work: Box::new(|| spawn_loop::run(&self.plain, self.machine.cores)),
        });
        no_ops.targets = vec![
            target(ANNOTATED_ETCD, NEXTEST, "≤ 0.15, then 0.10"),
            target(ANNOTATED_EMBEDDED, NEXTEST, "≤ 0.15, then 0.10"),
            target(PLAIN_ETCD, NEXTEST, "≤ 0.45"),
            target(PLAIN_EMBEDDED, NEXTEST, "≤ 0.45"),
            target(PLAIN_ETCD, SPAWN_LOOP, "≤ 1.3"),
            target(PLAIN_EMBEDDED, SPAWN_LOOP, "≤ 1.3"),
            target(ANNOTATED_ETCD, CARGO_TEST, ""),
        ];
        let mut one = self.contest("1 test: the start-up", "one", rounds(15));
        one.targets = vec![
            target(ANNOTATED_ETCD, NEXTEST, ""),
            target(ANNOTATED_EMBEDDED, NEXTEST, ""),
            target(PLAIN_EMBEDDED, NEXTEST, ""),
            target(ANNOTATED_EMBEDDED, CARGO_TEST, ""),
        ];
        let ideal = SLEEPERS * SLEEP / self.machine.cores;
        let name = format!("{SLEEPERS} tests of {SLEEP} ms, {ideal} ms at the least: the scheduling");
        let mut sleepers = self.contest(&name, "sleep", rounds(5));
        sleepers.targets = vec![
            target(ANNOTATED_ETCD, NEXTEST, ""),
            target(PLAIN_ETCD, NEXTEST, ""),
            target(ANNOTATED_ETCD, CARGO_TEST, ""),
        ];
        let standings = [no_ops, one, sleepers].into_iter().map(Contest::hold).collect::<Result<Vec<_>>>()?;

        let phases = [
            (ANNOTATED_ETCD, "no-op-annotated", true),
            (ANNOTATED_EMBEDDED, "no-op-annotated", false),
            (PLAIN_ETCD, "no-op-plain", true),
            (PLAIN_EMBEDDED, "no-op-plain", false),
        ];
        let phases = phases.map(|(name, package, etcd)| {
            Phases::measure(name, rounds(5), || {
                let arguments = self.arguments(package, etcd);
                self.projects.output(arguments.iter().map(String::as_str).chain(["--format", "json"]))
            })
        });
        let phases = phases.into_iter().collect::<Result<_>>()?;
        Ok(Measured { machine: self.machine, standings, phases })
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
