//! Attempts that a zygote forks.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;

use etcdtest::protocol::{Event, Outcome, ZygoteEvent};
use rustix::process::{Pid, Signal, kill_process, test_kill_process_group};
use serde_json::json;

use crate::forked::{Ended, Forked, Zygote, attachment};
use crate::project::FORKED;
use crate::runner::{EXIT_CODE, start};

/// Wait statuses as the kernel writes them.
const PASSED: i32 = EXIT_CODE << 8;
const FAILED: i32 = 101 << 8;
const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;
const SIGNAL_BITS: i32 = 0x7f;

fn zygote() -> Zygote {
    let (zygote, first) = Zygote::start(&mut FORKED.test("zygote"));
    let ZygoteEvent::Ready { memory_kib, notices } = first else { panic!("{first:?}") };
    assert!(memory_kib > 0);
    assert_eq!(notices, [""; 0]);
    zygote
}

fn end(zygote: Zygote) {
    let (code, stdout, _) = zygote.close();
    assert_eq!((code, stdout.as_str()), (Some(0), "preparing"));
}

/// A pipe with a name, at which a test waits until it is written to.
struct Gate {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Gate {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        Self { path, _folder: folder }
    }

    fn fork(&self, zygote: &mut Zygote, test: &str) -> Forked {
        zygote.fork(&start(test, json!({ "gate": self.path })))
    }

    fn open(&self) {
        fs::write(&self.path, "").unwrap();
    }
}

#[test]
fn each_attempt_has_a_process_and_an_outcome_of_its_own() {
    let mut zygote = zygote();
    for _ in 0..20 {
        let (ended, status) = zygote.run(&start("passes", json!({})));
        assert_eq!((ended.outcome(), status), (Some(&Outcome::Passed), PASSED));
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));

        let (ended, status) = zygote.run(&start("fails", json!({})));
        let Some(Outcome::Failed { message, location: Some(location) }) = ended.outcome() else {
            panic!("{:?}", ended.events)
        };
        assert_eq!((message.as_str(), status), ("on purpose", FAILED));
        assert!(location.starts_with("tests/zygote.rs:"), "{location}");
        assert_eq!(ended.stdout, "on stdout\n");
    }
    end(zygote);
}

#[test]
fn a_panic_is_printed_as_std_prints_it_under_the_tests_name() {
    let expected = |ended: &Ended, pid: i32| {
        let Some(Outcome::Failed { location: Some(location), .. }) = ended.outcome() else {
            panic!("{:?}", ended.events)
        };
        format!(
            "\nthread 'fails' ({pid}) panicked at {location}:\non purpose\n\
             note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n"
        )
    };
    let mut plain = zygote();
    let forked = plain.fork(&start("fails", json!({})));
    let pid = forked.pid;
    let ended = forked.end();
    assert_eq!(ended.stderr, expected(&ended, pid));

    let mut command = FORKED.test("zygote");
    let (mut traced, _) = Zygote::start(command.env("RUST_BACKTRACE", "1"));
    let (ended, _) = traced.run(&start("fails", json!({})));
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert!(lines[1].starts_with("thread 'fails' ("), "{lines:#?}");
    assert_eq!((lines[2], lines[3]), ("on purpose", "stack backtrace:"));
    assert!(lines[4].starts_with("   0: ") && lines[4].contains("rust_begin_unwind"), "{lines:#?}");
    assert!(
        ended.stderr.contains(": zygote::_::fails\n") || ended.stderr.contains(": zygote::fails\n"),
        "{lines:#?}"
    );
    assert!(!ended.stderr.contains("etcdtest::zygote"), "{lines:#?}");
    let note = "note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.";
    assert_eq!(lines.last(), Some(&note));

    let mut command = FORKED.test("zygote");
    let (mut traced, _) = Zygote::start(command.env("RUST_BACKTRACE", "full"));
    let (ended, _) = traced.run(&start("fails", json!({})));
    assert!(ended.stderr.contains("etcdtest::zygote"), "{}", ended.stderr);
}

