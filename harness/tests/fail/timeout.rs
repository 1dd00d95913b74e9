#[etcdtest::test(timeout = 30)]
fn number() {}

#[etcdtest::test(timeout = "30")]
fn no_unit() {}

#[etcdtest::test(timeout = "1 day")]
fn unknown_unit() {}

#[etcdtest::test(timeout = "0s")]
fn nothing() {}

fn main() {}
