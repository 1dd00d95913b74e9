//! The project whose tests the runner's tests run: copies of one that is built once.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::processes::process;
pub use crate::running::{Ran, Running};
use crate::{Project, program, root};

/// A project that is copied: the name of its package, and its files.
type Original = (&'static str, &'static [(&'static str, &'static str)]);

/// Tests that end in every way there is.
const SUBJECT: Original = (
    "subject",
    &[
        ("src/lib.rs", ""),
        ("tests/annotated.rs", include_str!("../fixtures/subject/annotated.rs")),
        ("tests/plain.rs", include_str!("../fixtures/subject/plain.rs")),
    ],
);

/// Tests that do everything a test should not do.
const HOSTILE: Original = (
    "hostile",
    &[
        ("src/lib.rs", ""),
        (".config/etcdtest.toml", include_str!("../fixtures/hostile/etcdtest.toml")),
        (".config/nextest.toml", include_str!("../fixtures/hostile/nextest.toml")),
        ("tests/deeds/mod.rs", include_str!("../fixtures/hostile/deeds.rs")),
        ("tests/annotated.rs", include_str!("../fixtures/hostile/annotated.rs")),
        ("tests/plain.rs", include_str!("../fixtures/hostile/plain.rs")),
    ],
);

/// Tests that take a while, for many workers.
const SWARM: Original =
    ("swarm", &[("src/lib.rs", ""), ("tests/annotated.rs", include_str!("../fixtures/swarm/annotated.rs"))]);

/// What a project with services has besides.
const SERVICES: [(&str, &str); 3] = [
    ("src/bin/server.rs", include_str!("../fixtures/subject/server.rs")),
    ("tests/services.rs", include_str!("../fixtures/subject/services.rs")),
    ("tests/plain_services.rs", include_str!("../fixtures/subject/plain_services.rs")),
];

/// A project of its own for one test, with its own store, and a folder in which its tests
/// meet the one that runs them. All copies look alike to cargo, so only the first is built.
#[derive(Debug)]
pub struct Subject {
    folder: TempDir,
    meeting: TempDir,
}

impl Subject {
    /// A project without a store, and without environments, of tests that end in every way.
    pub fn new() -> Self {
        Self::copy(SUBJECT.0, SUBJECT.1, "annotated")
    }

    /// The same with a program `server`, and tests that use it as a service, in place of the
    /// others.
    pub fn with_services() -> Self {
        Self::copy(SUBJECT.0, &[&SUBJECT.1[..1], &SERVICES].concat(), "services")
    }

    /// The same of tests that do everything a test should not do.
    pub fn hostile() -> Self {
        Self::copy(HOSTILE.0, HOSTILE.1, "annotated")
    }

    /// The same of sixty tests that take a while and write down that they were executed.
    pub fn swarm() -> Self {
        Self::copy(SWARM.0, SWARM.1, "annotated")
    }

    fn copy(name: &str, files: &[(&str, &str)], annotated: &str) -> Self {
        let projects = Project::target();
        let projects = projects.parent().expect("projects are in a folder");
        fs::create_dir_all(projects).expect("a folder can be made");
        let prefix = format!("{name}-");
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(projects).expect("make a folder");
        let subject = Self { folder, meeting: tempfile::tempdir().expect("make a folder") };
        let mut content = DefaultHasher::new();
        files.hash(&mut content);
        let manifest = format!(
            "[workspace]\n[package]\nname = \"{name}\"\nversion = \"0.1.{}\"\nedition = \"2024\"\n\
             [dev-dependencies]\nlibc = \"0.2\"\nserde = {{ version = \"1\", features = [\"derive\"] }}\n\
             etcdtest = {{ path = \"{}\", default-features = false }}\n\
             [[test]]\nname = {annotated:?}\nharness = false\n",
            content.finish() >> 32,
            root().join("harness").display(),
        );
        subject.write("Cargo.toml", &manifest);
        for (path, content) in files {
            subject.write(path, content);
        }
        // Older than whatever was built: the version in the manifest tells the contents apart.
        for path in files.iter().map(|(path, _)| *path).chain(["Cargo.toml"]) {
            let file = File::options().write(true).open(subject.path().join(path)).expect("open a file");
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).expect("set its time");
        }
        fs::copy(root().join("Cargo.lock"), subject.path().join("Cargo.lock")).expect("copy a file");
        subject
    }

    /// Its root folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file in the folder in which its tests meet the one that runs them.
    pub fn meeting(&self, name: &str) -> PathBuf {
        self.meeting.path().join(name)
    }

    /// The process whose id a test or service wrote into a file there, once it has.
    #[track_caller]
    pub fn process(&self, name: &str) -> Pid {
        process(&self.meeting(name))
    }

    /// Writes a file of the project.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder can be made");
        fs::write(path, content).expect("a file can be written");
    }

    /// Changes a file that is compiled. The package gets another version with it, so that no
    /// other copy is built of it.
    pub fn change(&self, path: &str, content: &str) {
        let manifest = fs::read_to_string(self.path().join("Cargo.toml")).expect("a file can be read");
        self.write("Cargo.toml", &manifest.replacen("version = \"0.1.", "version = \"0.2.", 1));
        self.write(path, content);
    }

    /// An environment of the store, of this configuration.
    pub fn environment(&self, name: &str, config: &str, store: &[&str]) {
        self.apply(name, &format!("[config]\n{config}\n"), store);
    }

    /// An environment of the store, of this file.
    #[track_caller]
    pub fn apply(&self, name: &str, content: &str, store: &[&str]) {
        let file = format!("environments/{name}.toml");
        self.write(&file, content);
        let applied = self.etcdtest(&[&["env", "apply", &file], store].concat());
        assert_eq!(applied.code, Some(0), "{applied:?}");
    }

    /// The program with arguments, to be started in the project.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        Project::prepare_in(self.path(), &mut command);
        command.arg("etcdtest").args(arguments).env("SUBJECT_FOLDER", self.meeting.path());
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn etcdtest(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// Runs tests to their end, and reads the events.
    #[track_caller]
    pub fn events(&self, arguments: &[&str]) -> (Ran, Vec<Value>) {
        let ran = self.etcdtest(&[&["run", "--format", "json"], arguments].concat());
        let events = ran.events();
        (ran, events)
    }

    /// Starts the program.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }
}

impl Default for Subject {
    fn default() -> Self {
        Self::new()
    }
}
