//! Cargo's own flags for what is built.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::interrupts::Interrupts;
use super::style::{WARNING, painted};
use super::{Exit, Failure};
use crate::model::Build;
use crate::testcases::{BuildError, Built, CargoCommand, ListError, TestList, build, discover};

/// Cargo's flags, with cargo's names and meaning.
#[derive(Clone, Debug, Default, Args)]
pub struct CargoOptions {
    #[command(flatten)]
    selection: CargoSelection,
    #[command(flatten)]
    local: CargoLocal,
}

/// What is built: the same on every machine.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What is built (as in cargo test)")]
struct CargoSelection {
    #[command(flatten)]
    packages: clap_cargo::Workspace,
    #[command(flatten)]
    targets: TargetOptions,
    #[command(flatten)]
    features: clap_cargo::Features,
    /// Build in release mode
    #[arg(short, long)]
    release: bool,
    /// Cargo profile to build with
    #[arg(long, value_name = "NAME", conflicts_with = "release")]
    cargo_profile: Option<String>,
    /// Target triple to build for
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
}

/// How this machine builds it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "How it is built (as in cargo test)")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of cargo's")]
pub(super) struct CargoLocal {
    /// Folder of all build artifacts
    #[arg(long, value_name = "FOLDER")]
    target_dir: Option<PathBuf>,
    /// Number of compilers at once
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    build_jobs: Option<String>,
    /// Ignore `rust-version` of packages
    #[arg(long)]
    ignore_rust_version: bool,
    /// Path to Cargo.toml
    #[arg(long, value_name = "FILE")]
    manifest_path: Option<String>,
    /// Do not access the network
    #[arg(long)]
    offline: bool,
    /// Require that Cargo.lock is up to date
    #[arg(long)]
    locked: bool,
    /// As --locked and --offline
    #[arg(long)]
    frozen: bool,
    /// Override a value of cargo's configuration
    #[arg(long, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Unstable flag of a nightly cargo
    #[arg(short = 'Z', value_name = "FLAG")]
    unstable: Vec<String>,
}

#[derive(Clone, Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of cargo's")]
struct TargetOptions {
    /// Test all targets, benchmarks and examples too
    #[arg(long)]
    all_targets: bool,
    /// Test the library's unit tests
    #[arg(long)]
    lib: bool,
    /// Test all programs
    #[arg(long)]
    bins: bool,
    /// Test this program
    #[arg(long, value_name = "NAME")]
    bin: Vec<String>,
    /// Test all examples
    #[arg(long)]
    examples: bool,
    /// Test this example
    #[arg(long, value_name = "NAME")]
    example: Vec<String>,
    /// Test all targets that have `test = true`
    #[arg(long)]
    tests: bool,
    /// Test this integration test
    #[arg(long, value_name = "NAME")]
    test: Vec<String>,
    /// Test all targets that have `bench = true`
    #[arg(long)]
    benches: bool,
    /// Test this benchmark
    #[arg(long, value_name = "NAME")]
    bench: Vec<String>,
}

/// What `step` comes to, or a failure where a signal comes first: what it started runs in
/// groups of their own, which end with it, not by a signal to us.
pub(super) async fn unless_interrupted<T>(
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Ok(mut interrupts) = Interrupts::listen() else { return step.await };
    tokio::select! {
        done = step => done,
        () = interrupts.next() => {
            Err(Failure::interrupted(miette::miette!("interrupted before the tests were listed")))
        }
    }
}

impl CargoOptions {
    /// Builds what is selected and lists its tests, warnings to stderr; each binary may take `timeout` for that.
    ///
    /// # Errors
    /// The build or the listing failed, or was interrupted.
    pub async fn list_tests(&self, timeout: Duration) -> Result<TestList, Failure> {
        Self::list_built(self.build().await?, timeout).await
    }

    /// Builds the selected test binaries.
    ///
    /// # Errors
    /// The build failed, or was interrupted.
    pub async fn build(&self) -> Result<Built, Failure> {
        let command = self.command();
        unless_interrupted(async { Ok(build(&command).await?) }).await
    }

    /// Lists the tests of what was built, and prints what is to be warned of.
    ///
    /// # Errors
    /// The listing failed, or was interrupted.
    pub async fn list_built(built: Built, timeout: Duration) -> Result<TestList, Failure> {
        let list = unless_interrupted(async { Ok(discover(built, timeout).await?) }).await?;
        for warning in &list.warnings {
            anstream::eprintln!("{} {warning}", painted(WARNING, "warning:"));
        }
        Ok(list)
    }

    /// The manifest that was named, if one was.
    pub fn manifest_path(&self) -> Option<&Path> {
        self.local.manifest_path()
    }

    /// What is built, for whoever builds the same elsewhere: the flags, and the folder from
    /// the workspace's `root` in which cargo is asked.
    pub fn portable(&self, root: &Path) -> Build {
        let manifest = self.manifest_path().map(|manifest| manifest.parent().unwrap_or(Path::new("")));
        let asked = std::env::current_dir().unwrap_or_default().join(manifest.unwrap_or(Path::new("")));
        let (asked, root) = (asked.canonicalize().unwrap_or(asked), root.canonicalize().unwrap_or_default());
        let folder = asked.strip_prefix(&root).unwrap_or(Path::new(""));
        let mut flags = Arguments(self.selection.flags("--cargo-profile"));
        flags.value("--target", self.selection.target.as_ref());
        Build { folder: folder.to_string_lossy().into_owned(), flags: flags.0 }
    }

