//! Reading filter expressions, in nextest's grammar:
//!
//! ```text
//! or   = and (("|" | "+" | "or") and)*
//! and  = not (("&" | "-" | "and") not)*
//! not  = ("!" | "not") not | "(" or ")" | name "(" matcher ")"
//! matcher = ("=" | "~" | "#")? text | "/" regex "/"
//! ```

use miette::SourceSpan;

use super::expression::{Expression, PREDICATES, Predicate};
use super::matcher::{Matcher, MatcherKind};
use crate::nearest::nearest;

/// How deep an expression may be nested.
const DEPTH: usize = 128;

/// Why a filter expression cannot be read.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("the filter expression cannot be read: {what}")]
pub struct ExpressionError {
    what: String,
    #[source_code]
    expression: String,
    #[label("here")]
    place: SourceSpan,
    #[help]
    help: Option<String>,
}

impl ExpressionError {
    /// What is wrong.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Where in the expression, in bytes.
    pub fn place(&self) -> std::ops::Range<usize> {
        self.place.offset()..self.place.offset() + self.place.len()
    }

    /// The next step.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

/// Reads an expression.
///
/// # Errors
/// It is not one; the error points at the place.
pub(super) fn parse(expression: &str) -> Result<Expression, ExpressionError> {
    let mut parser = Parser { text: expression, at: 0, depth: 0 };
    let parsed = parser.or()?;
    match parser.peek() {
        None => Ok(parsed),
        Some(')') => Err(parser.error(1, "there is no `(` for this `)`", None)),
        Some(_) => {
            let length = parser.word().len().max(1);
            let help = "join two sets with `&` (and), `|` (or) or `-` (without)";
            Err(parser.error(length, "an operator is missing", Some(help.into())))
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, ExpressionError>;

impl<'a> Parser<'a> {
    fn or(&mut self) -> Parsed<Expression> {
        let mut set = self.and()?;
        while self.operator(&["|", "+"], "or") {
            set = Expression::Or(Box::new(set), Box::new(self.and()?));
        }
        Ok(set)
    }

    fn and(&mut self) -> Parsed<Expression> {
        let mut set = self.not()?;
        loop {
            if self.operator(&["-"], "") {
                let without = Expression::Not(Box::new(self.not()?));
                set = Expression::And(Box::new(set), Box::new(without));
            } else if self.operator(&["&"], "and") {
                set = Expression::And(Box::new(set), Box::new(self.not()?));
            } else {
                return Ok(set);
            }
        }
    }

    fn not(&mut self) -> Parsed<Expression> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.error(1, "it is nested too deep", None));
        }
        let set = if self.operator(&["!"], "not") {
            Expression::Not(Box::new(self.not()?))
        } else if self.take('(') {
            let open = self.at - 1;
            let set = self.or()?;
            self.close(open)?;
            set
        } else {
            self.predicate()?
        };
        self.depth -= 1;
        Ok(set)
    }

    fn predicate(&mut self) -> Parsed<Expression> {
        self.peek();
        let start = self.at;
        let name = self.word();
        if name.is_empty() {
            return Err(self.error(1, "a set of tests is missing", Some(allowed())));
        }
        let found = PREDICATES.iter().find(|(known, _)| *known == name);
        let Some((_, predicate)) = found else {
            return Err(self.error(name.len(), &format!("there is no `{name}`"), Some(suggest(name))));
        };
        self.at += name.len();
        let open = self.at;
        if !self.take('(') {
            let help = format!("write `{name}(…)`");
            self.at = start;
            return Err(self.error(name.len(), &format!("`(` is missing after `{name}`"), Some(help)));
        }
        let set = match *predicate {
            Predicate::Constant(all) => Expression::Constant(all),
            Predicate::Property(property, default) => Expression::Property(property, self.matcher(default)?),
        };
        self.close(open)?;
        Ok(set)
    }

    fn matcher(&mut self, default: MatcherKind) -> Parsed<Matcher> {
        let sign = self.peek().and_then(MatcherKind::of_sign);
        self.at += usize::from(sign.is_some());
        let start = self.at;
        let kind = sign.unwrap_or(default);
        let pattern = if kind == MatcherKind::Regex { self.regex()? } else { self.pattern()? };
        let length = self.at - start;
        if pattern.is_empty() {
            self.at = start;
            let help = "write a name, `=name`, `~part`, `#glob*` or `/regex/`".to_owned();
            return Err(self.error(1, "a name is missing", Some(help)));
        }
        Matcher::new(kind, pattern).map_err(|what| {
            self.at = start;
            self.error(length, &format!("the pattern is wrong: {what}"), None)
        })
    }

    /// The text up to the closing slash, which is consumed.
    fn regex(&mut self) -> Parsed<String> {
        let start = self.at;
        let mut pattern = String::new();
        let mut characters = self.text[start..].char_indices();
        while let Some((offset, character)) = characters.next() {
            match character {
                '/' => {
                    self.at = start + offset + 1;
                    return Ok(pattern);
                }
                '\\' => match characters.next() {
                    Some((_, '/')) => pattern.push('/'),
                    Some((_, escaped)) => pattern.extend(['\\', escaped]),
                    None => break,
                },
                other => pattern.push(other),
            }
        }
        self.at = start - 1;
        Err(self.error(
            self.text.len() - self.at,
            "the closing `/` of the regular expression is missing",
            None,
        ))
    }

    /// The text up to the closing parenthesis, which is left.
    fn pattern(&mut self) -> Parsed<String> {
        let mut pattern = String::new();
        while let Some(character) = self.text[self.at..].chars().next() {
            match character {
                ')' => break,
                '\\' => pattern.push(self.escape()?),
                other => {
                    pattern.push(other);
                    self.at += other.len_utf8();
                }
            }
        }
        pattern.truncate(pattern.trim_end().len());
        Ok(pattern)
    }

    /// An escape sequence, which is consumed.
    fn escape(&mut self) -> Parsed<char> {
        let rest = &self.text[self.at + 1..];
        let simple = match rest.chars().next() {
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some(same @ ('\\' | '/' | '(' | ')' | ',')) => Some(same),
            _ => None,
        };
        if let Some(character) = simple {
            self.at += 2;
            return Ok(character);
        }
        let hexadecimal = rest.strip_prefix("u{").and_then(|rest| Some(rest.split_once('}')?.0));
        let code = hexadecimal.filter(|digits| digits.len() <= 6);
        let code = code.and_then(|digits| char::from_u32(u32::from_str_radix(digits, 16).ok()?));
        if let (Some(character), Some(digits)) = (code, hexadecimal) {
            self.at += "\\u{}".len() + digits.len();
            return Ok(character);
        }
        let length = 1 + rest.chars().next().map_or(0, char::len_utf8);
        let help = r"allowed are \n \r \t \\ \/ \( \) \, and \u{7FFF}".to_owned();
        Err(self.error(length, "unknown escape sequence", Some(help)))
    }

    fn close(&mut self, open: usize) -> Parsed<()> {
        if self.take(')') {
            return Ok(());
        }
        if self.peek().is_none() {
            self.at = open;
            return Err(self.error(1, "the `)` for this `(` is missing", None));
        }
        let length = self.word().len().max(1);
        Err(self.error(length, "`)` is expected here", None))
    }

    /// The next character after white space.
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, character: char) -> bool {
        let found = self.peek() == Some(character);
        if found {
            self.at += character.len_utf8();
        }
        found
    }

