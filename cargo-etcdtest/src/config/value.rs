//! What the value of a setting can be, and how it is read from text, from TOML and from a flag.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ColorChoice, ValueEnum};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use super::levels::{FinalStatusLevel, StatusLevel};
use super::rules::{MaxFail, OutputWhen, PassOrFail, Retries, SlowTimeout, ThreadsRequired, duration};
use super::types::{Format, KeepRuns, StoreOutput, TestThreads, User};
use crate::model::Labels;
use crate::store::Secret;

/// A kind of value that a setting can have.
pub trait Value: Sized {
    /// What a flag gives.
    type Flag: Clone + std::fmt::Debug;
    /// What is accepted, to be read after "expected".
    const EXPECTED: &'static str;

    /// From the text of a variable or a default.
    fn parse(text: &str) -> Option<Self>;

    /// The text that stands for a value of the settings file; `None` where its type is wrong.
    fn text(value: &DeValue<'_>) -> Option<String> {
        value.as_str().map(str::to_owned)
    }

    /// From a value of the settings file; `None` where it is not accepted.
    fn read(value: &DeValue<'_>) -> Option<Self> {
        Self::text(value).and_then(|text| Self::parse(&text))
    }

    /// From a flag.
    fn from_flag(flag: Self::Flag) -> Self;

    /// As shown to people; empty for none. Never a secret.
    fn show(&self) -> String;

    /// The value as meant by a file whose relative paths begin at `root`.
    #[must_use]
    fn below(self, _root: &Path) -> Self {
        self
    }
}

/// Implements [`Value`] for a type that is its own flag.
macro_rules! value {
    ($type:ty, $expected:literal, parse: $parse:expr, show: $show:expr $(, $($method:tt)*)?) => {
        impl Value for $type {
            type Flag = Self;
            const EXPECTED: &'static str = $expected;

            fn parse(text: &str) -> Option<Self> {
                ($parse)(text)
            }

            fn from_flag(flag: Self) -> Self {
                flag
            }

            fn show(&self) -> String {
                ($show)(self)
            }

            $($($method)*)?
        }
    };
}

value!(String, "a text that is not empty",
    parse: |text: &str| (!text.is_empty()).then(|| text.to_owned()),
    show: String::clone);

value!(User, "a name; the password comes from ETCDTEST_PASSWORD",
parse: |text: &str| text.parse().ok(),
show: |user: &User| user.name.clone(),
fn text(value: &DeValue<'_>) -> Option<String> {
    value.as_str().filter(|text| !text.contains(':')).map(str::to_owned)
});

value!(Secret, "no secret in a file: set the variable instead",
parse: |text: &str| Some(Secret::new(text)),
show: |_| "***".to_owned(),
fn text(_: &DeValue<'_>) -> Option<String> {
    None
});

value!(bool, "`true` or `false`",
parse: |text: &str| text.parse().ok(),
show: ToString::to_string,
fn text(value: &DeValue<'_>) -> Option<String> {
    value.as_bool().map(|value| value.to_string())
});

value!(Retries, "a whole number, 0 or more, or a table as `{ backoff = \"exponential\", count = 3, delay = \"1s\" }`",
parse: |text: &str| text.parse().ok(),
show: ToString::to_string,
fn read(value: &DeValue<'_>) -> Option<Self> {
    deserialized(value)
});

value!(SlowTimeout, "a duration, or a table as `{ period = \"30s\", terminate-after = 2, grace-period = \"5s\" }`",
parse: |text: &str| text.parse().ok(),
show: ToString::to_string,
fn read(value: &DeValue<'_>) -> Option<Self> {
    deserialized(value)
});

value!(MaxFail, "a whole number, 1 or more, or `all`",
parse: |text: &str| text.parse().ok(),
show: ToString::to_string,
fn text(value: &DeValue<'_>) -> Option<String> {
    text_or_number(value)
});

