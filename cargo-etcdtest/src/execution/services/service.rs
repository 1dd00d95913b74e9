//! One service: started on a free port, waited for, started again when it ends, stopped.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::binding::bound;
use super::fleet::Ground;
use super::log::{Log, Reading};
use super::look;
use super::not_ready::NotReady;
use super::port::{self, FreePort};
use crate::environments::Bindings;
#[cfg(not(target_os = "linux"))]
use crate::execution::direct::end_holders;
#[cfg(target_os = "linux")]
use crate::execution::keeper::end_holders;
use crate::execution::process::Process;
use crate::execution::{Leave, RunEvent};
use crate::model::{Environment, ReadyBy, Restart, Service};
use crate::reports::story::signal_name;

/// On how many ports a service is tried that ends because somebody else took its port.
const PORTS: u32 = 5;
/// How long it is waited before a service is started again that had just been started.
const PAUSE: Duration = Duration::from_millis(100);
/// How long it is waited at the most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long the system may take to end what was killed.
const LAST_WORK: Duration = Duration::from_secs(1);
/// How long a service runs that is not thought to end again at once.
const STEADY: Duration = Duration::from_secs(10);

/// A service that was ready. It is ended when this value is dropped.
#[derive(Debug)]
pub(super) struct Running {
    /// Its name.
    pub(super) name: String,
    /// Its URL.
    pub(super) url: String,
    /// Its port.
    pub(super) port: u16,
    /// What it writes.
    pub(super) log: Arc<Log>,
    /// How long it took to be ready.
    pub(super) took: Duration,
    needs: Vec<String>,
    stop: watch::Sender<Stop>,
    ended: watch::Receiver<()>,
    _reading: Reading,
}

/// How a service is to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    Not,
    /// It is asked, and has its grace.
    Gently,
    /// It is killed.
    AtOnce,
}

/// What watches over a service while it runs.
struct Watcher {
    ground: Ground,
    title: String,
    service: Service,
    command: Command,
    log: Arc<Log>,
    stop: watch::Receiver<Stop>,
}

/// Why a try to start a service came to nothing.
struct Failed {
    reason: String,
    log: Option<Arc<Log>>,
    /// Its process ended by itself.
    ended: bool,
}

/// A service that is to be started.
pub(super) struct Plan<'a> {
    /// The environment.
    pub(super) environment: &'a Environment,
    /// Its name there.
    pub(super) name: &'a str,
    /// What its references stand for.
    pub(super) bindings: Bindings,
    /// It may be given another port: nobody was told this one.
    pub(super) may_move: bool,
}

impl Plan<'_> {
    /// Starts it on this port, or where it has lost that on another, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// [`NotReady`]. Nothing is left of it then, nor when this is dropped on the way.
    pub(super) async fn start(
        mut self,
        ground: &Ground,
        mut port: Option<FreePort>,
    ) -> Result<Running, NotReady> {
        let mut tries = 0;
        loop {
            tries += 1;
            let began = Instant::now();
            if let Some(port) = &port {
                self.bindings.ports.insert(self.name.to_owned(), port.number());
            }
            let number = self.bindings.ports.get(self.name).copied().unwrap_or_default();
            let service = bound(self.environment, &self.bindings)?.services.remove(self.name);
            let service = service.ok_or_else(|| self.not_ready("there is no such service".into()))?;
            let command = ground.places.command_of(&service);
            let may_move = self.may_move && port.is_some() && tries < PORTS;
            match start(ground, &service, &command, port.take()).await {
                Ok(ready) => return Ok(self.watched(ground, service, command, number, began, ready)),
                Err(failed) if may_move && failed.lost_its_port(number) => {
                    let free = FreePort::find();
                    port = Some(
                        free.map_err(|error| self.not_ready(format!("there is no free port: {error}")))?,
                    );
                }
                Err(Failed { reason, log, .. }) => {
                    let lines = log.map(|log| log.last_lines()).unwrap_or_default();
                    return Err(NotReady { lines, ..self.not_ready(reason) });
                }
            }
        }
    }

    fn not_ready(&self, reason: String) -> NotReady {
        NotReady::service(self.environment, self.name, reason)
    }

    /// A service that is ready, from now on watched.
    fn watched(
        &self,
        ground: &Ground,
        service: Service,
        command: Command,
        port: u16,
        began: Instant,
        (process, log, reading): (Process, Arc<Log>, Reading),
    ) -> Running {
        let (stop, told) = watch::channel(Stop::Not);
        let (running, ended) = watch::channel(());
        let (url, needs) = (service.url.clone(), service.needs.clone());
        let watcher = Watcher {
            ground: ground.clone(),
            title: format!("service `{}` of `{}`", self.name, self.environment.name),
            service,
            command,
            log: Arc::clone(&log),
            stop: told,
        };
        tokio::spawn(async move {
            watcher.watch(process).await;
            drop(running);
        });
        let (name, took) = (self.name.to_owned(), began.elapsed());
        Running { name, url, port, log, took, needs, stop, ended, _reading: reading }
    }
}

