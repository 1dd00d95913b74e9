//! Everything with which tests are selected, together.

use clap::ValueEnum;

use super::expression::Expression;
use super::parser::{self, ExpressionError};
use crate::testcases::test_list::ListedTest;

/// What was asked for. All conditions that are given must hold.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Parts of test names, or whole ids `package::binary::name`; any of them.
    pub patterns: Vec<String>,
    /// As `patterns`, for tests that are left out.
    pub skip: Vec<String>,
    /// Patterns must equal the whole name or id.
    pub exact: bool,
    /// Filter expressions; any of them.
    pub expressions: Vec<String>,
    /// Tags; any of them.
    pub tags: Vec<String>,
    /// Owners; any of them.
    pub owners: Vec<String>,
    /// What is done with ignored tests.
    pub run_ignored: RunIgnored,
}

/// Which tests run, of those that are ignored and those that are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RunIgnored {
    /// Tests that are not ignored
    #[default]
    Default,
    /// Ignored tests only
    #[value(alias = "ignored-only")]
    Only,
    /// Ignored tests and the others
    All,
}

/// A selection, ready to be asked.
#[derive(Clone, Debug)]
pub struct Filter {
    selection: Selection,
    expressions: Vec<Expression>,
}

/// What is to be done with a test that was selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// It runs.
    Run,
    /// It is ignored: reported as skipped.
    Ignored,
}

impl Filter {
    /// A filter for a selection.
    ///
    /// # Errors
    /// An expression cannot be read.
    pub fn new(selection: Selection) -> Result<Self, ExpressionError> {
        let expressions = selection.expressions.iter().map(|text| parser::parse(text));
        Ok(Self { expressions: expressions.collect::<Result<_, _>>()?, selection })
    }

    /// What is to be done with a test; `None` where it is not selected.
    pub fn select(&self, test: &ListedTest) -> Option<Selected> {
        let ignored = test.code.ignore.is_some();
        let selected = match (self.selection.run_ignored, ignored) {
            (RunIgnored::Default, true) => Selected::Ignored,
            (RunIgnored::Only, false) => return None,
            _ => Selected::Run,
        };
        self.matches(test).then_some(selected)
    }

    fn matches(&self, test: &ListedTest) -> bool {
        let Selection { patterns, skip, tags, owners, .. } = &self.selection;
        let description = &test.code.description;
        let named = |patterns: &[String]| patterns.iter().any(|pattern| self.names(pattern, test));
        (patterns.is_empty() || named(patterns))
            && !named(skip)
            && (self.expressions.is_empty() || self.expressions.iter().any(|set| set.matches(test)))
            && (tags.is_empty() || description.tags.iter().any(|tag| tags.contains(tag)))
            && (owners.is_empty() || description.owner.as_ref().is_some_and(|owner| owners.contains(owner)))
    }

