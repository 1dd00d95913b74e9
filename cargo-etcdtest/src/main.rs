//! `cargo etcdtest`.

use std::process::ExitCode;

use cargo_etcdtest::{cli, execution};

fn main() -> ExitCode {
    let exit = match execution::serve_as_keeper(std::env::args_os()) {
        Some(kept) => return if kept.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        None => cli::main(std::env::args_os()),
    };
    ExitCode::from(exit as u8)
}
