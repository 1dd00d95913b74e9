//! The protobuf compiler, which the etcd client's build script needs.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::tool;

const PROGRAM: &str = "PROTOC";
const INCLUDE: &str = "PROTOC_INCLUDE";

/// The variables that tell a build where `protoc` is: none where it finds it by itself.
pub(crate) fn variables() -> Result<Vec<(&'static str, OsString)>> {
    if env::var_os(PROGRAM).is_some() || tool::on_path("protoc").is_some_and(|program| is_whole(&program)) {
        return Ok(Vec::new());
    }
    let install = "no protobuf compiler for this machine: install `protoc` or name it in PROTOC";
    let program = protoc_bin_vendored::protoc_bin_path().context(install)?;
    let include = protoc_bin_vendored::include_path().context(install)?;
    Ok(vec![(PROGRAM, executable(program)?.into()), (INCLUDE, include.into())])
}

/// Whether the well-known types lie beside the program: some distributions package them apart.
fn is_whole(program: &Path) -> bool {
    let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    program
        .ancestors()
        .nth(2)
        .is_some_and(|prefix| prefix.join("include/google/protobuf/descriptor.proto").is_file())
}

/// The program itself, or a copy where it lost its executable bit, as in some vendored folders.
#[cfg(unix)]
fn executable(program: PathBuf) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(&program)?.permissions().mode();
    if mode & 0o111 != 0 {
        return Ok(program);
    }
    let folder = tool::folder()?;
    let copy = folder.join("protoc");
    if copy.is_file() {
        return Ok(copy);
    }
    let fresh = folder.join(format!("protoc.{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    fs::copy(&program, &fresh).with_context(|| format!("failed to copy {}", program.display()))?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    fs::rename(&fresh, &copy)?;
    Ok(copy)
}

#[cfg(not(unix))]
fn executable(program: PathBuf) -> Result<PathBuf> {
    fs::metadata(&program).with_context(|| format!("failed to find {}", program.display()))?;
    Ok(program)
}
