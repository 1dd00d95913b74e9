//! How the keeper starts a process. What is the same for all of them is made once.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, chdir};

use super::message::Request;

/// Where programs are looked for where no variable says so.
const USUAL_PATH: &[u8] = b"/bin:/usr/bin";

/// What starts processes.
#[derive(Debug)]
pub(super) struct Spawner {
    /// The keeper's own variables, which processes inherit.
    variables: Vec<CString>,
    /// Their places, by their names.
    places: HashMap<Vec<u8>, usize>,
    attributes: PosixSpawnAttr,
}

impl Spawner {
    /// What passes this process's variables on.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn new() -> io::Result<Self> {
        let mut variables = Vec::new();
        let mut places = HashMap::new();
        for (name, value) in std::env::vars_os() {
            let name = name.into_vec();
            let variable = [&name, &b"="[..], value.as_bytes()].concat();
            // What the system gave contains no zero byte.
            let Ok(variable) = CString::new(variable) else { continue };
            places.insert(name, variables.len());
            variables.push(variable);
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes
            .set_flags(PosixSpawnFlags::POSIX_SPAWN_SETPGROUP | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigdefault(&signals_to_reset())?;
        Ok(Self { variables, places, attributes })
    }

    /// Starts a process that leads a group of its own.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn spawn(&self, request: &Request<'_>, streams: &[OwnedFd; 3]) -> Result<Pid, Errno> {
        let variables = self.variables_with(&request.variables);
        let mut actions = PosixSpawnFileActions::init()?;
        for (stream, number) in streams.iter().zip(0..) {
            actions.add_dup2(stream.as_raw_fd(), number)?;
        }
        // Every path that the keeper itself has is absolute.
        chdir(request.folder)?;
        let start =
            |file: &CStr| posix_spawn(file, &actions, &self.attributes, &request.arguments, &variables);
        if request.program.to_bytes().contains(&b'/') {
            return start(request.program);
        }
        let mut reason = Errno::ENOENT;
        for file in files_on_path(request.program, &variables) {
            match start(&file) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(Errno::EACCES) => reason = Errno::EACCES,
                done => return done,
            }
        }
        Err(reason)
    }

    fn variables_with<'a>(&'a self, changes: &[&'a CStr]) -> Vec<&'a CStr> {
        let mut variables: Vec<Option<&CStr>> =
            self.variables.iter().map(|own| Some(own.as_c_str())).collect();
        for change in changes {
            let bytes = change.to_bytes();
            let end = name_end(bytes);
            let variable = end.map(|_| *change);
            match self.places.get(&bytes[..end.unwrap_or(bytes.len())]) {
                Some(place) => variables[*place] = variable,
                None => variables.push(variable),
            }
        }
        variables.into_iter().flatten().collect()
    }
}

/// Where the name of a variable ends. It may begin with the sign, but does not contain it elsewhere.
fn name_end(variable: &[u8]) -> Option<usize> {
    variable.iter().skip(1).position(|byte| *byte == b'=').map(|end| end + 1)
}

/// The files that a program may be by its bare name, as execvp(3) looks for it, for a process with these
/// variables.
fn files_on_path(name: &CStr, variables: &[&CStr]) -> Vec<CString> {
    let path = variables.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
    let folders = std::env::split_paths(OsStr::from_bytes(path.unwrap_or(USUAL_PATH)));
    let files = folders.map(|folder| folder.join(OsStr::from_bytes(name.to_bytes())));
    files.filter_map(|file| CString::new(file.into_os_string().into_vec()).ok()).collect()
}

/// The signals whose actions are the system's own in what is started, said all at once where whoever
/// started the runner has none of them ignored: else the system finds those that are handled here, by
/// a look at each.
fn signals_to_reset() -> SigSet {
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    if ignored_by_others() == Some(0) { SigSet::all() } else { pipe }
}