    /// The flags with which another machine builds what was built for a run, below the
    /// workspace's `root`.
    ///
    /// # Errors
    /// The run was built with flags that this version does not know.
    pub(super) fn elsewhere(build: &Build, root: &Path, local: CargoLocal) -> Result<Self, Failure> {
        #[derive(clap::Parser)]
        #[command(no_binary_name = true)]
        struct Flags {
            #[command(flatten)]
            selection: CargoSelection,
        }

        let flags = <Flags as clap::Parser>::try_parse_from(&build.flags).map_err(|_| {
            Failure::usage(miette::miette!(
                help = "use the same version of cargo-etcdtest everywhere",
                "the run was built with flags that this version does not know: {}",
                build.flags.join(" ")
            ))
        })?;
        let manifest = root.join(&build.folder).join("Cargo.toml").to_string_lossy().into_owned();
        Ok(Self { selection: flags.selection, local: CargoLocal { manifest_path: Some(manifest), ..local } })
    }

    fn command(&self) -> CargoCommand {
        let local = &self.local;
        CargoCommand {
            directory: None,
            common: local.common(),
            selection: [self.selection.flags("--profile"), local.jobs()].concat(),
            config: local.config.clone(),
            target: self.selection.target.clone(),
            target_directory: local.target_dir.clone(),
        }
    }
}

impl CargoSelection {
    /// The flags, but for the target triple, which cargo is told elsewhere; that of the
    /// profile has this name, which alone is another with us than with cargo.
    fn flags(&self, profile: &str) -> Vec<String> {
        let mut arguments = Arguments::default();
        arguments.value("--package", &self.packages.package);
        arguments.flag("--workspace", self.packages.workspace || self.packages.all);
        arguments.value("--exclude", &self.packages.exclude);
        let targets = &self.targets;
        arguments.flag("--all-targets", targets.all_targets);
        arguments.flag("--lib", targets.lib);
        arguments.flag("--bins", targets.bins);
        arguments.value("--bin", &targets.bin);
        arguments.flag("--examples", targets.examples);
        arguments.value("--example", &targets.example);
        arguments.flag("--tests", targets.tests);
        arguments.value("--test", &targets.test);
        arguments.flag("--benches", targets.benches);
        arguments.value("--bench", &targets.bench);
        arguments.value("--features", &self.features.features);
        arguments.flag("--all-features", self.features.all_features);
        arguments.flag("--no-default-features", self.features.no_default_features);
        arguments.flag("--release", self.release);
        arguments.value(profile, self.cargo_profile.as_ref());
        arguments.0
    }
}

impl CargoLocal {
    /// The manifest that was named, if one was.
    pub(super) fn manifest_path(&self) -> Option<&Path> {
        self.manifest_path.as_deref().map(Path::new)
    }

    fn common(&self) -> Vec<String> {
        let mut arguments = Arguments::default();
        arguments.value("--manifest-path", self.manifest_path.as_ref());
        arguments.flag("--offline", self.offline);
        arguments.flag("--locked", self.locked);
        arguments.flag("--frozen", self.frozen);
        arguments.value("-Z", &self.unstable);
        arguments.0
    }

    fn jobs(&self) -> Vec<String> {
        let mut arguments = Arguments::default();
        arguments.value("--jobs", self.build_jobs.as_ref());
        arguments.flag("--ignore-rust-version", self.ignore_rust_version);
        arguments.0
    }
}

/// Arguments for cargo, in the making.
#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str, given: bool) {
        if given {
            self.0.push(name.to_owned());
        }
    }

    fn value<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a String>) {
        for value in values {
            self.0.extend([name.to_owned(), value.clone()]);
        }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::new(Exit::BuildFailed, error)
    }
}

impl From<ListError> for Failure {
    fn from(error: ListError) -> Self {
        Self::new(Exit::BuildFailed, error)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        cargo: CargoOptions,
    }

    #[test]
    fn cargos_flags_reach_cargo() {
        let line = "x -p a --package b --exclude c --lib --test t --test u -F f,g --all-features -r \
                    --target x86 --build-jobs 2 --offline --config a.b=1 --manifest-path x/Cargo.toml -Z unstable";
        let command = Line::try_parse_from(line.split_whitespace()).unwrap().cargo.command();
        assert_eq!(
            command.selection.join(" "),
            "--package a --package b --exclude c --lib --test t --test u --features f,g --all-features \
             --release --jobs 2"
        );
        assert_eq!(command.common.join(" "), "--manifest-path x/Cargo.toml --offline -Z unstable");
        assert_eq!((command.config, command.target), (vec!["a.b=1".into()], Some("x86".into())));
    }
    #[test]
    fn what_was_built_is_built_elsewhere_with_the_flags_of_that_machine() {
        let line = "x -p a --test t -F f --cargo-profile ci --target x86 --build-jobs 2 --target-dir /mine";
        let portable = Line::try_parse_from(line.split_whitespace()).unwrap().cargo.portable(Path::new("/"));
        assert_eq!(
            portable.flags.join(" "),
            "--package a --test t --features f --cargo-profile ci --target x86"
        );
        let local = CargoLocal { offline: true, ..CargoLocal::default() };
        let there = Build { folder: "crates/a".into(), ..portable };
        let command = CargoOptions::elsewhere(&there, Path::new("/w"), local).unwrap().command();
        assert_eq!(command.selection.join(" "), "--package a --test t --features f --profile ci");
        assert_eq!(command.common.join(" "), "--manifest-path /w/crates/a/Cargo.toml --offline");
        assert_eq!((command.target.as_deref(), command.target_directory), (Some("x86"), None));
        for flags in [&["--config", "build.rustc='/bin/sh'"][..], &["--target-dir", "/etc"], &["run"]] {
            let build = Build { flags: flags.iter().map(|&flag| flag.to_owned()).collect(), ..there.clone() };
            assert!(CargoOptions::elsewhere(&build, Path::new("/w"), CargoLocal::default()).is_err());
        }
    }
}
