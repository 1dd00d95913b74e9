#[etcdtest::test(should_panic(message = "no"))]
fn another_word() {}

#[etcdtest::test(should_panic(expected = 1))]
fn no_text() {}

#[etcdtest::test(should_panic(expected = "no", "yes"))]
fn two_texts() {}

#[etcdtest::test(should_panic[])]
fn brackets() {}

#[etcdtest::test]
#[should_panic(expected)]
fn attribute() {}

fn main() {}
