#[etcdtest::test(tag = ["smoke"])]
fn nearly_right() {}

#[etcdtest::test(onwer = "orders", retries = 2)]
fn letters_swapped() {}

#[etcdtest::test(retries = 2, priority = 1)]
fn something_else() {}

#[etcdtest::test("smoke")]
fn no_name() {}

#[etcdtest::test(owner = "orders" retries = 2)]
fn no_comma() {}

fn main() {}
