//! The attribute macro of etcdtest; the crate `etcdtest` re-exports and documents it.

mod arguments;
mod documentation;
mod duration;
mod expand;
mod function;
mod prepare;

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
/// | `needs = ["gpu"]` | labels that a worker must have to run it |
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

/// Sets up once what every test of the binary can read.
///
/// The function returns a value, or a `Result` of one; the value is `Send`, `Sync` and owned.
/// A test takes it as a parameter, as `&etcdtest::Prepared<T>`:
///
/// ```ignore
/// #[etcdtest::prepare]
/// fn catalog() -> anyhow::Result<Catalog> {
///     Ok(Catalog::parse(&std::fs::read_to_string("tests/catalog.json")?)?)
/// }
///
/// #[etcdtest::test]
/// fn every_article_has_a_price(catalog: &etcdtest::Prepared<Catalog>) {
///     assert!(catalog.articles().all(|article| article.price > 0));
/// }
/// ```
///
/// On Linux `cargo etcdtest` runs it before the first test, once for all attempts of the run
/// that this machine executes: every attempt is a process of its own that shares the memory
/// until it writes to it, and no attempt sees what another wrote. Elsewhere, and under
/// `cargo test` and nextest, it runs once in each process, when the first test takes it. It
/// runs only where a test takes it.
///
/// If it panics or returns an `Err`, the tests that take it fail with that cause; if it skips,
/// they are skipped.
///
/// # Known limits
/// - It takes no parameters: what it prepares serves the tests in every environment.
/// - It leaves no thread running, so no runtime, no pool and no client with a worker thread
///   either: a process with threads cannot fork safely. Where it does, the runner says which
///   threads, and starts a process for every attempt instead.
/// - It is not `async`. It can block on a runtime that it drops before it returns.
/// - A connection or an open file in the value is one for all attempts: what one reads, the
///   others do not. Let each test connect by itself.
/// - So is the state of a random generator: attempts that go on from it draw the same numbers.
/// - The value is never dropped: a temporary folder in it stays.
/// - Every fork copies the tables of the memory that was written: about 0.04 ms per MB. The
///   runner says so from 50 MB on.
/// - Exactly one function of the binary prepares a type; two, or none where a test takes it, are
///   errors when the tests are listed (in plain `#[test]` binaries: when they run).
/// - A `Result` is known by its name: an alias of another name counts as the value.
#[proc_macro_attribute]
pub fn prepare(arguments: TokenStream, item: TokenStream) -> TokenStream {
    prepare::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
