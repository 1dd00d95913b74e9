//! Services that the runner starts for its tests.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use whole_program::processes::{eventually, has_ended, state};
use whole_program::subject::{Ran, Subject};

/// A service that answers HTTP.
const SERVER: &str = "[services.server]\ncommand = 'server'\nargs = ['{port}']\nready = { http = '/' }\n";

/// A service that writes down when it starts and when it is asked to end.
fn scribe(subject: &Subject, name: &str, more: &str) -> String {
    let file = subject.meeting("order");
    let script = format!(
        "echo start {name} >> {file}; trap \"echo stop {name} >> {file}; exit 0\" TERM; echo $$ > {pid}; \
         echo {name} is ready; while :; do sleep 0.05; done",
        file = file.display(),
        pid = subject.meeting(&format!("{name}.pid")).display(),
    );
    format!(
        "[services.{name}]\ncommand = 'sh'\nargs = ['-c', '''{script}''']\n\
         ready = {{ log = '^{name} is ready$' }}\n{more}\n"
    )
}

fn order(subject: &Subject) -> Vec<String> {
    let written = fs::read_to_string(subject.meeting("order")).unwrap_or_default();
    written.lines().map(str::to_owned).collect()
}

/// A subject whose environment `local` is this file.
fn with(content: &str) -> Subject {
    let subject = Subject::with_services();
    subject.apply("local", content, &[]);
    subject
}

fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

fn ready(events: &[Value]) -> Vec<String> {
    of(events, "ready").iter().map(|event| event["service"].as_str().unwrap().to_owned()).collect()
}

fn notices(events: &[Value]) -> String {
    of(events, "notice").iter().map(|event| event["text"].as_str().unwrap().to_owned() + "\n").collect()
}

