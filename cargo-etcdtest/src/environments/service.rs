//! Environments in the store.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};

mod bases;

use self::bases::{AsOf, extending};
use super::chain::Chain;
use super::data_sets::DataSets;
use super::error::EnvironmentError;
use super::file::EnvironmentFile;
use super::name::check_name;
use crate::model::Environment;
use crate::nearest::{nearest, suggestion};
use crate::store::{
    self, Commit, Compare, Key, KeyRange, KeyValue, Op, Read, Revision, SharedStore, StoreError, Txn, decode,
    encode, keys,
};

/// The environment that need not exist: without a record it is empty.
pub const LOCAL: &str = "local";

/// The largest record that is stored, in bytes.
const LARGEST: usize = 512 * 1024;

/// How long a write stays with a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it waits before it tries a second time.
const PAUSE: Duration = Duration::from_millis(50);

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

/// Who changes an environment, and why.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// `user@host`.
    pub author: &'a str,
    /// Why; empty if nobody says.
    pub message: &'a str,
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

    /// The data sets of the same store.
    pub fn data_sets(&self) -> DataSets {
        DataSets::new(self.store.clone())
    }

    /// Makes the environment what the definition of the file says. What changes something is
    /// a new version, kept in the history.
    ///
    /// # Errors
    /// As [`Environments::chain`], where it does not hold together with what it inherits,
    /// [`EnvironmentError::TooLarge`], or as the store fails.
    pub async fn apply(
        &self,
        file: &EnvironmentFile,
        change: Change<'_>,
    ) -> Result<Applied, EnvironmentError> {
        self.write(file, change, Replaces::Any).await
    }

    /// Makes the environment again what it was in this version: as a new version.
    ///
    /// # Errors
    /// As [`Environments::version`], [`Environments::check`] and [`Environments::apply`].
    pub async fn roll_back(
        &self,
        name: &str,
        version: u64,
        change: Change<'_>,
    ) -> Result<Applied, EnvironmentError> {
        let old = self.version(name, version).await?;
        let mut file = EnvironmentFile::of(name, old.definition);
        self.check(std::slice::from_mut(&mut file)).await?;
        self.apply(&file, change).await
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
        change: Change<'_>,
    ) -> Result<Applied, EnvironmentError> {
        self.write(file, change, Replaces::Seen(Revision(seen.revision))).await
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
    /// [`EnvironmentError::Unknown`], [`EnvironmentError::Extended`], or as the store fails.
    pub async fn delete(&self, name: &str) -> Result<(), EnvironmentError> {
        let key = keys::environment(name);
        let Some(pair) = store::get(&*self.store, key.clone()).await? else {
            return Err(self.unknown(vec![name.to_owned()]).await?);
        };
        let all = self.list().await?;
        let by: Vec<_> = extending(&all, name).map(|other| other.name.clone()).collect();
        if !by.is_empty() {
            return Err(EnvironmentError::Extended { name: name.to_owned(), by });
        }
        // Bound to this very incarnation, it can be sent again and never deletes another;
        // and where it is refused, somebody else has deleted it.
        let txn = Txn {
            compares: vec![Compare::created(key.clone(), pair.created)],
            then: vec![Op::Delete(KeyRange::key(key))],
            otherwise: vec![],
        };
        let pauses = ExponentialBuilder::default().with_jitter().with_total_delay(Some(PATIENCE));
        let in_doubt = |error: &StoreError| matches!(error, StoreError::UnknownOutcome { .. });
        (|| self.store.txn(txn.clone())).retry(pauses.with_min_delay(PAUSE)).when(in_doubt).await?;
        Ok(())
    }

    /// One environment as it is now, with its revision, if it exists.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn find(&self, name: &str) -> Result<Option<Environment>, EnvironmentError> {
        let pair = store::get(&*self.store, keys::environment(name)).await?;
        Ok(pair.as_ref().map(read).transpose()?)
    }

    /// The error about names that do not exist, at least one.
    async fn unknown(&self, names: Vec<String>) -> Result<EnvironmentError, EnvironmentError> {
        let known = self.list().await?;
        let known: Vec<_> = known.iter().map(|environment| environment.name.as_str()).collect();
        let help = match &names[..] {
            _ if known.is_empty() => {
                "there is none yet: write environments/NAME.toml and `cargo etcdtest env apply` it".into()
            }
            [name] => suggestion(name, known.iter().copied())
                .unwrap_or_else(|| "`cargo etcdtest env list` shows all".into()),
            names => {
                let near =
                    names.iter().filter_map(|name| Some((name, nearest(name, known.iter().copied())?)));
                let near: Vec<_> = near.map(|(name, near)| format!("`{near}` for `{name}`")).collect();
                let meant = if near.is_empty() {
                    String::new()
                } else {
                    format!("did you mean {}? ", near.join(", "))
                };
                format!("{meant}`cargo etcdtest env list` shows all")
            }
        };
        Ok(EnvironmentError::Unknown { names, help })
    }

    async fn write(
        &self,
        file: &EnvironmentFile,
        change: Change<'_>,
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
                version: last.max(self.last_version(&file.name, last).await?) + 1,
                message: change.message.to_owned(),
                ..Environment::unstored(&file.name, file.definition.clone(), change.author)
            };
            let chain = self.extend(Chain::new(next), AsOf::Now).await?;
            file.check(&chain.resolve().definition)?;
            if let Some(revision) = self.put_version(&chain, Revision(found)).await? {
                let next = chain.own().clone();
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

    /// Writes a version, in place of what was written at `found` and on bases that are still
    /// what they were, and says at which revision; `None` where somebody else was faster.
    async fn put_version(
        &self,
        chain: &Chain,
        found: Revision,
    ) -> Result<Option<Revision>, EnvironmentError> {
        let next = chain.own();
        let value = encode(next);
        if value.len() > LARGEST {
            let (name, size) = (next.name.clone(), value.len());
            return Err(EnvironmentError::TooLarge { name, size, limit: LARGEST });
        }
        let current = keys::environment(&next.name);
        let version = keys::environment_version(&next.name, next.version);
        let bases = chain.bases().iter();
        let bases =
            bases.map(|base| Compare::modified(keys::environment(&base.name), Revision(base.revision)));
        let txn = Txn {
            compares: [
                Compare::modified(current.clone(), found),
                Compare::modified(version.clone(), Revision(0)),
            ]
            .into_iter()
            .chain(bases)
            .collect(),
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
        self.definition == environment.definition
    }
}

impl Environment {
    fn describe_change(&self) -> String {
        format!("it is at version {} now, applied by {}", self.version, self.author)
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
mod tests;
