//! Building test binaries with cargo.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use cargo_metadata::{Artifact, Message, Metadata, Package, PackageId};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::binary::{Binary, BinaryKind};
use super::cargo_config;
use crate::config::CREDENTIALS;

/// How cargo is to be called.
#[derive(Clone, Debug, Default)]
pub struct CargoCommand {
    /// Where it runs; `None` for the current directory.
    pub directory: Option<PathBuf>,
    /// What both `cargo metadata` and `cargo test` are told: manifest, network, `-Z`.
    pub common: Vec<String>,
    /// What only `cargo test` is told: packages, targets, features, profile.
    pub selection: Vec<String>,
    /// The `--config` arguments, told to both.
    pub config: Vec<String>,
    /// The target triple, told to `cargo test`.
    pub target: Option<String>,
    /// Where both put artifacts; `None` for where cargo does.
    pub target_directory: Option<PathBuf>,
}

/// What cargo built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The workspace's root folder, absolute.
    pub workspace_root: Utf8PathBuf,
    /// The folder of build artifacts, absolute.
    pub target_directory: Utf8PathBuf,
    /// The test binaries, by package and name.
    pub binaries: Vec<Binary>,
    /// For each package with a binary, the names of all test binaries its manifest has,
    /// built this time or not.
    pub targets: BTreeMap<String, BTreeSet<String>>,
    /// The folders of the programs that were built with them.
    pub program_folders: BTreeSet<PathBuf>,
}

/// Why nothing was built.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum BuildError {
    /// Cargo could not be started.
    #[error("failed to start `{program}`: {source}")]
    #[diagnostic(help("is cargo installed and on PATH? The variable CARGO may name another one"))]
    Start {
        /// What was to be started.
        program: String,
        /// Why it could not.
        source: io::Error,
    },
    /// Cargo has said by itself, on stderr, what is wrong.
    #[error("`cargo {verb}` failed ({status}); what is wrong stands above")]
    Cargo {
        /// `test` or `metadata`.
        verb: &'static str,
        /// How it ended.
        status: ExitStatus,
    },
    /// Cargo's messages could not be read.
    #[error("the messages of `cargo {verb}` cannot be read: {reason}")]
    #[diagnostic(help("if cargo is newer than this cargo-etcdtest, update cargo-etcdtest"))]
    Messages {
        /// `test` or `metadata`.
        verb: &'static str,
        /// What was wrong with them.
        reason: String,
    },
}

/// Builds the selected test binaries. Cargo's own messages go to stderr as they come.
///
/// # Errors
/// Cargo cannot be started or fails, or what it says cannot be understood.
pub async fn build(cargo: &CargoCommand) -> Result<Built, BuildError> {
    let (artifacts, metadata, rust_libraries) =
        tokio::join!(artifacts(cargo), metadata(cargo), rust_libraries(cargo));
    // What is wrong with the manifest both say; once is enough.
    let (artifacts, metadata) = (artifacts?, metadata.map_err(Unsaid::say)?);
    let directory = cargo.directory.clone().or_else(|| std::env::current_dir().ok()).unwrap_or_default();
    let variables = cargo_config::variables(&directory, &cargo.config);
    Assembly { metadata: &metadata, artifacts: &artifacts, variables, rust_libraries }.assemble()
}

/// Where cargo puts the programs of the current folder's workspace, if nothing else is asked
/// for; `None` where there is no workspace.
pub async fn usual_program_folder() -> Option<PathBuf> {
    let metadata = metadata(&CargoCommand::default()).await.map_err(Unsaid::say).ok()?;
    Some(metadata.target_directory.join("debug").into())
}

/// What `cargo test --no-run` reported, as far as it matters here.
#[derive(Default)]
struct Artifacts {
    tests: Vec<Artifact>,
    programs: Vec<Artifact>,
    scripts: Vec<cargo_metadata::BuildScript>,
}

fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

impl CargoCommand {
    fn command(&self, verb: &'static str) -> Command {
        let mut command = Command::new(program());
        // Build scripts would see them.
        for credential in CREDENTIALS {
            command.env_remove(credential);
        }
        command.arg(verb).args(&self.common).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command.args(self.config.iter().flat_map(|config| ["--config", config]));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        // `cargo metadata` knows no `--target-dir`, but this variable, which means the same.
        command.envs(self.target_directory.as_ref().map(|directory| ("CARGO_TARGET_DIR", directory)));
        command
    }
}

fn start_error(source: io::Error) -> BuildError {
    BuildError::Start { program: program().to_string_lossy().into_owned(), source }
}

/// A failure of cargo, and what it said on standard error, which nobody has seen yet.
struct Unsaid {
    error: BuildError,
    words: Vec<u8>,
}

impl Unsaid {
    fn say(self) -> BuildError {
        // Without a standard error, the error itself is all there is.
        let _ = io::stderr().write_all(&self.words);
        self.error
    }
}

impl From<BuildError> for Unsaid {
    fn from(error: BuildError) -> Self {
        Self { error, words: Vec::new() }
    }
}

