//! A small shop of three services that call each other over HTTP.
//!
//! ```text
//! customer ──> orders ──> warehouse   stock and reservations
//!                 └─────> payments    charges, once per key
//! ```
//!
//! Each is a program of its own (`orders`, `payments`, `warehouse`) and keeps its state in
//! memory. Their tests in `tests/` are what this example is about.

pub mod client;
pub mod orders;
pub mod payments;
pub mod server;
pub mod warehouse;
