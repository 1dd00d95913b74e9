//! The tests that are run.

use std::fmt::Write;

/// How many tests do nothing.
pub(super) const NO_OPS: usize = 2000;
/// How many tests sleep alike.
pub(super) const SLEEPERS: usize = 200;
/// How long each of them does, in milliseconds.
pub(super) const SLEEP: usize = 20;
/// How many tests are run many times.
pub(super) const REPEATED: usize = 1000;
/// How many tests sleep very differently.
const SKEWED: usize = 400;
/// How long they sleep together, in milliseconds.
const SKEWED_SUM: f64 = 160_000.0;
/// The standard deviation of the logarithms of their durations.
const SIGMA: f64 = 1.2;

/// The variable with the file to which skewed sleepers write when they began and ended, in
/// microseconds.
pub(super) const LOG: &str = "BENCH_LOG";

/// What a skewed sleeper does.
const NAP: &str = r#"fn nap(millis: u64) {
    use std::io::Write;
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
    let began = now();
    std::thread::sleep(std::time::Duration::from_millis(millis));
    if let Some(log) = std::env::var_os("BENCH_LOG") {
        let line = format!("{began} {}\n", now());
        std::fs::File::options().create(true).append(true).open(log).unwrap().write_all(line.as_bytes()).unwrap();
    }
}
"#;

/// A suite: a package for each way to write its tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suite {
    /// Tests that do nothing.
    NoOp,
    /// One test that does nothing.
    One,
    /// Tests that sleep alike.
    Sleep,
    /// Tests that sleep very differently.
    Skewed,
    /// Tests that do nothing, to be run many times.
    Repeated,
}

impl Suite {
    /// The beginning of its packages' names.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NoOp => "no-op",
            Self::One => "one",
            Self::Sleep => "sleep",
            Self::Skewed => "skewed",
            Self::Repeated => "repeated",
        }
    }

    /// The source of its tests, each with this attribute.
    pub(super) fn source(self, attribute: &str) -> String {
        let nothing = |count| vec![String::new(); count];
        let bodies = match self {
            Self::NoOp => nothing(NO_OPS),
            Self::One => nothing(1),
            Self::Sleep => {
                vec![format!("std::thread::sleep(std::time::Duration::from_millis({SLEEP}));"); SLEEPERS]
            }
            Self::Skewed => skewed().into_iter().map(|millis| format!("nap({millis});")).collect(),
            Self::Repeated => nothing(REPEATED),
        };
        let mut source = String::new();
        for (number, body) in bodies.iter().enumerate() {
            // Writing into a string cannot fail.
            let _ = writeln!(source, "#[{attribute}]\nfn t{number:04}() {{ {body} }}");
        }
        if self == Self::Skewed {
            source.push_str(NAP);
        }
        source
    }
}

/// How long the skewed sleepers sleep, in milliseconds: logarithms that are normally
/// distributed, always the same ones.
pub(super) fn skewed() -> Vec<u64> {
    let mut state = 1_u64;
    let mut uniform = || {
        // SplitMix64, by Steele, Lea and Flood; its upper 53 bits as a number between 0 and 1.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
        let fraction = (mixed >> 11) as f64;
        (fraction + 0.5) / 9_007_199_254_740_992.0
    };
    // Two uniform numbers make a normal one, as Box and Muller found.
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    let durations: Vec<f64> = (0..SKEWED).map(|_| (SIGMA * normal()).exp()).collect();
    let scale = SKEWED_SUM / durations.iter().sum::<f64>();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "none is long or negative")]
    let millis = |duration: &f64| (duration * scale).round().max(1.0) as u64;
    durations.iter().map(millis).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skewed_durations_are_always_the_same_and_eight_workers_can_share_them() {
        let durations = skewed();
        assert_eq!(durations, skewed());
        let (sum, longest) =
            (durations.iter().sum::<u64>(), durations.iter().max().copied().unwrap_or_default());
        assert!((159_000..161_000).contains(&sum), "{sum} ms");
        assert!(longest < sum / 8, "{longest} of {sum} ms");
        let shorter = durations.iter().filter(|millis| **millis < 400).count();
        assert!(shorter > durations.len() / 2, "most are shorter than the mean: {shorter}");
    }

    #[test]
    fn a_suite_has_as_many_tests_as_it_says() {
        for (suite, count) in [(Suite::NoOp, NO_OPS), (Suite::Skewed, SKEWED), (Suite::Repeated, REPEATED)] {
            assert_eq!(suite.source("test").matches("#[test]\nfn t").count(), count);
        }
    }
}
