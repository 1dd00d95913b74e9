//! The file of an environment, from its text to what a run uses: what the test
//! `environment_files` does with texts made at random, with texts found by coverage.
#![no_main]

#[path = "../../tests/environment_files/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|text: &str| {
    exercise::exercise(text);
});
