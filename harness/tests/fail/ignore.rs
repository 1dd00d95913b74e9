#[etcdtest::test(ignore = true)]
fn no_text() {}

#[etcdtest::test(ignore("slow"))]
fn parentheses() {}

#[etcdtest::test]
#[ignore = ""]
fn empty() {}

fn main() {}
