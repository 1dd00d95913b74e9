//! Data sets: stored with an environment, and read by its tests.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::path::Path;

use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{KeyRange, Op, SharedStore, Txn, list};
use serde_json::Value;
use whole_program::etcd::Etcd;
use whole_program::subject::Subject;

/// What the test that reads data printed in this environment.
fn read(subject: &Subject, environment: &str, store: &[&str]) -> String {
    let arguments = ["subject::annotated::data::is_read", "--env", environment];
    let (ran, events) = subject.events(&[&arguments[..], store].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    printed(&events)
}

fn printed(events: &[Value]) -> String {
    let finished = events.iter().find(|event| event["event"] == "unit-finished").unwrap();
    finished["output"].as_str().or(finished["output"]["stdout"].as_str()).unwrap().to_owned()
}

#[test]
fn tests_read_the_data_of_their_environment_and_of_its_bases_in_the_version_that_is_used() {
    let subject = Subject::new();
    subject.write("environments/fixtures/users.json", "[\"ada\"]");
    subject.apply("base", "[data]\nusers = \"fixtures/users.json\"\n", &[]);
    subject.apply("staging", "extends = \"base\"\n", &[]);
    assert_eq!(read(&subject, "staging", &[]), "[\"ada\"] of staging\n");

    let again = subject.etcdtest(&["env", "apply", "environments/base.toml"]).stdout;
    assert_eq!(again, "base unchanged, version 1\n");
    let shown = subject.etcdtest(&["env", "show", "staging"]).stdout;
    for part in ["environment = \"base\"", "digest = \"", "size = 7", "# from base@1"] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    // The same content elsewhere is no difference, another is.
    subject.apply("other", "[data]\nusers = \"fixtures/users.json\"\n", &[]);
    assert!(subject.etcdtest(&["env", "diff", "base", "other"]).stdout.ends_with("no difference\n"));
    subject.write("environments/fixtures/users.json", "[\"bob\"]");
    subject.apply("base", "[data]\nusers = \"fixtures/users.json\"\n", &[]);
    let diff = subject.etcdtest(&["env", "diff", "base@1", "base"]).stdout;
    assert!(diff.contains("- data.users = ") && diff.contains("+ data.users = "), "{diff}");
    assert_eq!(read(&subject, "staging", &[]), "[\"bob\"] of staging\n");
    assert_eq!(read(&subject, "base@1", &[]), "[\"ada\"] of base\n");

    let (ran, events) = subject.events(&["subject::annotated::data::unknown", "--env", "staging"]);
    assert_eq!(ran.code, Some(100), "{ran:?}");
    let message = events.iter().find_map(|event| event["message"].as_str()).unwrap();
    assert!(message.contains("`staging` has no data set `orders`, there is: users"), "{message}");
}

#[test]
fn the_files_are_private_and_gone_after_the_run() {
    let subject = Subject::new();
    subject.write("environments/users.json", "[]");
    subject.apply("staging", "[data]\nusers = \"users.json\"\n", &[]);
    let (ran, events) = subject.events(&["subject::plain::data::is_private", "--env", "staging"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let printed = printed(&events);
    let modes = printed.lines().position(|line| line == "600 in 700").unwrap_or_else(|| panic!("{printed}"));
    let file = Path::new(printed.lines().nth(modes + 1).unwrap());
    assert!(file.is_absolute() && !file.exists(), "{}", file.display());
}

#[tokio::test]
async fn a_set_that_is_damaged_or_gone_ends_the_run_before_any_test() {
    let subject = Subject::new();
    subject.write("environments/users.json", "[]");
    subject.apply("base", "[data]\nusers = \"users.json\"\n", &[]);
    subject.apply("staging", "extends = \"base\"\n", &[]);
    let run = ["subject::annotated::needs::nothing", "--env", "staging", "--run-id", "r"];
    for damaged in [Some("{}"), None] {
        let folder = subject.path().join(".etcdtest");
        let store: SharedStore = std::sync::Arc::new(LocalStore::open(&folder).unwrap());
        let chunks = list(&*store, KeyRange::prefix("/data/base/")).await.unwrap().pairs;
        assert_eq!(chunks.len(), 1);
        let key = chunks[0].key.clone();
        let op = match damaged {
            Some(value) => Op::put(key, value),
            None => Op::Delete(KeyRange::key(key)),
        };
        store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap();
        drop(store);
        let help = "`cargo etcdtest env apply`";
        subject.etcdtest(&run).refuses(102, &["the data set `users` of `base` cannot be used", help]);
        let checked = subject.etcdtest(&["env", "check", "staging"]);
        assert_eq!(checked.code, Some(102), "{checked:?}");
        assert!(
            checked.stdout.contains("Not ready data set `users`: the data set `users` of `base`"),
            "{checked:?}"
        );
        assert!(!subject.meeting("nothing").exists());
        subject.etcdtest(&["runs", "show", "r"]).refuses(2, &["there is no run "]);
        // Applied again it is as it was, and no new version.
        let again = subject.etcdtest(&["env", "apply", "environments/base.toml"]).stdout;
        assert_eq!(again, "base unchanged, version 1\n");
        assert_eq!(read(&subject, "staging", &[]), "[] of staging\n");
        let checked = subject.etcdtest(&["env", "check", "staging", "--format", "json"]);
        assert_eq!((checked.code, &checked.events()[0]["data"]), (Some(0), &"users".into()), "{checked:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_told_at_its_place_and_nothing_is_applied() {
    let subject = Subject::new();
    subject.write("environments/a.toml", "");
    subject.write("environments/b.toml", "[data]\nusers = \"no.json\"\n");
    let applied = subject.etcdtest(&["env", "apply", "environments"]);
    applied.refuses(2, &["the data set `users` cannot be stored", "b.toml:2:9", "No such file"]);
    assert!(subject.etcdtest(&["env", "list"]).stdout.starts_with("no environments yet"));
}

#[test]
fn large_sets_go_through_etcd() {
    let (subject, etcd) = (Subject::new(), Etcd::start());
    let endpoint = etcd.endpoint();
    let store = ["--endpoints", endpoint.as_str()];
    // More than one transaction, message or chunk takes, and hard to compress.
    let mut random = fastrand::Rng::with_seed(3);
    let names: Vec<String> = (0..160_000).map(|_| format!("{:032x}", random.u128(..))).collect();
    let folder = subject.path().join("environments");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("users.json"), serde_json::to_vec(&names).unwrap()).unwrap();
    subject.apply("staging", "[data]\nusers = \"users.json\"\n", &store);
    let printed = read(&subject, "staging", &store);
    assert!(printed.contains(&names[0]), "the first name is read");
}
