//! Environments in the store.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Map;

use super::error::EnvironmentError;
use super::file::EnvironmentFile;
use super::name::check_name;
use crate::model::Environment;
use crate::nearest::suggestion;
use crate::store::{
    self, Commit, Compare, Key, KeyRange, KeyValue, Op, Read, Revision, SharedStore, StoreError, Target, Txn,
    decode, encode, keys,
};

/// The environment that need not exist: without a record it is empty.
pub const LOCAL: &str = "local";

/// The largest record that is stored, in bytes.
const LARGEST: usize = 512 * 1024;

/// How long a write stays with a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many keys of a history are read at once.
const PAGE: usize = 1000;

/// The environments of one store.
#[derive(Clone, Debug)]
pub struct Environments {
    store: SharedStore,
}

/// What applying a file did; the environment as it is now, with its revision.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// It was so already: nothing was written.
    Unchanged(Environment),
    /// It has a new version.
    Written(Environment),
}

/// What is required of the environment that a new version replaces.
#[derive(Clone, Copy)]
enum Replaces {
    /// Whatever is there, or nothing.
    Any,
    /// Exactly what was written at this revision.
    Seen(Revision),
}

impl Environments {
    /// The environments of this store.
    pub fn new(store: SharedStore) -> Self {
        Self { store }
    }

    /// Makes the environment what the file says. What changes something is a new version,
    /// kept in the history.
    ///
    /// # Errors
    /// [`EnvironmentError::TooLarge`], or as the store fails.
    pub async fn apply(&self, file: &EnvironmentFile, author: &str) -> Result<Applied, EnvironmentError> {
        self.write(file, author, Replaces::Any).await
    }

    /// Makes the environment what the file says, if it is still what was seen, as
    /// [`Environments::get`] gave it.
    ///
    /// # Errors
    /// [`EnvironmentError::Conflict`] where somebody changed or deleted it meanwhile, else
    /// as [`Environments::apply`].
    pub async fn replace(
        &self,
        seen: &Environment,
        file: &EnvironmentFile,
        author: &str,
    ) -> Result<Applied, EnvironmentError> {
        self.write(file, author, Replaces::Seen(Revision(seen.revision))).await
    }

