//! How a service's process is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::model::Service;

/// Where programs are found.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// The workspace's root.
    pub(super) root: PathBuf,
    /// The folders of the programs that cargo built, which are looked into before PATH.
    pub(super) built: Vec<PathBuf>,
}

impl Places {
    /// The process of a service.
    pub(super) fn command_of(&self, service: &Service) -> Command {
        let mut command = self.command(&service.command);
        command.args(&service.args).envs(&service.env);
        if let Some(folder) = &service.cwd {
            command.current_dir(self.root.join(folder));
        }
        command
    }

    /// A process of a program, in the workspace's root. A bare name is that of a program that
    /// cargo built, or else of one on PATH; a path goes from the workspace's root.
    pub(super) fn command(&self, program: &str) -> Command {
        let path = if Path::new(program).components().count() > 1 || program.contains('/') {
            self.root.join(program)
        } else {
            let mut built = self.built.iter().map(|folder| folder.join(program));
            built.find(|path| path.is_file()).unwrap_or_else(|| program.into())
        };
        let mut command = Command::new(path);
        command.current_dir(&self.root);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_one_of_the_workspace_or_one_on_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("orders"), "").unwrap();
        let places = Places { root: "/shop".into(), built: vec![folder.path().into()] };
        let found = |name: &str| places.command(name).get_program().to_owned();
        assert_eq!(found("orders"), folder.path().join("orders"));
        assert_eq!(found("python3"), "python3");
        assert_eq!(found("scripts/db"), "/shop/scripts/db");
        assert_eq!(found("./db"), "/shop/./db");
        assert_eq!(found("/bin/sh"), "/bin/sh");
    }
}