async fn metadata(cargo: &CargoCommand) -> Result<Metadata, Unsaid> {
    let verb = "metadata";
    let mut command = cargo.command(verb);
    command.args(["--no-deps", "--format-version", "1"]).stderr(Stdio::piped());
    let child = command.spawn().map_err(start_error)?;
    let output = child.wait_with_output().await.map_err(start_error)?;
    if !output.status.success() {
        return Err(Unsaid {
            error: BuildError::Cargo { verb, status: output.status },
            words: output.stderr,
        });
    }
    let parsed = serde_json::from_slice(&output.stdout);
    parsed.map_err(|error| BuildError::Messages { verb, reason: error.to_string() }.into())
}

async fn artifacts(cargo: &CargoCommand) -> Result<Artifacts, BuildError> {
    let verb = "test";
    let unreadable = |reason: String| BuildError::Messages { verb, reason };
    let mut command = cargo.command(verb);
    command.args(["--no-run", "--message-format", "json-render-diagnostics"]).args(&cargo.selection);
    if let Some(target) = &cargo.target {
        command.args(["--target", target]);
    }
    let mut child = command.spawn().map_err(start_error)?;
    let stdout = child.stdout.take().ok_or_else(|| unreadable("it has no output".into()))?;
    let mut lines = BufReader::new(stdout).split(b'\n');
    let mut found = Artifacts::default();
    while let Some(line) = lines.next_segment().await.map_err(|error| unreadable(error.to_string()))? {
        // What is no message was printed by a compiler's wrapper or a macro.
        match serde_json::from_slice(&line) {
            Ok(Message::CompilerArtifact(artifact)) if artifact.executable.is_some() => {
                if artifact.profile.test {
                    found.tests.push(artifact);
                } else {
                    found.programs.push(artifact);
                }
            }
            Ok(Message::BuildScriptExecuted(script)) => found.scripts.push(script),
            _ => {}
        }
    }
    let status = child.wait().await.map_err(start_error)?;
    if status.success() { Ok(found) } else { Err(BuildError::Cargo { verb, status }) }
}

/// The compiler to ask. Where rustup has started cargo, it is the one beside that: to be shown the
/// way by rustup once more takes as long as the answer. Cargo itself does the same.
fn rustc() -> OsString {
    let of_toolchain = || Some(toolchain()?.join("bin").join("rustc")).filter(|rustc| rustc.exists());
    let named = std::env::var_os("RUSTC").or_else(|| of_toolchain().map(Into::into));
    named.unwrap_or_else(|| "rustc".into())
}

/// The folder of the toolchain that rustup has chosen, if it was rustup.
fn toolchain() -> Option<PathBuf> {
    let home = std::env::var_os("RUSTUP_HOME")?;
    Some(Path::new(&home).join("toolchains").join(std::env::var_os("RUSTUP_TOOLCHAIN")?))
}

/// The libraries of a toolchain that knows only one target: rustc need not be asked for them.
fn only_libraries() -> Option<PathBuf> {
    if std::env::var_os("RUSTC").is_some() {
        return None;
    }
    let targets = std::fs::read_dir(toolchain()?.join("lib").join("rustlib")).ok()?;
    let mut libraries =
        targets.filter_map(|target| Some(target.ok()?.path().join("lib"))).filter(|path| path.is_dir());
    libraries.next().filter(|_| libraries.next().is_none())
}

/// Where rustc's own dynamic libraries for the target are; none where rustc does not say,
/// since few binaries need them.
async fn rust_libraries(cargo: &CargoCommand) -> Option<PathBuf> {
    if cargo.target.is_none()
        && let Some(only) = only_libraries()
    {
        return Some(only);
    }
    let mut command = Command::new(rustc());
    command.args(["--print", "target-libdir"]).stdin(Stdio::null());
    if let Some(target) = &cargo.target {
        command.args(["--target", target]);
    }
    if let Some(directory) = &cargo.directory {
        command.current_dir(directory);
    }
    let output = command.output().await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(PathBuf::from)
}

/// Everything that is known once the build is done.
struct Assembly<'a> {
    metadata: &'a Metadata,
    artifacts: &'a Artifacts,
    variables: BTreeMap<String, OsString>,
    rust_libraries: Option<PathBuf>,
}

