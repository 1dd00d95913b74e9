//! The program as people call it: what it prints and what it exits with.

mod environments;
mod program;
mod settings;
