//! Rules for some tests only: `[[profile.NAME.overrides]]` in the settings file.

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::unknown;
use super::rules::Rules;
use super::value::Value;
use crate::document::{Document, Mistake};
use crate::testcases::TestSet;

/// Rules for the tests of a set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Override {
    /// The tests.
    pub filter: TestSet,
    /// The rules.
    pub rules: Rules,
}

const FILTER: &str = "filter";

type Read<T> = Result<T, Box<Mistake>>;

/// Notes what a value says, or gives what is accepted instead.
type Say = fn(&mut Rules, &DeValue<'_>) -> Result<(), &'static str>;

/// Notes a value in its rule.
fn say<T: Value>(rule: &mut Option<T>, value: &DeValue<'_>) -> Result<(), &'static str> {
    *rule = Some(T::read(value).ok_or(T::EXPECTED)?);
    Ok(())
}

/// Every rule that an override can have.
const RULES: [(&str, Say); 10] = [
    ("retries", |rules, value| say(&mut rules.retries, value)),
    ("flaky-result", |rules, value| say(&mut rules.flaky_result, value)),
    ("leaky-result", |rules, value| say(&mut rules.leaky_result, value)),
    ("timeout", |rules, value| say(&mut rules.timeout, value)),
    ("slow-timeout", |rules, value| say(&mut rules.slow_timeout, value)),
    ("threads-required", |rules, value| say(&mut rules.threads_required, value)),
    ("exclusive", |rules, value| say(&mut rules.exclusive, value)),
    ("needs", |rules, value| say(&mut rules.needs, value)),
    ("success-output", |rules, value| say(&mut rules.success_output, value)),
    ("failure-output", |rules, value| say(&mut rules.failure_output, value)),
];

/// Reads the overrides of a profile.
pub(super) fn read(document: &Document, value: Spanned<DeValue<'_>>) -> Read<Vec<Override>> {
    let place = value.span();
    let DeValue::Array(tables) = value.into_inner() else {
        let message = "expected a list of tables, each written `[[profile.NAME.overrides]]`";
        return Err(document.mistake(message, place, "this is no list"));
    };
    tables.into_iter().map(|table| one(document, table)).collect()
}

fn one(document: &Document, value: Spanned<DeValue<'_>>) -> Read<Override> {
    let place = value.span();
    let table: DeTable<'_> = super::file::table(document, value, "a table of rules")?;
    let (mut filter, mut rules) = (None, Rules::default());
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if name == FILTER {
            filter = Some(set(document, &value)?);
            continue;
        }
        let Some((_, say)) = RULES.iter().find(|(known, _)| *known == name) else {
            let known = RULES.iter().map(|(known, _)| *known).chain([FILTER]);
            return Err(unknown(document, "rule", &key, known));
        };
        say(&mut rules, value.get_ref()).map_err(|expected| {
            let message = format!("the rule `{name}` has a wrong value");
            document.mistake(message, value.span(), format!("expected {expected}"))
        })?;
    }
    let filter = filter.ok_or_else(|| {
        document
            .mistake("an override has no `filter`", place, "for which tests?")
            .with_help("write, for example, `filter = \"test(payments::)\"`".to_owned())
    })?;
    Ok(Override { filter, rules })
}

/// Reads a filter expression; what is wrong in it is shown at its own place, where the text
/// is written as it is meant.
fn set(document: &Document, value: &Spanned<DeValue<'_>>) -> Read<TestSet> {
    let whole = value.span();
    let Some(expression) = value.get_ref().as_str() else {
        let message = "the rule `filter` has a wrong value";
        return Err(document.mistake(message, whole, "expected a filter expression in quotes"));
    };
    TestSet::parse(expression).map_err(|error| {
        let inside = whole.start + 1..whole.end.saturating_sub(1);
        let place = if document.written(inside) == expression {
            let place = error.place();
            whole.start + 1 + place.start..whole.start + 1 + place.end
        } else {
            whole
        };
        document
            .mistake("the filter expression cannot be read", place, error.what())
            .with_help(error.help().map(str::to_owned))
    })
}