/// The signals that this process ignores because whoever started it did, a bit each.
fn ignored_by_others() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    // Rust's own runtime ignores the first one, and the C library its own two in all that it starts.
    let own = 1 << (Signal::SIGPIPE as u32 - 1) | 0b11 << 31;
    u64::from_str_radix(ignored.trim(), 16).ok().map(|ignored| ignored & !own)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use nix::sys::wait::{WaitStatus, waitpid};
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::super::message::{Asked, Wanted};
    use super::*;

    /// What a process printed that was started like this, in this process's own folder.
    fn printed(command: &mut Command) -> Result<String, Errno> {
        let here = std::env::current_dir().unwrap();
        let packet = Wanted::from(&*command.current_dir(here)).encode(1, None).unwrap();
        let Some(Asked::Start(request)) = Asked::decode(&packet) else { panic!("{packet:?}") };
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let streams = [File::open("/dev/null").unwrap().into(), write.try_clone().unwrap(), write];
        let started = Spawner::new().unwrap().spawn(&request, &streams);
        drop(streams);
        let mut printed = String::new();
        File::from(read).read_to_string(&mut printed).unwrap();
        let status = started.map(|process| waitpid(process, None).unwrap())?;
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}: {printed}");
        Ok(printed)
    }

    #[test]
    fn a_process_has_this_ones_variables_but_for_what_was_asked() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo $CARGO_PKG_NAME $ADDED $HOME; env | grep -c '^\\(ADDED\\|HOME\\)='"]);
        let home = std::env::var("HOME").unwrap();
        command.env("ADDED", "a=b").env_remove("CARGO_PKG_NAME");
        assert_eq!(printed(&mut command).unwrap(), format!("a=b {home}\n2\n"));
        command.env("HOME", "/elsewhere").env("CARGO_PKG_NAME", "it");
        assert_eq!(printed(&mut command).unwrap(), "it a=b /elsewhere\n2\n");
    }

    #[test]
    fn a_bare_name_is_looked_for_where_the_process_would() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["first", "second"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        // What cannot be started is passed over.
        let file = folder.path().join("first/greet");
        std::fs::write(&file, "#!/nowhere/at/all").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("/bin/echo", folder.path().join("second/greet")).unwrap();
        let places = ["first", "second"].map(|name| folder.path().join(name));
        let mut command = Command::new("greet");
        command.arg("hello").env("PATH", std::env::join_paths(&places).unwrap());
        assert_eq!(printed(&mut command).unwrap(), "hello\n");
        assert_eq!(printed(command.env("PATH", &places[0])), Err(Errno::ENOENT));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(printed(&mut command), Err(Errno::EACCES));
        let mut command = Command::new("echo");
        assert_eq!(printed(command.arg("hello").env_remove("PATH")).unwrap(), "hello\n");
    }

    #[test]
    fn why_nothing_was_started_is_told() {
        assert_eq!(printed(&mut Command::new("/nowhere/at/all")), Err(Errno::ENOENT));
        assert_eq!(printed(&mut Command::new("/etc/passwd")), Err(Errno::EACCES));
        let packet =
            Wanted::from(&*Command::new("/bin/true").current_dir("/nowhere")).encode(1, None).unwrap();
        let Some(Asked::Start(request)) = Asked::decode(&packet) else { panic!("{packet:?}") };
        let nothing = || File::open("/dev/null").unwrap().into();
        let streams = [nothing(), nothing(), nothing()];
        assert_eq!(Spawner::new().unwrap().spawn(&request, &streams), Err(Errno::ENOENT));
    }

    #[test]
    fn a_process_leads_its_group_and_signals_do_what_they_would_without_a_runner() {
        let fields = "/^(NSpgid|Pid):/ { print $2 } /^Sig(Blk|Ign|Cgt):/ { print $2 }";
        let printed = printed(Command::new("awk").args([fields, "/proc/self/status"])).unwrap();
        let [pid, group, signals @ ..] = &printed.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{printed}")
        };
        assert_eq!(pid, group);
        // The C library's own.
        let own = 0b11 << 31;
        let signals: Vec<_> =
            signals.iter().map(|mask| u64::from_str_radix(mask, 16).unwrap() & !own).collect();
        assert_eq!(signals, [0, ignored_by_others().unwrap(), 0], "held back, ignored, handled");
    }
}
