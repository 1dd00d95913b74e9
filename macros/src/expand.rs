//! What an annotated function becomes: the function, a caller per case, the registry
//! entries, and the plain `#[test]` twins.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Expr, Item, Result, ReturnType};

use crate::arguments::{Arguments, ShouldPanic};
use crate::function::{Extracted, Function};

/// Expands `#[etcdtest::test(arguments)] item`; `tokio` allows `async fn`.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream, tokio: bool) -> Result<TokenStream> {
    let mut arguments: Arguments = syn::parse2(arguments)?;
    let item = match syn::parse2(item)? {
        Item::Fn(function) => function,
        other => return Err(Error::new_spanned(other, "`#[etcdtest::test]` belongs on a function")),
    };
    let function = Function::read(item, &mut arguments, tokio)?;
    let tests = tests(&function, &arguments);
    let item = &function.item;
    let registered = tests.iter().map(|test| test.registered(&function, &arguments));
    let twins = twins(&function, &arguments, &tests);
    Ok(quote! {
        ::etcdtest::private::in_test_builds! {
            const _: () = {
                // Parameters are owned whatever the test does with them.
                #[allow(clippy::needless_pass_by_value)]
                #item
                #(#registered)*
            };
            #twins
        }
    })
}

/// One test: the function itself, or one of its cases.
struct Test<'a> {
    function: &'a Ident,
    case: Option<&'a Ident>,
    values: Vec<&'a Expr>,
}

fn tests<'a>(function: &'a Function, arguments: &'a Arguments) -> Vec<Test<'a>> {
    let name = &function.item.sig.ident;
    if arguments.cases.is_empty() {
        return vec![Test { function: name, case: None, values: Vec::new() }];
    }
    let cases = arguments.cases.iter();
    cases
        .map(|case| Test { function: name, case: Some(&case.name), values: case.values.iter().collect() })
        .collect()
}

