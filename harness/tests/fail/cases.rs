#[etcdtest::test(cases)]
fn no_list() {}

#[etcdtest::test(cases())]
fn empty() {}

#[etcdtest::test(cases("small"))]
fn no_name(_: u8) {}

#[etcdtest::test(cases(small))]
fn no_values(_: u8) {}

#[etcdtest::test(cases(small(1), large(2), small(3)))]
fn name_twice(_: u8) {}

#[etcdtest::test(cases(small(1, 2)))]
fn more_values_than_parameters(_: u8) {}

#[etcdtest::test(cases(small(1), large(2, 3)))]
fn uneven(_: u8, _: u8) {}

#[etcdtest::test(cases(small("one")))]
fn another_type(_: u8) {}

fn main() {}
