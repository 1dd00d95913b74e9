//! The harness in real cargo projects: under `cargo test`, under nextest, and as the runner
//! starts it.
#![expect(clippy::unwrap_used, reason = "what helps the tests stops them when it fails")]

#[cfg(unix)]
mod attempts;
mod check;
#[cfg(unix)]
mod data;
mod environments;
#[cfg(target_os = "linux")]
mod forked;
mod libtest;
mod listing;
#[cfg(target_os = "linux")]
mod prepared;
mod project;
#[cfg(unix)]
mod runner;
#[cfg(target_os = "linux")]
mod zygotes;
