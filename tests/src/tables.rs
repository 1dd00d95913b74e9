//! Tables that long tests make, for `cargo xtask faults` to print when all are over.

use std::fs;

use crate::root;

/// Prints a table, and keeps it as `target/tables/NAME.txt`.
///
/// # Panics
/// The disk does not let it.
pub fn keep(name: &str, table: &str) {
    println!("\n{table}");
    let folder = root().join("target/tables");
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join(format!("{name}.txt")), table).expect("a file can be written");
}
