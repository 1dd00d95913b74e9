//! Between the store's terms and etcd's: every key gets the namespace before it on the
//! way in and loses it on the way out.

use etcd_client::proto::{PbKeyValue, PbRangeResponse, PbTxnOpResponse, PbTxnResponse};
use etcd_client::{
    Compare as EtcdCompare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn as EtcdTxn, TxnOp,
};

use crate::store::{
    Answer, Compare, Key, KeyRange, KeyValue, LeaseId, Op, Page, Read, Revision, Target, Txn, TxnOutcome,
};

/// What stands before every key.
#[derive(Clone, Debug)]
pub(super) struct Namespace(Vec<u8>);

/// A range as etcd takes it.
pub(super) struct EtcdRange {
    pub(super) start: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
}

impl Namespace {
    pub(super) fn new(prefix: &str) -> Self {
        Self(prefix.into())
    }

    fn key(&self, key: &Key) -> Vec<u8> {
        [&self.0, key.as_bytes()].concat()
    }

    /// A key as it is outside.
    pub(super) fn strip(&self, mut key: Vec<u8>) -> Key {
        if key.starts_with(&self.0) {
            key.drain(..self.0.len());
        }
        Key::new(key)
    }

    /// A range, the two that etcd reads otherwise avoided: an empty start is no key to it,
    /// and an end of a single zero byte means "without end".
    pub(super) fn range(&self, range: &KeyRange) -> EtcdRange {
        let mut start = self.key(&range.start);
        let mut end = range.end.as_ref().map(|end| self.key(end));
        if end.as_deref().is_some_and(|end| end.is_empty() || end == [0]) {
            (start, end) = (vec![0, 0], Some(vec![0, 0]));
        } else if start.is_empty() && end.is_some() {
            start = vec![0];
        }
        EtcdRange { start, end }
    }

    /// What to read, and how.
    pub(super) fn read(&self, read: &Read) -> (Vec<u8>, GetOptions) {
        let range = self.range(&read.range);
        let mut options = GetOptions::new().with_revision(read.at.unwrap_or_default().0);
        if let Some(end) = range.end {
            options = options.with_range(end);
        }
        if let Some(limit) = read.limit {
            // etcd takes 0 for "all".
            options = options.with_limit(i64::try_from(limit.max(1)).unwrap_or(i64::MAX));
        }
        if read.keys_only {
            options = options.with_keys_only();
        }
        (range.start, options)
    }

    pub(super) fn page(&self, answer: PbRangeResponse, limit: Option<usize>) -> Page {
        let mut pairs: Vec<_> = answer.kvs.into_iter().map(|pair| self.pair(pair)).collect();
        let more = answer.more || limit.is_some_and(|limit| pairs.len() > limit);
        pairs.truncate(limit.unwrap_or(usize::MAX));
        Page { pairs, more, revision: revision(answer.header.as_ref()) }
    }

    pub(super) fn pair(&self, pair: PbKeyValue) -> KeyValue {
        KeyValue {
            key: self.strip(pair.key),
            value: pair.value,
            created: Revision(pair.create_revision),
            modified: Revision(pair.mod_revision),
            version: pair.version,
            lease: (pair.lease != 0).then_some(LeaseId(pair.lease)),
        }
    }

    pub(super) fn txn(&self, txn: &Txn) -> EtcdTxn {
        let operations = |ops: &[Op]| ops.iter().map(|op| self.operation(op)).collect::<Vec<_>>();
        EtcdTxn::new()
            .when(txn.compares.iter().map(|compare| self.compare(compare)).collect::<Vec<_>>())
            .and_then(operations(&txn.then))
            .or_else(operations(&txn.otherwise))
    }

