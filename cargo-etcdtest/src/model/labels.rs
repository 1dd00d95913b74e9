//! Labels: what a worker has that not every worker has, and what a test needs of it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A set of labels, written with commas between: `gpu,linux`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeSet<String>);

/// Why a text is no set of labels.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no label: one has no spaces and no commas in it")]
pub struct LabelError(String);

impl Labels {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all of these are among them: a worker with them has what a test needs.
    pub fn satisfy(&self, needs: &Self) -> bool {
        needs.0.is_subset(&self.0)
    }

    /// A set of these labels.
    ///
    /// # Errors
    /// One of them is empty, or has a space or a comma in it.
    pub fn new<T: AsRef<str>>(labels: impl IntoIterator<Item = T>) -> Result<Self, LabelError> {
        let label = |label: T| {
            let label = label.as_ref();
            let wrong = |letter: char| letter == ',' || letter.is_whitespace() || letter.is_control();
            if label.is_empty() || label.contains(wrong) {
                return Err(LabelError(label.to_owned()));
            }
            Ok(label.to_owned())
        };
        labels.into_iter().map(label).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Labels {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text.split(',').map(str::trim).filter(|label| !label.is_empty()))
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, label) in self.0.iter().enumerate() {
            write!(f, "{}{label}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_what_a_test_needs_if_it_has_all_of_it() {
        let labels = |text: &str| text.parse::<Labels>().unwrap();
        assert!(labels("gpu,fast").satisfy(&labels("gpu")));
        assert!(labels("").satisfy(&labels("")));
        assert!(!labels("gpu").satisfy(&labels("fast, gpu")));
        assert_eq!(labels("b,, a ,b").to_string(), "a,b");
        assert!("a b".parse::<Labels>().is_err());
        assert!(Labels::new(["a,b"]).is_err() && Labels::new([""]).is_err());
    }
}
