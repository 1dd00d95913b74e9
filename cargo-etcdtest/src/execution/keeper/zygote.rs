//! The runner's side of zygotes: one per binary, started through the keeper, each asked for
//! a child per attempt.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcdtest::protocol::{Fork, ZYGOTE_ARGUMENT, ZygoteEvent};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::channel::{Channel, is_of_the_dead};
use super::client::{Keeper, Life, SILENCE};
use super::orphans::end_holders;
use crate::execution::frames::Frames;
use crate::execution::process::{Program, Started};

/// How long a binary may take until it can fork: what it prepares is run before.
const READY: Duration = Duration::from_mins(5);
/// How often a child is asked for, where zygotes die before they answer.
const TRIES: usize = 3;

/// The zygotes of a run.
#[derive(Debug, Default)]
pub(in crate::execution) struct Zygotes {
    by_binary: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<Place>>>>,
}

/// Where a binary's zygote is.
#[derive(Debug, Default)]
enum Place {
    #[default]
    Empty,
    Taken(Arc<Zygote>),
    /// The binary cannot be one.
    Refused,
}

/// What came of asking for a child.
#[derive(Debug)]
pub(in crate::execution) enum Forked {
    /// It runs; and what its zygote wants known, where that has not been said before.
    Child(Started, Vec<String>),
    /// The attempt is to be a process of its own; why, where that has not been said before.
    Refused(Option<String>),
}

/// One zygote, from its start to its end.
#[derive(Debug)]
struct Zygote {
    socket: Channel,
    pid: Pid,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    forking: HashMap<u64, oneshot::Sender<Result<Started, String>>>,
    running: HashMap<u64, (Pid, oneshot::Sender<ExitStatus>)>,
    gone: bool,
}

impl Zygotes {
    /// Starts an attempt, with these as event socket, standard output and error.
    ///
    /// # Errors
    /// What the system said about the zygote.
    pub(in crate::execution) async fn fork(
        &self,
        keeper: &Keeper,
        binary: &Program,
        streams: [BorrowedFd<'_>; 3],
    ) -> io::Result<Forked> {
        let place = {
            let mut places = self.by_binary.lock().unwrap_or_else(PoisonError::into_inner);
            match places.get(binary.path()) {
                Some(place) => Arc::clone(place),
                None => Arc::clone(places.entry(binary.path().to_owned()).or_default()),
            }
        };
        let mut notices = Vec::new();
        for _ in 0..TRIES {
            let zygote = {
                let mut place = place.lock().await;
                match &*place {
                    Place::Refused => return Ok(Forked::Refused(None)),
                    Place::Taken(zygote) if !zygote.locked().gone => Arc::clone(zygote),
                    Place::Taken(_) | Place::Empty => match Zygote::begin(keeper, binary).await? {
                        Ok((zygote, said)) => {
                            notices.extend(said);
                            *place = Place::Taken(Arc::clone(&zygote));
                            zygote
                        }
                        Err(reason) => {
                            *place = Place::Refused;
                            return Ok(Forked::Refused(Some(reason)));
                        }
                    },
                }
            };
            match zygote.fork(streams).await? {
                Some(Ok(child)) => return Ok(Forked::Child(child, notices)),
                Some(Err(reason)) => return Ok(Forked::Refused(Some(reason))),
                // It may have been started all the same: nobody would ever hear of it.
                None => end_holders(&streams),
            };
        }
        Ok(Forked::Refused(None))
    }
}

impl Zygote {
    /// Starts one, and waits until it can fork, with what it wants known; otherwise says why
    /// it cannot.
    async fn begin(
        keeper: &Keeper,
        binary: &Program,
    ) -> io::Result<Result<(Arc<Self>, Vec<String>), String>> {
        let (ours, theirs) = UnixStream::pair()?;
        let nowhere = OwnedFd::from(std::fs::File::options().write(true).open("/dev/null")?);
        let streams = [theirs.as_fd(), nowhere.as_fd(), nowhere.as_fd()];
        let program = binary.clone().arg(ZYGOTE_ARGUMENT);
        let ((pid, ended), life) = keeper.spawn_in_life(&(&program).into(), streams).await?;
        drop(theirs);
        let zygote = Arc::new(Self { socket: Channel::new(ours.into())?, pid, state: Mutex::default() });
        let (sender, ready) = oneshot::channel();
        tokio::spawn(Arc::clone(&zygote).read(sender, ended, life));
        Ok(match timeout(READY, ready).await {
            Ok(Ok(answer)) => answer.map(|notices| (zygote, notices)),
            Ok(Err(_)) => Err("the binary ended instead of waiting to fork".to_owned()),
            Err(_) => {
                let _ = kill_process_group(zygote.pid, Signal::KILL);
                let limit = humantime::format_duration(READY);
                Err(format!(
                    "the binary was not ready to fork after {limit}; what it prepares takes too long"
                ))
            }
        })
    }

