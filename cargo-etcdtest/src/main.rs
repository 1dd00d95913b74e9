//! `cargo etcdtest`.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if std::env::args_os().skip(1).eq([cargo_etcdtest::execution::keeper::ARGUMENT]) {
        return if cargo_etcdtest::execution::keeper::serve().is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    ExitCode::from(cargo_etcdtest::cli::main(std::env::args_os()) as u8)
}