#[test]
fn the_crash_of_one_test_does_not_touch_the_others() {
    let mut zygote = zygote();
    let gate = Gate::new();
    let mut waiting = gate.fork(&mut zygote, "waits");
    assert!(matches!(waiting.hear(), Event::StepStarted { .. }));

    for (test, signal) in [("aborts", Some(SIGABRT)), ("overflows_the_stack", Some(SIGABRT)), ("exits", None)]
    {
        let (ended, status) = zygote.run(&start(test, json!({})));
        assert_eq!((ended.outcome(), status & SIGNAL_BITS), (None, signal.unwrap_or(0)), "{test}");
        if signal.is_none() {
            assert_eq!(status, 0);
        }
    }
    let (ended, status) = zygote.run(&start("panics_twice", json!({})));
    assert_eq!((ended.outcome(), status & SIGNAL_BITS), (None, SIGABRT));
    for message in ["once", "again"] {
        let named = ended.stderr.lines().zip(ended.stderr.lines().skip(1));
        let mut named = named.filter(|(header, _)| header.starts_with("thread 'panics_twice' ("));
        assert!(named.any(|(_, line)| line == message), "{}", ended.stderr);
    }

    gate.open();
    let id = waiting.id;
    assert_eq!(waiting.end().outcome(), Some(&Outcome::Passed));
    assert_eq!(zygote.hear(), ZygoteEvent::Exited { id, status: PASSED });
    end(zygote);
}

#[test]
fn a_child_leads_a_group_of_its_own_and_has_nothing_of_the_zygote_open() {
    let mut zygote = zygote();
    // Its control socket stands where a child has its event socket; what else is open was
    // so before, and no sibling adds to it.
    let open = open_in(zygote.process.id());
    let gate = Gate::new();
    let mut sibling = gate.fork(&mut zygote, "waits");
    assert!(matches!(sibling.hear(), Event::StepStarted { .. }));
    assert_ne!(open_in(zygote.process.id()), open);
    let forked = zygote.fork(&start("looks_around", json!({})));
    let pid = forked.pid;
    let ended = forked.end();
    assert_eq!((ended.outcome(), ended.stderr.as_str()), (Some(&Outcome::Passed), ""));
    assert_eq!(ended.attachment("group"), pid.to_string());
    assert_eq!(ended.attachment("open"), open);
}

/// What kinds of files a process has open, as `looks_around` says it.
fn open_in(process: u32) -> String {
    let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let mut open: Vec<String> = open
        .map(|file| fs::read_link(file.unwrap().path()).unwrap().display().to_string())
        .map(|file| file.split(":[").next().unwrap().to_owned())
        .collect();
    open.sort();
    open.join(" ")
}

#[test]
fn the_running_tests_go_on_when_one_kills_the_zygote() {
    let mut zygote = zygote();
    let gate = Gate::new();
    let mut sibling = gate.fork(&mut zygote, "waits");
    assert!(matches!(sibling.hear(), Event::StepStarted { .. }));
    let killer = zygote.fork(&start("kills_its_parent", json!({})));
    assert_eq!(killer.end().outcome(), Some(&Outcome::Passed));
    let status = zygote.process.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(SIGKILL));
    gate.open();
    assert_eq!(sibling.end().outcome(), Some(&Outcome::Passed));
}

#[test]
fn a_child_is_told_however_soon_its_test_kills_the_zygote() {
    for _ in 0..20 {
        // It hears of the child first, or this panics.
        let killer = zygote().fork(&start("kills_its_parent", json!({})));
        assert!(killer.pid > 0);
        killer.end();
    }
}

#[test]
fn the_end_of_the_control_socket_ends_the_groups_of_all_children() {
    let mut zygote = zygote();
    let gate = Gate::new();
    let mut one = gate.fork(&mut zygote, "waits_with_a_child");
    let mut other = gate.fork(&mut zygote, "waits_with_a_child");
    for forked in [&mut one, &mut other] {
        assert!(attachment(&forked.hear(), "child").is_some());
    }
    end(zygote);
    // The end of a pipe that the test's own child has too is the end of that child.
    for forked in [one, other] {
        let pid = Pid::from_raw(forked.pid).unwrap();
        let ended = forked.end();
        assert_eq!((ended.outcome(), ended.stderr.as_str()), (None, ""));
        // What is left are dead processes that nobody waited for.
        while test_kill_process_group(pid).is_ok() && alive(pid) {
            std::thread::yield_now();
        }
    }
}

fn alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn a_killed_child_is_told_with_its_signal() {
    let mut zygote = zygote();
    let gate = Gate::new();
    let mut forked = gate.fork(&mut zygote, "waits");
    assert!(matches!(forked.hear(), Event::StepStarted { .. }));
    kill_process(Pid::from_raw(forked.pid).unwrap(), Signal::KILL).unwrap();
    assert_eq!(zygote.hear(), ZygoteEvent::Exited { id: forked.id, status: SIGKILL });
    end(zygote);
}

#[test]
fn the_end_of_a_child_is_told_where_the_signal_for_it_was_ignored() {
    let mut command = FORKED.command("sh");
    let script = r#"trap "" CHLD; exec "$@""#;
    command.args(["-c", script, "sh"]).arg(FORKED.test("zygote").get_program());
    let (mut zygote, _) = Zygote::start(&mut command);
    assert_eq!(zygote.run(&start("passes", json!({}))).1, PASSED);
    assert_eq!(zygote.run(&start("fails", json!({}))).1, FAILED);
    end(zygote);
}

