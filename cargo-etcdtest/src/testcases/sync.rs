//! What has to be written so that the store knows the tests that the code has.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use jiff::Timestamp;
use serde::Serialize;

use super::catalog::StoredTestCase;
use super::test_list::{ListedTest, TestList};
use crate::model::{TestCase, TestCaseId};
use crate::store::{Compare, KeyRange, Op, Revision, Txn, encode, keys};

/// The most operations of one transaction; etcd takes 128.
const MAX_OPERATIONS: usize = 100;
/// The most bytes of one transaction; etcd takes 1.5 MiB, with its own overhead.
const MAX_BYTES: usize = 1 << 20;

/// How many test cases were written, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SyncCounts {
    /// Seen for the first time.
    pub added: usize,
    /// Described otherwise than before.
    pub changed: usize,
    /// Gone from the code.
    pub vanished: usize,
    /// Gone before, now there again.
    pub returned: usize,
    /// Written by hand before, now found in the code.
    pub adopted: usize,
    /// As they were.
    pub unchanged: usize,
}

/// One thing to do about one test case.
#[derive(Debug)]
pub(super) struct Change {
    /// What it is counted as.
    pub(super) counts: SyncCounts,
    compares: Vec<Compare>,
    operations: Vec<Op>,
}

impl AddAssign for SyncCounts {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.changed += other.changed;
        self.vanished += other.vanished;
        self.returned += other.returned;
        self.adopted += other.adopted;
        self.unchanged += other.unchanged;
    }
}

impl SyncCounts {
    /// Nothing was written.
    pub fn is_unchanged(&self) -> bool {
        *self == Self { unchanged: self.unchanged, ..Self::default() }
    }
}

impl Change {
    /// Puts a record in the place of one that is at `revision`, 0 for none.
    fn put(case: &TestCase, revision: Revision, counts: SyncCounts) -> Self {
        let key = keys::test_case(&case.id);
        Self {
            counts,
            compares: vec![Compare::modified(key.clone(), revision)],
            operations: vec![Op::put(key, encode(case))],
        }
    }

    fn and_delete(mut self, stored: &StoredTestCase) -> Self {
        let key = keys::test_case(&stored.case.id);
        self.compares.push(Compare::modified(key.clone(), stored.revision));
        self.operations.push(Op::Delete(KeyRange::key(key)));
        self
    }

    fn bytes(&self) -> usize {
        let operation = |operation: &Op| match operation {
            Op::Put { key, value, .. } => key.as_bytes().len() + value.len(),
            Op::Delete(range) => range.start.as_bytes().len(),
            Op::Get(_) => 0,
        };
        let compares = self.compares.iter().map(|compare| compare.range.start.as_bytes().len());
        compares.sum::<usize>() + self.operations.iter().map(operation).sum::<usize>()
    }
}

/// Transactions that carry out the changes, each within a store's limits, with what they
/// count as.
pub(super) fn batches(changes: Vec<Change>) -> Vec<(Txn, SyncCounts)> {
    let mut batches = Vec::new();
    let mut room = (0, 0);
    for change in changes {
        let needed = (change.operations.len(), change.bytes());
        if needed.0 > room.0 || needed.1 > room.1 {
            batches.push((Txn::default(), SyncCounts::default()));
            room = (MAX_OPERATIONS, MAX_BYTES);
        }
        room = (room.0.saturating_sub(needed.0), room.1.saturating_sub(needed.1));
        if let Some((txn, counts)) = batches.last_mut() {
            txn.compares.extend(change.compares);
            txn.then.extend(change.operations);
            *counts += change.counts;
        }
    }
    batches
}

