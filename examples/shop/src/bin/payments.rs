//! Charges cards; each charge takes `--delay-ms`.

use std::time::Duration;

use shop::payments::Payments;
use shop::server::{Arguments, serve};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::of_process()?;
    serve(&arguments, Payments::new(Duration::from_millis(arguments.number("delay-ms")?)))
}
