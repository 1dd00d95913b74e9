//! What tests may do to the processes that run them, and what is left when a run ends.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use rustix::process::Signal;
use serde_json::{Value, json};
use whole_program::processes::{eventually, has_ended};
use whole_program::subject::{Ran, Running, Subject};
use whole_program::{Project, program, root, started_by};

const KINDS: [&str; 2] = ["annotated", "plain"];

#[track_caller]
fn attempt<'a>(events: &'a [Value], id: &str) -> &'a Value {
    let mut finished = events.iter().filter(|event| event["event"] == "unit-finished");
    let event = finished.find(|event| event["id"] == *id);
    let event = event.unwrap_or_else(|| panic!("{id} has no result in {events:#?}"));
    assert_eq!(event["attempts"].as_array().unwrap().len(), 1, "{event:#}");
    &event["attempts"][0]
}

#[test]
fn who_kills_what_runs_it_costs_no_other_test_its_result() {
    for kind in KINDS {
        let subject = Subject::new();
        let id = |test: &str| format!("subject::{kind}::hostile::{test}");
        let tests = ["kills_its_parent", "kills_its_grandparent", "kills_its_group", "is_there_all_the_time"];
        let tests = tests.map(id);
        let mut arguments: Vec<&str> = tests.iter().map(String::as_str).collect();
        arguments.extend(["--no-fail-fast", "--test-threads", "4"]);
        let (ran, events) = subject.events(&arguments);
        assert_eq!(ran.code, Some(100), "{}", ran.stderr);
        let [parent, grandparent, group, there] = tests;
        assert_eq!(attempt(&events, &parent)["outcome"], "passed");
        if kind == "annotated" {
            assert_eq!(attempt(&events, &grandparent)["outcome"], "passed");
        }
        let killed = attempt(&events, &group);
        assert_eq!((&killed["outcome"], &killed["signal"]), (&json!("crashed"), &json!(9)));
        let there = attempt(&events, &there);
        assert_eq!((&there["outcome"], &there["message"]), (&json!("failed"), &json!("it was there")));
    }
}

#[test]
fn what_a_test_stops_goes_on() {
    let (ran, events) = Subject::new().events(&["hostile::stops_its_parent", "--test-threads", "1"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for kind in KINDS {
        let attempt = attempt(&events, &format!("subject::{kind}::hostile::stops_its_parent"));
        assert_eq!(attempt["outcome"], "passed");
    }
}

#[test]
fn what_a_test_leaves_behind_is_ended_and_told() {
    let subject = Subject::new();
    let (ran, events) = subject.events(&["hostile::leaves_a", "--no-fail-fast"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for kind in KINDS {
        for (test, name) in [("leaves_a_daemon", "daemon"), ("leaves_a_quiet_child", "child")] {
            let attempt = attempt(&events, &format!("subject::{kind}::hostile::{test}"));
            assert_eq!((&attempt["outcome"], &attempt["leaky"]), (&json!("passed"), &json!(true)), "{test}");
            let left = subject.process(&format!("{kind}-{name}"));
            eventually(|| has_ended(left).then_some(()), name);
        }
    }
    assert!(subject.etcdtest(&["hostile::leaves_a_daemon"]).stdout.contains("LEAK"));
    let strict = subject.etcdtest(&["hostile::leaves_a_daemon", "--leaky-result", "fail"]);
    assert_eq!(strict.code, Some(100), "{}", strict.stderr);
    assert!(strict.stdout.contains("leaky tests count as failed"), "{}", strict.stdout);
}

#[test]
fn a_runner_that_is_killed_leaves_no_process() {
    let subject = Subject::new();
    let running = subject.start(&["hostile::waits_with", "--test-threads", "2"]);
    let mut started = Vec::new();
    for kind in KINDS {
        let names = ["waiting", "waiting-parent", "waiting-daemon"];
        started.extend(names.map(|name| subject.process(&format!("{kind}-{name}"))));
    }
    assert!(started.iter().all(|process| !has_ended(*process)));
    running.signal(Signal::KILL);
    for process in started {
        eventually(|| has_ended(process).then_some(()), "the end of a process");
    }
}

#[test]
fn a_test_has_no_descriptor_but_its_own() {
    let subject = Subject::new();
    // One that the runner itself was given by whoever started it.
    let command = subject.command(&["hostile::counts", "--format", "json"]);
    let with_stray = "exec 9</dev/null; exec \"$0\" \"$@\"";
    let ran = Running::start(&mut started_by(["sh", "-c", with_stray], &command)).end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let count = |kind: &str| {
        let events = ran.events();
        let id = format!("subject::{kind}::hostile::counts_its_descriptors");
        let event = events.iter().find(|event| event["event"] == "unit-finished" && event["id"] == id);
        event.unwrap()["output"].as_str().unwrap().to_owned()
    };
    assert!(count("plain").contains("\n3 open"), "{}", count("plain"));
    assert!(count("annotated").starts_with("4 open"), "{}", count("annotated"));
}

/// A project whose annotated tests these are.
fn of_one_target(name: &str, tests: &str) -> Project {
    let harness = root().join("harness");
    let manifest = format!(
        "[dev-dependencies]\netcdtest = {{ path = \"{}\", default-features = false }}\n\
         serde = {{ version = \"1\", features = [\"derive\"] }}\n\
         [[test]]\nname = \"annotated\"\nharness = false\n",
        harness.display()
    );
    Project::package(name, &manifest).with_lock().file("src/lib.rs", "").file("tests/annotated.rs", tests)
}

#[test]
fn who_kills_the_processes_that_wait_for_a_test_costs_none_its_result() {
    let others: Vec<_> =
        (0..20).map(|number| format!("#[etcdtest::test] fn other_{number:02}() {{}}\n")).collect();
    let killer = "#[etcdtest::test] fn kills() {\n\
                  let children = format!(\"/proc/{0}/task/{0}/children\", std::os::unix::process::parent_id());\n\
                  let own = std::process::id().to_string();\n\
                  let children = std::fs::read_to_string(children).unwrap();\n\
                  let others = children.split_whitespace().filter(|child| *child != own);\n\
                  let _ = std::process::Command::new(\"kill\").arg(\"-9\").args(others).status();\n}\n";
    let project = of_one_target("siblings", &format!("{killer}{}etcdtest::main!();\n", others.concat()));
    let arguments = ["etcdtest", "run", "--test-threads", "1", "--stress", "3", "--format", "json"];
    let ran = Ran::from(project.etcdtest(&arguments));
    assert_eq!(ran.code, Some(0), "{} {}", ran.stderr, ran.stdout);
}

#[test]
fn a_binary_whose_constructor_starts_a_thread_is_started_for_each_test() {
    let project = of_one_target(
        "constructor",
        "extern \"C\" fn start() { std::thread::spawn(|| std::thread::park()); }\n\
         #[used]\n#[unsafe(link_section = \".init_array\")]\nstatic START: extern \"C\" fn() = start;\n\
         #[etcdtest::test] fn one() {}\n#[etcdtest::test] fn two() {}\netcdtest::main!();\n",
    );
    let output = project.etcdtest(&["etcdtest", "run", "--format", "json"]);
    let ran = Ran::from(output);
    assert_eq!(ran.code, Some(0), "{} {}", ran.stderr, program().display());
    let events = ran.events();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((of("unit-finished"), of("notice")), (2, 1), "{events:#?}");
}