impl Running {
    /// The services that it needs.
    pub(super) fn needs(&self) -> &[String] {
        &self.needs
    }

    /// Asks it to end, and kills it after its grace, or at once when `leave` says so.
    pub(super) async fn stop(&self, leave: &mut watch::Receiver<Leave>) {
        self.stop.send_if_modified(|stop| std::mem::replace(stop, Stop::Gently.max(*stop)) < Stop::Gently);
        let mut ended = self.ended.clone();
        tokio::select! {
            // Its end is that of the sender.
            _ = ended.changed() => return,
            Ok(_) = leave.wait_for(|leave| *leave >= Leave::ToDie) => {}
        }
        self.stop.send_replace(Stop::AtOnce);
        let _ = self.ended.clone().changed().await;
    }
}

/// One try on one port.
async fn start(
    ground: &Ground,
    service: &Service,
    command: &Command,
    port: Option<FreePort>,
) -> Result<(Process, Arc<Log>, Reading), Failed> {
    let failed = |reason: String, log| Failed { reason, log, ended: false };
    let (log, reading) = Log::new(ground.redactor()).map_err(|error| failed(error.to_string(), None))?;
    let streams = log.streams().map_err(|error| failed(error.to_string(), None))?;
    // From the first line on.
    let pattern = match service.ready.as_ref().map(|ready| &ready.by) {
        Some(ReadyBy::Log(pattern)) => Some(
            Regex::new(pattern).map_err(|_| failed(format!("`{pattern}` is no regular expression"), None))?,
        ),
        _ => None,
    };
    let matched = pattern.map(|pattern| log.matching(pattern));
    drop(port);
    let mut process = ground.launcher.start_service(command, &streams).await.map_err(|error| {
        let program = command.get_program().to_string_lossy();
        failed(format!("failed to start `{program}`: {error}"), None)
    })?;
    drop(streams);
    let Some(ready) = &service.ready else { return Ok((process, log, reading)) };
    let answers = async {
        match (&ready.by, matched) {
            (ReadyBy::Http(at), _) => {
                let url = below(&service.url, at);
                look::wait_for(ready.timeout, || look::http(&url, None, None)).await.map(drop)
            }
            (ReadyBy::Tcp(at), _) => look::wait_for(ready.timeout, || look::tcp(at)).await.map(drop),
            (ReadyBy::Log(pattern), matched) => {
                let line = async {
                    if let Some(matched) = matched {
                        let _ = matched.await;
                    }
                };
                timeout(ready.timeout, line).await.map_err(|_| {
                    let limit = humantime::format_duration(ready.timeout);
                    format!("no line that it wrote matches `{pattern}` (waited {limit} for it)")
                })
            }
        }
    };
    tokio::select! {
        biased;
        status = process.wait() => {
            let reason = format!("it {} before it was ready", ending(status.ok()));
            Err(Failed { reason, log: Some(log), ended: true })
        }
        answer = answers => match answer {
            Ok(()) => Ok((process, log, reading)),
            Err(reason) => Err(failed(reason, Some(log))),
        }
    }
}

