//! The real etcd that the tests start.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tool;

/// The variable with the folder of `etcd` and `etcdctl`.
pub(crate) const VARIABLE: &str = "ETCDTEST_ETCD_BIN";

const INSTALL: &str = "the tests need a real etcd: install `etcd` and `etcdctl` (Debian and Ubuntu: \
                       `apt-get install etcd-server etcd-client`; macOS: `brew install etcd`), \
                       or name their folder in ETCDTEST_ETCD_BIN";

/// The folder with `etcd` and `etcdctl`: named by the variable, on `PATH`, or fetched.
///
/// # Errors
/// There is none, and none could be fetched: says what to install.
pub(crate) fn folder() -> Result<PathBuf> {
    if let Some(named) = env::var_os(VARIABLE).map(PathBuf::from) {
        if !is_complete(&named) {
            bail!("{VARIABLE} names {}, where there are not both `etcd` and `etcdctl`", named.display());
        }
        return Ok(std::path::absolute(named)?);
    }
    if let Some(folder) = tool::on_path("etcd").and_then(|etcd| Some(etcd.parent()?.to_owned()))
        && is_complete(&folder)
    {
        return Ok(folder);
    }
    let fetched = tool::folder()?.join("etcd");
    let programs = fetched.join("usr/bin");
    if !is_complete(&programs) {
        if tool::on_path("apt-get").is_none() || tool::on_path("dpkg").is_none() {
            bail!(INSTALL);
        }
        fetch(&fetched).context(INSTALL)?;
    }
    if is_complete(&programs) { Ok(programs) } else { bail!(INSTALL) }
}

/// Whether a folder holds both programs.
fn is_complete(folder: &Path) -> bool {
    ["etcd", "etcdctl"].iter().all(|program| tool::in_folder(folder, program).is_some())
}

/// Unpacks the distribution's own packages. Nothing is installed: no root is needed, no
/// service gets started, and the lists of packages are fetched to a folder of our own, as
/// a machine may have none.
fn fetch(to: &Path) -> Result<()> {
    println!("etcd: none found, fetching the distribution's packages into {}", to.display());
    let work = tool::folder()?.join(format!("apt.{}", std::process::id()));
    let fetched = fetch_in(&work, to);
    fs::remove_dir_all(&work)?;
    fetched
}

fn fetch_in(work: &Path, to: &Path) -> Result<()> {
    let (lists, cache, unpacked) = (work.join("lists"), work.join("cache"), work.join("unpacked"));
    for folder in [lists.join("partial"), cache.join("archives/partial"), unpacked.clone()] {
        fs::create_dir_all(folder)?;
    }
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(work).arg("-qq");
        command.arg(format!("-oDir::State::Lists={}", lists.display()));
        command.arg(format!("-oDir::Cache={}", cache.display()));
        // Its own user, which it changes to where it runs as root, may not write here.
        command.arg("-oAPT::Sandbox::User=root");
        tool::run(command.args(arguments))
    };
    apt_get(&["update"])?;
    apt_get(&["download", "etcd-server", "etcd-client"])?;
    for entry in fs::read_dir(work)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            tool::run(Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked))?;
        }
    }
    // Whole or not at all, also when two of us fetch at once.
    if let Err(error) = fs::rename(&unpacked, to)
        && !is_complete(&to.join("usr/bin"))
    {
        return Err(error).with_context(|| format!("failed to create {}", to.display()));
    }
    Ok(())
}
