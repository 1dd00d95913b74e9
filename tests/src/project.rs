//! Cargo projects made for a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::running::Running;
use crate::{program, root};

/// A cargo project of its own, under the `target` folder of this checkout. It is made anew
/// for each test, always in the same place, so that cargo finds what it built before.
#[derive(Debug)]
pub struct Project {
    folder: PathBuf,
}

impl Project {
    /// An empty project. The name is that of the test, so that no two tests share one.
    ///
    /// # Panics
    /// The disk does not let it.
    pub fn new(name: &str) -> Self {
        let folder = projects().join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the project of an earlier test run can be removed");
        }
        fs::create_dir_all(&folder).expect("a folder can be made");
        Self { folder }
    }

    /// A project with one package, called as the project; `manifest` is what follows the
    /// `[package]` table.
    ///
    /// # Panics
    /// The disk does not let it.
    pub fn package(name: &str, manifest: &str) -> Self {
        let header =
            format!("[workspace]\n[package]\nname = {name:?}\nversion = \"0.1.0\"\nedition = \"2024\"\n");
        Self::new(name).file("Cargo.toml", &(header + manifest))
    }

    /// Writes a file.
    ///
    /// # Panics
    /// The disk does not let it.
    #[must_use]
    pub fn file(self, path: &str, content: &str) -> Self {
        let path = self.folder.join(path);
        let folder = path.parent().expect("a file is in a folder");
        fs::create_dir_all(folder).expect("a folder can be made");
        fs::write(path, content).expect("a file can be written");
        self
    }

    /// Takes this checkout's lock file over, for projects that link the harness.
    ///
    /// # Panics
    /// The disk does not let it.
    #[must_use]
    pub fn with_lock(self) -> Self {
        fs::copy(root().join("Cargo.lock"), self.folder.join("Cargo.lock")).expect("a file can be copied");
        self
    }

    /// Its root folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder in which all projects are built.
    pub fn target() -> PathBuf {
        projects().join("target")
    }

    /// Runs `cargo etcdtest` in it, without the variables of the surrounding `cargo test`.
    ///
    /// # Panics
    /// The program cannot be built or started, or does not end in good time.
    #[track_caller]
    pub fn etcdtest(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        Running::start(self.prepare(&mut command).args(arguments)).output()
    }

    /// Sets up a process as one that somebody starts in the project.
    pub fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        Self::prepare_in(&self.folder, command)
    }

    /// The same for any folder.
    pub fn prepare_in<'a>(folder: &Path, command: &'a mut Command) -> &'a mut Command {
        Self::without_variables(command)
            .current_dir(folder)
            .env("CARGO_TARGET_DIR", Self::target())
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_TERM_COLOR", "never")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
    }

    /// Takes away what `cargo test` says of the package that it tests.
    pub(crate) fn without_variables(command: &mut Command) -> &mut Command {
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "OUT_DIR" {
                command.env_remove(&*name);
            }
        }
        command
    }
}

fn projects() -> PathBuf {
    root().join("target/projects")
}
