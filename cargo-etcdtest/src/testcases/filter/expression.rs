//! What a filter expression means.

use super::matcher::{Matcher, MatcherKind};
use crate::testcases::test_list::ListedTest;

/// A set of tests.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    /// All of them, or none.
    Constant(bool),
    /// Those with a property that matches.
    Property(Property, Matcher),
    /// Those outside of a set.
    Not(Box<Self>),
    /// Those in both sets.
    And(Box<Self>, Box<Self>),
    /// Those in any of both sets.
    Or(Box<Self>, Box<Self>),
}

/// What of a test is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Property {
    Test,
    Package,
    Binary,
    BinaryId,
    Kind,
    Tag,
    Owner,
}

/// A name that may stand before a parenthesis.
#[derive(Clone, Copy, Debug)]
pub(super) enum Predicate {
    /// It takes no argument.
    Constant(bool),
    /// It takes a matcher, of this kind where no sign is given.
    Property(Property, MatcherKind),
}

/// All predicates.
pub(super) const PREDICATES: [(&str, Predicate); 10] = [
    ("all", Predicate::Constant(true)),
    ("none", Predicate::Constant(false)),
    ("default", Predicate::Constant(true)),
    ("test", Predicate::Property(Property::Test, MatcherKind::Contains)),
    ("package", Predicate::Property(Property::Package, MatcherKind::Glob)),
    ("binary", Predicate::Property(Property::Binary, MatcherKind::Glob)),
    ("binary_id", Predicate::Property(Property::BinaryId, MatcherKind::Glob)),
    ("kind", Predicate::Property(Property::Kind, MatcherKind::Equal)),
    ("tag", Predicate::Property(Property::Tag, MatcherKind::Equal)),
    ("owner", Predicate::Property(Property::Owner, MatcherKind::Equal)),
];

impl Expression {
    /// Whether a test is in the set.
    pub(super) fn matches(&self, test: &ListedTest) -> bool {
        match self {
            Self::Constant(all) => *all,
            Self::Property(property, matcher) => property.matches(matcher, test),
            Self::Not(set) => !set.matches(test),
            Self::And(one, other) => one.matches(test) && other.matches(test),
            Self::Or(one, other) => one.matches(test) || other.matches(test),
        }
    }
}

impl Property {
    fn matches(self, matcher: &Matcher, test: &ListedTest) -> bool {
        let description = &test.code.description;
        match self {
            Self::Test => matcher.matches(&test.id.test),
            Self::Package => matcher.matches(&test.id.package),
            Self::Binary => matcher.matches(&test.binary.target),
            Self::BinaryId => {
                matcher.matches(&test.binary.nextest_id()) || matcher.matches(&test.binary.to_string())
            }
            Self::Kind => matcher.matches(&test.binary.kind.to_string()),
            Self::Tag => description.tags.iter().any(|tag| matcher.matches(tag)),
            Self::Owner => description.owner.as_deref().is_some_and(|owner| matcher.matches(owner)),
        }
    }
}
