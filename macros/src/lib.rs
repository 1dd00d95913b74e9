//! The attribute macro of etcdtest; the crate `etcdtest` re-exports and documents it.

mod arguments;
mod documentation;
mod duration;
mod expand;
mod function;

use proc_macro::TokenStream;

/// Makes a function a test case.
///
/// # Arguments
/// All are optional, in any order, each at most once:
///
/// | argument | meaning |
/// | --- | --- |
/// | `tags = ["smoke", "orders"]` | words to filter by |
/// | `owner = "orders"` | the person or team that answers for the test |
/// | `timeout = "1m 30s"` | longest time of one attempt; units `ms`, `s`, `m`, `h` |
/// | `retries = 2` | how often a failed attempt is tried again |
/// | `environments = ["staging-*"]` | the environments it may run in |
/// | `exclusive = "printer"` | a resource that one test at a time may use |
/// | `ignore` or `ignore = "why"` | not run unless asked for |
/// | `should_panic` or `should_panic(expected = "text")` | passes by panicking |
/// | `cases(one(1, "a"), two(2, "b"))` | one test per case; the values fill the first parameters |
///
/// The standard attributes `#[ignore]` and `#[should_panic]` mean the same.
///
/// # Documentation
/// The first paragraph of the doc comment describes the test, the list under `# Steps`
/// gives its steps and the text under `# Expected` its expected result.
///
/// # Parameters and result
/// See the front page of the crate `etcdtest`.
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(arguments.into(), item.into(), cfg!(feature = "tokio"))
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
