//! The guides do what they say: their commands are typed in their order, in a fresh copy of
//! the checkout, and their Rust code is compiled and run.
#![cfg(unix)]
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use whole_program::processes::end_of;
use whole_program::{FreshCopy, Port, Ran, root};

/// How long all commands of a guide may take, which build much.
const LIMIT: Duration = Duration::from_mins(10);

#[test]
fn the_commands_of_the_readme_work() {
    Guide::read("README.md").run();
}

#[test]
fn the_commands_of_getting_started_work() {
    Guide::read("docs/getting-started.md").run();
}

#[test]
fn the_commands_of_environments_work() {
    Guide::read("docs/environments.md").run();
}

#[test]
fn the_commands_of_reservation_work() {
    Guide::read("docs/reservation.md").run();
}

#[test]
fn the_commands_of_services_work() {
    Guide::read("docs/services.md").run();
}

#[test]
fn the_commands_of_taking_care_of_the_store_work() {
    Guide::read("docs/store.md").run();
}

#[test]
fn the_commands_of_running_over_many_machines_work() {
    Guide::read("docs/distributed.md").run();
}

#[test]
fn every_guide_with_commands_is_tested() {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut with_commands = Vec::new();
    for path in docs.chain([root().join("README.md")]) {
        let blocks = blocks(&fs::read_to_string(&path).unwrap());
        // What is no shell's says what it is.
        let unsaid = blocks.iter().find(|block| block.info.is_empty());
        assert!(unsaid.is_none(), "{}: {}", path.display(), unsaid.unwrap().text);
        if blocks.iter().any(|block| Terminal::of(&block.info).is_some()) {
            with_commands.push(path.file_name().unwrap().to_owned());
        }
    }
    with_commands.sort();
    let tested = [
        "README.md",
        "distributed.md",
        "environments.md",
        "getting-started.md",
        "reservation.md",
        "services.md",
        "store.md",
    ];
    assert_eq!(with_commands, tested);
}

/// The code of the README and of the guide becomes a test binary of the example, which runs
/// in the environment that the guide shows.
#[test]
fn the_code_of_the_guides_compiles_and_passes() {
    let copy = FreshCopy::new("code");
    let mut source = String::from("//! The code of the guides.\n#![allow(dead_code)]\n");
    let mut environment = None;
    for guide in ["README.md", "docs/writing-tests.md", "docs/secrets.md", "docs/distributed.md"] {
        for block in blocks(&fs::read_to_string(root().join(guide)).unwrap()) {
            let module = match &*block.info {
                "rust" => "guide",
                "rust,no_run" => "compiled_only",
                "toml" if block.text.contains("[config]") => {
                    environment = Some(block.text);
                    continue;
                }
                _ => continue,
            };
            writeln!(source, "mod {module}_{} {{\n{}}}", block.line, block.text).unwrap();
        }
    }
    source.push_str("etcdtest::main!();\n");
    let shop = copy.folder().join("examples/shop");
    fs::write(shop.join("tests/guides.rs"), source).unwrap();
    let mut manifest = fs::read_to_string(shop.join("Cargo.toml")).unwrap();
    manifest.push_str("\n[[test]]\nname = \"guides\"\nharness = false\n");
    fs::write(shop.join("Cargo.toml"), manifest).unwrap();
    fs::write(copy.folder().join("environment.toml"), environment.expect("the guide shows an environment"))
        .unwrap();

    let mut test = copy.command("cargo");
    test.args(["test", "--package", "shop", "--test", "guides", "--", "--skip", "compiled_only"]);
    let ran = Ran::of(test.env("ETCDTEST_ENVIRONMENT", copy.folder().join("environment.toml")));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let stdout = ran.stdout;
    assert!(
        stdout.contains("0 failed; 1 ignored"),
        "the test that skips itself is shown as ignored:\n{stdout}"
    );
}

/// What the test has done already, or is itself.
const DONE: [&str; 2] = ["cargo xtask install", "cargo xtask test"];

/// A guide: the commands of its `sh` blocks, and the files that it shows whole.
struct Guide {
    name: String,
    script: String,
}

/// Where the commands of a block are typed, and how they are to end: what its first line says after
/// `sh`.
#[derive(Clone, Copy, Debug, Default)]
struct Terminal<'a> {
    /// `terminal`: in one of their own, while the guide goes on.
    own: bool,
    /// `until WORD`: whoever types the next command has seen this there.
    until: Option<&'a str>,
    /// `fails`: with an error.
    fails: bool,
    /// `interrupted`: by Ctrl-C, at the end of the guide.
    interrupted: bool,
}

impl<'a> Terminal<'a> {
    /// That of a block; `None` where it is no shell's.
    fn of(info: &'a str) -> Option<Self> {
        let mut words = info.split(' ');
        let mut terminal = (words.next() == Some("sh")).then(Self::default)?;
        while let Some(word) = words.next() {
            match word {
                "terminal" => terminal.own = true,
                "until" => terminal.until = Some(words.next().expect("a word follows")),
                "fails" => terminal.fails = true,
                "interrupted" => terminal.interrupted = true,
                other => panic!("`{other}` says nothing about a terminal"),
            }
        }
        Some(terminal)
    }

