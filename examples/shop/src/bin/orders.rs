//! Takes orders, in front of `--warehouse URL` and `--payments URL`.

use shop::orders::Orders;
use shop::server::{Arguments, serve};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::of_process()?;
    serve(&arguments, Orders::new(arguments.required("warehouse")?, arguments.required("payments")?))
}
