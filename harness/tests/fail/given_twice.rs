#[etcdtest::test(owner = "orders", owner = "payments")]
fn argument() {}

#[etcdtest::test(ignore = "slow")]
#[ignore = "slow"]
fn ignored() {}

#[etcdtest::test(should_panic)]
#[should_panic(expected = "no")]
fn panics() {}

#[etcdtest::test(tags = ["smoke", "orders", "smoke"])]
fn tag() {}

fn main() {}
