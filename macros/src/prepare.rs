//! What a function under `#[etcdtest::prepare]` becomes: the function, a call of it, and its
//! entry among those that prepare.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, GenericArgument, Item, ItemFn, PathArguments, Result, ReturnType, Safety, Type};

use crate::expand::line;

/// Expands `#[etcdtest::prepare] item`.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "`#[etcdtest::prepare]` takes no arguments"));
    }
    let function = match syn::parse2(item)? {
        Item::Fn(function) => function,
        other => return Err(Error::new_spanned(other, "`#[etcdtest::prepare]` belongs on a function")),
    };
    let returned = returned(&function)?;
    let (name, line) = (&function.sig.ident, line(function.sig.ident.span()));
    let path = format!("::{name}");
    let own = |span: Span| span.resolved_at(Span::mixed_site());
    let error = Ident::new("error", Span::mixed_site());
    let (ty, call) = match returned {
        Returned::Value(ty) => {
            (ty, quote_spanned!(own(ty.span())=> ::etcdtest::private::prepared::<#ty>(#name())))
        }
        Returned::Result(ty) => (
            ty,
            quote_spanned! {own(ty.span())=>
                ::etcdtest::private::prepared::<#ty>(#name().map_err(|#error| {
                    ::etcdtest::private::fail((&&&::etcdtest::private::Described(&#error)).describe())
                })?)
            },
        ),
    };
    Ok(quote! {
        ::etcdtest::private::in_test_builds! {
            const _: () = {
                #function
                fn __etcdtest_run() -> ::core::result::Result<
                    ::etcdtest::private::Value,
                    ::etcdtest::private::Failure,
                > {
                    #[allow(unused_imports)]
                    use ::etcdtest::private::{DescribeBox as _, DescribeDebug as _, DescribeError as _};
                    ::core::result::Result::Ok(#call)
                }
                static KEPT: ::etcdtest::private::Kept = ::etcdtest::private::Kept::new();
                ::etcdtest::private::inventory::submit! {
                    ::etcdtest::private::Provider {
                        path: ::core::concat!(::core::module_path!(), #path),
                        id: ::core::any::TypeId::of::<#ty>,
                        ty: ::core::any::type_name::<#ty>,
                        run: __etcdtest_run,
                        kept: &KEPT,
                        file: ::core::file!(),
                        line: #line,
                    }
                }
            };
        }
    })
}

/// The type that the tests take, and whether it comes in a `Result`.
enum Returned<'a> {
    Value(&'a Type),
    Result(&'a Type),
}

fn returned(function: &ItemFn) -> Result<Returned<'_>> {
    let signature = &function.sig;
    let refuse = |span: Span, message: &str| Err(Error::new(span, message));
    if let Some(asyncness) = signature.asyncness {
        let message = "what is prepared stays without a runtime, whose threads and connections no fork \
                       could share: block inside, and return the data";
        return refuse(asyncness.span(), message);
    }
    if let Some(first) = signature.inputs.first() {
        let message = "what is prepared serves the tests in every environment, so it takes no parameter";
        return refuse(first.span(), message);
    }
    if !signature.generics.params.is_empty() {
        let message = "this cannot be generic: nothing could choose its types";
        return refuse(signature.generics.params.span(), message);
    }
    if let Safety::Unsafe(token) = signature.safety {
        return refuse(token.span, "this is a plain `fn`");
    }
    let ReturnType::Type(_, ty) = &signature.output else {
        let message = "this returns nothing that a test could take: return what is prepared";
        return refuse(signature.ident.span(), message);
    };
    Ok(inside_result(ty).map_or(Returned::Value(ty), Returned::Result))
}

/// The `T` of a `Result<T, E>`, or of an alias like `anyhow::Result<T>`.
fn inside_result(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Result")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(value)) => Some(value),
        _ => None,
    }
}
