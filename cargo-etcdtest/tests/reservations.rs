//! Reservations: queues, who is in them, and how they are left.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::{pending, ready};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use cargo_etcdtest::environments::{Reservation, ReservationError, Reservations, Waiting, Wanted};
use cargo_etcdtest::model::{Holder, RunId};
use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{Compare, KeyRange, LeaseId, Op, SharedStore, Txn, list};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_mins(1);

fn local() -> (tempfile::TempDir, SharedStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(folder.path()).unwrap());
    (folder, store)
}

fn wanted(run: &str, environments: &[(&str, u32)]) -> Wanted {
    let limited = |(name, capacity): &(&str, u32)| ((*name).to_owned(), NonZeroU32::new(*capacity).unwrap());
    Wanted {
        holder: Holder::Run(RunId::new(run)),
        author: format!("{run}@desk"),
        why: String::new(),
        environments: environments.iter().map(limited).collect(),
        ttl: Duration::from_secs(2),
        timeout: Duration::from_hours(1),
    }
}

async fn reserve(store: &SharedStore, wanted: &Wanted) -> Reservation {
    Reservations::new(store.clone(), PATIENCE).reserve(wanted, pending(), |_| {}).await.unwrap()
}

/// The application writes in its log who uses it, under the holder's locks; false where they
/// are refused.
async fn use_it(store: &SharedStore, reservation: &Reservation) -> bool {
    let locks = reservation.locks();
    let compares = locks.iter().map(|(key, created)| Compare::created(key.clone(), *created)).collect();
    let user = locks[0].1.0.to_string();
    let log = |name: &str| Op::put(format!("/log/{name}"), user.clone());
    let then = reservation.environments().map(log).collect();
    store.txn(Txn { compares, then, otherwise: vec![] }).await.unwrap().succeeded
}

/// Starts to wait; the first that is told of the wait is given with it.
async fn waits(
    store: &SharedStore,
    wanted: Wanted,
) -> (Waiting, tokio::task::JoinHandle<std::result::Result<Reservation, ReservationError>>) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let waits = tokio::spawn(async move {
        let on_wait = |waiting: &Waiting| {
            let _ = tell.send(waiting.clone());
        };
        reservations.reserve(&wanted, pending(), on_wait).await
    });
    (told.recv().await.unwrap(), waits)
}

#[tokio::test]
async fn as_many_as_the_capacity_hold_it_and_the_others_come_in_their_order() {
    let (_folder, store) = local();
    let first = reserve(&store, &wanted("first", &[("a", 2)])).await;
    let second = reserve(&store, &wanted("second", &[("a", 2)])).await;
    let (waiting, third) = waits(&store, wanted("third", &[("a", 2)])).await;
    let holders: Vec<_> = waiting.holders.iter().map(|lock| lock.holder.id()).collect();
    assert_eq!((holders, waiting.ahead), (vec!["first".to_owned(), "second".to_owned()], 0));
    let (waiting, fourth) = waits(&store, wanted("fourth", &[("a", 2)])).await;
    assert_eq!(waiting.ahead, 1);
    second.release().await;
    let third = third.await.unwrap().unwrap();
    let queue = Reservations::new(store.clone(), PATIENCE).queue("a").await.unwrap();
    assert_eq!((queue.holders().count(), queue.waiting().count()), (2, 1));
    first.release().await;
    fourth.await.unwrap().unwrap().release().await;
    third.release().await;
    assert!(list(&*store, KeyRange::prefix("/locks/")).await.unwrap().pairs.is_empty());
}

