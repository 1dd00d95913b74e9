//! Plays a script on a store and writes down what the store answers, in words that do not
//! depend on where the store's revisions began and how its leases are called.

use std::fmt::Write;

use cargo_etcdtest::store::{Answer, Compare, Page, Result, Target};

use super::scripts::{At, Condition, Get, KEYS, Keys, Lease, Operation, Step, Target as Looked};
use super::*;

/// What a store answers to each step of a script, and what a watch over all of it tells.
pub async fn transcript(store: &SharedStore, script: &[Step]) -> Vec<String> {
    let mut player = Player::new(&**store).await;
    for step in script {
        let answer = player.play(step).await;
        player.lines.push(format!("{step:?}: {answer}"));
        player.follow().await;
    }
    player.lines
}

struct Player<'a> {
    store: &'a dyn Store,
    /// Where the store stood at the start.
    start: Revision,
    /// Where it stands.
    now: Revision,
    /// Up to where history was forgotten.
    compacted: Revision,
    leases: Vec<LeaseId>,
    watch: Watch,
    /// The revision that the watch told last.
    told: Revision,
    lines: Vec<String>,
}

impl<'a> Player<'a> {
    async fn new(store: &'a dyn Store) -> Self {
        let start = revision(store).await;
        let watch = store.watch(KeyRange::prefix("k/"), later(start, 1)).await.unwrap();
        Self { store, start, now: start, compacted: start, leases: vec![], watch, told: start, lines: vec![] }
    }

    async fn play(&mut self, step: &Step) -> String {
        match step {
            Step::Read(get) => {
                let read = self.read(get);
                self.answer(self.store.read(read).await, |this, page| this.page(&page))
            }
            Step::Txn { compares, then, otherwise } => {
                let txn = Txn {
                    compares: compares.iter().map(|condition| self.compare(condition)).collect(),
                    then: then.iter().map(|operation| self.op(operation)).collect(),
                    otherwise: otherwise.iter().map(|operation| self.op(operation)).collect(),
                };
                let outcome = self.store.txn(txn).await;
                self.now = outcome.as_ref().map_or(self.now, |outcome| outcome.revision);
                self.answer(outcome, Self::outcome)
            }
            Step::Grant => {
                let lease = self.store.grant(Duration::from_secs(1000)).await.unwrap();
                self.leases.push(lease.id);
                format!("{:?}", lease.ttl)
            }
            Step::KeepAlive(lease) => {
                self.answer(self.store.keep_alive(self.lease(*lease)).await, |_, ttl| format!("{ttl:?}"))
            }
            Step::Revoke(lease) => {
                let revoked = self.store.revoke(self.lease(*lease)).await;
                self.look().await;
                self.answer(revoked, |_, ()| "revoked".into())
            }
            Step::Expire(key) => self.expire(*key).await,
            Step::Compact(at) => {
                // Whether the very start can be compacted depends on what was before it.
                let upto = self.at(*at).max(later(self.start, 1));
                let compacted = self.store.compact(upto).await;
                if compacted.is_ok() {
                    self.compacted = upto;
                }
                self.answer(compacted, |_, ()| "compacted".into())
            }
            Step::Watch(keys, at) => self.look_back(*keys, *at).await,
        }
    }

    /// Puts a key on a lease and waits until the watch tells that it is gone.
    async fn expire(&mut self, key: usize) -> String {
        let lease = self.store.grant(Duration::from_secs(1)).await.unwrap().id;
        self.leases.push(lease);
        let put = Op::Put { key: name(key), value: Vec::new(), lease: Some(lease) };
        let written = write(self.store, [put]).await.revision;
        self.now = later(written, 1);
        "put on a lease that ended".into()
    }

    /// Watches from a revision that can still be watched from, up to a write to all keys.
    async fn look_back(&mut self, keys: Keys, at: At) -> String {
        // etcd before 3.5.17 forgets the deletions of the very revision it compacts.
        let from = self.at(at).max(later(self.compacted, 1));
        let range = range_of(keys);
        if matches!(&range.end, Some(end) if *end <= range.start) {
            return "nothing to watch".into();
        }
        let mut watch = self.store.watch(range, from).await.unwrap();
        let puts: Vec<_> = (0..KEYS.len()).map(|key| Op::put(name(key), "seen")).collect();
        self.now = write(self.store, puts).await.revision;
        let mut told = String::new();
        while let (text, at) = self.notice(&next(&mut watch).await)
            && write!(told, "\n    {text}").is_ok()
            && at < self.now
        {}
        told
    }

    /// Finds out where the store stands.
    async fn look(&mut self) {
        self.now = revision(self.store).await;
    }

