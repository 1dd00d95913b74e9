//! What a doc comment says of a test case.

use syn::{Attribute, Expr, ExprLit, Lit, Meta};

/// The parts of a doc comment that belong to the test case.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Documentation {
    /// The first paragraph, its lines joined.
    pub(crate) description: String,
    /// The items of the list under `# Steps`.
    pub(crate) steps: Vec<String>,
    /// The text under `# Expected`.
    pub(crate) expected: String,
}

impl Documentation {
    /// Reads the doc attributes among `attributes`.
    pub(crate) fn read(attributes: &[Attribute]) -> Self {
        let text: Vec<String> = attributes.iter().filter_map(doc_text).collect();
        Self::parse(&text.join("\n"))
    }

    fn parse(text: &str) -> Self {
        let sections = Sections::split(text);
        let first_paragraph =
            sections.front.split(|line| line.trim().is_empty()).find(|lines| !lines.is_empty());
        Self {
            description: flow(first_paragraph.unwrap_or_default()),
            steps: items(&sections.steps),
            expected: flow(&sections.expected),
        }
    }
}

/// The lines of the comment by the heading above them.
#[derive(Default)]
struct Sections<'a> {
    front: Vec<&'a str>,
    steps: Vec<&'a str>,
    expected: Vec<&'a str>,
}

impl<'a> Sections<'a> {
    fn split(text: &'a str) -> Self {
        let mut sections = Self::default();
        let mut others = Vec::new();
        let mut current = &mut sections.front;
        for line in text.lines() {
            match heading(line) {
                Some(title) if title.eq_ignore_ascii_case("steps") => current = &mut sections.steps,
                Some(title) if title.eq_ignore_ascii_case("expected") => current = &mut sections.expected,
                Some(_) => current = &mut others,
                None => current.push(line),
            }
        }
        sections
    }
}

fn doc_text(attribute: &Attribute) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

fn heading(line: &str) -> Option<&str> {
    let line = line.trim();
    let title = line.trim_start_matches('#');
    (title.len() < line.len() && title.starts_with(' ')).then(|| title.trim().trim_end_matches(':'))
}

/// What follows the marker of a list item.
fn item(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let numbered = || {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
        (rest.len() < line.len()).then(|| rest.strip_prefix(['.', ')'])).flatten()
    };
    let rest = line.strip_prefix(['-', '*', '+']).or_else(numbered)?;
    rest.strip_prefix(' ').map(str::trim)
}

/// The items of a list; what is indented deeper than the first item belongs to the item above it.
fn items(lines: &[&str]) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let outer = lines.iter().find(|line| item(line).is_some()).map_or(0, |line| indent(line));
    let mut items: Vec<String> = Vec::new();
    for line in lines {
        match item(line).filter(|_| indent(line) <= outer) {
            Some(text) => items.push(text.to_owned()),
            None => {
                if let Some(last) = items.last_mut().filter(|_| !line.trim().is_empty()) {
                    last.push(' ');
                    last.push_str(line.trim());
                }
            }
        }
    }
    items
}

/// Lines joined to paragraphs; a list keeps one line per item.
fn flow(lines: &[&str]) -> String {
    let mut text = String::new();
    let mut between = "";
    for line in lines {
        if line.trim().is_empty() {
            between = if text.is_empty() { "" } else { "\n\n" };
            continue;
        }
        if between == " " && item(line).is_some() {
            between = "\n";
        }
        text.push_str(between);
        text.push_str(line.trim());
        between = " ";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Documentation {
        Documentation::parse(text)
    }

    #[test]
    fn the_first_paragraph_describes_the_test() {
        let read = parse("\n A paid order\n is listed.\n\n More, which is not part of it.");
        assert_eq!(read.description, "A paid order is listed.");
        assert_eq!(parse(""), Documentation::default());
        assert_eq!(parse(" # Steps\n 1. One.").description, "");
    }

    #[test]
    fn steps_are_numbered_or_bulleted_and_may_go_on_over_lines() {
        let read = parse(
            " # Steps\n 1. Create\n    an order.\n    - with one item\n\n 2) Pay it.\n # Other\n - no step",
        );
        assert_eq!(read.steps, ["Create an order. - with one item", "Pay it."]);
        assert_eq!(parse(" ## steps:\n\n- One\n* Two\n+ Three").steps, ["One", "Two", "Three"]);
        assert_eq!(parse(" # Steps\n 1.5 is no item, -nor this\n 10. Ten").steps, ["Ten"]);
    }

    #[test]
    fn the_expected_result_keeps_its_paragraphs_and_lists() {
        let read = parse(
            " # Expected\n\n The list\n shows:\n - `paid`\n - the sum\n\n Nothing else.\n # Panics\n no",
        );
        assert_eq!(read.expected, "The list shows:\n- `paid`\n- the sum\n\nNothing else.");
    }
}
