//! The runner's side of the keeper: requests go out, ends of processes come in; and when a
//! test has killed the keeper, the runner reaps what it left and starts another.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcdtest::protocol::ATTEMPT_VARIABLE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, waitpid,
};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::ARGUMENT;
use super::channel::{Channel, is_of_the_dead};
use super::lost::{Lost, Moment};
use super::message::{MAX_REPLY, Reply, Wanted, encode_withdrawal};
use super::orphans::{children, has_variable};
use crate::config::CREDENTIALS;
use crate::execution::process::Started;

/// After this long a silence, the keeper or a zygote might have been stopped by a test.
pub(super) const SILENCE: Duration = Duration::from_secs(1);
/// How often a process is asked for, where keepers die before they answer.
const TRIES: usize = 3;
/// How long ends of processes that nobody waits for are remembered: those of a zygote's
/// children may be told before the zygote is known to be dead.
const REMEMBERED: Duration = Duration::from_secs(5);
/// How long a process may have to wait for the end of another one that it comes after.
const SOON: Duration = Duration::from_millis(20);
/// How often it is looked whether what was killed has ended.
const LOOK: Duration = Duration::from_millis(2);
/// How often it is looked whether a process has become another program.
const LOOKS: usize = 50;
/// How many bytes of the list of the keeper's children are read: some five hundred.
const CHILDREN: usize = 4096;
/// How long the keeper may take to kill what is left at the end.
pub(super) const LAST_WORK: Duration = Duration::from_secs(10);

/// A keeper, whichever process that is at the moment.
#[derive(Debug)]
pub(in crate::execution) struct Keeper {
    /// The program that serves as one.
    program: PathBuf,
    /// What it removes at its end, as the runner may be killed before it can.
    folder: Option<PathBuf>,
    current: tokio::sync::Mutex<Option<(Arc<Life>, JoinHandle<()>)>>,
    /// One before the current was killed: what had come to it is this process's.
    orphaned: AtomicBool,
    known: Known,
}

/// The processes that keepers told of and that were not waited for yet, those of all keepers of
/// this process.
pub(super) type Known = Arc<Mutex<HashSet<Pid>>>;

/// One keeper process, from its start to its end.
#[derive(Debug)]
pub(super) struct Life {
    /// Of whole packets.
    socket: Channel,
    pid: Option<Pid>,
    /// The list of its children, where the system keeps one.
    children: Option<File>,
    state: Mutex<State>,
    known: Known,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    starting: HashMap<u64, oneshot::Sender<io::Result<Started>>>,
    running: HashMap<i32, oneshot::Sender<ExitStatus>>,
    unclaimed: HashMap<i32, (Instant, ExitStatus)>,
    /// Whose end was told last.
    last_ended: Option<Pid>,
    gone: bool,
}

impl Keeper {
    /// A keeper that begins when it is first needed.
    pub(super) fn new(program: PathBuf, folder: Option<PathBuf>, known: Known) -> Self {
        Self { program, folder, current: <_>::default(), orphaned: <_>::default(), known }
    }

