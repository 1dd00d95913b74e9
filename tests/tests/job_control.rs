//! Ctrl-Z and `fg`, on a real terminal under a real shell.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use whole_program::leftovers::Leftovers;
use whole_program::processes::{PATIENCE, end_of};
use whole_program::started_by;
use whole_program::subject::Subject;

/// Much longer than the test may take, and shorter than it waits to be let go on.
const SUSPENDED: Duration = Duration::from_secs(4);

/// A shell on a terminal of its own, and what it has shown.
struct Terminal {
    keyboard: File,
    shell: std::process::Child,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(subject: &Subject, leftovers: &Leftovers) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        // Not this process's own terminal.
        let flags = OpenptFlags::NOCTTY.bits().cast_signed();
        let theirs = File::options().read(true).write(true).custom_flags(flags).open(name.to_str().unwrap());
        let theirs = theirs.unwrap();
        // The terminal becomes that of the new session.
        let script = "PROGRAM=\"$0\" exec bash --norc --noprofile -i";
        let mut shell = started_by(["setsid", "--ctty", "--wait", "sh", "-c", script], &subject.command(&[]));
        shell.env("TERM", "dumb");
        leftovers.mark(&mut shell);
        let stream = || Stdio::from(theirs.try_clone().unwrap());
        let shell = shell.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        let keyboard = File::from(ours);
        let screen = Arc::new(Mutex::new(String::new()));
        std::thread::spawn({
            let (screen, mut shown) = (screen.clone(), keyboard.try_clone().unwrap());
            move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = shown.read(&mut buffer) {
                    screen.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
                }
            }
        });
        Self { keyboard, shell, screen }
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        eventually(
            text,
            || self.screen.lock().unwrap().contains(text),
            || self.screen.lock().unwrap().clone(),
        );
    }
}

#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool, context: impl Fn() -> String) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what} does not come:\n{}", context());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The state of a process, `T` for a stopped one.
fn state(process: i32) -> String {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn ctrl_z_stops_the_tests_with_their_clocks_and_fg_lets_them_go_on() {
    let (subject, leftovers) = (Subject::new(), Leftovers::new());
    let mut terminal = Terminal::open(&subject, &leftovers);
    // The test waits for `go`; its time is over long before it comes, but for the suspension.
    terminal.types("\"$PROGRAM\" etcdtest gate::late::c10 --timeout 3s --run-id paused\n");
    terminal.shows("Starting");
    let line = |part: &str| {
        let all = leftovers.processes();
        all.into_iter().filter(|(_, line)| line.contains(part)).map(|(id, _)| id).collect::<Vec<_>>()
    };
    // The zygote, and the child that it forked.
    eventually("the test", || line("--etcdtest-zygote").len() == 2, String::new);
    let runner = line("--run-id paused");
    let [zygote, test] = line("--etcdtest-zygote")[..] else { panic!("two") };
    let test = zygote.max(test);
    assert_eq!(runner.len(), 1);
    terminal.types("\x1a");
    terminal.shows("Stopped");
    for process in [runner[0], test] {
        eventually("the stop", || state(process) == "T", || state(process));
    }
    std::thread::sleep(SUSPENDED);
    assert_eq!((state(runner[0]), state(test)), ("T".into(), "T".into()));
    terminal.types("fg; echo \"ended with $?\"\n");
    eventually("the test again", || state(test) != "T", || state(test));
    fs::write(subject.meeting("go"), "").unwrap();
    terminal.shows("ended with 0");
    terminal.types("exit\n");
    let status = end_of(&mut terminal.shell, Instant::now() + PATIENCE);
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    leftovers.assert_none();
    assert!(subject.etcdtest(&["runs", "show", "paused"]).stdout.contains("1 passed"));
}