    /// All environments, in the order of their names.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn list(&self) -> Result<Vec<Environment>, EnvironmentError> {
        let page = store::list(&*self.store, KeyRange::prefix(keys::ENVIRONMENTS)).await?;
        Ok(page.pairs.iter().map(read).collect::<Result<_, _>>()?)
    }

    /// One environment as it is now, with its revision.
    ///
    /// # Errors
    /// [`EnvironmentError::Unknown`], or as the store fails.
    pub async fn get(&self, name: &str) -> Result<Environment, EnvironmentError> {
        match self.find(name).await? {
            Some(environment) => Ok(environment),
            None => Err(self.unknown(vec![name.to_owned()]).await?),
        }
    }

    /// Every version of an environment that ever was, the oldest first, each with the
    /// revision at which it was written. Empty for a name that never existed.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn history(&self, name: &str) -> Result<Vec<Environment>, EnvironmentError> {
        let page = store::list(&*self.store, KeyRange::prefix(keys::environment_history(name))).await?;
        Ok(page.pairs.iter().map(read).collect::<Result<_, _>>()?)
    }

    /// Deletes an environment. Its history stays, and its numbers go on if it comes back.
    ///
    /// # Errors
    /// [`EnvironmentError::Unknown`], or as the store fails.
    pub async fn delete(&self, name: &str) -> Result<(), EnvironmentError> {
        let range = KeyRange::key(keys::environment(name));
        let exists = Compare { range: range.clone(), target: Target::Version(0), equal: false };
        let txn = Txn { compares: vec![exists], then: vec![Op::Delete(range)], otherwise: vec![] };
        let deleted = match self.store.txn(txn).await {
            Ok(outcome) => outcome.succeeded,
            // Whoever deleted it: it is gone, as was wanted.
            Err(StoreError::UnknownOutcome { reason }) => match self.find(name).await? {
                None => true,
                Some(_) => return Err(StoreError::UnknownOutcome { reason }.into()),
            },
            Err(error) => return Err(error.into()),
        };
        if deleted { Ok(()) } else { Err(self.unknown(vec![name.to_owned()]).await?) }
    }

    /// The environments that a run uses: those chosen, each once, in the order given; if
    /// none is chosen, the default one. [`LOCAL`] is empty where the store has none.
    ///
    /// # Errors
    /// [`EnvironmentError::Unknown`] with all names that do not exist, or as the store fails.
    pub async fn resolve(
        &self,
        chosen: &[String],
        default: &str,
    ) -> Result<Vec<Environment>, EnvironmentError> {
        let default = [default.to_owned()];
        let names = if chosen.is_empty() { &default[..] } else { chosen };
        let mut resolved = Vec::<Environment>::new();
        let mut unknown = Vec::new();
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                continue;
            }
            match self.find(name).await? {
                Some(environment) => resolved.push(environment),
                None if name == LOCAL => resolved.push(empty(LOCAL)),
                None => unknown.push(name.clone()),
            }
        }
        if unknown.is_empty() { Ok(resolved) } else { Err(self.unknown(unknown).await?) }
    }

    async fn find(&self, name: &str) -> Result<Option<Environment>, EnvironmentError> {
        let pair = store::get(&*self.store, keys::environment(name)).await?;
        Ok(pair.as_ref().map(read).transpose()?)
    }

    /// The error about names that do not exist.
    async fn unknown(&self, names: Vec<String>) -> Result<EnvironmentError, EnvironmentError> {
        let known = self.list().await?;
        let known = known.iter().map(|environment| environment.name.as_str());
        let help = suggestion(&names[0], known).unwrap_or_else(|| {
            "there is none yet: write environments/NAME.toml and `cargo etcdtest env apply` it".into()
        });
        Ok(EnvironmentError::Unknown { names, help })
    }

    async fn write(
        &self,
        file: &EnvironmentFile,
        author: &str,
        replaces: Replaces,
    ) -> Result<Applied, EnvironmentError> {
        check_name(&file.name)?;
        loop {
            let current = self.find(&file.name).await?;
            let found = current.as_ref().map_or(0, |current| current.revision);
            if let Replaces::Seen(seen) = replaces
                && seen.0 != found
            {
                return Err(EnvironmentError::Conflict {
                    name: file.name.clone(),
                    change: current.map_or_else(|| "it was deleted".into(), |now| now.describe_change()),
                });
            }
            let last = match current {
                Some(current) if file.is_already(&current) => return Ok(Applied::Unchanged(current)),
                Some(current) => current.version,
                None => 0,
            };
            let next = Environment {
                name: file.name.clone(),
                version: last.max(self.last_version(&file.name, last).await?) + 1,
                description: file.description.clone(),
                config: file.config.clone(),
                applied: Timestamp::now(),
                author: author.to_owned(),
                revision: 0,
            };
            if let Some(revision) = self.put_version(&next, Revision(found)).await? {
                return Ok(Applied::Written(next.at(revision.0)));
            }
        }
    }

    /// The last version in the history that is not below `from`; 0 for none.
    async fn last_version(&self, name: &str, from: u64) -> Result<u64, EnvironmentError> {
        let history = keys::environment_history(name);
        let mut range = KeyRange::prefix(history.clone());
        range.start = keys::environment_version(name, from);
        let mut last = 0;
        loop {
            let read = Read { limit: Some(PAGE), keys_only: true, ..Read::from(range.clone()) };
            let page = self.store.read(read).await?;
            let Some(pair) = page.pairs.last() else { return Ok(last) };
            last = version_of(&pair.key, &history)?;
            if !page.more {
                return Ok(last);
            }
            range.start = pair.key.successor();
        }
    }

    /// Writes a version, in place of what was written at `found`, and says at which
    /// revision; `None` where somebody else was faster.
    async fn put_version(
        &self,
        next: &Environment,
        found: Revision,
    ) -> Result<Option<Revision>, EnvironmentError> {
        let value = encode(next);
        if value.len() > LARGEST {
            let (name, size) = (next.name.clone(), value.len());
            return Err(EnvironmentError::TooLarge { name, size, limit: LARGEST });
        }
        let current = keys::environment(&next.name);
        let version = keys::environment_version(&next.name, next.version);
        let txn = Txn {
            compares: vec![
                Compare::modified(current.clone(), found),
                Compare::modified(version.clone(), Revision(0)),
            ],
            then: vec![Op::put(current, value.clone()), Op::put(version.clone(), value)],
            otherwise: vec![],
        };
        // A version is never rewritten, so it proves that this very write landed.
        match store::commit(&*self.store, &txn, &version, PATIENCE).await? {
            Commit::Applied(revision) => Ok(Some(revision)),
            Commit::Refused(_) => Ok(None),
        }
    }
}