value!(KeepRuns, "a whole number, 1 or more, or `all`",
parse: |text: &str| text.parse().ok(),
show: ToString::to_string,
fn text(value: &DeValue<'_>) -> Option<String> {
    text_or_number(value)
});

value!(ThreadsRequired, "a whole number, 1 or more, `num-cpus` or `num-test-threads`",
parse: |text: &str| text.parse().ok(),
show: ToString::to_string,
fn text(value: &DeValue<'_>) -> Option<String> {
    text_or_number(value)
});

value!(Duration, "a duration of more than 0, such as `500ms`, `30s` or `5m`",
    parse: duration,
    show: |duration: &Duration| humantime::format_duration(*duration).to_string());

value!(PathBuf, "a path",
parse: |text: &str| (!text.is_empty()).then(|| text.into()),
show: |path: &PathBuf| path.display().to_string(),
fn below(self, root: &Path) -> Self {
    root.join(self)
});

value!(Vec<String>, "a list of texts",
parse: |text: &str| {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    Some(parts.map(str::to_owned).collect())
},
show: |list: &Vec<String>| list.join(","),
fn text(value: &DeValue<'_>) -> Option<String> {
    let texts: Option<Vec<_>> = value.as_array()?.iter().map(|part| part.get_ref().as_str()).collect();
    texts.map(|texts| texts.join(","))
});

value!(Labels, "a list of labels, without spaces in them",
parse: |text: &str| text.parse().ok(),
show: ToString::to_string,
fn read(value: &DeValue<'_>) -> Option<Self> {
    let labels: Option<Vec<_>> = value.as_array()?.iter().map(|part| part.get_ref().as_str()).collect();
    Labels::new(labels?).ok()
});

value!(TestThreads, "a number, `num-cpus`, or a negative number to leave so many cores free",
parse: |text: &str| text.parse().ok(),
show: ToString::to_string,
fn text(value: &DeValue<'_>) -> Option<String> {
    text_or_number(value)
});

value!(StoreOutput, "`failed`, `all` or `none`", parse: of_names, show: name_of);
value!(PassOrFail, "`pass` or `fail`", parse: of_names, show: name_of);
value!(OutputWhen, "`immediate`, `final`, `immediate-final` or `never`", parse: of_names, show: name_of);
value!(StatusLevel, "`none`, `fail`, `retry`, `slow`, `leak`, `pass`, `skip` or `all`",
    parse: of_names, show: name_of);
value!(FinalStatusLevel, "`none`, `fail`, `flaky`, `slow`, `skip`, `pass` or `all`",
    parse: of_names, show: name_of);
value!(Format, "`human` or `json`", parse: of_names, show: name_of);
value!(ColorChoice, "`auto`, `always` or `never`", parse: of_names, show: name_of);

fn text_or_number(value: &DeValue<'_>) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.as_integer().map(ToString::to_string))
}

fn deserialized<T: DeserializeOwned>(value: &DeValue<'_>) -> Option<T> {
    T::deserialize(ValueDeserializer::from(Spanned::new(0..0, value.clone()))).ok()
}

fn of_names<T: ValueEnum>(text: &str) -> Option<T> {
    T::from_str(text, false).ok()
}

fn name_of<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|name| name.get_name().to_owned()).unwrap_or_default()
}

/// A setting that may have no value, which is written as an empty text.
impl<T: Value> Value for Option<T> {
    type Flag = T::Flag;
    const EXPECTED: &'static str = T::EXPECTED;

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { T::parse(text).map(Some) }
    }

    fn text(value: &DeValue<'_>) -> Option<String> {
        T::text(value)
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        T::read(value).map(Some)
    }

    fn from_flag(flag: T::Flag) -> Self {
        Some(T::from_flag(flag))
    }

    fn show(&self) -> String {
        self.as_ref().map(T::show).unwrap_or_default()
    }

    fn below(self, root: &Path) -> Self {
        self.map(|value| value.below(root))
    }
}
