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
use nix::unistd::{AccessFlags, Pid, access, chdir};

use super::message::Request;

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
        chdir(request.folder)?;
        if request.program.to_bytes().contains(&b'/') {
            return posix_spawn(request.program, &actions, &self.attributes, &request.arguments, &variables);
        }
        let program = on_path(request.program, &variables).ok_or(Errno::ENOENT)?;
        posix_spawn(&*program, &actions, &self.attributes, &request.arguments, &variables)
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

/// A program by its bare name, as a shell with these variables finds it.
fn on_path(name: &CStr, variables: &[&CStr]) -> Option<CString> {
    let path = variables.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="))?;
    std::env::split_paths(OsStr::from_bytes(path)).find_map(|folder| {
        let program = folder.join(OsStr::from_bytes(name.to_bytes()));
        access(&program, AccessFlags::X_OK).ok()?;
        program.is_file().then(|| CString::new(program.into_os_string().into_vec()).ok())?
    })
}

/// The signals whose actions are the system's own in what is started. What whoever started the
/// runner has ignored stays so; the system finds the others by itself, but looks at each of them.
fn signals_to_reset() -> SigSet {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    // Rust's own runtime ignores this one.
    let pipe = 1 << (Signal::SIGPIPE as u32 - 1);
    if ignored.is_some_and(|ignored| ignored & !pipe == 0) {
        return SigSet::all();
    }
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    pipe
}
