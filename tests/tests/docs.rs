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
fn every_guide_with_commands_is_tested() {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut with_commands: Vec<_> = docs
        .chain([root().join("README.md")])
        .filter(|path| {
            blocks(&fs::read_to_string(path).unwrap()).iter().any(|block| block.language() == "sh")
        })
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    with_commands.sort();
    assert_eq!(
        with_commands,
        ["README.md", "environments.md", "getting-started.md", "reservation.md", "services.md", "store.md"]
    );
}

/// The code of the README and of the guide becomes a test binary of the example, which runs
/// in the environment that the guide shows.
#[test]
fn the_code_of_the_guides_compiles_and_passes() {
    let copy = FreshCopy::new("code");
    let mut source = String::from("//! The code of the guides.\n#![allow(dead_code)]\n");
    let mut environment = None;
    for guide in ["README.md", "docs/writing-tests.md", "docs/secrets.md"] {
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

/// A guide: the commands of its `sh` blocks.
struct Guide {
    name: String,
    script: String,
}

impl Guide {
    fn read(path: &str) -> Self {
        // All ends with the test's own process, however that ends: with it, standard input does.
        // Each command is shown before its output, so that a failure says which it was.
        let mut script =
            String::from("set -euo pipefail; exec 3<&0 </dev/null\n(read -r _ <&3; kill -KILL 0) &\n");
        for block in blocks(&fs::read_to_string(root().join(path)).unwrap()) {
            let commands = block.text.lines().filter(|line| !line.is_empty() && !DONE.contains(line));
            for command in commands {
                let shown = format!("echo '$ {}'\n", command.replace('\'', "'\\''"));
                match &*block.info {
                    // What is not there is shown as nothing, and no error.
                    "sh" if command.starts_with("etcdctl get ") => {
                        writeln!(script, "{shown}{command} | grep .")
                    }
                    "sh" => writeln!(script, "{shown}{command}"),
                    "sh fails" => {
                        writeln!(script, "{shown}if {command}; then echo 'it did not fail'; exit 1; fi")
                    }
                    // In a terminal of its own. A server goes on until the end; what ends by
                    // itself is to end well.
                    "sh terminal" if command.starts_with("etcd ") => {
                        // Who types the next command has seen it start.
                        let ready = "etcdctl endpoint health >/dev/null 2>&1";
                        writeln!(
                            script,
                            "{shown}{command} >etcd.log 2>&1 &\nuntil {ready}; do kill -0 $!; done"
                        )
                    }
                    "sh terminal" => writeln!(script, "{shown}{command} & others=\"${{others:-}} $!\""),
                    _ => Ok(()),
                }
                .unwrap();
            }
        }
        script.push_str("for other in ${others:-}; do wait \"$other\"; done\n");
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
        let log = fs::File::create(copy.folder().join("shell.log")).unwrap();
        shell.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::piped()).process_group(0);
        let mut shell = shell.spawn().unwrap();
        let lifeline = shell.stdin.take();
        let status = end_of(&mut shell, Instant::now() + LIMIT);
        drop(lifeline);
        // The guide's etcd goes on until here.
        let group = Pid::from_raw(i32::try_from(shell.id()).unwrap()).unwrap();
        let _ = kill_process_group(group, Signal::KILL);
        let said = fs::read_to_string(copy.folder().join("shell.log")).unwrap();
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

impl Block {
    fn language(&self) -> &str {
        self.info.split(' ').next().unwrap_or_default()
    }
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
