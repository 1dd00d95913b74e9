//! The service on the local store, and on one whose answers get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;

use serde_json::{Map, Value, json};

use super::*;
use crate::document::Document;
use crate::environments::EnvironmentId;
use crate::model::Definition;
use crate::store::local::LocalStore;
use crate::store::{Lease, LeaseId, Page, Result, Store, StoreStatus, TxnOutcome, Watch};

fn fixture() -> (tempfile::TempDir, Environments) {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    (folder, Environments::new(Arc::new(store)))
}

fn file(name: &str, value: impl Into<Value>) -> EnvironmentFile {
    let config = Map::from_iter([("value".to_owned(), value.into())]);
    EnvironmentFile::of(name, Definition { config, ..Definition::default() })
}

fn by(author: &str) -> Change<'_> {
    Change { author, message: "" }
}

fn written(applied: Applied) -> Environment {
    match applied {
        Applied::Written(environment) => environment,
        Applied::Unchanged(environment) => panic!("unchanged: {environment:?}"),
    }
}

async fn versions(environments: &Environments, name: &str) -> Vec<u64> {
    environments.history(name).await.unwrap().iter().map(|version| version.version).collect()
}

#[tokio::test]
async fn every_apply_that_changes_something_is_a_version_and_no_other() {
    let (_folder, environments) = fixture();
    let first = written(environments.apply(&file("a", 1), by("me@here")).await.unwrap());
    assert_eq!((first.version, first.author.as_str()), (1, "me@here"));
    let again = environments.apply(&file("a", 1), by("you@there")).await.unwrap();
    assert_eq!(again, Applied::Unchanged(first.clone()));
    let mut described = file("a", 1);
    described.definition.description = "x".into();
    let second = written(environments.apply(&described, by("me@here")).await.unwrap());
    assert_eq!(second.version, 2);
    assert!(second.revision > first.revision);
    assert_eq!(environments.get("a").await.unwrap(), second);
    assert_eq!(environments.history("a").await.unwrap(), [first, second]);
}

#[tokio::test]
async fn numbers_go_on_after_a_delete_and_the_history_stays() {
    let (_folder, environments) = fixture();
    for value in [1, 2] {
        environments.apply(&file("a", value), by("me")).await.unwrap();
    }
    environments.apply(&file("ab", 1), by("me")).await.unwrap();
    environments.delete("a").await.unwrap();
    assert!(matches!(environments.get("a").await, Err(EnvironmentError::Unknown { .. })));
    assert!(matches!(environments.delete("a").await, Err(EnvironmentError::Unknown { .. })));
    assert_eq!(written(environments.apply(&file("a", 2), by("me")).await.unwrap()).version, 3);
    assert_eq!(versions(&environments, "a").await, [1, 2, 3]);
    assert_eq!(versions(&environments, "ab").await, [1]);
}