    /// What types a command there. Commands in terminals of their own have a number each.
    fn script(self, command: &str, number: usize) -> String {
        match (self.own, self.fails) {
            // What is not there is shown as nothing, and no error.
            (false, _) if command.starts_with("etcdctl get ") => format!("{command} | grep ."),
            (false, false) => command.to_owned(),
            (false, true) => format!("if {command}; then echo 'it did not fail'; exit 1; fi"),
            // It goes on until the end, and whoever types the next command has seen it start.
            (true, _) if command.starts_with("etcd ") => format!(
                "{command} >target/etcd.log 2>&1 &\n\
                 until etcdctl endpoint health >/dev/null 2>&1; do kill -0 $!; done"
            ),
            (true, fails) => {
                let log = format!("target/terminal-{number}.log");
                let how =
                    if self.interrupted { "interrupted" } else { ["well", "badly"][usize::from(fails)] };
                let seen =
                    self.until.map(|word| format!("grep -q {word} < <(tail --pid=$! -n +1 -f {log})\n"));
                format!(
                    ": >{log}\n{command} > >(tee -a {log}) 2>&1 & others+=($!:{how})\n{}",
                    seen.unwrap_or_default()
                )
            }
        }
    }
}

/// What comes before the commands: all ends with the test's own process, however that ends, for with it
/// standard input does.
const BEFORE: &str =
    "set -euo pipefail; exec 3<&0 </dev/null\n(read -r _ <&3 || kill -KILL 0) &\nothers=()\n";

/// What comes after them: the others end as they are to.
const AFTER: &str = r#"
for other in "${others[@]}"; do
    echo "the end of process $other"
    process=${other%:*}
    case ${other#*:} in
        well) wait "$process" ;;
        badly) if wait "$process"; then echo 'it did not fail'; exit 1; fi ;;
        interrupted) kill -INT "$process"; wait "$process" ;;
    esac
done
"#;

impl Guide {
    fn read(path: &str) -> Self {
        let mut script = String::from(BEFORE);
        for block in blocks(&fs::read_to_string(root().join(path)).unwrap()) {
            if let Some(file) = block.info.strip_prefix("toml ") {
                writeln!(script, "install -D -m 644 /dev/stdin {file} <<'END'\n{}END", block.text).unwrap();
            }
            let Some(terminal) = Terminal::of(&block.info) else { continue };
            let commands = block.text.lines().filter(|line| !line.is_empty() && !DONE.contains(line));
            for (number, command) in commands.enumerate() {
                // Shown before its output, so that a failure says which it was.
                writeln!(script, "echo '$ {}'", command.replace('\'', "'\\''")).unwrap();
                writeln!(script, "{}", terminal.script(command, block.line + number)).unwrap();
            }
        }
        script.push_str(AFTER);
        Self { name: Path::new(path).file_stem().unwrap().to_string_lossy().into_owned(), script }
    }

    /// Types the commands into a shell; what they start ends with them.
    fn run(&self) {
        let copy = FreshCopy::new(&self.name);
        let port = Port::free();
        let address = format!("127.0.0.1:{}", port.number());
        let script = self.script.replace("127.0.0.1:2379", &address);
        let (url, mut shell) = (format!("http://{address}"), copy.command("bash"));
        shell.arg("-c").arg(&script).env("ETCDCTL_ENDPOINTS", &url);
        shell.env("ETCD_LISTEN_CLIENT_URLS", &url).env("ETCD_ADVERTISE_CLIENT_URLS", &url);
        shell.env("ETCD_LISTEN_PEER_URLS", "http://127.0.0.1:0");
        let log_file = copy.folder().join("target/shell.log");
        let log = fs::File::create(&log_file).unwrap();
        shell.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::piped()).process_group(0);
        let mut shell = shell.spawn().unwrap();
        let lifeline = shell.stdin.take();
        let status = end_of(&mut shell, Instant::now() + LIMIT);
        drop(lifeline);
        // The guide's etcd goes on until here.
        let group = Pid::from_raw(i32::try_from(shell.id()).unwrap()).unwrap();
        let _ = kill_process_group(group, Signal::KILL);
        let said = fs::read_to_string(log_file).unwrap();
        let status = status.unwrap_or_else(|| panic!("after {LIMIT:?} it goes on:\n{said}"));
        assert!(status.success(), "{status}:\n{said}");
    }
}

/// A fenced block of a guide.
struct Block {
    info: String,
    line: usize,
    text: String,
}

fn blocks(guide: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = guide.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let text = inside.flat_map(|line| [line, "\n"]).collect();
            blocks.push(Block { info: info.to_owned(), line: number + 1, text });
        }
    }
    blocks
}
