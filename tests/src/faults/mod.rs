//! Runs of many real processes over a real cluster, in which something goes wrong.

mod arena;
mod bystander;
mod witness;

pub use arena::Arena;
pub use bystander::Bystander;