#[tokio::test]
async fn a_history_of_more_than_a_page_is_continued() {
    let (_folder, environments) = fixture();
    let last = PAGE as u64 + 2;
    for version in [1, last] {
        let old = Environment { version, ..Environment::unstored("a", Definition::default(), "me@here") };
        let put = Op::put(keys::environment_version("a", version), encode(&old));
        environments.store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    }
    assert_eq!(written(environments.apply(&file("a", 2), by("me")).await.unwrap()).version, last + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn applies_at_the_same_time_are_versions_one_after_the_other_without_loss() {
    let (_folder, environments) = fixture();
    let writers = (0..8).map(|writer| {
        let environments = environments.clone();
        tokio::spawn(async move {
            for round in 0..4 {
                let value = json!([writer, round]);
                written(environments.apply(&file("a", value), by("me")).await.unwrap());
            }
        })
    });
    futures::future::try_join_all(writers).await.unwrap();
    let history = environments.history("a").await.unwrap();
    assert_eq!(versions(&environments, "a").await, (1..=32).collect::<Vec<_>>());
    let mut values: Vec<_> =
        history.iter().map(|version| version.definition.config["value"].to_string()).collect();
    values.sort();
    values.dedup();
    assert_eq!(values.len(), 32);
    assert_eq!(environments.get("a").await.unwrap(), *history.last().unwrap());
}

#[tokio::test]
async fn an_edit_does_not_undo_what_somebody_else_did_meanwhile() {
    let (_folder, environments) = fixture();
    environments.apply(&file("a", 1), by("me")).await.unwrap();
    let seen = environments.get("a").await.unwrap();
    environments.apply(&file("a", 2), by("you@there")).await.unwrap();
    let error = environments.replace(&seen, &file("a", 3), by("me")).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the environment `a` was changed by somebody else meanwhile: \
         it is at version 2 now, applied by you@there"
    );
    environments.delete("a").await.unwrap();
    let error = environments.replace(&seen, &file("a", 3), by("me")).await.unwrap_err();
    assert!(matches!(error, EnvironmentError::Conflict { .. }));
    assert_eq!(versions(&environments, "a").await, [1, 2]);
}

#[tokio::test]
async fn what_is_chosen_is_resolved_once_each_and_in_order() {
    let (_folder, environments) = fixture();
    for name in ["a", "b"] {
        environments.apply(&file(name, 1), by("me")).await.unwrap();
    }
    let resolve = async |chosen: &[&str], default: &str| {
        let chosen: Vec<_> = chosen.iter().map(|id| id.parse().unwrap()).collect();
        let resolved = environments.resolve(&chosen, default).await?;
        let identities =
            resolved.iter().map(|environment| format!("{}@{}", environment.name, environment.version));
        Ok::<_, EnvironmentError>(identities.collect::<Vec<_>>())
    };
    assert_eq!(resolve(&["b", "a", "b"], "local").await.unwrap(), ["b@1", "a@1"]);
    assert_eq!(resolve(&[], "a").await.unwrap(), ["a@1"]);
    assert_eq!(resolve(&[], LOCAL).await.unwrap(), ["local@0"]);
    assert!(environments.resolve(&[EnvironmentId::current("a")], "x").await.unwrap()[0].revision > 0);
    let error = resolve(&["a", "bb", "c"], "local").await.unwrap_err();
    assert_eq!(error.to_string(), "there are no environments `bb`, `c`");
    let help = miette::Diagnostic::help(&error).unwrap().to_string();
    assert_eq!(help, "did you mean `b` for `bb`? `cargo etcdtest env list` shows all");
    assert!(resolve(&[], "missing").await.is_err());
    environments.apply(&file(LOCAL, 1), by("me")).await.unwrap();
    assert_eq!(resolve(&[], LOCAL).await.unwrap(), ["local@1"]);
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_before_it_is() {
    let (_folder, environments) = fixture();
    let error = environments.apply(&file("a", "x".repeat(LARGEST)), by("me")).await.unwrap_err();
    assert!(matches!(error, EnvironmentError::TooLarge { .. }), "{error}");
    let error = environments.apply(&file("a/b", 1), by("me")).await.unwrap_err();
    assert!(matches!(error, EnvironmentError::WrongName { .. }), "{error}");
    assert!(environments.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_refused_and_an_older_one_read() {
    let (_folder, environments) = fixture();
    let put = async |value: &str| {
        let put = Op::put(keys::environment("a"), value);
        environments.store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    };
    put(r#"{"schema":99}"#).await;
    let error = environments.get("a").await.unwrap_err().to_string();
    assert!(error.contains("/environments/a") && error.contains("99"), "{error}");
    put(r#"{"schema":1,"name":"a","version":7,"applied":"2026-01-01T00:00:00Z","author":"me"}"#).await;
    assert_eq!(environments.get("a").await.unwrap().version, 7);
}

/// A store that loses the answers of its next two transactions: that of one that was never
/// applied, then that of one that was.
#[derive(Debug)]
struct Forgetful {
    store: LocalStore,
    transactions: AtomicU8,
}

#[async_trait]
impl Store for Forgetful {
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        let lost = Err(StoreError::UnknownOutcome { reason: "lost".into() });
        match self.transactions.fetch_add(1, Ordering::Relaxed) {
            0 => lost,
            1 => self.store.txn(txn).await.and(lost),
            _ => self.store.txn(txn).await,
        }
    }

    async fn read(&self, read: Read) -> Result<Page> {
        self.store.read(read).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<Watch> {
        self.store.watch(range, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.store.revoke(lease).await
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.store.compact(upto).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}

#[tokio::test]
async fn a_lost_answer_is_neither_a_lost_version_nor_one_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let forgetful = || {
        let store = LocalStore::open(folder.path()).unwrap();
        Environments::new(Arc::new(Forgetful { store, transactions: AtomicU8::new(0) }))
    };
    let applied = written(forgetful().apply(&file("a", 1), by("me")).await.unwrap());
    assert_eq!(applied, forgetful().get("a").await.unwrap());
    assert_eq!(versions(&forgetful(), "a").await, [1]);
    forgetful().delete("a").await.unwrap();
    assert!(forgetful().list().await.unwrap().is_empty());
}

/// A file of this name and text.
fn text(name: &str, text: &str) -> EnvironmentFile {
    EnvironmentFile::parse(name, Document::new(format!("{name}.toml"), text)).unwrap()
}

/// The definition that this text is, however wrong its references are.
fn definition_of(text: &str) -> Definition {
    let text = format!("extends = \"none\"\n{text}");
    let file = EnvironmentFile::parse("x", Document::new("x.toml", text)).unwrap();
    Definition { extends: None, ..file.definition }
}

async fn apply_all(
    environments: &Environments,
    mut files: Vec<EnvironmentFile>,
) -> std::result::Result<Vec<String>, EnvironmentError> {
    let mut applied = Vec::new();
    environments.check(&mut files).await?;
    for file in files {
        if let Applied::Written(written) = environments.apply(&file, by("me")).await? {
            applied.push(written.identity().to_string());
        }
    }
    Ok(applied)
}

async fn resolved(environments: &Environments, id: &str) -> Environment {
    environments.resolve(&[id.parse().unwrap()], LOCAL).await.unwrap().remove(0)
}

#[tokio::test]
async fn files_are_applied_after_their_bases_and_inherit_from_them() {
    let (_folder, environments) = fixture();
    let files = vec![
        text("a", "extends = \"b\"\n[config]\nurl = \"${config.host}/a\"\n"),
        text("b", "extends = \"c\"\n"),
        text("c", "[config]\nhost = \"h\"\n"),
    ];
    assert_eq!(apply_all(&environments, files).await.unwrap(), ["c@1", "b@1", "a@1"]);
    let run = resolved(&environments, "a").await;
    assert_eq!(
        Value::Object(run.definition.config.clone()),
        json!({ "host": "h", "url": "${config.host}/a" })
    );
    assert_eq!(run.bases.iter().map(ToString::to_string).collect::<Vec<_>>(), ["b@1", "c@1"]);
    assert!(run.bases.iter().all(|base| base.revision > 0));
}

#[tokio::test]
async fn a_wrong_base_is_shown_in_the_file() {
    let (_folder, environments) = fixture();
    environments.apply(&file("base", 1), by("me")).await.unwrap();
    let failed = async |mut files: Vec<EnvironmentFile>| {
        crate::document::rendered(&environments.check(&mut files).await.unwrap_err())
    };
    insta::assert_snapshot!("unknown_base", failed(vec![text("a", "extends = \"bsae\"\n")]).await);
    let circle =
        vec![text("a", "extends = \"b\"\n"), text("b", "extends = \"c\"\n"), text("c", "extends = \"a\"\n")];
    insta::assert_snapshot!("bases_in_a_circle", failed(circle).await);
    let reference = text("a", "extends = \"base\"\n[config]\nx = \"${config.vlaue}\"\n");
    insta::assert_snapshot!("reference_that_the_base_lacks", failed(vec![reference]).await);
    assert!(environments.get("a").await.is_err());
}

#[tokio::test]
async fn a_circle_with_what_is_stored_is_refused() {
    let (_folder, environments) = fixture();
    apply_all(&environments, vec![text("a", ""), text("b", "extends = \"a\"\n")]).await.unwrap();
    let error = environments.apply(&text("a", "extends = \"b\"\n"), by("me")).await.unwrap_err();
    assert_eq!(error.to_string(), "the environment `a` extends itself in the end: a → b → a");
}

#[tokio::test]
async fn a_base_stays_as_long_as_others_extend_it() {
    let (_folder, environments) = fixture();
    apply_all(&environments, vec![text("a", ""), text("b", "extends = \"a\"\n")]).await.unwrap();
    let error = environments.delete("a").await.unwrap_err();
    assert_eq!(error.to_string(), "the environment `a` cannot be deleted: `b` extends it");
    environments.delete("b").await.unwrap();
    environments.delete("a").await.unwrap();
}

#[tokio::test]
async fn an_old_version_inherits_what_its_base_was_then() {
    let (_folder, environments) = fixture();
    environments.apply(&file("base", 1), by("me")).await.unwrap();
    environments.apply(&text("a", "extends = \"base\"\n"), by("me")).await.unwrap();
    environments.apply(&file("base", 2), by("me")).await.unwrap();
    environments.apply(&text("a", "extends = \"base\"\n[config]\nmore = 1\n"), by("me")).await.unwrap();
    environments.apply(&file("base", 3), by("me")).await.unwrap();
    for (id, value, base) in [("a", 3, 3), ("a@2", 2, 2), ("a@1", 1, 1)] {
        let run = resolved(&environments, id).await;
        assert_eq!((&run.definition.config["value"], run.bases[0].version), (&json!(value), base), "{id}");
    }
    let error = environments.resolve(&["a@3".parse().unwrap()], LOCAL).await.unwrap_err();
    assert_eq!(error.to_string(), "the environment `a` has no version 3");
    let both = ["a".parse().unwrap(), "a@1".parse().unwrap()];
    let error = environments.resolve(&both, LOCAL).await.unwrap_err();
    assert!(matches!(error, EnvironmentError::TwoVersions { .. }), "{error}");
}

#[tokio::test]
async fn a_rollback_is_a_new_version_with_the_old_content() {
    let (_folder, environments) = fixture();
    for value in [1, 2] {
        environments.apply(&file("a", value), by("me")).await.unwrap();
    }
    let change = Change { author: "you", message: "2 was wrong" };
    let back = written(environments.roll_back("a", 1, change).await.unwrap());
    assert_eq!((back.version, back.message.as_str(), back.author.as_str()), (3, "2 was wrong", "you"));
    assert_eq!(back.definition, environments.version("a", 1).await.unwrap().definition);
    assert!(matches!(environments.roll_back("a", 1, change).await.unwrap(), Applied::Unchanged(_)));
    environments.delete("a").await.unwrap();
    assert_eq!(written(environments.roll_back("a", 2, change).await.unwrap()).version, 4);
    let error = environments.roll_back("a", 9, change).await.unwrap_err();
    assert!(matches!(error, EnvironmentError::UnknownVersion { last: 4, .. }), "{error}");
}

#[tokio::test]
async fn a_base_that_no_longer_fits_is_told_before_a_run() {
    let (_folder, environments) = fixture();
    environments.apply(&file("base", 1), by("me")).await.unwrap();
    let child = text("a", "extends = \"base\"\n[config]\nx = \"${config.value}\"\n");
    environments.apply(&child, by("me")).await.unwrap();
    environments.apply(&text("base", ""), by("me")).await.unwrap();
    let error = environments.resolve(&[EnvironmentId::current("a")], LOCAL).await.unwrap_err().to_string();
    assert!(error.contains("`a`") && error.contains("config.x") && error.contains("config.value"), "{error}");
}

#[tokio::test]
async fn a_base_is_refused_where_what_extends_it_would_not_hold_together_any_more() {
    let (_folder, environments) = fixture();
    let files = || {
        vec![
            text("base", "[config]\nhost = \"h\"\nold = \"o\"\n"),
            text("mid", "extends = \"base\"\n"),
            text("eu", "extends = \"mid\"\n[config]\nurl = \"http://${config.host}\"\n"),
        ]
    };
    apply_all(&environments, files()).await.unwrap();
    let change = "[config]\nhots = \"h\"\n";
    let error = apply_all(&environments, vec![text("base", change)]).await.unwrap_err();
    insta::assert_snapshot!("base_that_others_need", crate::document::rendered(&error));
    environments.apply(&text("eu", "extends = \"mid\"\n"), by("me")).await.unwrap();
    assert_eq!(apply_all(&environments, vec![text("base", change)]).await.unwrap(), ["base@2"]);
    // Together they fit again; and going back to what does not fit is refused.
    let eu = text("eu", "extends = \"mid\"\n[config]\nurl = \"http://${config.hots}\"\n");
    apply_all(&environments, vec![eu]).await.unwrap();
    let error = environments.roll_back("base", 1, by("me")).await.unwrap_err();
    assert!(matches!(error, EnvironmentError::Breaks { .. }), "{error}");
    assert_eq!(apply_all(&environments, files()).await.unwrap(), ["base@3", "eu@4"]);
}

#[tokio::test]
async fn an_environment_that_is_wrong_already_keeps_nobody_from_changing_its_base() {
    let (_folder, environments) = fixture();
    apply_all(&environments, vec![text("base", "")]).await.unwrap();
    let wrong = EnvironmentFile::of(
        "eu",
        Definition { extends: Some("base".into()), ..file("eu", "${config.x}").definition },
    );
    let put = Op::put(
        keys::environment("eu"),
        encode(&Environment { version: 1, ..Environment::unstored("eu", wrong.definition, "me") }),
    );
    environments.store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    assert_eq!(
        apply_all(&environments, vec![text("base", "description = \"x\"\n")]).await.unwrap(),
        ["base@2"]
    );
}

#[tokio::test]
async fn probes_of_a_file_are_counted_without_those_that_it_inherits() {
    let (_folder, environments) = fixture();
    let base = "[[probes]]\ndns = \"a\"\n[[probes]]\ntcp = \"${config.none}\"\n";
    let own = "extends = \"base\"\n[[probes]]\ndns = \"${config.own}\"\n";
    let stored = EnvironmentFile::of("base", definition_of(base));
    environments.apply(&stored, by("me")).await.unwrap_err();
    let whole = Environment::unstored("base", stored.definition, "me");
    let put = Op::put(keys::environment("base"), encode(&whole));
    environments.store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    let error = environments.check(&mut [text("eu", own)]).await.unwrap_err();
    insta::assert_snapshot!("wrong_probes_own_and_inherited", crate::document::rendered(&error));
}

#[tokio::test]
async fn each_mistake_is_told_once_and_in_the_file_that_makes_it() {
    let (_folder, environments) = fixture();
    let mut files = vec![
        text("c", "extends = \"b\"\n[config]\nc = \"${config.none}\"\n"),
        text("b", "extends = \"a\"\n[config]\nb = \"${config.none}\"\n"),
        text("a", ""),
        text("d", "extends = \"f\"\n"),
        text("e", "extends = \"d\"\n"),
        text("x", "extends = \"y\"\n"),
        text("y", "extends = \"x\"\n"),
        text("z", "extends = \"x\"\n"),
    ];
    let error = environments.check(&mut files).await.unwrap_err();
    insta::assert_snapshot!("mistakes_of_many_files", crate::document::rendered(&error));
}
