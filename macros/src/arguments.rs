//! The arguments of `#[etcdtest::test(…)]` and of the standard attributes beside it.

use std::time::Duration;

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, Ident, LitInt, LitStr, Result, Token, bracketed, parenthesized};

use crate::duration;

/// Every argument with the form it takes.
const FORMS: [(&str, &str); 10] = [
    ("tags", "a list of texts: `tags = [\"smoke\", \"orders\"]`"),
    ("owner", "a text: `owner = \"orders\"`"),
    ("timeout", "a duration of `h`, `m`, `s` and `ms`: `timeout = \"1m 30s\"`"),
    ("retries", "a whole number: `retries = 2`"),
    ("environments", "a list of names or patterns: `environments = [\"staging-*\"]`"),
    ("exclusive", "the name of a resource: `exclusive = \"printer\"`"),
    ("needs", "a list of labels, without spaces and commas: `needs = [\"gpu\"]`"),
    ("ignore", "written alone or with a reason: `ignore = \"why\"`"),
    ("should_panic", "written alone or with a part of the message: `should_panic(expected = \"text\")`"),
    ("cases", "a list of names with values: `cases(small(1, \"a\"), large(99, \"b\"))`"),
];

/// All that an author can say of a test beside its doc comment.
#[derive(Default)]
pub(crate) struct Arguments {
    pub(crate) tags: Vec<LitStr>,
    pub(crate) owner: Option<LitStr>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Option<u32>,
    pub(crate) environments: Vec<LitStr>,
    pub(crate) exclusive: Option<LitStr>,
    pub(crate) needs: Vec<LitStr>,
    /// The reason, empty where none was given.
    pub(crate) ignore: Option<String>,
    pub(crate) should_panic: Option<ShouldPanic>,
    pub(crate) cases: Vec<Case>,
    given: Vec<Ident>,
}

/// How a test that is to panic must do so.
pub(crate) enum ShouldPanic {
    Anyhow,
    With(LitStr),
}

/// One case: a name and the values of the function's first parameters.
pub(crate) struct Case {
    pub(crate) name: Ident,
    pub(crate) values: Punctuated<Expr, Token![,]>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream) -> Result<Self> {
        let mut arguments = Self::default();
        each(input, |input| arguments.read_one(input))?;
        Ok(arguments)
    }
}

impl Arguments {
    /// Reads one argument with its value, or a standard attribute, which looks the same.
    pub(crate) fn read_one(&mut self, input: ParseStream) -> Result<()> {
        if !input.peek(Ident::peek_any) {
            return Err(input.error(format!("expected an argument: {}", allowed())));
        }
        let name = input.call(Ident::parse_any)?;
        if self.given.contains(&name) {
            return Err(Error::new(name.span(), format!("`{name}` is given twice")));
        }
        let argument = Argument { form: form(&name)?, name, input };
        match argument.name.to_string().as_str() {
            "tags" => self.tags = argument.texts()?,
            "owner" => self.owner = Some(argument.text()?),
            "timeout" => self.timeout = Some(argument.duration()?),
            "retries" => self.retries = Some(argument.number()?),
            "environments" => self.environments = argument.texts()?,
            "exclusive" => self.exclusive = Some(argument.text()?),
            "needs" => self.needs = argument.labels()?,
            "ignore" => {
                let reason = if argument.ends() { None } else { Some(argument.text()?) };
                self.ignore = Some(reason.map_or_else(String::new, |reason| reason.value()));
            }
            "should_panic" => self.should_panic = Some(argument.should_panic()?),
            _ => self.cases = argument.cases()?,
        }
        self.given.push(argument.name);
        Ok(())
    }
}

/// An argument whose name was read and whose value comes next.
struct Argument<'a> {
    name: Ident,
    form: &'static str,
    input: ParseStream<'a>,
}