#[tokio::test]
async fn one_that_holds_an_environment_and_waits_for_another_lets_nobody_in_before_it() {
    let (_folder, store) = local();
    let a = reserve(&store, &wanted("a", &[("a", 1)])).await;
    let (_, both) = waits(&store, wanted("both", &[("b", 1), ("a", 1)])).await;
    let (waiting, b) = waits(&store, wanted("b", &[("b", 1)])).await;
    assert_eq!(waiting.holders[0].holder.id(), "both");
    a.release().await;
    both.await.unwrap().unwrap().release().await;
    b.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_waits_no_longer_leaves_the_queue_at_once_and_is_told_who_holds_it() {
    let (_folder, store) = local();
    let _first = reserve(&store, &wanted("first", &[("a", 1)])).await;
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let impatient = Wanted { timeout: Duration::from_millis(300), ..wanted("second", &[("a", 1)]) };
    let error = reservations.reserve(&impatient, pending(), |_| {}).await.unwrap_err();
    let said = error.to_string();
    assert_eq!(said, "the environment `a` was not free within 300ms: it is held by run first of first@desk");
    assert_eq!(reservations.queue("a").await.unwrap().places().len(), 1);

    let error = reservations.reserve(&wanted("third", &[("a", 1)]), ready(()), |_| {}).await.unwrap_err();
    assert!(matches!(error, ReservationError::Interrupted { .. }), "{error}");
    assert_eq!(reservations.queue("a").await.unwrap().places().len(), 1);
}

#[tokio::test]
async fn the_workers_of_a_run_share_its_places_and_each_keeps_them_alive() {
    let (_folder, store) = local();
    let wanted = Wanted { ttl: Duration::from_secs(1), ..wanted("run", &[("a", 1), ("b", 1)]) };
    let first = reserve(&store, &wanted).await;
    let second = reserve(&store, &wanted).await;
    assert_eq!(first.locks(), second.locks());
    let reservations = Reservations::new(store.clone(), PATIENCE);
    assert_eq!(reservations.queue("a").await.unwrap().places().len(), 1);
    drop(first);
    assert!(tokio::time::timeout(wanted.ttl * 3, second.lost()).await.is_err());
    assert!(use_it(&store, &second).await);
    second.release().await;
    assert!(reservations.queue("b").await.unwrap().places().is_empty());
}

#[tokio::test]
async fn what_is_taken_away_is_lost_and_says_by_whom() {
    let (_folder, store) = local();
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let held = reserve(&store, &wanted("held", &[("a", 1), ("b", 1)])).await;
    let (_, next) = waits(&store, wanted("next", &[("b", 1)])).await;
    assert!(use_it(&store, &held).await);
    let lock = reservations.take_away("b", None, "bob@desk").await.unwrap();
    assert_eq!(lock.holder.id(), "held");
    held.lost().await;
    assert_eq!(held.loss().await.to_string(), "the environment `b` was taken away by bob@desk");
    assert!(!use_it(&store, &held).await);
    next.await.unwrap().unwrap();
    held.release().await;
    assert!(reservations.queue("a").await.unwrap().places().is_empty());
}

#[tokio::test]
async fn who_waits_can_be_sent_away_too() {
    let (_folder, store) = local();
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let _first = reserve(&store, &wanted("first", &[("a", 1)])).await;
    let (_, second) = waits(&store, wanted("second", &[("a", 1)])).await;
    reservations.take_away("a", Some("second"), "bob@desk").await.unwrap();
    let error = second.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the environment `a` was taken away by bob@desk");
}

#[tokio::test]
async fn which_of_several_holders_is_meant_must_be_said() {
    let (_folder, store) = local();
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let nobody = reservations.take_away("a", None, "bob@desk").await.unwrap_err();
    assert_eq!(nobody.to_string(), "nobody has reserved the environment `a`");
    let first = reserve(&store, &wanted("first", &[("a", 2)])).await;
    let second = reserve(&store, &wanted("second", &[("a", 2)])).await;
    let several = reservations.take_away("a", None, "bob@desk").await.unwrap_err();
    assert!(matches!(several, ReservationError::Several { .. }), "{several}");
    let help = |error: &ReservationError| miette::Diagnostic::help(error).unwrap().to_string();
    assert_eq!(help(&several), "say which one is to lose it with --holder: first or second");
    let unknown = reservations.take_away("a", Some("secnod"), "bob@desk").await.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no `secnod` in the queue for the environment `a`");
    assert_eq!(help(&unknown), "did you mean `second`? there is: first, second");
    reservations.take_away("a", Some("second"), "bob@desk").await.unwrap();
    second.lost().await;
    assert!(use_it(&store, &first).await);
}

#[tokio::test]
async fn a_lease_that_ends_frees_the_environment_and_its_holder_knows() {
    let (_folder, store) = local();
    let first = reserve(&store, &wanted("first", &[("a", 1)])).await;
    let (_, second) = waits(&store, wanted("second", &[("a", 1)])).await;
    store.revoke(LeaseId(first.lock().lease)).await.unwrap();
    first.lost().await;
    assert!(matches!(first.loss().await, ReservationError::Lost { .. }));
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn one_that_lost_its_place_while_it_waited_waits_again_behind_the_others() {
    let (_folder, store) = local();
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let first = reserve(&store, &wanted("first", &[("a", 1)])).await;
    let (_, second) = waits(&store, wanted("second", &[("a", 1)])).await;
    let (_, third) = waits(&store, wanted("third", &[("a", 1)])).await;
    let second_lease = reservations.queue("a").await.unwrap().places()[1].lock.lease;
    store.revoke(LeaseId(second_lease)).await.unwrap();
    first.release().await;
    let third = third.await.unwrap().unwrap();
    assert!(!second.is_finished());
    third.release().await;
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_person_keeps_it_for_a_time_without_a_process_and_gives_it_back() {
    let (_folder, store) = local();
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let person = |author: &str| Wanted {
        holder: Holder::person(author),
        author: author.into(),
        why: "a look at the queue".into(),
        ..wanted("-", &[("a", 1)])
    };
    let lock = reserve(&store, &person("ann@desk")).await.keep_for(Duration::from_hours(2)).await.unwrap();
    assert!(lock.until.unwrap() > lock.since);
    let (waiting, run) = waits(&store, wanted("run", &[("a", 1)])).await;
    assert_eq!(waiting.holders[0].why, "a look at the queue");
    let not_yours = reservations.release("a", "bob@desk").await.unwrap_err();
    assert!(not_yours.to_string().contains("of ann@desk"), "{not_yours}");
    assert_eq!(reservations.release("a", "ann@desk").await.unwrap().len(), 1);
    run.await.unwrap().unwrap().release().await;

    reserve(&store, &person("ann@desk")).await.keep_for(Duration::from_hours(2)).await.unwrap();
    reservations.take_away("a", None, "bob@desk").await.unwrap();
    let told = reservations.release("a", "ann@desk").await.unwrap_err();
    assert_eq!(told.to_string(), "the environment `a` was taken away by bob@desk");
    // Another of a similar name has lost nothing, and a new reservation is another matter.
    let similar = reservations.release("a", "ann").await.unwrap_err();
    assert!(matches!(similar, ReservationError::Nobody { .. }), "{similar}");
    reserve(&store, &person("ann@desk-2")).await.release().await;
    assert!(matches!(reservations.release("a", "ann@desk").await, Err(ReservationError::TakenAway { .. })));
    reserve(&store, &person("ann@desk")).await.keep_for(Duration::from_hours(2)).await.unwrap();
    reservations.release("a", "ann@desk").await.unwrap();
    let nothing = reservations.release("a", "ann@desk").await.unwrap_err();
    assert_eq!(nothing.to_string(), "nobody has reserved the environment `a`");
}

#[tokio::test]
async fn nobody_waits_for_themselves() {
    let (_folder, store) = local();
    let person = |environment| Wanted {
        holder: Holder::person("ann@desk"),
        author: "ann@desk".into(),
        ..wanted("-", &[(environment, 1)])
    };
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let held = reserve(&store, &person("a")).await;
    let error = reservations.reserve(&person("a"), pending(), |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "you have reserved the environment `a` already");
    let (_, next) = waits(&store, Wanted { author: "bob@desk".into(), ..person("a") }).await;
    let other = Wanted { author: "bob@desk".into(), ..person("a") };
    let error = reservations.reserve(&other, pending(), |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "you have asked for the environment `a` already");
    reserve(&store, &person("b")).await.release().await;
    held.release().await;
    next.await.unwrap().unwrap();
}

#[tokio::test]
async fn of_two_reservations_of_a_person_at_one_moment_the_later_is_refused() {
    let (_folder, store) = local();
    let person = || Wanted {
        holder: Holder::person("ann@desk"),
        author: "ann@desk".into(),
        timeout: Duration::from_secs(10),
        ..wanted("-", &[("a", 1)])
    };
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let (one, other) = (person(), person());
    let (one, other) = tokio::join!(
        reservations.reserve(&one, pending(), |_| {}),
        reservations.reserve(&other, pending(), |_| {})
    );
    let (held, refused) = if one.is_ok() { (one, other) } else { (other, one) };
    let refused = refused.unwrap_err();
    assert!(matches!(refused, ReservationError::AlreadyYours { .. }), "{refused}");
    assert_eq!(reservations.queue("a").await.unwrap().places().len(), 1);
    held.unwrap().release().await;
}

#[tokio::test]
async fn what_is_waited_for_is_told_again_only_where_it_has_changed() {
    let (_folder, store) = local();
    let first = reserve(&store, &wanted("first", &[("a", 1), ("b", 1)])).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let wanted_second = wanted("second", &[("a", 1), ("b", 1)]);
    let second = tokio::spawn(async move {
        let on_wait = |waiting: &Waiting| drop(tell.send(waiting.environment.clone()));
        reservations.reserve(&wanted_second, pending(), on_wait).await
    });
    assert_eq!(told.recv().await.unwrap(), "a");
    // It is kept for a person's time now, which is no other wait.
    first.keep_for(Duration::from_hours(1)).await.unwrap();
    let (_, third) = waits(&store, wanted("third", &[("b", 1)])).await;
    let reservations = Reservations::new(store.clone(), PATIENCE);
    reservations.take_away("b", Some("first"), "bob@desk").await.unwrap();
    reservations.take_away("a", Some("first"), "bob@desk").await.unwrap();
    second.await.unwrap().unwrap().release().await;
    third.await.unwrap().unwrap();
    assert_eq!(told.recv().await, None);
}

#[tokio::test]
async fn a_person_reservation_ends_by_itself() {
    let (_folder, store) = local();
    let person = Wanted { holder: Holder::person("ann@desk"), ..wanted("ann", &[("a", 1)]) };
    reserve(&store, &person).await.keep_for(Duration::from_secs(1)).await.unwrap();
    reserve(&store, &wanted("run", &[("a", 1)])).await;
    let longest = Duration::from_secs(10_000_000_000);
    let person = Wanted { holder: Holder::person("ann@desk"), ..wanted("ann", &[("b", 1)]) };
    let error = reserve(&store, &person).await.keep_for(longest).await.unwrap_err();
    assert!(matches!(error, ReservationError::TooLong { .. }), "{error}");
    let queue = Reservations::new(store.clone(), PATIENCE).queue("b").await.unwrap();
    assert!(queue.places().is_empty());
}