    fn names(&self, pattern: &str, test: &ListedTest) -> bool {
        let name = &test.id.test;
        let by_name = if self.selection.exact { name == pattern } else { name.contains(pattern) };
        by_name || test.id.to_string() == pattern
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testcases::{BinaryKind, sample};

    fn test(binary: (&str, BinaryKind), name: &str, tags: &[&str], owner: Option<&str>) -> ListedTest {
        let mut test = sample::test(&sample::binary(binary.0, binary.1), name);
        Arc::make_mut(&mut test.code).ignore = name.contains("ignored").then(String::new);
        Arc::make_mut(&mut test.code).description.tags = strings(tags);
        Arc::make_mut(&mut test.code).description.owner = owner.map(Into::into);
        test
    }

    fn tests() -> Vec<ListedTest> {
        let smoke = ("smoke", BinaryKind::Test);
        vec![
            test(smoke, "orders::paid", &["smoke", "orders"], Some("orders")),
            test(smoke, "orders::paid_twice", &["orders"], None),
            test(smoke, "users::ignored", &["smoke"], Some("users")),
            test(("shop_core", BinaryKind::Lib), "paid", &[], None),
            test(("shopd", BinaryKind::Bin), "a(b)/c", &[], None),
        ]
    }

    fn selected(selection: Selection) -> Vec<String> {
        let filter = Filter::new(selection).unwrap();
        let tests = tests();
        tests.iter().filter(|test| filter.select(test).is_some()).map(|test| test.id.test.clone()).collect()
    }

    fn by_expression(expression: &str) -> Vec<String> {
        selected(Selection { expressions: vec![expression.into()], ..Selection::default() })
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().copied().map(Into::into).collect()
    }

    #[test]
    fn patterns_are_parts_of_names_or_whole_ids_and_any_of_them_is_enough() {
        let of = |patterns: &[&str], skip: &[&str], exact| {
            let (patterns, skip) = (strings(patterns), strings(skip));
            selected(Selection { patterns, skip, exact, ..Selection::default() })
        };
        assert_eq!(of(&[], &[], false).len(), 5);
        assert_eq!(of(&["paid"], &[], false), ["orders::paid", "orders::paid_twice", "paid"]);
        assert_eq!(of(&["paid"], &["twice"], false), ["orders::paid", "paid"]);
        assert_eq!(of(&["twice", "users"], &[], false), ["orders::paid_twice", "users::ignored"]);
        assert_eq!(of(&["paid"], &[], true), ["paid"]);
        assert_eq!(of(&["shop::smoke::orders::paid"], &[], false), ["orders::paid"]);
        assert_eq!(of(&["shop::lib::paid"], &[], true), ["paid"]);
        assert_eq!(of(&["shop"], &[], false), [""; 0], "the package is no part of the name");
        assert_eq!(of(&["orders"], &["orders::paid"], true), [""; 0]);
    }

    #[test]
    fn every_predicate_looks_at_its_own_property() {
        for (expression, expected) in [
            ("all()", 5),
            ("default()", 5),
            ("none()", 0),
            ("test(paid)", 3),
            ("test(=paid)", 1),
            ("test(~aid)", 3),
            ("test(/^orders::.*d$/)", 1),
            ("test(#*paid)", 2),
            ("package(shop)", 5),
            ("package(sho)", 0),
            ("package(s*)", 5),
            ("binary(smoke)", 3),
            ("binary(shop*)", 2),
            ("binary_id(shop)", 1),
            ("binary_id(shop::smoke)", 3),
            ("binary_id(shop::lib)", 1),
            ("binary_id(shop::bin/shopd)", 1),
            ("kind(lib)", 1),
            ("kind(bin)", 1),
            ("tag(smoke)", 2),
            ("tag(/^(smoke|orders)$/)", 3),
            ("owner(orders)", 1),
            ("owner(#*)", 2),
            (r"test(=a\(b\)\/c)", 1),
            (r"test(/a\(b\)\/c/)", 1),
            (r"test(\u{70}aid)", 3),
            ("  test ( paid  )  ", 3),
        ] {
            assert_eq!(by_expression(expression).len(), expected, "{expression}");
        }
    }

    #[test]
    fn operators_bind_as_in_nextest() {
        for (expression, expected) in [
            ("tag(smoke) & tag(orders)", 1),
            ("tag(smoke) and tag(orders)", 1),
            ("tag(smoke) | tag(orders)", 3),
            ("tag(smoke) + tag(orders)", 3),
            ("tag(smoke) or tag(orders)", 3),
            ("tag(orders) - tag(smoke)", 1),
            ("tag(orders)-tag(smoke)", 1),
            ("!tag(orders)", 3),
            ("not tag(orders)", 3),
            ("not not tag(orders)", 2),
            ("kind(lib) | tag(smoke) & tag(orders)", 2),
            ("(kind(lib) | tag(smoke)) & tag(orders)", 1),
            ("not kind(lib) | kind(lib)", 5),
            ("all() - kind(lib) - kind(bin)", 3),
        ] {
            assert_eq!(by_expression(expression).len(), expected, "{expression}");
        }
    }

    #[test]
    fn several_expressions_are_a_union_and_other_conditions_narrow_it() {
        let expressions = strings(&["tag(orders)", "kind(lib)"]);
        let of = |tags: &[&str], owners: &[&str]| {
            let expressions = expressions.clone();
            let (tags, owners) = (strings(tags), strings(owners));
            selected(Selection { expressions, tags, owners, ..Selection::default() })
        };
        assert_eq!(of(&[], &[]), ["orders::paid", "orders::paid_twice", "paid"]);
        assert_eq!(of(&["smoke", "nope"], &[]), ["orders::paid"]);
        assert_eq!(of(&["orders"], &["users"]), [""; 0]);
    }

    #[test]
    fn ignored_tests_are_skipped_selected_alone_or_run_with_the_others() {
        let of = |run_ignored| {
            let filter = Filter::new(Selection { run_ignored, ..Selection::default() }).unwrap();
            let tests = tests();
            let selected: Vec<_> = tests.iter().filter_map(|test| filter.select(test)).collect();
            let runs = selected.iter().filter(|selected| **selected == Selected::Run).count();
            (selected.len(), runs)
        };
        assert_eq!(of(RunIgnored::Default), (5, 4));
        assert_eq!(of(RunIgnored::Only), (1, 1));
        assert_eq!(of(RunIgnored::All), (5, 5));
    }

    #[test]
    fn an_expression_that_cannot_be_read_is_shown_with_the_place_and_a_way_out() {
        let show = |expression: &str| {
            let error =
                Filter::new(Selection { expressions: vec![expression.into()], ..Selection::default() });
            let mut out = String::new();
            let handler = miette::NarratableReportHandler::new();
            handler.render_report(&mut out, &error.unwrap_err()).unwrap();
            out.lines()
                .filter(|line| !line.trim().is_empty() && !line.contains("severity"))
                .collect::<Vec<_>>()
                .join("\n")
        };
        let all = [
            "tset(paid)",
            "",
            "test(paid",
            "test(paid))",
            "test()",
            "test(/paid)",
            "test(/[/)",
            r"test(a\q)",
            "test(a) test(b)",
            "test(a) &",
            "test",
            "package(#[)",
            "deps(shop)",
            "(test(a)",
            "all(x)",
            "ü",
        ];
        insta::assert_snapshot!(
            all.map(|expression| format!("{expression}\n{}", show(expression))).join("\n\n")
        );
        let deep = "(".repeat(100_000);
        assert!(show(&deep).contains("nested too deep"));
        assert!(show(&"!".repeat(100_000)).contains("nested too deep"));
    }
}
