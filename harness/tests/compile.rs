//! What the macro accepts, and what it says of the rest.

#[test]
fn mistakes_are_explained_where_they_stand_and_right_tests_run() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/pass/*.rs");
    cases.compile_fail("tests/fail/*.rs");
}
