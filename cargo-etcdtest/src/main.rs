//! `cargo etcdtest`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cargo_etcdtest::cli::main(std::env::args_os()) as u8)
}
