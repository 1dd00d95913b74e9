//! Each argument in each of its forms, on functions and in modules.
#![forbid(unsafe_code)]
#![deny(warnings)]

#[etcdtest::test]
fn none() {}

#[etcdtest::test()]
fn empty() {}

/// Described.
///
/// # Steps
/// 1. One.
///
/// # Expected
/// Nothing.
#[etcdtest::test(
    tags = ["smoke", "orders",],
    owner = "orders",
    timeout = "1m 30s",
    retries = 2,
    environments = ["staging-*", "local"],
    exclusive = "printer",
    needs = ["gpu"],
)]
fn all() {}

#[etcdtest::test(ignore)]
fn ignored() {
    panic!("it is ignored");
}

#[etcdtest::test(ignore = "slow")]
fn ignored_with_a_reason() {
    panic!("it is ignored");
}

#[etcdtest::test]
#[ignore = "slow"]
fn ignored_by_attribute() {
    panic!("it is ignored");
}

#[etcdtest::test(should_panic)]
fn panics() {
    panic!("as it should");
}

#[etcdtest::test(should_panic(expected = "should"))]
fn panics_with_a_message() {
    panic!("as it should");
}

#[etcdtest::test]
#[should_panic = "should"]
fn panics_by_attribute() {
    panic!("as it should");
}

mod inner {
    #[derive(Clone, Copy, PartialEq)]
    pub(crate) enum Size {
        Small,
        Large,
    }

    pub mod deeper {
        use super::Size;

        #[etcdtest::test(cases(small(Size::Small, ("s", 1)), large(Size::Large, ("l", 2))), tags = ["sizes"])]
        fn with_cases(
            size: Size,
            (letter, number): (&str, u8),
            context: &etcdtest::Context,
        ) -> Result<(), String> {
            let _ = (size, letter, number, context);
            Ok(())
        }
    }
}

etcdtest::main!();