impl EnvironmentFile {
    /// Whether the environment says the same.
    fn is_already(&self, environment: &Environment) -> bool {
        self.description == environment.description && self.config == environment.config
    }
}

impl Environment {
    fn describe_change(&self) -> String {
        format!("it is at version {} now, applied by {}", self.version, self.author)
    }
}

/// The environment of this name without a record.
fn empty(name: &str) -> Environment {
    Environment {
        name: name.to_owned(),
        version: 0,
        description: String::new(),
        config: Map::new(),
        applied: Timestamp::now(),
        author: crate::author::author(),
        revision: 0,
    }
}

fn read(pair: &KeyValue) -> Result<Environment, StoreError> {
    decode::<Environment>(pair).map(|environment| environment.at(pair.modified.0))
}

fn version_of(key: &Key, history: &Key) -> Result<u64, StoreError> {
    let number =
        key.as_bytes().strip_prefix(history.as_bytes()).and_then(|rest| std::str::from_utf8(rest).ok());
    number.and_then(|number| number.parse().ok()).ok_or_else(|| StoreError::Record {
        key: key.clone(),
        reason: "its key does not end in a version number".into(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::store::local::LocalStore;

    fn fixture() -> (tempfile::TempDir, Environments) {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        (folder, Environments::new(Arc::new(store)))
    }

    fn file(name: &str, value: impl Into<Value>) -> EnvironmentFile {
        let config = Map::from_iter([("value".to_owned(), value.into())]);
        EnvironmentFile { name: name.into(), description: String::new(), config }
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
        let first = written(environments.apply(&file("a", 1), "me@here").await.unwrap());
        assert_eq!((first.version, first.author.as_str()), (1, "me@here"));
        let again = environments.apply(&file("a", 1), "you@there").await.unwrap();
        assert_eq!(again, Applied::Unchanged(first.clone()));
        let described = EnvironmentFile { description: "x".into(), ..file("a", 1) };
        let second = written(environments.apply(&described, "me@here").await.unwrap());
        assert_eq!(second.version, 2);
        assert!(second.revision > first.revision);
        assert_eq!(environments.get("a").await.unwrap(), second);
        assert_eq!(environments.history("a").await.unwrap(), [first, second]);
    }

    #[tokio::test]
    async fn numbers_go_on_after_a_delete_and_the_history_stays() {
        let (_folder, environments) = fixture();
        for value in [1, 2] {
            environments.apply(&file("a", value), "me").await.unwrap();
        }
        environments.apply(&file("ab", 1), "me").await.unwrap();
        environments.delete("a").await.unwrap();
        assert!(matches!(environments.get("a").await, Err(EnvironmentError::Unknown { .. })));
        assert!(matches!(environments.delete("a").await, Err(EnvironmentError::Unknown { .. })));
        assert_eq!(written(environments.apply(&file("a", 2), "me").await.unwrap()).version, 3);
        assert_eq!(versions(&environments, "a").await, [1, 2, 3]);
        assert_eq!(versions(&environments, "ab").await, [1]);
    }

    #[tokio::test]
    async fn a_history_of_more_than_a_page_is_continued() {
        let (_folder, environments) = fixture();
        let last = PAGE as u64 + 2;
        for version in [1, last] {
            let old = Environment { version, ..empty("a") };
            let put = Op::put(keys::environment_version("a", version), encode(&old));
            environments.store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
        }
        assert_eq!(written(environments.apply(&file("a", 2), "me").await.unwrap()).version, last + 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn applies_at_the_same_time_are_versions_one_after_the_other_without_loss() {
        let (_folder, environments) = fixture();
        let writers = (0..8).map(|writer| {
            let environments = environments.clone();
            tokio::spawn(async move {
                for round in 0..4 {
                    let value = json!([writer, round]);
                    written(environments.apply(&file("a", value), "me").await.unwrap());
                }
            })
        });
        futures::future::try_join_all(writers).await.unwrap();
        let history = environments.history("a").await.unwrap();
        assert_eq!(versions(&environments, "a").await, (1..=32).collect::<Vec<_>>());
        let mut values: Vec<_> = history.iter().map(|version| version.config["value"].to_string()).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 32);
        assert_eq!(environments.get("a").await.unwrap(), *history.last().unwrap());
    }

    #[tokio::test]
    async fn an_edit_does_not_undo_what_somebody_else_did_meanwhile() {
        let (_folder, environments) = fixture();
        environments.apply(&file("a", 1), "me").await.unwrap();
        let seen = environments.get("a").await.unwrap();
        environments.apply(&file("a", 2), "you@there").await.unwrap();
        let error = environments.replace(&seen, &file("a", 3), "me").await.unwrap_err().to_string();
        assert_eq!(
            error,
            "the environment `a` was changed by somebody else meanwhile: \
             it is at version 2 now, applied by you@there"
        );
        environments.delete("a").await.unwrap();
        let error = environments.replace(&seen, &file("a", 3), "me").await.unwrap_err();
        assert!(matches!(error, EnvironmentError::Conflict { .. }));
        assert_eq!(versions(&environments, "a").await, [1, 2]);
    }

    #[tokio::test]
    async fn what_is_chosen_is_resolved_once_each_and_in_order() {
        let (_folder, environments) = fixture();
        for name in ["a", "b"] {
            environments.apply(&file(name, 1), "me").await.unwrap();
        }
        let resolve = async |chosen: &[&str], default: &str| {
            let chosen: Vec<_> = chosen.iter().map(ToString::to_string).collect();
            let resolved = environments.resolve(&chosen, default).await?;
            let identities =
                resolved.iter().map(|environment| format!("{}@{}", environment.name, environment.version));
            Ok::<_, EnvironmentError>(identities.collect::<Vec<_>>())
        };
        assert_eq!(resolve(&["b", "a", "b"], "local").await.unwrap(), ["b@1", "a@1"]);
        assert_eq!(resolve(&[], "a").await.unwrap(), ["a@1"]);
        assert_eq!(resolve(&[], LOCAL).await.unwrap(), ["local@0"]);
        assert!(environments.resolve(&["a".into()], "x").await.unwrap()[0].revision > 0);
        let error = resolve(&["a", "bb", "c"], "local").await.unwrap_err();
        assert_eq!(error.to_string(), "there is no environment `bb`, `c`");
        let help = miette::Diagnostic::help(&error).unwrap().to_string();
        assert_eq!(help, "did you mean `b`? there is: a, b");
        assert!(resolve(&[], "missing").await.is_err());
        environments.apply(&file(LOCAL, 1), "me").await.unwrap();
        assert_eq!(resolve(&[], LOCAL).await.unwrap(), ["local@1"]);
    }

    #[tokio::test]
    async fn what_cannot_be_stored_is_refused_before_it_is() {
        let (_folder, environments) = fixture();
        let error = environments.apply(&file("a", "x".repeat(LARGEST)), "me").await.unwrap_err();
        assert!(matches!(error, EnvironmentError::TooLarge { .. }), "{error}");
        let error = environments.apply(&file("a/b", 1), "me").await.unwrap_err();
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
}
