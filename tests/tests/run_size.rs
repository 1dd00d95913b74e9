//! What a large run costs.
#![cfg(target_os = "linux")]

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use whole_program::etcd::Etcd;
use whole_program::{Project, Running, program};

/// The most memory a process has had so far, in KiB.
fn peak(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
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
    let mut run = Running::start(&mut command);
    let (mut highest, mut last) = (0, String::new());
    while let Some(line) = run.line_with("") {
        last = line;
        highest = highest.max(peak(run.id()).unwrap_or_default());
    }
    let ran = run.end();
    assert_eq!(ran.code, Some(0), "{last} {}", ran.stderr);
    assert!(last.contains("\"passed\":2000"), "{last}");
    assert!((1..200 << 10).contains(&highest), "{highest} KiB");
}
