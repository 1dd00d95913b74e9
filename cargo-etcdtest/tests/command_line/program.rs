//! The program in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A folder to call the program in, gone with this. What the program leaves in the folder
/// for temporary files is in it too.
pub(crate) struct Folder {
    root: TempDir,
}

/// What a call came to.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Folder {
    /// A folder with these files.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self { root: tempfile::tempdir().unwrap() };
        std::fs::create_dir(folder.path("tmp")).unwrap();
        for (name, content) in files {
            folder.write(name, content);
        }
        folder
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes a file, and makes the folders above it.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The names of the temporary files that are left.
    pub(crate) fn left_over(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("tmp")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// A call of the program with words separated by blanks, at no terminal and with none
    /// of the variables that it reads.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ETCDTEST_") || text.starts_with("CARGO_TERM") || text.starts_with("CLICOLOR")
            {
                command.env_remove(name);
            }
        }
        command.arg("etcdtest").args(words.split_whitespace()).current_dir(self.root.path());
        command.env_remove("VISUAL").env_remove("NO_COLOR").env("TMPDIR", self.path("tmp"));
        command.stdin(Stdio::null());
        command
    }

    /// Calls the program and waits for it.
    pub(crate) fn run(&self, words: &str) -> Said {
        Said::of(&mut self.command(words))
    }

    /// Calls the program, which must succeed, and returns what it printed.
    pub(crate) fn ok(&self, words: &str) -> String {
        let said = self.run(words);
        assert_eq!(said.code, Some(0), "{words}: {}", said.stderr);
        said.stdout
    }
}

impl Said {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Asserts that the call failed so, and said all of this.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, said: &[&str]) {
        // Where lines are broken depends on the length of paths.
        let shown = self.stderr.replace("\n  │ ", " ");
        assert_eq!(self.code, Some(code), "{shown}");
        for part in said {
            assert!(shown.contains(part), "`{part}` is not in: {shown}");
        }
    }
}

pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_cargo-etcdtest"))
}
