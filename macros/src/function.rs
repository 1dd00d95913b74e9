//! The annotated function: what a test may look like.

use proc_macro2::Span;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Attribute, Error, FnArg, ItemFn, Pat, PatType, Result, Safety, Type};

use crate::arguments::Arguments;
use crate::documentation::Documentation;

/// A function that can be a test, its documentation, and the parameters the harness fills.
pub(crate) struct Function {
    /// The function as it was written, less the attributes that the test case holds.
    pub(crate) item: ItemFn,
    /// What its doc comment says.
    pub(crate) documentation: Documentation,
    /// The parameters that no case fills, in order.
    pub(crate) extracted: Vec<Extracted>,
}

/// A parameter that is read from the context of the attempt.
pub(crate) struct Extracted {
    /// The key in the environment's config that is looked at first.
    pub(crate) key: String,
    /// Its type.
    pub(crate) ty: Type,
    /// Its type as people write it.
    pub(crate) spelled: String,
}

impl Function {
    /// Checks the function; standard test attributes on it are added to `arguments`.
    pub(crate) fn read(mut item: ItemFn, arguments: &mut Arguments, tokio: bool) -> Result<Self> {
        let documentation = Documentation::read(&item.attrs);
        take_attributes(&mut item.attrs, arguments)?;
        check_signature(&item, tokio)?;
        let extracted = extracted(&item, arguments)?;
        Ok(Self { item, documentation, extracted })
    }
}

fn take_attributes(attributes: &mut Vec<Attribute>, arguments: &mut Arguments) -> Result<()> {
    let mut kept = Vec::new();
    for attribute in attributes.drain(..) {
        let path = attribute.path();
        if path.segments.last().is_some_and(|last| last.ident == "test") {
            return Err(Error::new(attribute.span(), "one test attribute is enough: take this one away"));
        }
        if path.is_ident("ignore") || path.is_ident("should_panic") {
            let tokens = attribute.meta.to_token_stream();
            (|input: syn::parse::ParseStream| arguments.read_one(input)).parse2(tokens)?;
        } else {
            kept.push(attribute);
        }
    }
    *attributes = kept;
    Ok(())
}

fn check_signature(item: &ItemFn, tokio: bool) -> Result<()> {
    let signature = &item.sig;
    let refuse = |span: Span, message: &str| Err(Error::new(span, message));
    if let Some(asyncness) = signature.asyncness.filter(|_| !tokio) {
        return refuse(asyncness.span(), "an `async` test needs the feature `tokio` of the crate `etcdtest`");
    }
    let unsafety = match signature.safety {
        Safety::Unsafe(token) => Some(token.span),
        _ => None,
    };
    let constness = signature.constness.map(|token| token.span);
    if let Some(span) = constness.or(unsafety).or(signature.abi.as_ref().map(Spanned::span)) {
        return refuse(span, "a test is a plain `fn` or `async fn`");
    }
    if !signature.generics.params.is_empty() {
        return refuse(
            signature.generics.params.span(),
            "a test cannot be generic: nothing could choose its types",
        );
    }
    Ok(())
}

fn extracted(item: &ItemFn, arguments: &Arguments) -> Result<Vec<Extracted>> {
    let inputs = &item.sig.inputs;
    let filled = arguments.cases.first().map_or(0, |case| case.values.len());
    for case in &arguments.cases {
        let given = case.values.len();
        if given > inputs.len() {
            let message = format!(
                "case `{}` has {}, but the test takes {}",
                case.name,
                count(given, "value"),
                count(inputs.len(), "parameter")
            );
            return Err(Error::new(case.name.span(), message));
        }
        if given != filled {
            let message = format!(
                "case `{}` has {}, but the first case has {filled}",
                case.name,
                count(given, "value")
            );
            return Err(Error::new(case.name.span(), message));
        }
    }
    inputs.iter().skip(filled).map(read_parameter).collect()
}

fn read_parameter(parameter: &FnArg) -> Result<Extracted> {
    let PatType { pat, ty, .. } = match parameter {
        FnArg::Typed(typed) => typed,
        FnArg::Receiver(receiver) => {
            return Err(Error::new(receiver.span(), "a test is a function of its own: it has no `self`"));
        }
    };
    let name = match &**pat {
        Pat::Ident(name) if name.by_ref.is_none() && name.subpat.is_none() => &name.ident,
        other => {
            let message = "a parameter needs a name: it is the config key that is read first";
            return Err(Error::new(other.span(), message));
        }
    };
    match &**ty {
        Type::Reference(reference) if is_str(&reference.elem) => {
            Err(Error::new(ty.span(), "a parameter owns what is read from the environment: use `String`"))
        }
        Type::ImplTrait(_) => {
            Err(Error::new(ty.span(), "a test cannot be generic: nothing could choose its types"))
        }
        _ => {
            let key = name.unraw().to_string().trim_start_matches('_').to_owned();
            Ok(Extracted { key, ty: (**ty).clone(), spelled: spelled(ty) })
        }
    }
}

/// The tokens of a type without the spaces that printing them puts in.
fn spelled(ty: &Type) -> String {
    let mut text = ty.to_token_stream().to_string();
    for (printed, written) in
        [(" < ", "<"), (" >", ">"), (" ::", "::"), (":: ", "::"), (" ,", ","), (" ;", ";"), ("& ", "&")]
    {
        text = text.replace(printed, written);
    }
    text
}

fn is_str(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.is_ident("str"))
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_spelled_as_people_write_them() {
        for text in [
            "String",
            "Option<Vec<u8>>",
            "std::collections::HashMap<String, u16>",
            "&Shop",
            "[u8; 4]",
            "(u8, Vec<u8>)",
        ] {
            assert_eq!(spelled(&syn::parse_str(text).unwrap()), text);
        }
    }
}
