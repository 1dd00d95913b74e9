#[etcdtest::test(needs = "gpu")]
fn no_list() {}

#[etcdtest::test(needs = ["gpu", "two words"])]
fn no_label() {}

fn main() {}
