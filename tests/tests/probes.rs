//! Probes, and `env check`.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::io::{Read, Write};
use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::Value;
use whole_program::processes::has_ended;
use whole_program::subject::Subject;

const SERVER: &str = "[services.server]\ncommand = 'server'\nargs = ['{port}']\nready = { http = '/' }\n";

/// A server that answers with each of these statuses once and then accepts no more, and its
/// address.
fn server(statuses: &'static [u16]) -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let listening = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for status in statuses {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            let answer = format!("HTTP/1.1 {status} Such\r\nContent-Length: 8\r\n\r\nstate=up");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, listening)
}

fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

#[test]
fn a_run_waits_until_its_probes_pass_one_after_the_other() {
    let subject = Subject::with_services();
    let (address, _listening) = server(&[503, 500, 404, 200]);
    let url = format!("http://{address}/health");
    let probes = format!(
        "[[probes]]\nhttp = '{url}'\nbody = '=up$'\n[[probes]]\ntcp = '{address}'\n[[probes]]\ndns = 'localhost'\n\
         [[probes]]\ncommand = ['sh', '-c', 'exit 0']\n[[probes]]\nhttp = '${{services.server.url}}/x'\nstatus = 200\n"
    );
    subject.apply("local", &[SERVER, &probes].concat(), &[]);
    let (ran, events) = subject.events(&["asks_and_passes"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let passed: Vec<_> =
        of(&events, "ready").into_iter().filter_map(|event| event["probe"].as_str()).collect();
    let [http, tcp] = [format!("http {url}"), format!("tcp {address}")];
    let expected = [&http, &tcp, "dns localhost", "command sh -c exit 0", "http ${services.server.url}/x"];
    assert_eq!(passed, expected);
}

#[test]
fn a_probe_that_does_not_pass_ends_the_run_before_any_test() {
    let subject = Subject::with_services();
    let limit = "timeout = '200ms'";
    for (probe, reason) in [
        ("http = '${services.server.url}/'\nstatus = 204", "it answered with status 200 and not with 204"),
        ("http = '${services.server.url}/'\nbody = 'state=down'", "its answer does not match `state=down`"),
        ("tcp = '127.0.0.1:1'", "Connection refused"),
        ("dns = 'no-such-host.invalid'", "dns no-such-host.invalid"),
        (
            "command = ['sh', '-c', 'echo the bank is closed; exit 4']",
            "it ended with exit code 4: the bank is closed",
        ),
        ("command = ['no-such-program']", "failed to start it"),
    ] {
        subject.apply("local", &format!("{SERVER}[[probes]]\n{probe}\n{limit}\n"), &[]);
        let (ran, events) = subject.events(&["asks_and_passes"]);
        ran.refuses(102, &["of environment `local` is not ready", reason, "200ms"]);
        assert!(of(&events, "attempt-started").is_empty());
    }
}

#[test]
fn an_environment_is_checked_without_tests() {
    let subject = Subject::with_services();
    let good = "[[probes]]\nhttp = '${services.server.url}/'\n";
    subject.apply("good", &[SERVER, "scope = 'test'\n"].concat(), &[]);
    subject.apply("local", &[SERVER, good].concat(), &[]);
    // The program is where cargo puts it without being told otherwise.
    let built = subject.etcdtest(&["run", "asks_and_passes"]);
    assert_eq!(built.code, Some(0), "{built:?}");

    let ran = subject.etcdtest(&["env", "check", "local"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].contains("Ready") && lines[0].contains("service server at http://"),
        "{ran:?}"
    );
    assert!(lines[1].contains("Ready") && lines[1].contains("probe http ${services.server.url}/"), "{ran:?}");
    assert_eq!(subject.etcdtest(&["env", "check", "good"]).code, Some(0));

    let bad = "[[probes]]\ntcp = '127.0.0.1:1'\ntimeout = '50ms'\n";
    let silent =
        "[services.silent]\ncommand = 'sh'\nargs = ['-c', 'echo cannot; exit 1']\nready = { log = 'up' }\n";
    subject.apply("local", &[SERVER, bad, good, bad].concat(), &[]);
    let ran = subject.etcdtest(&["env", "check", "local", "--format", "json"]);
    assert_eq!(ran.code, Some(102), "{ran:?}");
    let events = ran.events();
    assert_eq!((of(&events, "ready").len(), of(&events, "not-ready").len()), (2, 2), "{ran:?}");
    assert_eq!(of(&events, "not-ready")[0]["probe"], "tcp 127.0.0.1:1");

    subject.apply("local", &[silent, bad].concat(), &[]);
    let ran = subject.etcdtest(&["env", "check", "local"]);
    assert_eq!(ran.code, Some(102), "{ran:?}");
    assert!(
        ran.stdout.contains("Not ready service `silent`: it ended with exit code 1 before it was ready"),
        "{ran:?}"
    );
    assert!(ran.stdout.contains("  cannot\n") && !ran.stdout.contains("probe"), "{ran:?}");
    subject.etcdtest(&["env", "check", "nowhere"]).refuses(102, &["nowhere"]);
    subject.etcdtest(&["env", "check", "local@9"]).refuses(102, &["`local` has no version 9"]);
}

#[test]
fn a_check_that_is_interrupted_stops_its_services() {
    let subject = Subject::with_services();
    let file = subject.meeting("slow").display().to_string();
    let slow = "[services.slow]\ncommand = 'sh'\nargs = ['-c', 'echo $$ > FILE; sleep 1000']\nready = { log = 'up' }\n";
    subject.apply("local", &slow.replace("FILE", &file), &[]);
    let running = subject.start(&["env", "check", "local"]);
    let service = subject.process("slow");
    running.signal(Signal::INT);
    running.end().refuses(130, &["interrupted; its services have been stopped"]);
    assert!(has_ended(service));
}
