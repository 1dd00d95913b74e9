//! The harness in real cargo projects: under `cargo test`, under nextest, and as the runner
//! starts it.
#![expect(clippy::unwrap_used, reason = "what helps the tests stops them when it fails")]

#[cfg(unix)]
mod attempts;
mod environments;
mod libtest;
mod listing;
mod project;
#[cfg(unix)]
mod runner;
