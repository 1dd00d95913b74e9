#[etcdtest::test(exclusive)]
fn no_value() {}

#[etcdtest::test(exclusive = ["printer"])]
fn list() {}

fn main() {}
