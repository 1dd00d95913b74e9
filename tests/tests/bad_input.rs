//! What is wrong before any test runs: each is told with what, where and the next step.
#![cfg(unix)]

use whole_program::Project;
use whole_program::subject::{Ran, Subject};

fn with_settings(settings: &str, arguments: &[&str]) -> Ran {
    let subject = Subject::new();
    subject.write(".config/etcdtest.toml", settings);
    let ran = subject.etcdtest(arguments);
    assert!(!subject.path().join(".etcdtest").exists(), "no store is made");
    ran
}

#[test]
fn wrong_settings_are_told_with_their_place_and_the_nearest_name() {
    with_settings("[profile.default]\nretrys = 2\n", &[])
        .refuses(2, &[".config/etcdtest.toml:2:1", "no setting `retrys`", "did you mean `retries`?"]);
    with_settings("[profile.default]\nretries = \"many\"\n", &[]).refuses(
        2,
        &[".config/etcdtest.toml:2:11", "`retries` has a wrong value", "expected a whole number"],
    );
    with_settings("[profile.default\n", &[]).refuses(2, &[".config/etcdtest.toml:1"]);
    with_settings("[profile.ci]\n", &["--profile", "cl"]).refuses(2, &["no profile `cl`", "`ci`"]);
}

#[test]
fn a_wrong_variable_is_told() {
    let subject = Subject::new();
    let ran = Ran::of(subject.command(&[]).env("ETCDTEST_RETRYS", "2"));
    ran.refuses(2, &["ETCDTEST_RETRYS", "did you mean ETCDTEST_RETRIES?"]);
    let ran = Ran::of(subject.command(&[]).env("ETCDTEST_RETRIES", "many"));
    ran.refuses(2, &["ETCDTEST_RETRIES", "a whole number"]);
}

#[test]
fn wrong_arguments_are_told_with_what_is_near() {
    let subject = Subject::new();
    subject.etcdtest(&["--retrys", "2"]).refuses(2, &["--retrys", "--retries"]);
    subject.etcdtest(&["--retries", "many"]).refuses(2, &["--retries", "many"]);
    subject.etcdtest(&["--test-threads", "0"]).refuses(2, &["--test-threads", "num-cpus"]);
    subject.etcdtest(&["--timeout", "soon"]).refuses(2, &["--timeout", "soon"]);
    subject.etcdtest(&["--store-output", "some"]).refuses(2, &["failed, all, none"]);
    subject.etcdtest(&["env", "aply"]).refuses(2, &["aply", "apply"]);
    subject.etcdtest(&["-E", "tag(smoke"]).refuses(2, &["tag(smoke"]);
    subject.etcdtest(&["-E", "tags(smoke)"]).refuses(2, &["tags", "tag"]);
    subject.etcdtest(&["worker"]).refuses(2, &["--run <RUN>|--daemon"]);
    subject.etcdtest(&["store", "copy"]).refuses(2, &["--from <STORE>|--to <STORE>"]);
}

#[test]
fn the_id_of_a_run_can_be_typed_as_it_is_shown() {
    let subject = Subject::new();
    let long = "x".repeat(129);
    for wrong in ["a b", "$(x)", "it's", "a\nb", "--run-id=-x", "", "latest", &long] {
        let flag = if wrong.starts_with("--") { wrong.to_owned() } else { format!("--run-id={wrong}") };
        subject.etcdtest(&["run", &flag]).refuses(2, &["--run-id"]);
    }
    let ran = subject.etcdtest(&["tagged::one", "--run-id", "ci/main@1:2_3+ü%4.5=6,7"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

/// Endpoints are shown and recorded: whoever puts a password there is told, without it.
#[test]
fn a_password_in_an_endpoint_is_refused_and_not_shown() {
    const ENDPOINT: &str = "http://ann:hunter2@127.0.0.1:1";
    let subject = Subject::new();
    let by_variable = subject.command(&["store", "status"]).env("ETCDTEST_ENDPOINTS", ENDPOINT).output();
    for ran in [
        subject.etcdtest(&["store", "status", "--endpoints", ENDPOINT]),
        subject.etcdtest(&["store", "copy", "--to", ENDPOINT]),
        by_variable.unwrap().into(),
    ] {
        ran.refuses(2, &["an endpoint of the store has a user in it", "--user NAME", "ETCDTEST_PASSWORD"]);
        assert!(!format!("{ran:?}").contains("hunter2"), "{ran:?}");
    }
}

/// A misspelt verb is a filter, as a word that stands there is.
#[test]
fn a_word_that_is_almost_a_verb_selects_nothing_and_the_verb_is_named() {
    let subject = Subject::new();
    subject
        .etcdtest(&["wacth"])
        .refuses(4, &["no test was selected", "did you mean `cargo etcdtest watch`?"]);
}

#[test]
fn code_that_does_not_compile_shows_cargos_words_and_exits_with_101() {
    let project =
        Project::package("broken", "").file("src/lib.rs", "#[test] fn wrong() { let x: u8 = \"\"; }");
    let ran = Ran::from(project.etcdtest(&[]));
    ran.refuses(101, &["error[E0308]: mismatched types", "src/lib.rs:1:"]);
}

#[test]
fn a_binary_that_does_not_list_its_tests_exits_with_101() {
    let manifest = "[[test]]\nname = \"garbage\"\nharness = false\n";
    let project = Project::package("unlisted", manifest)
        .file("src/lib.rs", "")
        .file("tests/garbage.rs", "fn main() { println!(\"hello\\n\\u{7}world\"); }");
    Ran::from(project.etcdtest(&[])).refuses(101, &["unlisted::garbage"]);
}

#[test]
fn a_folder_without_a_package_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(whole_program::program());
    let ran = Ran::of(command.args(["etcdtest", "run"]).current_dir(folder.path()));
    ran.refuses(101, &["Cargo.toml"]);
}

#[test]
fn a_manifest_that_is_not_there_is_told() {
    let subject = Subject::new();
    subject.etcdtest(&["--manifest-path", "no/Cargo.toml"]).refuses(2, &["no/Cargo.toml"]);
}
