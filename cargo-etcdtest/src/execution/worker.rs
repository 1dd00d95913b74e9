//! Executes units: as many at once as there are lanes, each with its retries.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::attempt::Leave;
use super::claims::Claims;
use super::error::{Result, RunError};
use super::events::EventSink;
use super::lanes::{Lanes, Needs, Users};
use super::recorder::{self, Dealt, LocksHeld, Request, Share};
use super::run::without_tests;
use super::tried::{Next, Opening, Tried, Turn};
use super::work::{Seat, Work};
use crate::model::Cancellation;

/// How long the store is waited for at the end to take back what tests had for themselves, which
/// it does by itself after a while.
const RELEASED: Duration = Duration::from_secs(1);

/// How many attempts may be under way where there are few lanes; where there are more, two for each
/// lane: those that use it, and those that have passed and are seen to their ends meanwhile.
/// Processes that never end would else become more and more.
const UNDER_WAY: usize = 16;

/// Why a worker executes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No unit is left.
    Complete,
    /// The run was stopped.
    Stopped,
    /// This worker was told to leave.
    Left,
    /// What is left of the run is not for this worker.
    Unneeded,
    /// The run's reservation was lost. Results since then are not stored.
    Lost,
}

/// Executes units until none is left, or the run is stopped or loses its reservation. Every
/// result that may be stored has been when it returns.
///
/// # Errors
/// What the store said, where it failed for good: results since then are not stored.
#[expect(clippy::too_many_lines, reason = "one loop over one state reads best in one piece")]
pub async fn execute(
    work: &Arc<Work>,
    claims: Claims,
    mut leave: watch::Receiver<Leave>,
    events: &EventSink,
) -> Result<(Claims, Ended)> {
    let patience = claims.membership().patience().clone();
    let (requests, inbox) = mpsc::unbounded_channel();
    let (outbox, mut dealt) = mpsc::unbounded_channel();
    let mut recorder = JoinSet::new();
    let journal = work.journal.clone();
    let (lanes, max_fail) = (work.policy.lanes, work.policy.max_fail);
    let share = Share { plan: work.plan.clone(), lanes, journal, max_fail };
    recorder.spawn(recorder::record(share, claims, inbox, outbox, events.clone()));
    // Attempts go as far as `leave` says, and no further once nothing can be recorded, or
    // the time of the run is over.
    let (mut say, mut hear) = watch::channel(*leave.borrow_and_update());

    let policy = &work.policy;
    let mut lanes = Lanes::new(policy.lanes, policy.resources.clone());
    let (mut attempts, mut waits) = (JoinSet::new(), JoinSet::new());
    // The locks of units, until they are given up, and those units of whom it is decided.
    let mut locks = JoinSet::new();
    let (decide, mut decided) = mpsc::unbounded_channel();
    let mut deadline = policy.global_timeout.map(|timeout| Instant::now() + timeout);
    let mut running = BTreeSet::new();
    let (mut asked, mut more, mut stopped, mut heard, mut failures) = (false, true, false, true, 0);
    let (mut lost, mut left, mut later) = (false, false, false);
    // Others may still begin units.
    let mut unbegun = false;
    let mut unneeded = false;
    // Nothing is begun while it is not known whether the reservation is held.
    let mut suspended = false;
    let stop = |reason: String, ends_tests| {
        let _ = requests.send(Request::Stop(Cancellation { reason, ends_tests }));
    };
    let (open, mut openings) = mpsc::unbounded_channel();
    let mut users = Users::new(policy.lanes);
    let under_way = UNDER_WAY.max(policy.lanes.get() * 2);
    let attempt = |needs: Needs, unit: Tried, lane: usize, turn: Turn, leave: watch::Receiver<Leave>| {
        let seat = Seat { host: work.host.clone(), lane, since: work.since };
        let (work, events, open) = (work.clone(), events.clone(), open.clone());
        // In a place of its own, where it stays, however often it is handed on.
        Box::pin(async move {
            let given_back = AtomicBool::new(false);
            let on = |opening| {
                // Others share nothing but lanes, and have none if there is only one.
                let alone = needs != Needs::LANE || work.policy.show;
                match opening {
                    Opening::Lane if alone || work.policy.lanes.get() == 1 => return,
                    Opening::Lane => given_back.store(true, Ordering::Relaxed),
                    Opening::After(_) if alone || work.reservation.is_some() => return,
                    Opening::After(_) => {}
                }
                let _ = open.send((opening, lane));
            };
            let next = unit.attempt(&work, seat, turn, leave, &events, on).await;
            (Some((needs, lane)).filter(|_| !given_back.into_inner()), next)
        })
    };
    loop {
        // A run is cancelled only where something is left that will not run.
        let is_left = unbegun || lanes.waiting().any(Tried::is_fresh);
        if !stopped && policy.max_fail.is_reached(failures) && is_left {
            stopped = true;
            let reason =
                if failures == 1 { "a test failed".into() } else { format!("{failures} tests failed") };
            stop(reason, false);
        }
        // Before anything else begins: this process may have been stopped for long.
        if !lost && !suspended && work.has_lost_reservation() {
            suspended = true;
            // Whoever has the environment now is not to be disturbed by a clean end.
            say.send_if_modified(|now| raise(now, Leave::ToDie));
        }
        if *hear.borrow() > Leave::ToFinish && !stopped && !suspended {
            (left, stopped) = (true, true);
            let _ = requests.send(Request::Leave);
        }
        if stopped {
            lanes.retain(|unit| !unit.is_fresh());
        }
        if *hear.borrow() > Leave::ToFinish && !suspended {
            lanes.retain(|_| false);
            waits.abort_all();
        }
        while !suspended && let Some((needs, mut unit)) = lanes.begin() {
            running.insert(unit.index);
            if let Some(lock) = unit.ask(work, &decide) {
                locks.spawn(lock);
            }
            let follow = lanes.waiting().filter(|next| next.shares_binary(&unit));
            let more = follow.take(work.launcher.ahead()).count();
            let lane = users.fewest();
            users.add(lane);
            attempts.spawn(attempt(needs, unit, lane, Turn { more, after: None }, hear.clone()));
        }
        let idle = lanes.idle();
        if !stopped && !suspended && more && !asked && lanes.is_short() && (idle > 0 || !later) {
            let running = running.iter().copied().collect();
            asked = requests.send(Request::Claim { running, idle }).is_ok();
            more = asked;
        }
        let done = attempts.is_empty() && waits.is_empty() && lanes.waiting().len() == 0;
        // Who waits for a resource can do nothing without the store.
        patience.set_busy(!attempts.is_empty() || !waits.is_empty() || lanes.is_any_ready());
        if done && !suspended && (stopped || !more) {
            break;
        }
        tokio::select! {
            Some(joined) = attempts.join_next() => {
                let (held, next) =
                    joined.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
                if let Some((needs, lane)) = held {
                    lanes.give_back(&needs);
                    users.remove(lane);
                }
                later = false;
                match next {
                    // It is begun again: what had to be announced for that still is.
                    Next::Stopped(unit) if suspended && !stopped => lanes.push_first(unit.needs(work), unit),
                    Next::Stopped(unit) => {
                        running.remove(&unit.index);
                    }
                    Next::NotYet(unit) => {
                        running.remove(&unit.index);
                        lanes.push_first(unit.needs(work), unit);
                    }
                    // Others took it over meanwhile.
                    Next::Waits(unit) | Next::Again(unit, _) if !running.contains(&unit.index) => {}
                    Next::Waits(unit) => {
                        // It has not begun, but what is to be announced before that still is.
                        if unit.is_fresh() && !unit.is_announced() {
                            running.remove(&unit.index);
                        }
                        let (index, is_decided) = (unit.index, unit.is_decided());
                        lanes.push_keeping(unit.needs(work), unit);
                        if is_decided {
                            lanes.make_ready(|unit| unit.index == index);
                        }
                    }
                    Next::Again(unit, Duration::ZERO) => lanes.push_first(unit.needs(work), unit),
                    Next::Again(unit, wait) => {
                        waits.spawn(async move {
                            sleep(wait).await;
                            unit
                        });
                    }
                    Next::Done(executed) => {
                        running.remove(&executed.result.unit);
                        failures += u32::from(executed.result.outcome.is_failure());
                        // A recorder that has ended says why when it is joined.
                        let _ = requests.send(Request::Store(executed));
                    }
                }
            }
            Some((opening, lane)) = openings.recv(), if attempts.len() < under_way => match opening {
                Opening::Lane => {
                    lanes.give_back(&Needs::LANE);
                    users.remove(lane);
                }
                Opening::After(first) => {
                    if !stopped
                        && !suspended
                        && lanes.waiting().len() > policy.lanes.get()
                        && let Some((needs, unit)) = lanes.begin_early(Tried::may_follow)
                    {
                        running.insert(unit.index);
                        users.add(lane);
                        let turn = Turn { more: 0, after: Some(first) };
                        attempts.spawn(attempt(needs, unit, lane, turn, hear.clone()));
                    }
                }
            },
            Some(waited) = waits.join_next() => {
                // One that was told to leave waits no longer.
                if let Ok(unit) = waited {
                    lanes.push_first(unit.needs(work), unit);
                }
            }
            Some(index) = decided.recv() => lanes.make_ready(|unit| unit.index == index),
            Some(ended) = locks.join_next() => {
                ended.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
            }
            answer = dealt.recv(), if heard => {
                match answer {
                    Some(Dealt::Units(units, fence)) => {
                        asked = false;
                        for unit in units.into_iter().map(|index| Tried::new(work, index, fence)) {
                            lanes.push(unit.needs(work), unit);
                        }
                    }
                    Some(Dealt::Alone(unit, fence)) => {
                        asked = false;
                        let unit = Tried::alone(work, unit, fence);
                        lanes.push(unit.needs(work), unit);
                    }
                    Some(Dealt::Withdrawn(units)) => {
                        running.retain(|unit| !units.contains(unit));
                        lanes.retain(|unit| !units.contains(&unit.index));
                    }
                    Some(Dealt::Failed { all, unbegun: some }) => {
                        (failures, unbegun) = (failures.max(all), some);
                    }
                    Some(Dealt::Unneeded) if work.while_needed => {
                        (asked, more, unneeded) = (false, false, true);
                    }
                    Some(Dealt::Unneeded) => {}
                    Some(Dealt::Later) => (asked, later) = (false, true),
                    Some(Dealt::NoMore) => (asked, more) = (false, false),
                    Some(Dealt::Cancelled { ends_tests }) => {
                        (asked, stopped) = (false, true);
                        if ends_tests {
                            say.send_if_modified(|now| raise(now, Leave::ToEnd));
                        }
                    }
                    None => {
                        // What is still being executed would be for nothing.
                        (heard, stopped) = (false, true);
                        say.send_if_modified(|now| raise(now, Leave::ToEnd));
                    }
                }
            }
            Ok(()) = leave.changed() => {
                let said = *leave.borrow_and_update();
                say.send_if_modified(|now| raise(now, said));
                // With no test to kill, it is the store that nobody wants to wait for.
                if said >= Leave::ToDie && attempts.is_empty() {
                    return Err(RunError::Interrupted(work.run.clone()));
                }
            }
            () = work.reservation_lost(), if !lost && !suspended => {}
            held = work.is_reserved_after_all(), if suspended && attempts.is_empty() => {
                suspended = false;
                if held {
                    // Others kept it, while this process was stopped or cut off.
                    (say, hear) = watch::channel(*leave.borrow_and_update());
                } else {
                    (lost, stopped) = (true, true);
                }
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                deadline = None;
                stopped = true;
                let timeout = policy.global_timeout.unwrap_or_default();
                stop(format!("its time of {} is over", humantime::format_duration(timeout)), true);
                say.send_if_modified(|now| raise(now, Leave::ToEnd));
            }
        }
    }
    drop(requests);
    let the_rest = async {
        work.supply.stop(&hear).await;
        work.launcher.close().await;
        let claims = recorder.join_next().await.expect("it was spawned");
        let _ = timeout(RELEASED, locks.join_all()).await;
        claims.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    };
    let (claims, LocksHeld(held)) = without_tests(&leave, &work.run, the_rest).await?;
    let ended = match (lost || !held, left, stopped) {
        (true, _, _) => Ended::Lost,
        (false, false, false) if unneeded => Ended::Unneeded,
        (false, true, _) => Ended::Left,
        (false, false, true) => Ended::Stopped,
        (false, false, false) => Ended::Complete,
    };
    Ok((claims, ended))
}

/// Raises to what is said, and says whether that was a change.
fn raise(now: &mut Leave, said: Leave) -> bool {
    let raised = said > *now;
    *now = said.max(*now);
    raised
}
