//! Cargo projects that use the harness, built once for all tests of this binary.
//!
//! They stand in cargo's folder for the files of tests and are built into the workspace's
//! own target folder, where their dependencies are compiled already.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::SystemTime;

use etcdtest::protocol::{ENVIRONMENT_VARIABLE, LIST_VARIABLE};
use serde_json::Value;

const PROFILE: &str =
    "\n[profile.dev]\ndebug = \"line-tables-only\"\n\n[profile.dev.package.\"*\"]\ndebug = false\n";

/// The project with the default features and a test target of every kind.
pub(crate) static PROJECT: LazyLock<Project> = LazyLock::new(|| {
    let harness = env!("CARGO_MANIFEST_DIR");
    let manifest = format!(
        r#"[package]
name = "whole"
version = "0.0.0"
edition = "2024"

[dev-dependencies]
etcdtest = {{ path = {harness:?} }}
anyhow = "1"
serde = {{ version = "1", features = ["derive"] }}
tokio = {{ version = "1", features = ["time"] }}

[[test]]
name = "own"
harness = false

[[test]]
name = "forgotten"

[[test]]
name = "front_page"
harness = false

[[test]]
name = "twice"
harness = false

[workspace]
"#
    );
    let front_page = front_page();
    let files = [
        ("src/lib.rs", include_str!("fixture/lib.rs")),
        ("tests/front_page.rs", &front_page),
        ("tests/own.rs", include_str!("fixture/own.rs")),
        ("tests/forgotten.rs", include_str!("fixture/own.rs")),
        ("tests/twice.rs", include_str!("fixture/twice.rs")),
    ];
    Project::build("whole", &manifest, &files)
});

/// The example on the front page of the crate's documentation, with its hidden lines. As a
/// documentation test it compiles without its tests: that is no test build.
fn front_page() -> String {
    let lines = include_str!("../../src/lib.rs").lines().map(|line| line.trim_start_matches("//!"));
    let block = lines.skip_while(|line| *line != " ```").skip(1).take_while(|line| *line != " ```");
    let shown = |line: &'static str| line.strip_prefix(' ').unwrap_or(line);
    block.map(|line| shown(line).strip_prefix("# ").unwrap_or(shown(line)).to_owned() + "\n").collect()
}

/// The project without them.
pub(crate) static BARE: LazyLock<Project> = LazyLock::new(|| {
    let harness = env!("CARGO_MANIFEST_DIR");
    let manifest = format!(
        r#"[package]
name = "bare"
version = "0.0.0"
edition = "2024"

[lib]
test = false

[dev-dependencies]
etcdtest = {{ path = {harness:?}, default-features = false }}

[[test]]
name = "bare"
harness = false

[workspace]
"#
    );
    let files = [("src/lib.rs", ""), ("tests/bare.rs", include_str!("fixture/bare.rs"))];
    Project::build("bare", &manifest, &files)
});

/// Test binaries to fork from, and such that nothing can be forked from or listed of.
#[cfg(target_os = "linux")]
pub(crate) static FORKED: LazyLock<Project> = LazyLock::new(|| {
    let sources = [
        ("zygote", include_str!("fixture/zygote.rs")),
        ("threads", include_str!("fixture/threads.rs")),
        ("left_threads", include_str!("fixture/left_threads.rs")),
        ("large", include_str!("fixture/large.rs")),
        ("two_providers", include_str!("fixture/two_providers.rs")),
        ("no_provider", include_str!("fixture/no_provider.rs")),
    ];
    let harness = env!("CARGO_MANIFEST_DIR");
    let mut manifest = format!(
        r#"[package]
name = "forked"
version = "0.0.0"
edition = "2024"

[dev-dependencies]
etcdtest = {{ path = {harness:?}, default-features = false }}

[workspace]
"#
    );
    let mut files = vec![
        ("src/lib.rs".to_owned(), ""),
        ("tests/forgotten.rs".to_owned(), include_str!("fixture/zygote.rs")),
    ];
    for (name, source) in sources {
        manifest = format!("{manifest}\n[[test]]\nname = \"{name}\"\nharness = false\n");
        files.push((format!("tests/{name}.rs"), source));
    }
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    Project::build("forked", &manifest, &files)
});

/// A built project.
pub(crate) struct Project {
    /// Its folder.
    pub(crate) folder: PathBuf,
    executables: BTreeMap<String, PathBuf>,
}

impl Project {
    fn build(name: &str, manifest: &str, files: &[(&str, &str)]) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        write(&folder.join("Cargo.toml"), &format!("{manifest}{PROFILE}"));
        for (path, text) in files {
            write(&folder.join(path), text);
        }
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
        if changed(&lock) > changed(&folder.join("Cargo.lock")) {
            write(&folder.join("Cargo.lock"), &fs::read_to_string(lock).unwrap());
        }
        let mut project = Self { folder, executables: BTreeMap::new() };
        let output = project.cargo().args(["test", "--no-run", "--message-format", "json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for line in output.stdout.split(|&byte| byte == b'\n') {
            let Ok(message) = serde_json::from_slice::<Value>(line) else { continue };
            if let (Some(target), Some(executable)) =
                (message["target"]["name"].as_str(), message["executable"].as_str())
            {
                project.executables.insert(target.to_owned(), executable.into());
            }
        }
        project
    }

    /// Cargo in the project's folder.
    pub(crate) fn cargo(&self) -> Command {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let mut cargo = clean(env!("CARGO"));
        cargo.current_dir(&self.folder).env("CARGO_TARGET_DIR", target).env("CARGO_NET_OFFLINE", "true");
        cargo
    }

    /// A test binary of the project, started as cargo starts it.
    pub(crate) fn test(&self, target: &str) -> Command {
        self.command(&self.executables[target])
    }

    /// A program that is started in the same way.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = clean(program);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command
    }
}

/// A command that inherits nothing of the runner this test itself runs under.
fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("RUST_BACKTRACE", "0").env_remove("RUST_TEST_THREADS");
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("NEXTEST") || name == ENVIRONMENT_VARIABLE || name == LIST_VARIABLE {
            command.env_remove(&*name);
        }
    }
    command
}

/// What the command printed and how it exited.
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn finish(command: &mut Command) -> Finished {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Finished {
        code: status.code(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// Writes only what changed, so that cargo rebuilds only that, and in one step, as other
/// processes of this test may do the same.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).ok().as_deref() != Some(text) {
        let folder = path.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        let mut file = tempfile::NamedTempFile::new_in(folder).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.persist(path).unwrap();
    }
}