impl Argument<'_> {
    fn wrong(&self, span: Span) -> Error {
        Error::new(span, format!("`{}` is {}", self.name, self.form))
    }

    /// Nothing follows the name.
    fn ends(&self) -> bool {
        self.input.is_empty() || self.input.peek(Token![,])
    }

    /// Steps over the `=`, so that a value comes next.
    fn equals(&self) -> Result<()> {
        if !self.input.peek(Token![=]) {
            return Err(self.wrong(self.name.span()));
        }
        self.input.parse::<Token![=]>()?;
        if self.ends() { Err(self.wrong(self.name.span())) } else { Ok(()) }
    }

    fn text(&self) -> Result<LitStr> {
        self.equals()?;
        self.one_text(self.input)
    }

    fn one_text(&self, input: ParseStream) -> Result<LitStr> {
        let span = input.span();
        let text: LitStr = input.parse().map_err(|_| self.wrong(span))?;
        if text.value().trim().is_empty() {
            return Err(Error::new(text.span(), format!("an empty text in `{}`", self.name)));
        }
        Ok(text)
    }

    fn texts(&self) -> Result<Vec<LitStr>> {
        self.equals()?;
        if !self.input.peek(syn::token::Bracket) {
            return Err(self.wrong(self.input.span()));
        }
        let list;
        bracketed!(list in self.input);
        let mut texts: Vec<LitStr> = Vec::new();
        each(&list, |list| {
            let text = self.one_text(list)?;
            if texts.iter().any(|earlier| earlier.value() == text.value()) {
                let message = format!("`{}` stands in `{}` twice", text.value(), self.name);
                return Err(Error::new(text.span(), message));
            }
            texts.push(text);
            Ok(())
        })?;
        Ok(texts)
    }

    fn labels(&self) -> Result<Vec<LitStr>> {
        let labels = self.texts()?;
        let wrong = |letter: char| letter == ',' || letter.is_whitespace() || letter.is_control();
        match labels.iter().find(|label| label.value().contains(wrong)) {
            Some(label) => Err(self.wrong(label.span())),
            None => Ok(labels),
        }
    }

    fn duration(&self) -> Result<Duration> {
        let text = self.text()?;
        duration::parse(&text.value()).ok_or_else(|| self.wrong(text.span()))
    }

    fn number(&self) -> Result<u32> {
        self.equals()?;
        let span = self.input.span();
        let number: LitInt = self.input.parse().map_err(|_| self.wrong(span))?;
        number.base10_parse().map_err(|_| self.wrong(span))
    }

    fn should_panic(&self) -> Result<ShouldPanic> {
        if self.ends() {
            return Ok(ShouldPanic::Anyhow);
        }
        if self.input.peek(Token![=]) {
            return self.text().map(ShouldPanic::With);
        }
        if !self.input.peek(syn::token::Paren) {
            return Err(self.wrong(self.input.span()));
        }
        let inside;
        parenthesized!(inside in self.input);
        let expected = inside.parse::<Ident>().ok().filter(|word| word == "expected");
        if expected.is_none() || inside.parse::<Token![=]>().is_err() {
            return Err(self.wrong(self.name.span()));
        }
        let text = self.one_text(&inside)?;
        inside.parse::<Option<Token![,]>>()?;
        if inside.is_empty() { Ok(ShouldPanic::With(text)) } else { Err(self.wrong(inside.span())) }
    }

    fn cases(&self) -> Result<Vec<Case>> {
        if !self.input.peek(syn::token::Paren) {
            return Err(self.wrong(self.name.span()));
        }
        let list;
        parenthesized!(list in self.input);
        let mut cases: Vec<Case> = Vec::new();
        each(&list, |list| {
            let case = self.case(list)?;
            if cases.iter().any(|earlier| earlier.name == case.name) {
                return Err(Error::new(case.name.span(), format!("two cases are named `{}`", case.name)));
            }
            cases.push(case);
            Ok(())
        })?;
        if cases.is_empty() { Err(self.wrong(self.name.span())) } else { Ok(cases) }
    }

    fn case(&self, input: ParseStream) -> Result<Case> {
        let span = input.span();
        let name: Ident = input.parse().map_err(|_| self.wrong(span))?;
        if !input.peek(syn::token::Paren) {
            return Err(self.wrong(name.span()));
        }
        let values;
        parenthesized!(values in input);
        Ok(Case { name, values: values.parse_terminated(Expr::parse, Token![,])? })
    }
}

/// Reads items with commas between them, and perhaps one at the end.
fn each(list: ParseStream, mut read: impl FnMut(ParseStream) -> Result<()>) -> Result<()> {
    while !list.is_empty() {
        read(list)?;
        if !list.is_empty() {
            list.parse::<Token![,]>()?;
        }
    }
    Ok(())
}

fn form(name: &Ident) -> Result<&'static str> {
    let word = name.to_string();
    if let Some((_, form)) = FORMS.iter().find(|(allowed, _)| *allowed == word) {
        return Ok(form);
    }
    let nearest = FORMS.iter().map(|(allowed, _)| (distance(&word, allowed), *allowed)).min();
    let hint = match nearest {
        Some((distance, allowed)) if distance <= 1 + word.len() / 4 => format!("did you mean `{allowed}`?"),
        _ => format!("allowed are {}", allowed()),
    };
    Err(Error::new(name.span(), format!("there is no argument `{word}`, {hint}")))
}

fn allowed() -> String {
    FORMS.map(|(name, _)| format!("`{name}`")).join(", ")
}

/// How many letters have to be put in, taken out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.chars().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_letters() {
        for (a, b, count) in
            [("tag", "tags", 1), ("onwer", "owner", 2), ("", "abc", 3), ("abc", "", 3), ("a", "a", 0)]
        {
            assert_eq!(distance(a, b), count, "{a} {b}");
        }
    }
}
