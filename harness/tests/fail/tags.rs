#[etcdtest::test(tags = "smoke")]
fn no_list() {}

#[etcdtest::test(tags)]
fn no_value() {}

#[etcdtest::test(tags = )]
fn nothing_after_the_sign() {}

#[etcdtest::test(tags("smoke"))]
fn parentheses() {}

#[etcdtest::test(tags = ["smoke", 1])]
fn no_text() {}

#[etcdtest::test(tags = ["smoke", ""])]
fn empty() {}

fn main() {}