impl Test<'_> {
    /// Its path below the module of the function.
    fn path(&self) -> String {
        let function = self.function;
        self.case.map_or_else(|| format!("::{function}"), |case| format!("::{function}::{case}"))
    }

    /// The function that calls it and its entry in the registry.
    fn registered(&self, function: &Function, arguments: &Arguments) -> TokenStream {
        let caller = self.case.map_or_else(
            || Ident::new("__etcdtest_call", Span::mixed_site()),
            |case| format_ident!("__etcdtest_call_{}", case, span = Span::mixed_site()),
        );
        let call = self.caller(&caller, function);
        let path = self.path();
        let parameters = function.extracted.iter().map(|Extracted { key, ty, spelled }| {
            quote_spanned! {ty.span().resolved_at(Span::mixed_site())=>
                ::etcdtest::private::parameter::<#ty>().declared(#key, #spelled)
            }
        });
        let entry = entry(function, arguments, self.case.unwrap_or(self.function).span());
        quote! {
            #call
            ::etcdtest::private::inventory::submit! {
                ::etcdtest::private::Entry {
                    path: ::core::concat!(::core::module_path!(), #path),
                    call: #caller,
                    parameters: &[#(#parameters),*],
                    #entry
                }
            }
        }
    }

    fn caller(&self, caller: &Ident, function: &Function) -> TokenStream {
        // Errors stand where the author wrote the type, but names are the macro's own.
        let own = |span: Span| span.resolved_at(Span::mixed_site());
        let context = Ident::new("context", Span::mixed_site());
        let mut reads = TokenStream::new();
        let mut values = Vec::new();
        for (number, parameter) in function.extracted.iter().enumerate() {
            let value = format_ident!("value{}", number, span = Span::mixed_site());
            let Extracted { key, ty, spelled } = parameter;
            reads.extend(quote_spanned! {own(ty.span())=>
                let #value = ::etcdtest::private::parameter::<#ty>().extract(#context, #key, #spelled)?;
            });
            values.push(value);
        }
        let name = self.function;
        let given = &self.values;
        // What is wrong with the result is said where the result's type is written.
        let result_span = match &function.item.sig.output {
            ReturnType::Default => own(name.span()),
            ReturnType::Type(_, ty) => own(ty.span()),
        };
        let mut result = quote_spanned!(result_span=> #name(#(#given,)* #(#values),*));
        if function.item.sig.asyncness.is_some() {
            result = quote_spanned!(result_span=> ::etcdtest::private::block_on(#result)?);
        }
        let finished = quote_spanned! {result_span=>
            ::etcdtest::private::finish(#result, |error| (&&&::etcdtest::private::Described(error)).describe())
        };
        quote! {
            fn #caller(#context: &::etcdtest::Context) -> ::core::result::Result<(), ::etcdtest::private::Failure> {
                #[allow(unused_imports)]
                use ::etcdtest::private::{DescribeBox as _, DescribeDebug as _, DescribeError as _};
                #reads
                #finished
            }
        }
    }
}

/// The fields of the entry that all cases of a function share.
fn entry(function: &Function, arguments: &Arguments, span: Span) -> TokenStream {
    let documentation = &function.documentation;
    let (description, steps, expected) =
        (&documentation.description, &documentation.steps, &documentation.expected);
    let Arguments { tags, environments, needs, .. } = arguments;
    let owner = option(arguments.owner.as_ref());
    let exclusive = option(arguments.exclusive.as_ref());
    let retries = option(arguments.retries);
    let ignore = option(arguments.ignore.as_ref());
    let millis = arguments.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    let timeout = option(millis.map(|millis| quote!(::core::time::Duration::from_millis(#millis))));
    let should_panic = match &arguments.should_panic {
        None => quote!(No),
        Some(ShouldPanic::Anyhow) => quote!(Anyhow),
        Some(ShouldPanic::With(text)) => quote!(With(#text)),
    };
    let line = line(span);
    quote! {
        description: #description,
        steps: &[#(#steps),*],
        expected: #expected,
        tags: &[#(#tags),*],
        owner: #owner,
        timeout: #timeout,
        retries: #retries,
        environments: &[#(#environments),*],
        exclusive: #exclusive,
        needs: &[#(#needs),*],
        ignore: #ignore,
        should_panic: ::etcdtest::private::ShouldPanic::#should_panic,
        file: ::core::file!(),
        line: #line,
        package: ::core::option_env!("CARGO_MANIFEST_DIR"),
    }
}

fn option(value: Option<impl quote::ToTokens>) -> TokenStream {
    value.map_or_else(
        || quote!(::core::option::Option::None),
        |value| quote!(::core::option::Option::Some(#value)),
    )
}

/// The line where the name stands: `line!()` would give that of the attribute.
pub(crate) fn line(span: Span) -> TokenStream {
    if proc_macro::is_available() {
        let line = u32::try_from(span.unwrap().line()).unwrap_or(u32::MAX);
        quote!(#line)
    } else {
        quote!(::core::line!())
    }
}

/// The plain tests that libtest runs where `harness = false` was forgotten or cannot be;
/// the compiler drops them from every other build.
fn twins(function: &Function, arguments: &Arguments, tests: &[Test]) -> TokenStream {
    let ignore = arguments
        .ignore
        .as_ref()
        .map(|reason| if reason.is_empty() { quote!(#[ignore]) } else { quote!(#[ignore = #reason]) });
    let twins = tests.iter().map(|test| {
        let name = test.case.unwrap_or(test.function);
        let path = format!("::{name}");
        quote! {
            #[test]
            #ignore
            #[allow(nonstandard_style)]
            fn #name() -> ::core::result::Result<(), ::etcdtest::private::Failure> {
                ::etcdtest::private::twin(::core::concat!(::core::module_path!(), #path))
            }
        }
    });
    if arguments.cases.is_empty() {
        return quote!(#(#twins)*);
    }
    let module = &function.item.sig.ident;
    quote! {
        #[allow(nonstandard_style)]
        mod #module { #(#twins)* }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_async_test_needs_the_feature() {
        let test = quote!(
            async fn pays() {}
        );
        assert!(expand(TokenStream::new(), test.clone(), true).is_ok());
        let error = expand(TokenStream::new(), test, false).unwrap_err();
        assert_eq!(error.to_string(), "an `async` test needs the feature `tokio` of the crate `etcdtest`");
    }
}