/// What is to be done, and how many test cases need nothing. `stored` is all that the
/// store has of the list's packages.
pub(super) fn plan(list: &TestList, stored: &[StoredTestCase], now: Timestamp) -> (Vec<Change>, usize) {
    let by_id: BTreeMap<&TestCaseId, &StoredTestCase> =
        stored.iter().map(|stored| (&stored.case.id, stored)).collect();
    let adopted = adoptions(list, stored, &by_id);
    let mut changes = Vec::new();
    let mut unchanged = 0;
    for test in &list.tests {
        let known = by_id.get(&test.id).copied();
        let written = adopted.get(&test.id).copied();
        match registration(test, known, written) {
            Some(change) => changes.push(change),
            None => unchanged += 1,
        }
    }
    let listed: BTreeSet<_> = list.tests.iter().map(|test| &test.id).collect();
    let listed_binaries: BTreeSet<_> =
        list.binaries.iter().map(|binary| (binary.package.as_str(), binary.name.as_str())).collect();
    for stored in stored {
        let TestCase { id, code, vanished, .. } = &stored.case;
        let looked_for = listed_binaries.contains(&(id.package.as_str(), id.binary.as_str()))
            || !has_target(list, &id.package, &id.binary);
        if code.is_some() && vanished.is_none() && looked_for && !listed.contains(id) {
            let case = TestCase { vanished: Some(now), ..stored.case.clone() };
            let counts = SyncCounts { vanished: 1, ..SyncCounts::default() };
            changes.push(Change::put(&case, stored.revision, counts));
        }
    }
    (changes, unchanged)
}

/// Whether a package of the list has this binary in its manifest.
fn has_target(list: &TestList, package: &str, binary: &str) -> bool {
    list.targets.get(package).is_some_and(|names| names.contains(binary))
}

/// What has to be written for a listed test, if anything.
fn registration(
    test: &ListedTest,
    known: Option<&StoredTestCase>,
    adopted: Option<&StoredTestCase>,
) -> Option<Change> {
    let written = known.and_then(|known| known.case.written.clone());
    let case = TestCase {
        id: test.id.clone(),
        code: Some((*test.code).clone()),
        written: written.or_else(|| adopted?.case.written.clone()),
        vanished: None,
    };
    let counts = match (known, adopted) {
        (_, Some(_)) => SyncCounts { adopted: 1, ..SyncCounts::default() },
        (None, None) => SyncCounts { added: 1, ..SyncCounts::default() },
        (Some(known), None) if known.case == case => return None,
        (Some(known), None) if known.case.vanished.is_some() => {
            SyncCounts { returned: 1, ..SyncCounts::default() }
        }
        (Some(known), None) if known.case.code.is_none() => {
            SyncCounts { adopted: 1, ..SyncCounts::default() }
        }
        (Some(_), None) => SyncCounts { changed: 1, ..SyncCounts::default() },
    };
    let revision = known.map_or(Revision(0), |known| known.revision);
    let change = Change::put(&case, revision, counts);
    Some(match adopted {
        Some(adopted) => change.and_delete(adopted),
        None => change,
    })
}

/// Which listed test takes over which hand-written test case: those that are the only one
/// of their package with the written name, and have nothing written yet.
fn adoptions<'a>(
    list: &TestList,
    stored: &'a [StoredTestCase],
    by_id: &BTreeMap<&TestCaseId, &StoredTestCase>,
) -> BTreeMap<TestCaseId, &'a StoredTestCase> {
    let mut adoptions = BTreeMap::new();
    let waiting = stored.iter().filter(|stored| {
        let TestCase { id, code, .. } = &stored.case;
        code.is_none() && !has_target(list, &id.package, &id.binary)
    });
    for waiting in waiting {
        let name = written_name(&waiting.case.id);
        let package = &waiting.case.id.package;
        let named = |id: &TestCaseId| id.package == *package && is_named(&id.test, &name);
        let listed = list.tests.iter().map(|test| &test.id).filter(|id| named(id));
        let elsewhere = stored.iter().filter(|stored| {
            let case = &stored.case;
            case.code.is_some() && case.vanished.is_none() && named(&case.id)
        });
        let candidates: BTreeSet<_> = listed.chain(elsewhere.map(|stored| &stored.case.id)).collect();
        let mut candidates = candidates.into_iter();
        let (Some(only), None) = (candidates.next(), candidates.next()) else { continue };
        let free = by_id.get(only).is_none_or(|known| known.case.written.is_none());
        let is_listed = list.tests.binary_search_by(|test| test.id.cmp(only)).is_ok();
        if free && is_listed {
            adoptions.entry(only.clone()).or_insert(waiting);
        }
    }
    adoptions
}

/// The path that a hand-written test case asks for: what stands where a binary would may
/// have been meant as a module.
pub(super) fn written_name(id: &TestCaseId) -> String {
    if id.binary == TestCaseId::ANY_BINARY { id.test.clone() } else { format!("{}::{}", id.binary, id.test) }
}

/// Whether a path is this name, or ends in it.
pub(super) fn is_named(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with("::"))
}
