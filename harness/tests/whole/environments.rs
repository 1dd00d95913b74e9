//! Where tests without the runner find their environment.

use std::fs;
use std::path::Path;

use etcdtest::protocol::ENVIRONMENT_VARIABLE;

use crate::project::{BARE, Finished, PROJECT, finish};

const TOML: &str = "description = \"x\"\n[config]\nregion = \"eu\"\n";

/// Runs a test of the fixture with the environment variable on a file that holds `text`.
fn with_file(name: &str, text: &str) -> (Finished, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    let run = finish(PROJECT.test("own").args(["--exact", "needs::text"]).env(ENVIRONMENT_VARIABLE, &path));
    (run, path.display().to_string())
}

#[test]
fn a_file_in_either_format_gives_the_environment() {
    for (name, text) in [
        ("staging.toml", TOML),
        ("staging.json", r#"{"name":"staging","version":3,"revision":44,"config":{"region":"eu"}}"#),
    ] {
        let (run, _) = with_file(name, text);
        assert_eq!(run.code, Some(0), "{name}: {}", run.stdout);
    }
}

#[test]
fn the_example_of_the_front_page_passes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("local.toml");
    fs::write(&path, "[config]\norders_url = \"http://orders\"\n").unwrap();
    let run = finish(PROJECT.test("front_page").env(ENVIRONMENT_VARIABLE, path));
    assert_eq!(run.code, Some(0), "{}", run.stdout);
}

#[test]
fn the_environment_has_the_name_of_its_file_or_the_one_inside() {
    for (name, text, expected) in [
        ("staging.toml", "", "environment `staging` has no `region`"),
        ("file.json", r#"{"name":"staging","config":{}}"#, "environment `staging` has no `region`"),
        ("file.json", "{}", "environment `file` has no `region`"),
    ] {
        let (run, path) = with_file(name, text);
        assert!(run.stdout.contains(expected), "{name}: {}", run.stdout);
        assert!(run.stdout.contains(&path), "the message says where it was read: {}", run.stdout);
    }
}

#[test]
fn references_of_a_file_are_replaced_as_far_as_that_can_be_without_the_runner() {
    let (run, _) =
        with_file("eu.toml", "[config]\nregion = \"${config.name}\"\nname = \"${environment.name}\"\n");
    assert_eq!(run.code, Some(0), "{}", run.stdout);
    let (run, path) =
        with_file("eu.toml", "[config]\nregion = \"${services.orders.url}\"\n[services.orders]\n");
    let message = format!(
        "environment `eu`: `region`, which the parameter `region: String` needs, is wrong: it refers to \
         `${{services.orders.url}}`, and only `cargo etcdtest` starts services (it was read from {path})"
    );
    assert!(run.stdout.contains(&message), "{}", run.stdout);
}

#[test]
fn a_broken_file_fails_the_tests_with_the_place_of_the_mistake() {
    for (name, text, expected) in [
        ("broken.toml", "[config]\nregion = \"eu\"\nport = hidden\n", ":3:8: "),
        ("broken.json", "{\n  \"config\": hidden\n}", ":2:13: not JSON"),
        ("list.json", "{\"config\": []}", ": `config` is not a table"),
        ("text.toml", "config = 1", ": `config` is not a table"),
        ("environment.yaml", "", " is neither a .toml nor a .json file"),
    ] {
        let (run, path) = with_file(name, text);
        assert_eq!(run.code, Some(101));
        assert!(run.stdout.contains(&format!("{path}{expected}")), "{name}: {}", run.stdout);
        assert!(!run.stdout.contains("hidden"), "{name}: {}", run.stdout);
    }
}

#[test]
fn a_file_that_is_not_there_is_named_with_the_variable() {
    for target in ["own", "forgotten"] {
        let mut test = PROJECT.test(target);
        test.args(["--exact", "documented"]).env(ENVIRONMENT_VARIABLE, "no/such.toml");
        let run = finish(&mut test);
        assert_eq!(run.code, Some(101), "{target}");
        let path = PROJECT.folder.join("no/such.toml");
        let message = format!("failed to read {}, which {ENVIRONMENT_VARIABLE} names", path.display());
        assert!(run.stdout.contains(&message), "{target}: {}", run.stdout);
    }
}

#[test]
fn the_packages_local_toml_is_the_default_and_may_be_missing() {
    let package = tempfile::tempdir().unwrap();
    let run = |package: &Path| {
        let mut test = PROJECT.test("own");
        let empty = (ENVIRONMENT_VARIABLE, "");
        finish(test.args(["--exact", "needs::text"]).env("CARGO_MANIFEST_DIR", package).envs([empty]))
    };
    let empty = run(package.path());
    let path = package.path().join("environments").join("local.toml");
    let message = format!(
        "environment `local` has no `region`, which the parameter `region: String` needs (it is empty: no runner gave one, and there is no {})",
        path.display()
    );
    assert!(empty.stdout.contains(&message), "{}", empty.stdout);

    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, TOML).unwrap();
    let found = run(package.path());
    assert_eq!(found.code, Some(0), "{}", found.stdout);
}

#[test]
fn without_the_feature_a_toml_file_is_refused_and_json_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        finish(BARE.test("bare").env(ENVIRONMENT_VARIABLE, path))
    };
    let refused = run("local.toml", TOML);
    assert_eq!(refused.code, Some(101));
    let message = "local.toml: reading it needs the feature `toml` of the crate `etcdtest`";
    assert!(refused.stdout.contains(message), "{}", refused.stdout);
    assert_eq!(run("local.json", r#"{"config":{"region":"eu"}}"#).code, Some(0));
}