impl Failed {
    /// Whether it ended because somebody else took its port meanwhile.
    fn lost_its_port(&self, number: u16) -> bool {
        let said_so = |log: &Arc<Log>| {
            log.last_lines().iter().any(|line| line.to_ascii_lowercase().contains("address already in use"))
        };
        self.ended && (port::is_taken(number) || self.log.as_ref().is_some_and(said_so))
    }
}

impl Watcher {
    async fn watch(mut self, process: Process) {
        let mut process = Some(process);
        let mut pause = PAUSE;
        loop {
            let began = Instant::now();
            let how = match process.take() {
                None => "cannot be started again".to_owned(),
                Some(mut process) => {
                    let ended = tokio::select! {
                        status = process.wait() => Some(status.ok()),
                        () = told(&mut self.stop, Stop::Gently) => None,
                    };
                    let Some(status) = ended else { return self.end(process).await };
                    // What it left in its group ends with it.
                    drop(process);
                    if !self.service.restart.applies(status) {
                        return self.ended_for_good(&ending(status)).await;
                    }
                    ending(status)
                }
            };
            if began.elapsed() > STEADY {
                pause = PAUSE;
            }
            self.notice(&format!("{how}; it is started again in {}", humantime::format_duration(pause)));
            tokio::select! {
                () = sleep(pause) => {}
                () = told(&mut self.stop, Stop::Gently) => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            process = match self.log.streams() {
                Ok(streams) => self.ground.launcher.start_service(&self.command, &streams).await.ok(),
                Err(_) => None,
            };
        }
    }

    /// The run goes on without it; its last lines are kept for the tests that fail for that.
    async fn ended_for_good(&mut self, how: &str) {
        self.log.end(&format!("it {how}"));
        self.notice(&format!("{how}, and is not started again"));
        told(&mut self.stop, Stop::Gently).await;
        end_holders(&[self.log.pipe()]);
    }

    /// Ends it: a request, a grace, a kill of all that it started.
    async fn end(&mut self, mut process: Process) {
        let grace = async {
            if *self.stop.borrow() == Stop::Gently {
                process.signal(Signal::TERM);
                tokio::select! {
                    _ = process.wait() => {}
                    () = sleep(self.service.stop_grace) => {}
                    () = told(&mut self.stop, Stop::AtOnce) => {}
                }
            }
        };
        grace.await;
        process.signal(Signal::KILL);
        // Those who left the group.
        end_holders(&[self.log.pipe()]);
        let _ = timeout(LAST_WORK, process.group_end()).await;
    }

    fn notice(&self, text: &str) {
        let _ = self.ground.events.send(RunEvent::Notice { text: format!("{} {text}", self.title) });
    }
}

impl Restart {
    /// Whether a service that ended like this is started again.
    fn applies(self, status: Option<ExitStatus>) -> bool {
        match self {
            Self::Never => false,
            Self::OnFailure => !status.is_some_and(|status| status.success()),
            Self::Always => true,
        }
    }
}

/// Waits until it is to be stopped like this; at once where nobody is left to say so.
async fn told(stop: &mut watch::Receiver<Stop>, least: Stop) {
    let _ = stop.wait_for(|stop| *stop >= least).await;
}

/// How a process ended.
pub(super) fn ending(status: Option<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("ended with exit code {code}"),
        Some((_, Some(signal))) => format!("was killed by {}", signal_name(signal)),
        _ => "ended".into(),
    }
}

/// A URL, or a path below one.
fn below(url: &str, at: &str) -> String {
    if at.contains("://") {
        return at.to_owned();
    }
    format!("{}/{}", url.trim_end_matches('/'), at.trim_start_matches('/'))
}
