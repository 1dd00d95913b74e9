#[etcdtest::test(owner = orders)]
fn no_text() {}

#[etcdtest::test(owner)]
fn no_value() {}

#[etcdtest::test(owner = " ")]
fn empty() {}

fn main() {}
