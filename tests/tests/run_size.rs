//! What a large run costs.
#![cfg(target_os = "linux")]

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use whole_program::etcd::Etcd;
use whole_program::subject::Subject;
use whole_program::{Project, Running, program};

/// The most memory a process has had so far, in KiB.
fn peak(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Sees a run to its end: its exit code, its last event and the most memory it had, in KiB.
#[track_caller]
fn measured(mut run: Running) -> (Option<i32>, String, u64) {
    let (mut highest, mut last) = (0, String::new());
    for number in 0_u32.. {
        let Some(line) = run.line_with("") else { break };
        if number % 64 == 0 || line.contains("run-ended") {
            highest = highest.max(peak(run.id()).unwrap_or_default());
        }
        last = line;
    }
    (run.end().code, last, highest)
}

#[test]
fn ten_times_as_many_annotated_tests_ask_etcd_for_no_more_each_and_take_little_more_memory() {
    let (subject, etcd) = (Subject::new(), Etcd::start());
    let measure = |times: u32| {
        let before = etcd.requests();
        let (times, store) = (times.to_string(), etcd.endpoint());
        let arguments = ["gate::early", "--stress", &times, "--endpoints", &store, "--format", "json"];
        let (code, last, memory) = measured(subject.start(&arguments));
        assert_eq!(code, Some(0), "{last}");
        (etcd.requests() - before, memory)
    };
    let (few, little) = measure(200);
    let (many, much) = measure(2_000);
    assert!(many <= few * 10 && many < 20_000 / 5, "{many} requests for 20,000 tests, {few} for 2,000");
    assert!(little > 0 && much < little + (64 << 10), "{much} KiB for 20,000 tests, {little} for 2,000");
}

#[test]
fn two_thousand_plain_tests_on_etcd_take_little_memory() {
    let mut tests = String::new();
    for number in 0..2000 {
        writeln!(tests, "#[test] fn t{number}() {{}}").unwrap();
    }
    let project = Project::package("many", "").file("src/lib.rs", &tests);
    let etcd = Etcd::start();
    let mut command = Command::new(program());
    project.prepare(&mut command).args(["run", "--endpoints", &etcd.endpoint(), "--format", "json"]);
    let (code, last, highest) = measured(Running::start(&mut command));
    assert_eq!(code, Some(0), "{last}");
    assert!(last.contains("\"passed\":2000"), "{last}");
    assert!((1..200 << 10).contains(&highest), "{highest} KiB");
}