    /// Writes down what the watch tells, up to where the store stands.
    async fn follow(&mut self) {
        while self.told < self.now {
            let notice = next(&mut self.watch).await;
            let (text, at) = self.notice(&notice);
            assert!(at > self.told, "{text} came after {}", self.told);
            self.told = at;
            self.lines.push(format!("  told {text}"));
        }
        self.look().await;
        assert_eq!(self.told, self.now, "a revision that nobody was told of");
    }

    fn notice(&self, notice: &Notice) -> (String, Revision) {
        match notice {
            Notice::Changed { revision, changes } => {
                let mut text = format!("at {}:", self.since(*revision));
                for change in changes {
                    match change {
                        Change::Put(pair) => text += &self.pair(pair),
                        Change::Deleted(key) => text.extend([" -", &key.to_string()]),
                    }
                }
                (text, *revision)
            }
            Notice::Compacted { revision } => panic!("compacted up to {revision}"),
        }
    }

    fn answer<T>(&self, answer: Result<T>, words: impl FnOnce(&Self, T) -> String) -> String {
        match answer {
            Ok(answer) => words(self, answer),
            Err(StoreError::Compacted(_)) => "refused: compacted".into(),
            Err(StoreError::FutureRevision(at)) => format!("refused: there is no {} yet", self.since(at)),
            Err(StoreError::DuplicateKey(key)) => format!("refused: {key} twice"),
            Err(StoreError::LeaseNotFound) => "refused: no such lease".into(),
            Err(error) => panic!("{error}"),
        }
    }

    fn outcome(&self, outcome: TxnOutcome) -> String {
        let mut text = format!("{} at {}", outcome.succeeded, self.since(outcome.revision));
        for answer in outcome.answers {
            match answer {
                Answer::Page(page) => write!(text, "; page {}", self.page(&page)),
                Answer::Put => write!(text, "; put"),
                Answer::Deleted(count) => write!(text, "; {count} deleted"),
            }
            .expect("text takes text");
        }
        text
    }

    fn page(&self, page: &Page) -> String {
        let pairs: String = page.pairs.iter().map(|pair| self.pair(pair)).collect();
        format!("at {}, more {}:{pairs}", self.since(page.revision), page.more)
    }

    fn pair(&self, pair: &KeyValue) -> String {
        let lease = pair.lease.map(|lease| self.leases.iter().position(|&granted| granted == lease));
        format!(
            " {}={:?} (created {}, modified {}, version {}, lease {lease:?})",
            pair.key,
            String::from_utf8_lossy(&pair.value),
            self.since(pair.created),
            self.since(pair.modified),
            pair.version
        )
    }

    fn since(&self, revision: Revision) -> i64 {
        revision.0 - self.start.0
    }

    fn at(&self, at: At) -> Revision {
        let way = self.now.0 + 1 - self.start.0;
        later(self.start, way * i64::from(at.0) / 255)
    }

    fn lease(&self, lease: Lease) -> LeaseId {
        let count = self.leases.len();
        if count == 0 { LeaseId(1) } else { self.leases[lease.0 % count] }
    }

    fn read(&self, get: &Get) -> Read {
        Read {
            range: range_of(get.keys),
            limit: get.limit,
            at: get.at.map(|at| self.at(at)),
            keys_only: get.keys_only,
        }
    }

    fn op(&self, operation: &Operation) -> Op {
        match operation {
            Operation::Get(get) => Op::Get(self.read(get)),
            Operation::Put { key, value, lease } => Op::Put {
                key: name(*key),
                value: value.to_string().into(),
                lease: lease.map(|lease| self.lease(lease)),
            },
            Operation::Delete(keys) => Op::Delete(range_of(*keys)),
        }
    }

    fn compare(&self, condition: &Condition) -> Compare {
        let revision = |at: Option<At>| at.map_or(Revision(0), |at| self.at(at));
        let target = match condition.target {
            Looked::Value(value) => Target::Value(value.to_string().into()),
            Looked::Version(version) => Target::Version(version),
            Looked::Created(at) => Target::Created(revision(at)),
            Looked::Modified(at) => Target::Modified(revision(at)),
            Looked::Lease(lease) => Target::Lease(lease.map(|lease| self.lease(lease))),
        };
        Compare { range: range_of(condition.keys), target, equal: condition.equal }
    }
}

fn name(key: usize) -> Key {
    format!("k/{}", KEYS[key]).into()
}

fn range_of(keys: Keys) -> KeyRange {
    match keys {
        Keys::One(key) => KeyRange::key(name(key)),
        Keys::Range(start, end) => KeyRange { start: name(start), end: Some(name(end)) },
        Keys::Prefix(key) => KeyRange::prefix(name(key)),
    }
}