    /// Asks for a child; `None` where the zygote died before it answered.
    async fn fork(&self, streams: [BorrowedFd<'_>; 3]) -> io::Result<Option<Result<Started, String>>> {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut state = self.locked();
            if state.gone {
                return Ok(None);
            }
            state.last_id += 1;
            let id = state.last_id;
            state.forking.insert(id, sender);
            id
        };
        let frame = Fork { id }.to_frame().encode()?;
        match self.socket.send(&frame, &streams).await {
            Err(error) if !is_of_the_dead(&error) => {
                self.locked().forking.remove(&id);
                Err(error)
            }
            // Where it is gone, the reader hears of it.
            _ => Ok(answer.await.ok()),
        }
    }

    /// Takes in what the zygote says, to its end. What it left then comes to the keeper.
    async fn read(
        self: Arc<Self>,
        ready: oneshot::Sender<Result<Vec<String>, String>>,
        ended: oneshot::Receiver<ExitStatus>,
        life: Arc<Life>,
    ) {
        let mut ready = Some(ready);
        let mut frames = Frames::default();
        loop {
            match timeout(SILENCE, self.socket.readable()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => break,
                Err(_) => {
                    let _ = kill_process(self.pid, Signal::CONT);
                    continue;
                }
            }
            match frames.read(|buffer| self.socket.try_read(buffer)) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            }
            while let Some(Ok(frame)) = frames.take() {
                if let Some(event) = ZygoteEvent::from_frame(&frame) {
                    self.hear(event, &mut ready);
                }
            }
        }
        drop(ready);
        let (forking, running) = {
            let mut state = self.locked();
            state.gone = true;
            (std::mem::take(&mut state.forking), std::mem::take(&mut state.running))
        };
        // One that closed its socket but runs on would keep its children.
        let _ = kill_process(self.pid, Signal::KILL);
        // Once it has been reaped, its children are the keeper's.
        let _ = ended.await;
        for (pid, ended) in running.into_values() {
            life.adopt(pid, ended);
        }
        drop(forking);
    }

    fn hear(&self, event: ZygoteEvent, ready: &mut Option<oneshot::Sender<Result<Vec<String>, String>>>) {
        let mut state = self.locked();
        match event {
            ZygoteEvent::Ready { notices, .. } => {
                let _ = ready.take().map(|ready| ready.send(Ok(notices)));
            }
            ZygoteEvent::Refused { reason } => {
                let _ = ready.take().map(|ready| ready.send(Err(reason)));
            }
            ZygoteEvent::Forked { id, pid } => {
                let (sender, ended) = oneshot::channel();
                let (Some(forked), Some(group)) = (state.forking.remove(&id), Pid::from_raw(pid)) else {
                    return;
                };
                state.running.insert(id, (group, sender));
                if forked.send(Ok((group, ended))).is_err() {
                    // Whoever asked for it has been stopped meanwhile.
                    let _ = kill_process_group(group, Signal::KILL);
                }
            }
            ZygoteEvent::ForkFailed { id, reason } => {
                if let Some(forked) = state.forking.remove(&id) {
                    let _ = forked.send(Err(reason));
                }
            }
            ZygoteEvent::Exited { id, status } => {
                if let Some((_, ended)) = state.running.remove(&id) {
                    let _ = ended.send(ExitStatus::from_raw(status));
                } else if let Some(forked) = state.forking.remove(&id) {
                    let _ = forked.send(Err("a forked process ended before it had begun".to_owned()));
                }
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
