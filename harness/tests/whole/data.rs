//! Data sets, as the runner names them and as a file does.

use std::fs;

use etcdtest::protocol::{ENVIRONMENT_VARIABLE, EnvironmentData, Outcome, Start};

use crate::project::{PROJECT, finish};
use crate::runner::{attempt, config, start};

/// A start of the test that reads data, with these sets.
fn start_with(sets: &[(&str, &str)]) -> Start {
    let data = sets.iter().map(|&(name, file)| (name.to_owned(), file.to_owned())).collect();
    let environment = EnvironmentData { name: "staging".into(), data, ..EnvironmentData::default() };
    Start { environment: environment.to_json(), ..start("needs::data", config()) }
}

#[test]
fn a_data_set_is_read_from_the_file_that_the_runner_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    fs::write(&file, "[\"ada\", \"bob\"]").unwrap();
    let file = file.to_str().unwrap();
    let passed = attempt(&start_with(&[("users", file)]));
    assert_eq!(passed.outcome(), &Outcome::Passed);
    assert_eq!(passed.attachment("names"), "ada bob of Data { name: \"users\", size: 14 }");

    fs::write(file, "[\"ada\", 7]").unwrap();
    let failed = attempt(&start_with(&[("users", file)]));
    let (message, _) = failed.failure();
    assert!(message.starts_with("the data set `users` cannot be read as `alloc::vec::Vec<"), "{message}");
    assert!(message.contains("from JSON: ") && message.ends_with("at line 1 column 9"), "{message}");
    fs::write(file, b"\xff").unwrap();
    assert!(attempt(&start_with(&[("users", file)])).failure().0.contains("from JSON: "));
    fs::remove_file(file).unwrap();
    let message = format!("environment `staging`: the data set `users` cannot be read from {file}: ");
    assert!(attempt(&start_with(&[("users", file)])).failure().0.starts_with(&message));
}

#[test]
fn an_unknown_data_set_is_told_with_those_there_are() {
    for (sets, said) in [
        (&[][..], "environment `staging` has no data set `users`, it has none"),
        (
            &[("user", "/u"), ("orders", "/o")],
            "environment `staging` has no data set `users`, there is: orders, user",
        ),
    ] {
        assert_eq!(attempt(&start_with(sets)).failure().0, said);
    }
}

#[test]
fn without_the_runner_it_is_the_file_that_the_environments_file_names() {
    let folder = tempfile::tempdir().unwrap();
    let toml = folder.path().join("staging.toml");
    fs::write(&toml, "[data]\nusers = \"fixtures/users.json\"\nstored = { environment = \"x\" }\n").unwrap();
    let test =
        || finish(PROJECT.test("own").args(["--exact", "needs::data"]).env(ENVIRONMENT_VARIABLE, &toml));
    let missing = test();
    assert_eq!(missing.code, Some(101));
    assert!(missing.stdout.contains("the data set `users` cannot be read from "), "{}", missing.stdout);
    assert!(missing.stdout.contains("(it was read from "), "{}", missing.stdout);
    fs::create_dir(folder.path().join("fixtures")).unwrap();
    fs::write(folder.path().join("fixtures/users.json"), "[]").unwrap();
    let found = test();
    assert_eq!(found.code, Some(0), "{}", found.stdout);
}
