//! The program as people call it: what it prints and what it exits with.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

mod environments;
mod program;
mod secrets;
mod settings;
