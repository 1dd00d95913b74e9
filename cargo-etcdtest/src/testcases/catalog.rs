//! The test cases in the store.

use std::time::Duration;

use jiff::Timestamp;

use super::sync::{self, SyncCounts};
use super::test_list::TestList;
use crate::model::{Description, LatestResult, TestCase, TestCaseId, TestCaseState};
use crate::nearest::suggestion;
use crate::store::{
    self, Commit, Compare, Key, KeyRange, KeyValue, Op, Revision, SharedStore, StoreError, Txn, commit,
    decode, encode, keys,
};

/// How often a sync starts again because others wrote at the same time.
const SYNC_ROUNDS: u32 = 30;
/// How many listed test cases are read from the store together.
const PIECE: usize = 500;
/// How long a write is tried through an outage.
const PATIENCE: Duration = Duration::from_secs(10);

/// A test case as the store has it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTestCase {
    /// The test case.
    pub case: TestCase,
    /// When it was last written.
    pub revision: Revision,
}

/// Why something could not be done with test cases.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It is there already.
    #[error("the test case `{0}` exists already")]
    AlreadyExists(TestCaseId),
    /// It is not there.
    #[error("there is no test case `{id}`")]
    NotFound {
        /// What was asked for.
        id: TestCaseId,
        /// Ids that may have been meant.
        suggestion: Option<String>,
    },
    /// Several are meant.
    #[error("`{id}` may be any of {}", .found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// What was asked for.
        id: TestCaseId,
        /// What it may be.
        found: Vec<TestCaseId>,
    },
    /// Somebody else has written it since it was read.
    #[error("the test case `{id}` was changed meanwhile by somebody else")]
    Conflict {
        /// Which one.
        id: TestCaseId,
    },
    /// It is in the code, so that deleting it makes no sense.
    #[error("the test case `{0}` has code")]
    HasCode(TestCaseId),
    /// Others wrote the same test cases again and again.
    #[error("the test cases could not be registered: others keep writing them")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CatalogError {
    /// What the user can do about it.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::AlreadyExists(id) => format!("change it with `cargo etcdtest testcase update {id}`"),
            Self::NotFound { suggestion, .. } => suggestion.clone().unwrap_or_else(|| {
                "`cargo etcdtest testcase sync` registers what the code has, `testcase create` writes one \
                 by hand"
                    .into()
            }),
            Self::Ambiguous { .. } => "write the whole id, `package::binary::path`".into(),
            Self::Conflict { id } => {
                format!("read it again with `cargo etcdtest testcase show {id}`, then repeat the change")
            }
            Self::HasCode(_) => "the next run would register it again: remove the test from the code and \
                                 run `cargo etcdtest testcase sync`, or insist with --yes"
                .into(),
            Self::Busy => "try again".into(),
            Self::Store(error) => return error.help().map(Into::into),
        })
    }
}

/// The test cases of a store.
#[derive(Clone, Debug)]
pub struct Catalog {
    store: SharedStore,
}

impl Catalog {
    /// The test cases of this store.
    pub fn new(store: SharedStore) -> Self {
        Self { store }
    }