    pub(super) fn outcome(&self, answer: PbTxnResponse, txn: &Txn) -> TxnOutcome {
        let branch = if answer.succeeded { &txn.then } else { &txn.otherwise };
        let answers = answer.responses.into_iter().zip(branch).map(|(answer, op)| {
            let limit = if let Op::Get(read) = op { read.limit } else { None };
            match answer.response {
                Some(PbTxnOpResponse::ResponseRange(range)) => Answer::Page(self.page(range, limit)),
                Some(PbTxnOpResponse::ResponseDeleteRange(deleted)) => {
                    Answer::Deleted(u64::try_from(deleted.deleted).unwrap_or_default())
                }
                _ => Answer::Put,
            }
        });
        TxnOutcome {
            succeeded: answer.succeeded,
            answers: answers.collect(),
            revision: revision(answer.header.as_ref()),
        }
    }

    fn operation(&self, op: &Op) -> TxnOp {
        match op {
            Op::Get(read) => {
                let (key, options) = self.read(read);
                TxnOp::get(key, Some(options))
            }
            Op::Put { key, value, lease } => {
                let options = PutOptions::new().with_lease(lease.map_or(0, |lease| lease.0));
                TxnOp::put(self.key(key), value.clone(), Some(options))
            }
            Op::Delete(range) => {
                let range = self.range(range);
                let options = range.end.map(|end| DeleteOptions::new().with_range(end));
                TxnOp::delete(range.start, options)
            }
        }
    }

    fn compare(&self, compare: &Compare) -> EtcdCompare {
        let EtcdRange { start, end } = self.range(&compare.range);
        let how = if compare.equal { CompareOp::Equal } else { CompareOp::NotEqual };
        let compare = match &compare.target {
            Target::Value(value) => EtcdCompare::value(start, how, value.clone()),
            Target::Version(version) => EtcdCompare::version(start, how, *version),
            Target::Created(revision) => EtcdCompare::create_revision(start, how, revision.0),
            Target::Modified(revision) => EtcdCompare::mod_revision(start, how, revision.0),
            Target::Lease(lease) => EtcdCompare::lease(start, how, lease.map_or(0, |lease| lease.0)),
        };
        match end {
            Some(end) => compare.with_range(end),
            None => compare,
        }
    }
}

/// The store's revision when it answered.
pub(super) fn revision(header: Option<&etcd_client::proto::PbResponseHeader>) -> Revision {
    Revision(header.map_or(0, |header| header.revision))
}

/// The first key that one branch writes twice.
pub(super) fn duplicate(txn: &Txn) -> Option<Key> {
    [&txn.then, &txn.otherwise].into_iter().find_map(|branch| {
        let puts: Vec<&Key> = branch
            .iter()
            .filter_map(|op| if let Op::Put { key, .. } = op { Some(key) } else { None })
            .collect();
        let mut seen = std::collections::HashSet::new();
        let deleted =
            |key: &Key| branch.iter().any(|op| matches!(op, Op::Delete(range) if range.contains(key)));
        puts.into_iter().find(|key| !seen.insert(*key) || deleted(key)).cloned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_reaches_beyond_the_namespace_or_means_everything_by_accident() {
        let inside = Namespace::new("team/");
        let range = inside.range(&KeyRange::prefix("/runs/"));
        assert_eq!((range.start, range.end), (b"team//runs/".to_vec(), Some(b"team//runs0".to_vec())));
        let none = Namespace::new("").range(&KeyRange { start: "".into(), end: Some("\0".into()) });
        assert_eq!(Some(none.start), none.end);
        let all = Namespace::new("").range(&KeyRange { start: "".into(), end: Some("z".into()) });
        assert_eq!((all.start, all.end), (vec![0], Some(b"z".to_vec())));
    }

    #[test]
    fn a_key_put_twice_or_put_and_deleted_is_found() {
        let put = |key: &str| Op::put(key, "");
        let twice = Txn { otherwise: vec![put("/a"), put("/b"), put("/b")], ..Txn::default() };
        assert_eq!(duplicate(&twice), Some("/b".into()));
        let deleted =
            Txn { then: vec![Op::Delete(KeyRange::prefix("/a")), put("/b"), put("/a/1")], ..Txn::default() };
        assert_eq!(duplicate(&deleted), Some("/a/1".into()));
        let both = Txn { then: vec![put("/a")], otherwise: vec![put("/a")], ..Txn::default() };
        assert_eq!(duplicate(&both), None);
    }
}
