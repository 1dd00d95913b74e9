//! The compares of the protocol by name, so that each can be left out to see what it is for.

use std::fmt;

use cargo_etcdtest::model::{Run, RunState};
use cargo_etcdtest::store::{Compare, Key, KeyRange, Op, Revision, Target, Txn, decode_value};

/// A compare of the protocol, wherever it is made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guard {
    /// What is done in the transaction.
    pub deed: &'static str,
    /// What the compare makes sure of.
    pub ensures: &'static str,
}

impl Guard {
    /// The compares of a transaction that a worker sends, in their order.
    pub fn all(txn: &Txn, worker: &str) -> Vec<Self> {
        let deed = deed(txn, worker);
        txn.compares.iter().map(|compare| Self { deed, ensures: ensures(compare, worker) }).collect()
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.deed, self.ensures)
    }
}

/// What a transaction of this worker does.
pub(super) fn deed(txn: &Txn, worker: &str) -> &'static str {
    let written: Vec<Place> = txn.then.iter().filter_map(|op| Place::of(key(op)?, worker)).collect();
    let writes = |place| written.contains(&place);
    let is_own_key = |range: &KeyRange| Place::of(&range.start, worker) == Some(Place::Worker { own: true });
    let makes_room = txn.then.iter().any(|op| matches!(op, Op::Delete(range) if is_own_key(range)));
    match () {
        () if makes_room => "make room",
        () if writes(Place::Worker { own: true }) => "register",
        () if writes(Place::Block) => "flush",
        () if writes(Place::Claim { own: false }) => "takeover",
        () if writes(Place::Next) && writes(Place::Claim { own: true }) => "claim",
        () if writes(Place::Claim { own: true }) => "own record",
        () if writes(Place::Run) => advance(txn),
        () if writes(Place::Plan) => "plan",
        () if writes(Place::Log) => "output",
        () if writes(Place::Report) => "report",
        () if writes(Place::Latest) => "latest result",
        () if writes(Place::Lock) => "lock",
        () if writes(Place::Resource) => "resource",
        () => "other",
    }
}

/// What the run becomes.
fn advance(txn: &Txn) -> &'static str {
    let run = txn.then.iter().find_map(|op| match op {
        Op::Put { key, value, .. } if key.as_bytes().starts_with(b"/runs/") => {
            decode_value::<Run>(key, value).ok()
        }
        _ => None,
    });
    match run.map(|run| run.state) {
        Some(RunState::Planning { .. }) => "planning",
        Some(RunState::Running) => "running",
        Some(RunState::Cancelling) => "cancelling",
        Some(RunState::Finishing { .. }) => "finishing",
        Some(RunState::Finished { .. }) => "finished",
        None => "other",
    }
}

/// What a compare makes sure of.
fn ensures(compare: &Compare, worker: &str) -> &'static str {
    let zero = matches!(
        compare.target,
        Target::Created(Revision(0)) | Target::Modified(Revision(0)) | Target::Version(0)
    );
    let absent = zero && compare.equal;
    match Place::of(&compare.range.start, worker) {
        Some(Place::Run) if absent => "there is no such run",
        Some(Place::Run) => "the run is as read",
        Some(Place::Worker { .. }) if !compare.equal => "its owner is gone",
        Some(Place::Worker { own: true }) if absent => "not registered",
        Some(Place::Worker { own: true }) => "still registered",
        Some(Place::Worker { own: false }) => "its owner is gone",
        Some(Place::Claim { .. }) if compare.range.end.is_some() => "no claim record is left",
        Some(Place::Claim { own: true }) => "own claim record as read",
        Some(Place::Claim { own: false }) => "their claim record as read",
        Some(Place::Next) => "position as read",
        Some(Place::Block) => "there is no such block",
        Some(Place::Execution) => "nothing of the run is left",
        Some(Place::Lock | Place::Resource) if absent => "not in the queue",
        Some(Place::Lock | Place::Resource) => "the lock is held",
        Some(Place::Latest) => "latest result as read",
        Some(Place::Plan | Place::Log | Place::Report) | None => "other",
    }
}

fn key(op: &Op) -> Option<&Key> {
    match op {
        Op::Put { key, .. } => Some(key),
        Op::Delete(range) => Some(&range.start),
        Op::Get(_) => None,
    }
}

/// Which kind of record a key is for, seen by a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Run,
    Execution,
    Plan,
    Next,
    Claim { own: bool },
    Block,
    Worker { own: bool },
    Lock,
    Resource,
    Log,
    Report,
    Latest,
}

impl Place {
    fn of(key: &Key, worker: &str) -> Option<Self> {
        let key = key.to_string();
        let segments: Vec<&str> = key.split('/').skip(1).collect();
        Some(match segments[..] {
            ["runs", ..] => Self::Run,
            ["execution", _, ""] => Self::Execution,
            ["execution", _, "next", ..] => Self::Next,
            ["execution", _, "claims", name] => Self::Claim { own: name == worker },
            ["execution", _, "results", ..] => Self::Block,
            ["execution", ..] => Self::Plan,
            ["workers", name] => Self::Worker { own: name == worker },
            ["locks", "resources", ..] => Self::Resource,
            ["locks", ..] => Self::Lock,
            ["logs", ..] => Self::Log,
            ["reports", ..] => Self::Report,
            ["results", ..] => Self::Latest,
            _ => return None,
        })
    }
}
