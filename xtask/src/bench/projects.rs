//! The tests that are run: a workspace of generated packages.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::suites::{NO_OPS, Suite};
use crate::cargo::Cargo;
use crate::tool;

/// The generated workspace, built.
pub(super) struct Projects {
    folder: PathBuf,
    cargo: Cargo,
}

/// A test binary.
#[derive(Debug)]
pub(super) struct Binary {
    /// Its file.
    pub(super) path: PathBuf,
    /// Its tests.
    pub(super) tests: Vec<String>,
}

impl Projects {
    /// Writes the packages of these suites into `folder`, and builds them and `cargo etcdtest`.
    pub(super) fn build(folder: PathBuf, suites: &[Suite]) -> Result<Self> {
        let mut members = Vec::new();
        for suite in suites {
            for (kind, attribute) in [("annotated", "etcdtest::test"), ("plain", "test")] {
                let member = format!("{}-{kind}", suite.name());
                let mut tests = suite.source(attribute);
                if kind == "annotated" {
                    tests.push_str("etcdtest::main!();\n");
                }
                let package = folder.join(&member);
                write(&package.join("tests/tests.rs"), &tests)?;
                write(&package.join("src/lib.rs"), "")?;
                write(&package.join("Cargo.toml"), &manifest(&member, kind == "annotated"))?;
                members.push(member);
            }
        }
        write(
            &folder.join("Cargo.toml"),
            &format!("[workspace]\nresolver = \"3\"\nmembers = {members:?}\n"),
        )?;
        // The checkout's versions: nothing has to be fetched.
        write(&folder.join("Cargo.lock"), &fs::read_to_string(tool::root().join("Cargo.lock"))?)?;
        // What earlier benches stored would slow the first of ours only.
        let _ = fs::remove_dir_all(folder.join(".etcdtest"));

        let mut cargo = Cargo::new()?;
        let programs = ["--bin", "cargo-etcdtest", "--example", "results_per_second"];
        cargo.run(["build", "--release", "--package", "cargo-etcdtest"].into_iter().chain(programs))?;
        let built = tool::folder()?.with_file_name("release");
        let path = env::var_os("PATH").unwrap_or_default();
        cargo.env("PATH", env::join_paths(std::iter::once(built).chain(env::split_paths(&path)))?);
        cargo.env("CARGO_TARGET_DIR", folder.join("target"));
        let projects = Self { folder, cargo };
        println!("building the generated tests");
        projects.run(["test", "--workspace", "--no-run", "--quiet"])?;
        Ok(projects)
    }

    /// The folder of the workspace.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// `cargo etcdtest` in the workspace, started without cargo before it.
    pub(super) fn runner<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Command> {
        let cargo = self.command(arguments);
        let mut runner = Command::new(tool::folder()?.with_file_name("release").join("cargo-etcdtest"));
        runner.args(cargo.get_args()).current_dir(&self.folder);
        for (name, value) in cargo.get_envs() {
            match value {
                Some(value) => runner.env(name, value),
                None => runner.env_remove(name),
            };
        }
        Ok(runner)
    }

    /// Cargo in the workspace.
    pub(super) fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.cargo.command(arguments);
        command.current_dir(&self.folder);
        let of_runners = |name: &OsString| {
            name.to_str().is_some_and(|name| name.starts_with("ETCDTEST_") || name.starts_with("NEXTEST_"))
        };
        for (name, _) in env::vars_os().filter(|(name, _)| of_runners(name)) {
            command.env_remove(name);
        }
        command
    }

    /// Runs cargo in the workspace; what it says goes to a file, and is told if it fails.
    pub(super) fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
        self.output(arguments).map(drop)
    }

    /// The same, and returns what cargo wrote to standard output.
    pub(super) fn output<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let mut command = self.command(arguments);
        let (out, err) = (self.folder.join("stdout"), self.folder.join("stderr"));
        let status = command.stdout(File::create(&out)?).stderr(File::create(&err)?).status();
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        let line = format!("cargo {}", arguments.join(" "));
        let status = status.with_context(|| format!("failed to start `{line}`"))?;
        if !status.success() {
            let said = String::from_utf8_lossy(&fs::read(&err)?).into_owned();
            let tail = said.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev();
            bail!("`{line}` ended with {status}:\n{}", tail.collect::<Vec<_>>().join("\n"));
        }
        Ok(String::from_utf8_lossy(&fs::read(&out)?).into_owned())
    }

    /// The binary of the plain tests that do nothing.
    pub(super) fn plain_binary(&self) -> Result<Binary> {
        let messages =
            self.output(["test", "--package", "no-op-plain", "--no-run", "--message-format", "json"])?;
        let path = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["target"]["name"] == "tests")
            .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
            .context("cargo told of no test binary")?;
        Ok(Binary { path, tests: (0..NO_OPS).map(|number| format!("t{number:04}")).collect() })
    }

    /// Nextest's version, if it is installed.
    pub(super) fn nextest(&self) -> Option<String> {
        let said = self.output(["nextest", "--version"]).ok()?;
        said.lines().next().map(ToOwned::to_owned)
    }
}

fn manifest(name: &str, annotated: bool) -> String {
    let harness = if annotated {
        let path = tool::root().join("harness").display().to_string();
        format!("harness = false\n\n[dev-dependencies]\netcdtest = {{ path = {path:?} }}\n")
    } else {
        String::new()
    };
    format!(
        "[package]\nname = \"{name}\"\nedition = \"2024\"\n\n[lib]\ntest = false\ndoctest = false\n\n\
         [[test]]\nname = \"tests\"\n{harness}"
    )
}

/// Writes a file, unless it has this content: what is unchanged is not built again.
fn write(path: &Path, content: &str) -> Result<()> {
    if fs::read(path).is_ok_and(|bytes| bytes == content.as_bytes()) {
        return Ok(());
    }
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, content).with_context(|| format!("failed to write {}", path.display()))
}
