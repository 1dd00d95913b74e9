//! Generated scripts: steps that can be played on any store. Revisions count from where
//! the store stood at the start, and leases by when they were granted, so that a script
//! means the same on every store.

use proptest::collection::vec;
use proptest::prelude::*;

/// Few keys, so that scripts meet the same ones again; some are prefixes of others.
pub const KEYS: [&str; 6] = ["a", "b", "b/", "b/1", "c", "c\u{ff}"];

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// A read.
    Read(Get),
    /// A transaction.
    Txn {
        /// Its conditions.
        compares: Vec<Condition>,
        /// What is done if all hold.
        then: Vec<Operation>,
        /// What is done if one does not.
        otherwise: Vec<Operation>,
    },
    /// Grants a lease.
    Grant,
    /// Renews a lease.
    KeepAlive(Lease),
    /// Ends a lease.
    Revoke(Lease),
    /// Puts a key on a short lease and waits for its end.
    Expire(usize),
    /// Forgets history.
    Compact(At),
    /// Watches a range from a revision on, until everything so far was told.
    Watch(Keys, At),
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A read.
    Get(Get),
    /// A write.
    Put {
        /// Which key.
        key: usize,
        /// Its value.
        value: u8,
        /// Its lease.
        lease: Option<Lease>,
    },
    /// A deletion.
    Delete(Keys),
}

/// A read.
#[derive(Clone, Debug)]
pub struct Get {
    /// Which keys.
    pub keys: Keys,
    /// At most so many.
    pub limit: Option<usize>,
    /// As it was then.
    pub at: Option<At>,
    /// Without values.
    pub keys_only: bool,
}

/// A condition.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Of which keys.
    pub keys: Keys,
    /// What of them.
    pub target: Target,
    /// Is, or is not.
    pub equal: bool,
}

/// What a condition looks at.
#[derive(Clone, Debug)]
pub enum Target {
    /// The value.
    Value(u8),
    /// The version.
    Version(i64),
    /// The revision of the creation; `None` for 0.
    Created(Option<At>),
    /// The revision of the last write; `None` for 0.
    Modified(Option<At>),
    /// The lease.
    Lease(Option<Lease>),
}

/// Some of [`KEYS`], by their places.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// One.
    One(usize),
    /// From the first up to, not including, the second.
    Range(usize, usize),
    /// All that begin with it.
    Prefix(usize),
}

/// A revision: a part of the way, in 255ths, from where the store stood at the start to
/// one behind where it stands.
#[derive(Clone, Copy, Debug)]
pub struct At(pub u8);

/// A lease by its place among those granted so far, around and around; one that was never
/// granted where there is none.
#[derive(Clone, Copy, Debug)]
pub struct Lease(pub usize);

/// Scripts of up to 40 steps.
pub fn script() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..40)
}

fn step() -> impl Strategy<Value = Step> {
    let txn = (vec(condition(), 0..3), vec(operation(), 0..5), vec(operation(), 0..3))
        .prop_map(|(compares, then, otherwise)| Step::Txn { compares, then, otherwise });
    prop_oneof![
        200 => txn,
        60 => get().prop_map(Step::Read),
        30 => Just(Step::Grant),
        10 => lease().prop_map(Step::KeepAlive),
        20 => lease().prop_map(Step::Revoke),
        20 => at().prop_map(Step::Compact),
        20 => (keys(), at()).prop_map(|(keys, at)| Step::Watch(keys, at)),
        3 => key().prop_map(Step::Expire),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let put = (key(), 0..4_u8, proptest::option::weighted(0.3, lease()))
        .prop_map(|(key, value, lease)| Operation::Put { key, value, lease });
    prop_oneof![4 => put, 2 => get().prop_map(Operation::Get), 1 => keys().prop_map(Operation::Delete)]
}

fn get() -> impl Strategy<Value = Get> {
    (keys(), proptest::option::of(0..4_usize), proptest::option::weighted(0.4, at()), any::<bool>())
        .prop_map(|(keys, limit, at, keys_only)| Get { keys, limit, at, keys_only })
}

fn condition() -> impl Strategy<Value = Condition> {
    let target = prop_oneof![
        (0..4_u8).prop_map(Target::Value),
        (0..4_i64).prop_map(Target::Version),
        proptest::option::of(at()).prop_map(Target::Created),
        proptest::option::of(at()).prop_map(Target::Modified),
        proptest::option::of(lease()).prop_map(Target::Lease),
    ];
    (keys(), target, any::<bool>()).prop_map(|(keys, target, equal)| Condition { keys, target, equal })
}

fn keys() -> impl Strategy<Value = Keys> {
    prop_oneof![
        3 => key().prop_map(Keys::One),
        1 => (key(), key()).prop_map(|(start, end)| Keys::Range(start.min(end), start.max(end))),
        1 => key().prop_map(Keys::Prefix),
    ]
}

fn key() -> impl Strategy<Value = usize> {
    0..KEYS.len()
}

fn at() -> impl Strategy<Value = At> {
    any::<u8>().prop_map(At)
}

fn lease() -> impl Strategy<Value = Lease> {
    (0..4_usize).prop_map(Lease)
}