    /// Starts a process in a group of its own, with these as standard input, output and
    /// error.
    ///
    /// # Errors
    /// What the system said, about the process or about a keeper.
    pub(in crate::execution) async fn spawn(
        &self,
        wanted: &Wanted<'_>,
        streams: [BorrowedFd<'_>; 3],
    ) -> io::Result<Started> {
        self.spawn_in_life(wanted, streams).await.map(|(started, _)| started)
    }

    /// Has a process started the moment that another one ends with success. `None` where that
    /// does not come to pass soon: then it is not started.
    ///
    /// # Errors
    /// What the system said about the process.
    pub(in crate::execution) async fn spawn_after(
        &self,
        first: Pid,
        wanted: &Wanted<'_>,
        streams: [BorrowedFd<'_>; 3],
    ) -> io::Result<Option<Started>> {
        let lost = Lost { program: wanted.program, streams, since: Moment::now() };
        let life = self.life().await?;
        match life.spawn(wanted, streams, Some(first)).await? {
            Some(Ok(started)) => Ok(Some(started)),
            Some(Err(error)) if Errno::from_io_error(&error) != Some(Errno::CANCELED) => Err(error),
            Some(Err(_)) => Ok(None),
            None => life.left_running(&lost),
        }
    }

    /// The same, with the keeper process that did it.
    pub(super) async fn spawn_in_life(
        &self,
        wanted: &Wanted<'_>,
        streams: [BorrowedFd<'_>; 3],
    ) -> io::Result<(Started, Arc<Life>)> {
        let lost = Lost { program: wanted.program, streams, since: Moment::now() };
        for _ in 0..TRIES {
            let life = self.life().await?;
            if let Some(answer) = life.spawn(wanted, streams, None).await? {
                return answer.map(|started| (started, life));
            }
            if let Some(started) = life.left_running(&lost)? {
                return Ok((started, life));
            }
        }
        Err(io::Error::other("the runner's keeper was killed again and again"))
    }

    /// Ends what an attempt, named as its variable has it, has left to the keeper, and says whether
    /// there was anything.
    pub(super) async fn end_left_by(&self, attempt: &str) -> bool {
        let Some(life) = self.current.lock().await.as_ref().map(|(life, _)| Arc::clone(life)) else {
            return false;
        };
        let left = async || {
            let mut left = life.left();
            // In between, its children are neither its own nor this process's.
            while life.is_dying() {
                sleep(LOOK).await;
            }
            if life.locked().gone || self.orphaned.load(Ordering::Relaxed) {
                left.extend(children().map(|child| child.id));
            }
            let mut own = Vec::new();
            for process in left {
                let has = || has_variable(process, ATTEMPT_VARIABLE, attempt);
                let mut is_own = has();
                for _ in 0..LOOKS {
                    if is_own.is_none() {
                        sleep(LOOK).await;
                        is_own = has();
                    }
                }
                if is_own == Some(true) {
                    own.push(process);
                }
            }
            own
        };
        let mut any = false;
        let ending = async {
            loop {
                let some = left().await;
                if some.is_empty() {
                    break;
                }
                any = true;
                for process in &some {
                    let _ = kill_process(*process, Signal::KILL);
                }
                // What those started comes here once they have ended.
                sleep(LOOK).await;
            }
        };
        let _ = timeout(LAST_WORK, ending).await;
        any
    }

    /// Kills whatever it started and still runs, and says whether anything may be left that is this
    /// process's.
    pub(super) async fn close(&self) -> bool {
        let Some((life, reading)) = self.current.lock().await.take() else { return false };
        let orphaned = life.is_dying() || life.locked().gone || self.orphaned.load(Ordering::Relaxed);
        life.close();
        let _ = timeout(LAST_WORK, reading).await;
        orphaned
    }

    /// Starts a keeper unless there is one.
    ///
    /// # Errors
    /// What the system said.
    pub(super) async fn life(&self) -> io::Result<Arc<Life>> {
        let mut current = self.current.lock().await;
        if let Some((life, _)) = &*current {
            if !life.locked().gone {
                return Ok(Arc::clone(life));
            }
            self.orphaned.store(true, Ordering::Relaxed);
        }
        let (life, child) = Life::begin(&self.program, self.folder.as_deref(), Arc::clone(&self.known))?;
        let life = Arc::new(life);
        let reading = tokio::spawn(Arc::clone(&life).read(child));
        *current = Some((Arc::clone(&life), reading));
        Ok(life)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some((life, _)) = self.current.get_mut() {
            life.close();
        }
    }
}

impl Life {
    fn begin(program: &Path, folder: Option<&Path>, known: Known) -> io::Result<(Self, Child)> {
        // What a dead keeper leaves comes to the runner.
        set_child_subreaper(Some(getpid()))?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = tokio::process::Command::new(program);
        // Whatever it starts inherits its variables. It is no attempt's itself, even if the runner is.
        for variable in CREDENTIALS.into_iter().chain([ATTEMPT_VARIABLE]) {
            command.env_remove(variable);
        }
        let child = command
            .arg(ARGUMENT)
            .args(folder)
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let children = pid.and_then(|pid| {
            let pid = pid.as_raw_nonzero();
            File::open(format!("/proc/{pid}/task/{pid}/children")).ok()
        });
        Ok((Self { socket: Channel::new(ours)?, pid, children, state: Mutex::default(), known }, child))
    }

    /// Asks for a process; `None` where the keeper died before it answered.
    async fn spawn(
        &self,
        wanted: &Wanted<'_>,
        streams: [BorrowedFd<'_>; 3],
        after: Option<Pid>,
    ) -> io::Result<Option<io::Result<Started>>> {
        let (sender, mut answer) = oneshot::channel();
        let id = {
            let mut state = self.locked();
            if state.gone {
                return Ok(None);
            }
            state.last_id += 1;
            let id = state.last_id;
            // At once, so that it is dropped with the others when the keeper dies.
            state.starting.insert(id, sender);
            id
        };
        let packet = wanted.encode(id, after).inspect_err(|_| drop(self.locked().starting.remove(&id)))?;
        match self.socket.send(&packet, &streams).await {
            Err(error) if !is_of_the_dead(&error) => {
                self.locked().starting.remove(&id);
                Err(error)
            }
            // The reader hears of its death, and reaps what it left before anything else.
            _ if after.is_none() => Ok(answer.await.ok()),
            _ => {
                let withdrawal = Withdrawal { life: self, id };
                if let Ok(answer) = timeout(SOON, &mut answer).await {
                    return Ok(answer.ok());
                }
                // It may be on its way already.
                drop(withdrawal);
                Ok(answer.await.ok())
            }
        }
    }

    /// Waits for the end of a process that came to the keeper from its zygote.
    pub(super) fn adopt(&self, pid: Pid, ended: oneshot::Sender<ExitStatus>) {
        let mut state = self.locked();
        let number = pid.as_raw_nonzero().get();
        if let Some((_, status)) = state.unclaimed.remove(&number) {
            let _ = ended.send(status);
        } else if state.gone {
            self.wait_for(pid, ended);
        } else {
            self.known().insert(pid);
            state.running.insert(number, ended);
        }
    }

    /// The keeper's children that it was not asked for: what others have left to it.
    fn left(&self) -> Vec<Pid> {
        let mut numbers = HashSet::new();
        // Where a child is reaped just then, the system may leave out the one behind it.
        for _ in 0..2 {
            let mut list = [0; CHILDREN];
            let length = self.children.as_ref().and_then(|file| file.read_at(&mut list, 0).ok());
            let texts = list[..length.unwrap_or_default()].split(|byte| *byte == b' ');
            numbers.extend(texts.filter_map(|text| std::str::from_utf8(text).ok()?.parse::<i32>().ok()));
        }
        let state = self.locked();
        numbers.retain(|child| !state.running.contains_key(child));
        numbers.into_iter().filter_map(Pid::from_raw).collect()
    }

    /// Whether it has let go of its socket, and its children may not have come to this process.
    fn is_dying(&self) -> bool {
        let mut hung_up = [PollFd::new(&self.socket, PollFlags::empty())];
        // Whatever it says, the answer is in there.
        let _ = poll(&mut hung_up, Some(&Timespec::default()));
        hung_up[0].revents().contains(PollFlags::HUP) && !self.locked().gone
    }

    /// The process that it was asked for when it died, if it had started that.
    ///
    /// # Errors
    /// It was begun, and how it ended the system does not tell.
    fn left_running(&self, lost: &Lost<'_>) -> io::Result<Option<Started>> {
        let found = {
            let mut known = self.known();
            let found = lost.find(&known)?;
            known.extend(found);
            found
        };
        Ok(found.map(|pid| {
            let (sender, ended) = oneshot::channel();
            self.wait_for(pid, sender);
            (pid, ended)
        }))
    }

    /// Has this process wait for a child that it did not start itself.
    fn wait_for(&self, pid: Pid, ended: oneshot::Sender<ExitStatus>) {
        self.known().insert(pid);
        let known = Arc::clone(&self.known);
        tokio::spawn(async move {
            reap(pid, ended).await;
            known.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
        });
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<Pid>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.socket.close();
    }

    /// Takes in what the keeper says, to its end, and then over what it left.
    async fn read(self: Arc<Self>, mut child: Child) {
        let mut packet = [0; MAX_REPLY];
        loop {
            let Ok(ready) = timeout(SILENCE, self.socket.readable()).await else {
                if let Some(keeper) = self.pid {
                    let _ = kill_process(keeper, Signal::CONT);
                }
                continue;
            };
            if ready.is_err() {
                break;
            }
            match self.socket.try_read(&mut packet) {
                Ok(length @ 1..) => self.hear(&packet[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // That it died before it had read everything is told first, and then what it said.
                Err(error) if is_of_the_dead(&error) => {}
                Ok(_) | Err(_) => break,
            }
        }
        // Once it has been reaped, its children are this process's.
        let _ = child.wait().await;
        let (starting, running) = {
            let mut state = self.locked();
            state.gone = true;
            // It may have been killed between telling of an end and reaping.
            let _ = state.last_ended.take().map(|pid| waitpid(Some(pid), WaitOptions::NOHANG));
            (std::mem::take(&mut state.starting), std::mem::take(&mut state.running))
        };
        for (pid, ended) in running {
            if let Some(pid) = Pid::from_raw(pid) {
                self.wait_for(pid, ended);
            }
        }
        drop(starting);
    }

    fn hear(&self, packet: &[u8]) {
        // Whoever hears of an end finds what was started with it among those that run.
        let mut state = self.locked();
        for reply in Reply::decode_all(packet) {
            self.take_in(&mut state, reply);
        }
    }

    fn take_in(&self, state: &mut State, reply: Reply) {
        match reply {
            Reply::Started { id, pid } => {
                let (sender, ended) = oneshot::channel();
                let (Some(started), Some(group)) = (state.starting.remove(&id), Pid::from_raw(pid)) else {
                    return;
                };
                self.known().insert(group);
                state.running.insert(pid, sender);
                if started.send(Ok((group, ended))).is_err() {
                    // Whoever asked for it has been stopped meanwhile.
                    let _ = kill_process_group(group, Signal::KILL);
                }
            }
            Reply::NotStarted { id, errno } => {
                if let Some(started) = state.starting.remove(&id) {
                    let _ = started.send(Err(io::Error::from_raw_os_error(errno)));
                }
            }
            Reply::Ended { pid, status } => {
                state.last_ended = Pid::from_raw(pid);
                if let Some(pid) = state.last_ended {
                    self.known().remove(&pid);
                }
                let status = ExitStatus::from_raw(status);
                if let Some(ended) = state.running.remove(&pid) {
                    let _ = ended.send(status);
                } else {
                    let now = Instant::now();
                    state.unclaimed.retain(|_, (since, _)| now.duration_since(*since) < REMEMBERED);
                    state.unclaimed.insert(pid, (now, status));
                }
            }
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a request back when it is dropped; once that was answered, this means nothing.
struct Withdrawal<'a> {
    life: &'a Life,
    id: u64,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        if self.life.locked().starting.contains_key(&self.id) {
            // A keeper whose socket is full is asked for so much that it hears of the end first.
            let _ = self.life.socket.try_send(&encode_withdrawal(self.id), &[]);
        }
    }
}

/// Waits for a child of this process that it did not start itself.
async fn reap(pid: Pid, ended: oneshot::Sender<ExitStatus>) {
    // First the listening, then the look: who ends in between wakes again.
    let Ok(mut some_child_ended) = signal(SignalKind::child()) else { return };
    loop {
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => {
                let _ = ended.send(ExitStatus::from_raw(status.as_raw()));
                return;
            }
            Ok(None) => drop(some_child_ended.recv().await),
            Err(Errno::INTR) => {}
            // Somebody else's, or lost with the keeper.
            Err(_) => return,
        }
    }
}
