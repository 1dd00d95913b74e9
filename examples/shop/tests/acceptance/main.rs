//! The shop as its customers see it: the same tests on services of their own and on a
//! deployed shop, as the environment says.

mod orders;
mod payments;
mod support;

etcdtest::main!();
