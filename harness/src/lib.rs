//! The test harness of `cargo etcdtest`: what a test of a distributed application links.
//!
//! A test is a function under [`#[etcdtest::test]`](macro@test). Its doc comment and the
//! arguments of the attribute describe the test case; its parameters are what it needs of
//! the environment that the services run in.
//!
//! ```
//! #[derive(serde::Deserialize)]
//! struct Shop {
//!     orders_url: String,
//! }
//!
//! /// A paid order is listed as paid.
//! ///
//! /// # Steps
//! /// 1. Create an order.
//! /// 2. Pay it.
//! ///
//! /// # Expected
//! /// The order list shows it as `paid`.
//! #[etcdtest::test(tags = ["smoke", "orders"], owner = "orders", timeout = "30s", retries = 2)]
//! async fn paid_order_is_listed(shop: Shop, cx: &etcdtest::Context) -> anyhow::Result<()> {
//!     let customer = cx.unique("customer");
//!     let order = cx.step_async("create", create(&shop.orders_url, &customer)).await?;
//!     cx.step_async("pay", pay(&shop.orders_url, order)).await?;
//!     anyhow::ensure!(listed(&shop.orders_url, order).await? == "paid");
//!     Ok(())
//! }
//!
//! # async fn create(_: &str, _: &str) -> anyhow::Result<u64> { Ok(1) }
//! # async fn pay(_: &str, _: u64) -> anyhow::Result<()> { Ok(()) }
//! # async fn listed(_: &str, _: u64) -> anyhow::Result<String> { Ok("paid".into()) }
//! etcdtest::main!();
//! ```
//!
//! In `Cargo.toml`, the file is a test target that brings its own `main`:
//!
//! ```toml
//! [[test]]
//! name = "orders"
//! harness = false
//! ```
//!
//! Where `harness = false` is missing, and in `src/lib.rs`, every annotated function is a
//! plain `#[test]` as well; there `main!()` is not needed.
//!
//! # Parameters
//! - [`&Context`](Context): the attempt. It names run, worker and attempt, takes steps and
//!   attachments, reads data sets, and makes names that parallel tests cannot collide on.
//! - [`&Environment`](Environment): name, version and configuration of the environment.
//! - Any owned type that implements `serde::Deserialize`: the config key of the parameter's
//!   own name or, where there is no such key, the whole config. An `Option` of a plain value
//!   is `None` where the key is missing. What the environment lacks fails the test with the
//!   names of the environment, the key and the type, and shows no value.
//! - `&Prepared<T>`: what a function under [`#[etcdtest::prepare]`](macro@prepare) returned,
//!   set up once for all tests of the binary.
//! - With `cases(name(values), …)` the values fill the first parameters, of any type.
//!
//! # Results
//! A test is a `fn` or an `async fn` that returns `()` or `Result<(), E>` with `E: Debug`. An
//! error is shown with all its causes where its type tells them: standard errors, boxes of
//! them, `anyhow::Error`. [`skip!`] ends a test as skipped.
//!
//! # Environments
//! Under `cargo etcdtest` the runner gives the environment. Under `cargo test` and nextest it
//! is read from the file that `ETCDTEST_ENVIRONMENT` names, else from
//! `environments/local.toml` beside the package's `Cargo.toml`; where that is missing too,
//! it is named `local` and empty. In a TOML file the values stand under `[config]`; a JSON
//! file is an object with `name`, `version`, `revision` and `config`. Data sets are files that
//! `[data]` names, from the folder of the TOML file. Without the runner a
//! secret comes from a variable or a file: `[secrets]`, `NAME = { env = "VARIABLE" }` or
//! `{ file = "PATH" }`, from the folder of the TOML file.
//!
//! # Features
//! - `tokio` (default): `async fn` tests, each on a current-thread runtime of its own.
//! - `toml` (default): environments in TOML files. JSON files are read without it.
//!
//! # Known limits
//! - `timeout`, `retries`, `environments`, `exclusive` and `needs` are kept by `cargo etcdtest` alone;
//!   `cargo test` and nextest run each test once, in whatever environment they find. Steps
//!   and attachments are dropped there.
//! - Under `cargo test` a binary with `main!()` has the limits of `libtest-mimic`: output is
//!   not captured, one filter at a time, no `--shuffle` and no `--report-time`.
//! - `--exact` with a name that the binary does not have is an error, also where `cargo test`
//!   passes it on to several binaries of which one has it.
//! - In plain `#[test]` binaries a test that skips itself counts as passed; its reason is in
//!   the output. nextest counts it as passed everywhere.
//! - On Linux `cargo etcdtest` starts a binary once and forks a process for each attempt. A
//!   binary whose constructors start threads, before `main`, gets a new start for each instead.
//! - Under `cargo etcdtest` a test runs in the first thread of its process, which std calls
//!   `main`: a panic message has the test's name all the same, the message of a stack overflow
//!   has not. Under `cargo test` and nextest it runs in a thread of the test's name.
//! - `skip!` works in the test's own thread and in what an `async fn` awaits there.
//! - The crate must be known by its own name: renamed in `Cargo.toml` the macro misses it.
//! - `cases` puts a module of the function's name beside it in plain `#[test]` binaries; no
//!   other module may have that name.

mod attempt;
mod backtrace;
mod check;
mod config;
mod context;
mod data;
mod deferred;
mod environment;
mod extract;
mod front;
mod gate;
#[cfg(target_os = "linux")]
mod linux;
mod panics;
mod prepare;
#[doc(hidden)]
pub mod private;
pub mod protocol;
#[cfg(feature = "toml")]
mod references;
mod registry;
mod result;
mod run;
mod secret;
mod skip;
#[cfg(not(target_os = "linux"))]
mod spawn_only;
mod standalone;
#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(not(unix), path = "windows.rs")]
mod system;
mod told;
#[cfg(target_os = "linux")]
mod zygote;

pub use context::Context;
pub use data::Data;
pub use environment::{ConfigError, Environment};
pub use etcdtest_macros::{prepare, test};
pub use extract::Extract;
pub use prepare::Prepared;
pub use result::TestResult;
pub use secret::Secret;

/// The `main` function of a test binary: `etcdtest::main!();`, once, at the top level of a
/// test target with `harness = false`.
///
/// The binary then serves `cargo etcdtest`, and behaves under `cargo test` and nextest as
/// one of libtest's.
#[macro_export]
macro_rules! main {
    () => {
        fn main() -> ::std::process::ExitCode {
            $crate::private::main()
        }
    };
}
