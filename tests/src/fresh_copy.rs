//! The checkout as somebody has it who just cloned it: a repository with nothing to commit.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::{Project, Ran, etcd, program, root};

/// A copy of the checkout, removed on drop. Its path stays the same, so that what was built
/// for it can be used again.
#[derive(Debug)]
pub struct FreshCopy(PathBuf);

impl FreshCopy {
    /// Copies what git knows of, or would. The name is that of the test, so that no two tests
    /// share one.
    ///
    /// # Panics
    /// The checkout is no git repository, or the disk does not let it.
    pub fn new(name: &str) -> Self {
        let copy = Project::target().with_file_name("copies").join(name);
        if copy.exists() {
            fs::remove_dir_all(&copy).expect("the copy of an earlier test run can be removed");
        }
        let mut list = Command::new("git");
        list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = list.current_dir(root()).output().expect("git starts");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8(listed.stdout).expect("file names are UTF-8");
        for file in listed.split('\0').filter(|file| !file.is_empty()) {
            // One that is deleted but not yet committed is listed as well.
            if root().join(file).is_file() {
                copy_file(&root().join(file), &copy.join(file));
            }
        }
        fs::create_dir_all(copy.join("target")).expect("a folder can be made");
        commit_all(&copy);
        Self(copy)
    }

    /// Its root folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// A command in it, with the built program and etcd at hand and no setting of ours.
    ///
    /// # Panics
    /// The program cannot be built, or there is no etcd.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        let ours = |name: &OsString| {
            let name = name.to_string_lossy();
            name.starts_with("CARGO_") && name != "CARGO_HOME" || name.starts_with("ETCDTEST_")
        };
        for (name, _) in env::vars_os().filter(|(name, _)| ours(name)) {
            command.env_remove(name);
        }
        let built = program().parent().expect("a program is in a folder").to_owned();
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([built, etcd::folder()].into_iter().chain(env::split_paths(&path)));
        command
            .current_dir(&self.0)
            .env("PATH", path.expect("these came from such a variable"))
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_TERM_COLOR", "never")
            .env("CARGO_TARGET_DIR", Project::target());
        command
    }
}

impl Drop for FreshCopy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a folder a repository with all of it in one commit.
///
/// # Panics
/// There is no git.
pub fn commit_all(folder: &Path) {
    for arguments in [
        &["init", "--quiet"][..],
        &["add", "--all"],
        &["-c", "user.name=Ann", "-c", "user.email=ann@desk", "commit", "--quiet", "--message", "all"],
    ] {
        let git = Ran::of(Command::new("git").current_dir(folder).args(arguments));
        assert_eq!(git.code, Some(0), "git {arguments:?}: {git:?}");
    }
}

/// Copies a file with its time, by which cargo tells whether to build again.
fn copy_file(from: &Path, to: &Path) {
    let folder = to.parent().expect("a file is in a folder");
    fs::create_dir_all(folder).expect("a folder can be made");
    fs::copy(from, to).expect("a file can be copied");
    let modified = from.metadata().and_then(|from| from.modified()).expect("a file has a time");
    let copy = fs::File::options().write(true).open(to).expect("a copy can be opened");
    copy.set_modified(modified).expect("the time of a file can be set");
}
