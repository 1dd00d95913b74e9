//! The fields that verbs print as JSON stand in `docs/machine-output.md`.
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use whole_program::{Project, root};

/// The section about test cases says of their code: as in the other.
const TEST_CASE: [&str; 2] = ["testcase", "list"];

/// What stands in backquotes in the section with this heading.
fn documented(section: &str) -> BTreeSet<String> {
    let document = fs::read_to_string(root().join("docs/machine-output.md")).unwrap();
    let heading = format!("## {section}\n");
    let (_, text) = document.split_once(&heading).unwrap_or_else(|| panic!("no section `{section}`"));
    let text = text.split("\n## ").next().unwrap();
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Where names are the user's, and nothing else is inside.
const FREE: [&str; 3] = ["config", "labels", "env"];

/// Where names are the user's, with fields inside.
const NAMED: [&str; 3] = ["secrets", "services", "data"];

/// The names of all fields that are ours.
fn fields(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                into.insert(name.clone());
                match value.as_object() {
                    Some(_) if FREE.contains(&name.as_str()) => {}
                    Some(named) if NAMED.contains(&name.as_str()) => {
                        named.values().for_each(|value| fields(value, into));
                    }
                    _ => fields(value, into),
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                fields(value, into);
            }
        }
        _ => {}
    }
}

/// Calls a verb and returns the names of the fields that it prints, all of which the
/// sections must have.
#[track_caller]
fn printed(project: &Project, arguments: &str, sections: &[&str]) -> BTreeSet<String> {
    let arguments: Vec<_> = arguments.split(' ').chain(["--format", "json"]).collect();
    let output = project.etcdtest(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mut printed = BTreeSet::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        fields(&serde_json::from_str(line).unwrap(), &mut printed);
    }
    let documented = sections.iter().flat_map(|section| documented(section)).collect();
    let missing: Vec<_> = printed.difference(&documented).cloned().collect();
    assert!(missing.is_empty() && !printed.is_empty(), "{arguments:?}: {missing:?} of {printed:?}");
    printed
}

#[test]
fn the_fields_of_tests_and_test_cases_are_documented() {
    let manifest = format!(
        "[dev-dependencies]\netcdtest = {{ path = '{}', default-features = false }}\n\
         [[test]]\nname = \"smoke\"\nharness = false\n",
        root().join("harness").display()
    );
    let test = "/// Said.\n///\n/// # Steps\n/// 1. Do it.\n///\n/// # Expected\n/// Done.\n\
                #[etcdtest::test(tags = [\"a\"], owner = \"b\", timeout = \"1m\", retries = 1, \
                environments = [\"local\"], exclusive = \"c\", needs = [\"d\"], ignore = \"not yet\")]\nfn full() {}\n\
                #[etcdtest::test]\nfn ends(cx: &etcdtest::Context) { cx.step(\"s\", || panic!(\"no\")) }\n\
                etcdtest::main!();\n";
    let project = Project::package("machine_output", &manifest).with_lock();
    let project = project.file("src/lib.rs", "").file("tests/smoke.rs", test);

    let listed = printed(&project, "list", &["list"]);
    for field in ["steps", "expected", "timeout", "exclusive", "needs", "ignore", "environments", "line"] {
        assert!(listed.contains(field), "{field} is not in {listed:?}");
    }
    printed(&project, "testcase create machine_output::paper --step a --owner b --tag c", &TEST_CASE);
    printed(&project, "testcase update machine_output::paper --expected d --description e", &TEST_CASE);
    printed(&project, "testcase sync", &TEST_CASE);
    assert_eq!(project.etcdtest(&["run", "ends"]).status.code(), Some(100));
    let shown = printed(&project, "testcase show machine_output::ends", &TEST_CASE);
    for field in ["latest_results", "attempts", "message", "output", "ok", "recent", "token"] {
        assert!(shown.contains(field), "{field} is not in {shown:?}");
    }
    assert!(printed(&project, "testcase list", &TEST_CASE).contains("written"));
    printed(&project, "testcase delete machine_output::paper", &TEST_CASE);
}

#[test]
fn the_fields_of_environments_and_of_the_store_are_documented() {
    let project = Project::package("machine_output_store", "").file("src/lib.rs", "");
    let project = project.file("local.toml", "description = \"a\"\n[config]\nb = { c = 1 }\n");
    printed(&project, "env apply local.toml", &["env"]);
    printed(&project, "env list", &["env"]);
    assert!(printed(&project, "env show local", &["env"]).contains("description"));
    let text = "extends = \"local\"\ncapacity = 1\n[labels]\nx = \"y\"\n[services.s]\ncommand = \"s\"\n\
        args = [\"a\"]\nenv = { A = \"b\" }\ncwd = \"c\"\nneeds = [\"t\"]\nready = { log = \"r\" }\n\
        [services.t]\ncommand = \"t\"\nready = { tcp = \"h:1\" }\n[[probes]]\nhttp = \"http://a\"\nstatus = 200\n\
        body = \"b\"\n[[probes]]\ndns = \"d\"\n[[probes]]\ncommand = [\"e\"]\n";
    let project = project.file("all.toml", text);
    printed(&project, "env apply all.toml --message why", &["env"]);
    let shown = printed(&project, "env show all", &["env"]);
    for field in ["labels", "stop_grace", "ready", "probes", "capacity", "message", "bases", "origins"] {
        assert!(shown.contains(field), "{field} is not in {shown:?}");
    }
    printed(&project, "env diff local all", &["env"]);
    assert!(printed(&project, "env history all", &["env"]).contains("extends"));
    printed(&project, "env rollback all@1", &["env"]);
    printed(&project, "env delete local all --yes", &["env"]);

    let project = project.file(".config/etcdtest.toml", "[profile.default]\nretries = 1\n");
    let project = project.file("staging.toml", "capacity = 1\n");
    printed(&project, "env apply staging.toml", &["env"]);
    printed(&project, "env reserve staging --for 1h --why because", &["env"]);
    for arguments in ["env list", "env show staging"] {
        assert!(printed(&project, arguments, &["env"]).contains("until"), "{arguments}");
    }
    assert!(printed(&project, "env release staging", &["env"]).contains("held"));
    let status = printed(&project, "store status", &["store status"]);
    assert!(status.contains("healthy") && status.contains("profile"), "{status:?}");
    printed(&project, "store gc --keep-runs 0 --compact", &["store gc"]);
    printed(&project, "store copy --to local:copied", &["store copy"]);
}