    /// Registers what the code has: writes test cases that are new or changed, marks those
    /// that are gone from the binaries that were listed, and gives hand-written ones to the
    /// code that now exists for them. The list must be a whole one, not filtered.
    ///
    /// # Errors
    /// The store fails, or others write the same test cases without end.
    pub async fn sync(&self, list: &TestList) -> Result<SyncCounts, CatalogError> {
        let mut done = SyncCounts::default();
        for round in 0..SYNC_ROUNDS {
            let stored = self.of_packages(list).await?;
            let (changes, unchanged) = sync::plan(list, &stored, Timestamp::now());
            if round == 0 {
                done.unchanged = unchanged;
            }
            let mut raced = false;
            for (txn, counts) in sync::batches(changes) {
                match self.store.txn(txn).await {
                    Ok(outcome) if outcome.succeeded => done += counts,
                    // What was written, by us or by others, shows when it is read again.
                    Ok(_) | Err(StoreError::UnknownOutcome { .. }) => raced = true,
                    Err(error) => return Err(error.into()),
                }
            }
            if !raced {
                return Ok(done);
            }
            let pause = 5 * u64::from(round + 1);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=pause))).await;
        }
        Err(CatalogError::Busy)
    }

    /// All test cases, in the order of their ids.
    ///
    /// # Errors
    /// The store fails, or a record cannot be read.
    pub async fn list(&self) -> Result<Vec<StoredTestCase>, CatalogError> {
        self.below(keys::TEST_CASES.into()).await
    }

    /// The test case with this id; for an id without a binary also the only one of the
    /// package with just this path, else the only one whose path ends in it.
    ///
    /// # Errors
    /// There is none, or the store fails.
    pub async fn get(&self, id: &TestCaseId) -> Result<StoredTestCase, CatalogError> {
        if let Some(pair) = store::get(&*self.store, keys::test_case(id)).await? {
            return Ok(stored(&pair)?);
        }
        let package = self.below(keys::test_cases_in(&id.package)).await?;
        let name = sync::written_name(id);
        let mut called: Vec<_> =
            package.into_iter().filter(|stored| sync::is_named(&stored.case.id.test, &name)).collect();
        if called.iter().any(|stored| stored.case.id.test == name) {
            called.retain(|stored| stored.case.id.test == name);
        }
        match (called.pop(), called.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                called.push(last);
                let found = called.into_iter().map(|stored| stored.case.id).collect();
                Err(CatalogError::Ambiguous { id: id.clone(), found })
            }
            (None, _) => {
                let all = self.list().await?;
                let ids: Vec<_> = all.iter().map(|stored| stored.case.id.to_string()).collect();
                let suggestion = suggestion(&id.to_string(), ids.iter().map(String::as_str));
                Err(CatalogError::NotFound { id: id.clone(), suggestion })
            }
        }
    }

    /// The newest results of a test case, one for each environment it ran in.
    ///
    /// # Errors
    /// The store fails, or a record cannot be read.
    pub async fn latest_results(&self, id: &TestCaseId) -> Result<Vec<LatestResult>, CatalogError> {
        let page = store::list(&*self.store, KeyRange::prefix(keys::latest_results(id))).await?;
        Ok(page.pairs.iter().map(decode).collect::<Result<_, _>>()?)
    }

    /// Writes a test case by hand, before its code exists.
    ///
    /// # Errors
    /// It exists already, or the store fails.
    pub async fn create(&self, id: TestCaseId, written: Description) -> Result<StoredTestCase, CatalogError> {
        let case = TestCase { id: id.clone(), code: None, written: Some(written), vanished: None };
        self.put(case, Revision(0)).await?.ok_or(CatalogError::AlreadyExists(id))
    }

    /// Changes what is written by hand of a test case. With a revision, only if it is still
    /// the one that was last written then.
    ///
    /// # Errors
    /// There is none, somebody else changes it at the same time or did so since that
    /// revision, or the store fails.
    pub async fn update(
        &self,
        id: &TestCaseId,
        expected: Option<Revision>,
        edit: impl FnOnce(&mut Description),
    ) -> Result<StoredTestCase, CatalogError> {
        let StoredTestCase { mut case, revision } = self.get_expected(id, expected).await?;
        let id = case.id.clone();
        let mut written = case.written.take().unwrap_or_default();
        edit(&mut written);
        let keep = case.code.is_none() || written != Description::default();
        case.written = keep.then_some(written);
        self.put(case, revision).await?.ok_or(CatalogError::Conflict { id })
    }

    /// Deletes a test case; one with code only where `even_with_code`.
    ///
    /// # Errors
    /// There is none, it has code, somebody else changes it at the same time or did so
    /// since that revision, or the store fails.
    pub async fn delete(
        &self,
        id: &TestCaseId,
        expected: Option<Revision>,
        even_with_code: bool,
    ) -> Result<StoredTestCase, CatalogError> {
        let found = self.get_expected(id, expected).await?;
        let id = &found.case.id;
        if found.case.state() == TestCaseState::Implemented && !even_with_code {
            return Err(CatalogError::HasCode(id.clone()));
        }
        let key = keys::test_case(id);
        let txn = Txn {
            compares: vec![Compare::modified(key.clone(), found.revision)],
            then: vec![Op::Delete(KeyRange::key(key.clone()))],
            otherwise: Vec::new(),
        };
        match self.store.txn(txn).await {
            Ok(outcome) if outcome.succeeded => Ok(found),
            Ok(_) => Err(CatalogError::Conflict { id: id.clone() }),
            Err(StoreError::UnknownOutcome { .. }) if store::get(&*self.store, key).await?.is_none() => {
                Ok(found)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn get_expected(
        &self,
        id: &TestCaseId,
        expected: Option<Revision>,
    ) -> Result<StoredTestCase, CatalogError> {
        let found = self.get(id).await?;
        match expected {
            Some(expected) if expected != found.revision => Err(CatalogError::Conflict { id: found.case.id }),
            _ => Ok(found),
        }
    }

    /// Puts a record in the place of the one at `revision`, 0 for none; `None` where
    /// another one is there.
    async fn put(&self, case: TestCase, revision: Revision) -> Result<Option<StoredTestCase>, CatalogError> {
        let key = keys::test_case(&case.id);
        let txn = Txn {
            compares: vec![Compare::modified(key.clone(), revision)],
            then: vec![Op::put(key.clone(), encode(&case))],
            otherwise: Vec::new(),
        };
        Ok(match commit(&*self.store, &txn, &key, PATIENCE).await? {
            Commit::Applied(revision) => Some(StoredTestCase { case, revision }),
            Commit::Refused(_) => None,
        })
    }

    /// What the store has of the packages of a list.
    async fn of_packages(&self, list: &TestList) -> Result<Vec<StoredTestCase>, CatalogError> {
        // Most of them are those that are listed, which may be many.
        let mut listed: Vec<Key> = list.tests.iter().map(|test| keys::test_case(&test.id)).collect();
        listed.sort_unstable();
        let between: Vec<Key> = listed.into_iter().step_by(PIECE).skip(1).collect();
        let mut all = Vec::new();
        for package in list.targets.keys() {
            let package = KeyRange::prefix(keys::test_cases_in(package));
            let page = store::list_split(&*self.store, package, &between).await?;
            all.extend(page.pairs.into_iter().map(|pair| stored(&pair)).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(all)
    }

    async fn below(&self, prefix: Key) -> Result<Vec<StoredTestCase>, CatalogError> {
        let page = store::list(&*self.store, KeyRange::prefix(prefix)).await?;
        let mut all = page.pairs.into_iter().map(|pair| stored(&pair)).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|a, b| a.case.id.cmp(&b.case.id));
        Ok(all)
    }
}

fn stored(pair: &KeyValue) -> Result<StoredTestCase, StoreError> {
    Ok(StoredTestCase { case: decode(pair)?, revision: pair.modified })
}

#[cfg(test)]
mod tests;