impl Assembly<'_> {
    fn assemble(self) -> Result<Built, BuildError> {
        let mut binaries = Vec::new();
        let mut targets = BTreeMap::new();
        for artifact in &self.artifacts.tests {
            let (Some(path), Some(kind)) = (&artifact.executable, BinaryKind::of(&artifact.target)) else {
                continue;
            };
            let package = self.package(&artifact.package_id)?;
            targets.entry(package.name.to_string()).or_insert_with(|| target_names(package));
            let directory =
                package.manifest_path.parent().unwrap_or(&self.metadata.workspace_root).to_owned();
            binaries.push(Binary {
                package: package.name.to_string(),
                name: kind.binary_name(&artifact.target.name),
                target: artifact.target.name.clone(),
                kind,
                variables: self.variables_of(package, &directory, kind, path),
                path: path.clone(),
                directory,
            });
        }
        binaries.sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
        Ok(Built {
            workspace_root: self.metadata.workspace_root.clone(),
            target_directory: self.metadata.target_directory.clone(),
            binaries,
            targets,
            program_folders: self.program_folders(),
        })
    }

    fn program_folders(&self) -> BTreeSet<PathBuf> {
        let programs = self.artifacts.programs.iter().filter(|program| program.target.is_bin());
        let paths = programs.filter_map(|program| program.executable.as_deref());
        paths.filter_map(|path| Some(path.parent()?.into())).collect()
    }

    fn package(&self, id: &PackageId) -> Result<&Package, BuildError> {
        self.metadata.packages.iter().find(|package| package.id == *id).ok_or_else(|| BuildError::Messages {
            verb: "test",
            reason: format!("the package {id} was built, but is no member of the workspace"),
        })
    }

    fn variables_of(
        &self,
        package: &Package,
        directory: &Utf8Path,
        kind: BinaryKind,
        path: &Utf8Path,
    ) -> Vec<(String, OsString)> {
        let mut variables = self.variables.clone();
        variables.extend(package_variables(package, directory));
        for script in self.artifacts.scripts.iter().filter(|script| script.package_id == package.id) {
            variables.extend(script.env.iter().map(|(name, value)| (name.clone(), value.into())));
            variables.insert("OUT_DIR".into(), script.out_dir.as_str().into());
        }
        if matches!(kind, BinaryKind::Test | BinaryKind::Bench) {
            for program in self.artifacts.programs.iter().filter(|program| program.package_id == package.id) {
                if let (true, Some(path)) = (program.target.is_bin(), &program.executable) {
                    let name = format!("CARGO_BIN_EXE_{}", program.target.name);
                    variables.insert(name, path.as_str().into());
                }
            }
        }
        if let Some(value) = self.library_path(path) {
            variables.insert(LIBRARY_PATH.into(), value);
        }
        variables.into_iter().collect()
    }

    /// Where dynamic libraries are looked for, in cargo's order: what build scripts link to
    /// inside the folder of artifacts, that folder, its `deps`, rustc's own.
    fn library_path(&self, executable: &Utf8Path) -> Option<OsString> {
        let artifacts = executable.parent().and_then(Utf8Path::parent)?;
        let linked = self.artifacts.scripts.iter().flat_map(|script| &script.linked_paths);
        let linked = linked.filter_map(|path| {
            let path = path.as_str().split_once('=').map_or(path.as_path(), |(_, path)| path.into());
            path.starts_with(artifacts).then_some(path)
        });
        let linked: BTreeSet<&Utf8Path> = linked.collect();
        let inherited = std::env::var_os(LIBRARY_PATH).unwrap_or_default();
        let inherited = std::env::split_paths(&inherited).filter(|path| !path.as_os_str().is_empty());
        let paths = linked
            .into_iter()
            .map(Into::into)
            .chain([artifacts.into(), artifacts.join("deps").into()])
            .chain(self.rust_libraries.clone())
            .chain(inherited);
        // Each that is named costs every process some twenty looks for files, even the second time.
        let mut seen = HashSet::new();
        let paths = paths.filter(|path: &PathBuf| seen.insert(path.clone()));
        std::env::join_paths(paths).ok()
    }
}

/// The variable in which the system's loader looks for dynamic libraries.
const LIBRARY_PATH: &str =
    if cfg!(target_os = "macos") { "DYLD_FALLBACK_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };

fn target_names(package: &Package) -> BTreeSet<String> {
    let targets = package.targets.iter();
    targets.filter_map(|target| Some(BinaryKind::of(target)?.binary_name(&target.name))).collect()
}

/// What cargo says of the package to every process that it runs for it.
fn package_variables(package: &Package, directory: &Utf8Path) -> Vec<(String, OsString)> {
    let version = &package.version;
    let path = |path: &Option<Utf8PathBuf>| path.as_ref().map(ToString::to_string).unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    [
        ("CARGO_MANIFEST_DIR", directory.to_string()),
        ("CARGO_MANIFEST_PATH", package.manifest_path.to_string()),
        ("CARGO_PKG_NAME", package.name.to_string()),
        ("CARGO_PKG_VERSION", version.to_string()),
        ("CARGO_PKG_VERSION_MAJOR", version.major.to_string()),
        ("CARGO_PKG_VERSION_MINOR", version.minor.to_string()),
        ("CARGO_PKG_VERSION_PATCH", version.patch.to_string()),
        ("CARGO_PKG_VERSION_PRE", version.pre.to_string()),
        ("CARGO_PKG_AUTHORS", package.authors.join(":")),
        ("CARGO_PKG_DESCRIPTION", text(&package.description)),
        ("CARGO_PKG_HOMEPAGE", text(&package.homepage)),
        ("CARGO_PKG_REPOSITORY", text(&package.repository)),
        ("CARGO_PKG_LICENSE", text(&package.license)),
        ("CARGO_PKG_LICENSE_FILE", path(&package.license_file)),
        ("CARGO_PKG_README", path(&package.readme)),
        (
            "CARGO_PKG_RUST_VERSION",
            package.rust_version.as_ref().map(ToString::to_string).unwrap_or_default(),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value.into()))
    .into()
}
