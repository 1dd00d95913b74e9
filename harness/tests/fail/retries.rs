#[etcdtest::test(retries = "2")]
fn text() {}

#[etcdtest::test(retries = -1)]
fn negative() {}

#[etcdtest::test(retries = 1.5)]
fn fraction() {}

#[etcdtest::test(retries = 4294967296)]
fn too_many() {}

fn main() {}
