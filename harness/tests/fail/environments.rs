#[etcdtest::test(environments = "staging-*")]
fn no_list() {}

#[etcdtest::test(environments = [staging])]
fn no_text() {}

fn main() {}
