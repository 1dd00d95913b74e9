//! Keeps the stock; the first `--cold` requests are answered with 503.

use shop::server::{Arguments, serve};
use shop::warehouse::Warehouse;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::of_process()?;
    serve(&arguments, Warehouse::new(arguments.number("cold")?))
}
