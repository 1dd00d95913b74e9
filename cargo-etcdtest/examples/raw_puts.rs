//! The least that storing results in etcd costs: transactions of 128 puts, one after the
//! other, and nothing else. `cargo xtask bench store` measures `cargo etcdtest` beside it.
//!
//! Arguments: an endpoint, how many values, and how many bytes each has. It prints the
//! seconds that it took.

use std::time::Instant;

use etcd_client::{Client, Txn, TxnOp};

/// How many puts etcd takes in one transaction.
const PUTS: usize = 128;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("expected: ENDPOINT COUNT BYTES");
    let (endpoint, count, bytes) = (next()?, next()?.parse::<usize>()?, next()?.parse::<usize>()?);
    let client = Client::connect([endpoint], None).await?;
    let value = vec![b'x'; bytes];
    let numbers: Vec<usize> = (0..count).collect();
    let started = Instant::now();
    for some in numbers.chunks(PUTS) {
        let puts = some.iter().map(|number| TxnOp::put(format!("/raw/{number:09}"), value.clone(), None));
        client.kv_client().txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await?;
    }
    println!("{}", started.elapsed().as_secs_f64());
    Ok(())
}
