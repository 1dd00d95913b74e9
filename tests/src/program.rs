//! The programs under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::{Project, Running};

/// The root of the checkout.
///
/// # Panics
/// Never: this package has a folder of its own there.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package has a folder of its own in the checkout")
}

/// `cargo-etcdtest`, built from this checkout.
///
/// # Panics
/// It does not build.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        // Together with this package, so that cargo has built all but the program already.
        let packages = ["--package", "cargo-etcdtest", "--package", "whole-program"];
        cargo.args(["build", "--quiet", "--message-format", "json"]).args(packages);
        // What `cargo test` says of this package some build scripts take for their own: all that
        // depends on them would be built anew, each time.
        Project::without_variables(&mut cargo);
        let built = Running::start(cargo.current_dir(root())).output();
        let messages = String::from_utf8_lossy(&built.stdout);
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
        let program =
            messages.find_map(|message: serde_json::Value| Some(message["executable"].as_str()?.into()));
        program.expect("the package has a program")
    })
}