#[test]
fn services_start_as_they_need_each_other_and_stop_the_other_way_round() {
    let subject = Subject::with_services();
    let content = [
        scribe(&subject, "front", "needs = ['orders']"),
        scribe(&subject, "orders", "needs = ['stock', 'bank']"),
        scribe(&subject, "stock", ""),
        scribe(&subject, "bank", ""),
        SERVER.to_owned(),
    ];
    subject.apply("local", &content.concat(), &[]);
    let (ran, events) = subject.events(&["asks_and_passes"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let order = order(&subject);
    let of = |range: std::ops::Range<usize>| order[range].iter().map(String::as_str).collect::<BTreeSet<_>>();
    assert_eq!(of(0..2), BTreeSet::from(["start stock", "start bank"]), "{order:?}");
    assert_eq!(order[2..6], ["start orders", "start front", "stop front", "stop orders"], "{order:?}");
    assert_eq!(of(6..8), BTreeSet::from(["stop stock", "stop bank"]), "{order:?}");
    let ready = ready(&events);
    let place = |name: &str| ready.iter().position(|other| other == name).unwrap();
    assert!(place("bank") < place("orders") && place("orders") < place("front"), "{ready:?}");
    let first = events.iter().position(|event| event["event"] == "attempt-started").unwrap();
    assert!(events[first..].iter().all(|event| event["event"] != "ready"), "{events:#?}");
}

#[test]
fn tests_read_where_their_services_are() {
    let subject = with(&format!("[config]\naddress = '${{services.server.url}}/v1'\n{SERVER}"));
    let (ran, events) = subject.events(&["reads_what_refers_to_it", "asks_and_passes", "reads_where_it_is"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(of(&events, "unit-finished").len(), 3);
    let url = of(&events, "ready")[0]["url"].as_str().unwrap();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    // For people, one line; and what the run used is kept with the references that were written.
    let ran = subject.etcdtest(&["asks_and_passes"]);
    assert!(ran.stdout.contains("service server at http://127.0.0.1:"), "{}", ran.stdout);
    let shown = subject.etcdtest(&["runs", "show", "--format", "json"]).stdout;
    assert!(shown.contains("${services.server.url}/v1"), "{shown}");
}

#[test]
fn a_service_is_ready_when_it_answers_or_says_so() {
    for ready in [
        "http = '/health'",
        "http = 'http://127.0.0.1:{port}/'",
        "tcp = '127.0.0.1:{port}'",
        "log = '^listening on {port}$'",
    ] {
        let subject = with(&SERVER.replace("http = '/'", ready));
        let (ran, events) = subject.events(&["asks_and_passes"]);
        assert_eq!((ran.code, self::ready(&events).len()), (Some(0), 1), "{ready}: {ran:?}");
    }
}

#[test]
fn what_is_not_ready_ends_the_run_before_any_test_and_says_why() {
    let limit = "timeout = '300ms'";
    let deaf = format!(
        "[services.orders]\ncommand = 'sh'\nargs = ['-c', 'seq 30; sleep 100']\nready = {{ tcp = '127.0.0.1:{{port}}', {limit} }}\n"
    );
    let silent =
        format!("[services.orders]\ncommand = 'sleep'\nargs = ['100']\nready = {{ log = 'up', {limit} }}\n");
    let rude = SERVER
        .replace("[services.server]", "[services.orders]")
        .replace("http = '/'", "http = 'http://127.0.0.1:1/'");
    let cases = [
        (
            "[services.orders]\ncommand = 'sh'\nargs = ['-c', 'echo no database >&2; exit 3']\nready = { http = '/' }\n",
            &["ended with exit code 3 before it was ready", "its last lines:", "no database"][..],
        ),
        (&deaf, &["Connection refused", "waited 300ms", "11 12 13", "29 30"]),
        (&silent, &["no line that it wrote matches `up`"]),
        (&rude.replace("' }", "', timeout = '300ms' }"), &["Connection refused"]),
        ("[services.orders]\ncommand = 'no-such-program'\n", &["failed to start `no-such-program`"]),
        ("[services.orders]\ncommand = 'scripts/none'\n", &["failed to start", "scripts/none"]),
    ];
    for (content, texts) in cases {
        let subject = Subject::with_services();
        let others =
            [scribe(&subject, "first", ""), content.replace("ready =", "needs = ['first']\nready =")];
        subject.apply("local", &others.concat(), &[]);
        let (ran, events) = subject.events(&["asks_and_passes"]);
        ran.refuses(102, texts);
        ran.refuses(102, &["service `orders` of environment `local` is not ready", "env check local"]);
        assert!(of(&events, "attempt-started").is_empty(), "{events:#?}");
        assert!(!ran.stderr.contains("\n  10\n"), "only the last lines: {}", ran.stderr);
        if order(&subject).contains(&"start first".to_owned()) && content.contains("ready =") {
            assert!(has_ended(subject.process("first.pid")), "{content}");
            assert!(order(&subject).contains(&"stop first".to_owned()), "{:?}", order(&subject));
        }
        // The run is over, and says that nothing ran.
        assert_eq!(of(&events, "run-ended")[0]["counts"]["not_run"], 1);
        let shown = subject.etcdtest(&["runs", "list", "--format", "json"]).stdout;
        assert!(shown.contains("\"cancelled\""), "{shown}");
    }
}

#[test]
fn a_failed_result_carries_what_its_services_wrote_meanwhile() {
    let subject = with(SERVER);
    let tests = ["asks_and_passes", "asks_and_fails", "-j1", "--no-fail-fast"];
    let (ran, events) = subject.events(&tests);
    assert_eq!(ran.code, Some(100), "{ran:?}");
    let finished = |name: &str| {
        let mut finished = of(&events, "unit-finished").into_iter();
        finished.find(|event| event["id"].as_str().unwrap().ends_with(name)).unwrap()
    };
    assert_eq!(finished("asks_and_fails")["services"]["server"], "asked to say this-of-one-that-fails\n");
    assert_eq!(finished("asks_and_passes")["services"], Value::Null);

    let line = "asked to say this-of-one-that-fails";
    let shown = subject.etcdtest(&["runs", "show"]).stdout;
    assert!(shown.contains("services/server (") && shown.contains(line), "{shown}");
    assert!(!shown.contains("this-of-one-that-passes"), "{shown}");
    let junit = subject.etcdtest(&["report", "export", "--format", "junit"]).stdout;
    let (_, out) = junit.split_once("<system-out>").unwrap();
    assert!(out.contains("── service server ──\n"), "{junit}");
    assert!(junit.contains(line), "{junit}");
    let ran = subject.etcdtest(&[&["run"], &tests[..]].concat());
    assert!(
        ran.stdout.contains("── service server during subject::services::asks_and_fails ──"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_service_that_ends_is_missed_by_the_tests_that_fail_for_it() {
    let subject = with(SERVER);
    let ends = ["subject::services::ends_it", "--exact"];
    let (ran, events) = subject.events(&ends);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let said = notices(&events);
    // A run whose last test ends it may be over before that is noticed.
    let notice = "service `server` of `local` ended with exit code 3, and is not started again\n";
    assert!(said.is_empty() || said == notice, "{said}");

    // The second time, the test that ends it comes before the other, or is itself too late.
    let both = ["subject::services::asks_and_fails", "-j1", "--no-fail-fast", "--stress=2"];
    let (ran, events) = subject.events(&[&ends[..], &both].concat());
    assert_eq!(ran.code, Some(100), "{ran:?}");
    let mut finished = of(&events, "unit-finished").into_iter();
    let failed = finished.rfind(|event| event["outcome"] == "failed").unwrap();
    let log = failed["services"]["server"].as_str().unwrap();
    assert!(log.contains("asked to end\n[it ended with exit code 3]\n"), "{events:#?}");
}

#[test]
fn a_service_that_fails_is_started_again_at_its_port() {
    for restart in ["on-failure", "always"] {
        let subject = with(&format!("{SERVER}restart = '{restart}'\n"));
        let (ran, events) = subject.events(&["ends_it_and_finds_it_again", "--stress=2", "-j1"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let said = notices(&events);
        assert!(
            said.contains("`server` of `local` ended with exit code 3; it is started again in 100ms"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 2, "{said}");
    }
}

#[test]
fn a_run_that_is_interrupted_stops_its_services() {
    let subject = Subject::with_services();
    subject.apply("local", &[scribe(&subject, "scribe", ""), SERVER.to_owned()].concat(), &[]);
    let running = subject.start(&["waits"]);
    subject.process("waiting");
    running.signal(Signal::INT);
    assert_eq!(running.end().code, Some(130));
    assert_eq!(order(&subject), ["start scribe", "stop scribe"]);

    // And also one that is not ready yet.
    let never = scribe(&subject, "other", "").replace("^other is ready$", "never");
    subject.apply("local", &[scribe(&subject, "scribe", ""), never].concat(), &[]);
    let running = subject.start(&["waits"]);
    let started = [subject.process("other.pid"), subject.process("scribe.pid")];
    running.signal(Signal::INT);
    let ran = running.end();
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(started.into_iter().all(has_ended));
}

#[test]
fn services_have_their_grace_and_no_more() {
    let stubborn = "[services.stubborn]\ncommand = 'sh'\nargs = ['-c', 'trap \"\" TERM; echo $$ > FILE; echo up; while :; do sleep 0.05; done']\nready = { log = 'up' }\nstop-grace = '100ms'\n";
    let subject = Subject::with_services();
    let file = subject.meeting("stubborn").display().to_string();
    subject.apply("local", &[&stubborn.replace("FILE", &file), SERVER].concat(), &[]);
    let ran = subject.etcdtest(&["asks_and_passes"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(has_ended(subject.process("stubborn")));
}

/// A service with a child in its group and one that left it.
fn family(subject: &Subject) -> String {
    let folder = subject.meeting("").display().to_string();
    let script = format!(
        "echo $$ > {folder}/leader; sleep 1000 & echo $! > {folder}/child; \
         setsid sh -c \"echo \\$\\$ > {folder}/daemon; exec sleep 1000\" & echo up; wait"
    );
    format!("[services.family]\ncommand = 'sh'\nargs = ['-c', '''{script}''']\nready = {{ log = 'up' }}\n")
}

const FAMILY: [&str; 3] = ["leader", "child", "daemon"];

#[test]
fn a_runner_that_is_killed_leaves_no_service() {
    let subject = Subject::with_services();
    subject.apply("local", &[&family(&subject), SERVER].concat(), &[]);
    let running = subject.start(&["waits"]);
    let processes = FAMILY.map(|name| subject.process(name));
    subject.process("waiting");
    assert!(!processes.into_iter().any(has_ended));
    running.signal(Signal::KILL);
    for process in processes {
        eventually(|| has_ended(process).then_some(()), "the end of a service");
    }

    // And none that is not ready yet.
    for name in FAMILY {
        fs::remove_file(subject.meeting(name)).unwrap();
    }
    subject.apply("local", &family(&subject).replace("log = 'up'", "log = 'never'"), &[]);
    let running = subject.start(&["waits"]);
    let processes = FAMILY.map(|name| subject.process(name));
    running.signal(Signal::KILL);
    for process in processes {
        eventually(|| has_ended(process).then_some(()), "the end of a service");
    }
}

#[test]
fn what_a_service_started_ends_with_it() {
    let subject = Subject::with_services();
    subject.apply("local", &[&family(&subject), SERVER].concat(), &[]);
    let ran = subject.etcdtest(&["asks_and_passes"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for name in FAMILY {
        assert!(has_ended(subject.process(name)), "{name}");
    }
}

#[test]
fn a_run_that_is_stopped_by_its_terminal_leaves_its_services_running() {
    let subject = Subject::with_services();
    subject.apply("local", &[scribe(&subject, "scribe", ""), SERVER.to_owned()].concat(), &[]);
    let running = subject.start(&["waits"]);
    let (test, service) = (subject.process("waiting"), subject.process("scribe.pid"));
    running.signal(Signal::TSTP);
    eventually(|| (state(test) == Some('T')).then_some(()), "the stop");
    assert!(matches!(state(service), Some('S' | 'R' | 'D')));
    running.signal(Signal::CONT);
    eventually(|| (state(test) != Some('T')).then_some(()), "the continuation");
    running.signal(Signal::INT);
    running.end();
}

#[test]
fn a_service_of_each_tests_own_is_new_for_each_attempt() {
    // A probe by HTTP would be a first question.
    let content = SERVER.replace("http = '/'", "log = 'listening'") + "scope = 'test'\n";
    let subject = with(&content);
    let (ran, events) = subject.events(&["is_the_first_to_ask", "reads_where_it_is", "-j4"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ports: BTreeSet<&str> = of(&events, "unit-finished")
        .into_iter()
        .filter_map(|event| event["output"].as_str()?.split("in attempt").next())
        .filter(|port| port.starts_with("port "))
        .collect();
    assert_eq!(ports.len(), 4, "{ports:?}");
    assert!(ready(&events).is_empty());

    let (ran, events) = subject.events(&["asks_and_fails"]);
    assert_eq!(ran.code, Some(100), "{ran:?}");
    let log = &of(&events, "unit-finished")[0]["services"]["server"];
    let log = log.as_str().unwrap();
    assert!(log.starts_with("listening on ") && log.ends_with("this-of-one-that-fails\n"), "{log}");
}

#[test]
fn a_test_whose_own_service_is_not_ready_fails_with_the_reason() {
    let subject = with(&SERVER.replace("'{port}'", "'none'").replace("ready =", "scope = 'test'\nready ="));
    let (ran, events) = subject.events(&["asks_and_passes"]);
    assert_eq!(ran.code, Some(100), "{ran:?}");
    let finished = of(&events, "unit-finished")[0];
    let said = finished["attempts"][0]["message"].as_str().unwrap();
    assert!(
        said.contains("service `server` of environment `local` is not ready: it ended with exit code 101"),
        "{said}"
    );
    assert!(said.contains("a number"), "its last lines: {said}");
}

#[test]
fn many_runs_at_once_have_services_of_their_own() {
    let subject = with(&SERVER.replace("http = '/'", "log = 'listening'"));
    let runs: Vec<_> =
        (0..6).map(|_| subject.start(&["is_the_first_to_ask::a", "--format", "json"])).collect();
    let ended: Vec<Ran> = runs.into_iter().map(whole_program::subject::Running::end).collect();
    let mut urls = BTreeSet::new();
    for ran in &ended {
        assert_eq!(ran.code, Some(0), "{ran:?}");
        urls.insert(of(&ran.events(), "ready")[0]["url"].to_string());
    }
    assert_eq!(urls.len(), 6, "{urls:?}");
}
