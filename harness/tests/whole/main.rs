//! The harness in real cargo projects: under `cargo test`, under nextest, and as the runner
//! starts it.

mod attempts;
mod environments;
mod libtest;
mod listing;
mod project;
mod runner;