#[test]
fn a_request_without_its_descriptors_is_refused_and_the_next_one_served() {
    let mut zygote = zygote();
    let null = fs::File::open("/dev/null").unwrap();
    for descriptors in [&[][..], &[null.as_fd()], &[null.as_fd(); 4]] {
        zygote.ask(900, descriptors);
        let reason = format!("three descriptors belong to a fork, {} arrived", descriptors.len());
        assert_eq!(zygote.hear(), ZygoteEvent::ForkFailed { id: 900, reason });
    }
    assert_eq!(zygote.run(&start("passes", json!({}))).1, PASSED);
    end(zygote);
}

#[test]
fn a_child_without_an_attempt_says_so() {
    let mut zygote = zygote();
    let mut forked = zygote.fork(&start("passes", json!({})));
    // One more, whose runner is gone before it said anything.
    let (mut stderr, to_stderr) = std::io::pipe().unwrap();
    let (gone, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(gone);
    forked.events.read_to_end(&mut Vec::new()).unwrap();
    assert!(matches!(zygote.hear(), ZygoteEvent::Exited { .. }));
    zygote.ask(901, &[theirs.as_fd(), to_stderr.as_fd(), to_stderr.as_fd()]);
    drop((theirs, to_stderr));
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert!(said.contains("the runner said nothing that this version understands"), "{said}");
    assert!(matches!(zygote.hear(), ZygoteEvent::Forked { id: 901, .. }));
    assert_eq!(zygote.hear(), ZygoteEvent::Exited { id: 901, status: FAILED });
}

#[test]
fn a_binary_with_threads_refuses_and_names_them() {
    let (zygote, first) = Zygote::start(&mut FORKED.test("threads"));
    let ZygoteEvent::Refused { reason } = first else { panic!("{first:?}") };
    assert!(reason.starts_with("threads were started before `main` (constructed): "), "{reason}");
    assert_eq!(zygote.close().0, Some(0));

    let (zygote, first) = Zygote::start(&mut FORKED.test("left_threads"));
    let ZygoteEvent::Refused { reason } = first else { panic!("{first:?}") };
    assert!(reason.starts_with("prepare `warehouse::pool` left threads running (pool-worker): "), "{reason}");
    assert_eq!(zygote.close().0, Some(0));
}

#[test]
fn without_a_control_socket_there_is_no_zygote() {
    let argument = etcdtest::protocol::ZYGOTE_ARGUMENT;
    let output = FORKED.test("zygote").arg(argument).stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(101));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "error: failed to fork for the runner: standard input is no socket\n");
}

const CLEANED_UP: &str = "last\ndeferred by the last\nfirst\n";

#[test]
fn what_is_deferred_is_done_however_the_test_ends() {
    let mut zygote = zygote();
    let mut run = |how: &str| zygote.run(&start("defers", json!({ "how": how, "gate": "none" }))).0;
    for how in ["passes", "panics", "skips", "its clean-up panics"] {
        assert_eq!(run(how).stdout, CLEANED_UP, "{how}");
    }
    assert_eq!(run("passes").outcome(), Some(&Outcome::Passed));
    assert_eq!(run("skips").outcome(), Some(&Outcome::Skipped("for now".into())));
    let messages =
        [("panics", "on purpose"), ("its clean-up panics", "what the test deferred panicked: left over")];
    for (how, expected) in messages {
        let ended = run(how);
        let Some(Outcome::Failed { message, location }) = ended.outcome() else {
            panic!("{:?}", ended.events)
        };
        assert_eq!(message, expected);
        assert!(location.is_some());
    }
    end(zygote);
}

#[test]
fn what_is_deferred_is_done_before_a_test_ends_that_is_asked_to() {
    let mut zygote = zygote();
    let gate = Gate::new();
    let mut waiting = zygote.fork(&start("defers", json!({ "how": "waits", "gate": gate.path })));
    assert!(matches!(waiting.hear(), Event::StepStarted { .. }));
    let (id, pid) = (waiting.id, Pid::from_raw(waiting.pid).unwrap());
    kill_process(pid, Signal::TERM).unwrap();
    let ended = waiting.end();
    assert_eq!((ended.stdout.as_str(), ended.outcome()), (CLEANED_UP, None));
    let status = Signal::TERM.as_raw();
    assert_eq!(zygote.hear(), ZygoteEvent::Exited { id, status });
    end(zygote);
}