    /// Consumes an operator, written as one of the signs (also doubled) or as a word.
    fn operator(&mut self, signs: &[&str], word: &str) -> bool {
        self.peek();
        let rest = &self.text[self.at..];
        let sign = signs.iter().find(|sign| rest.starts_with(**sign)).map(|sign| sign.len());
        let word = (!word.is_empty() && self.word() == word).then_some(word.len());
        let found = sign.or(word);
        self.at += found.unwrap_or(0);
        found.is_some()
    }

    /// The name that begins here, not consumed.
    fn word(&self) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'));
        let word = &rest[..end.unwrap_or(rest.len())];
        if word.starts_with('-') { "" } else { word }
    }

    fn error(&self, length: usize, what: &str, help: Option<String>) -> ExpressionError {
        let at = self.at.min(self.text.len());
        let length = length.min(self.text.len() - at);
        ExpressionError { what: what.into(), expression: self.text.into(), place: (at, length).into(), help }
    }
}

fn allowed() -> String {
    let names: Vec<_> = PREDICATES.iter().map(|(name, _)| format!("{name}()")).collect();
    format!("sets are {}", names.join(", "))
}

/// The nearest name, and all that are allowed.
fn suggest(name: &str) -> String {
    let nearest = nearest(name, PREDICATES.iter().map(|(known, _)| *known));
    match nearest {
        Some(known) => format!("did you mean `{known}()`? {}", allowed()),
        None => allowed(),
    }
}
