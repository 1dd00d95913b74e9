//! Where the values of secrets come from when their environment is applied.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::Command;

use super::fault::Fault;
use super::file::SecretInput;
use super::path::below;
use crate::redact::SHORTEST;
use crate::store::Secret;

/// The largest secret, in bytes.
const LARGEST: usize = 64 << 10;

/// Why there is no value.
struct Absent {
    reason: String,
    help: String,
}

impl SecretInput {
    /// The value of the secret `name` of `environment`. Waits for a command or a person.
    ///
    /// # Errors
    /// There is none, or one that cannot be used.
    pub fn read(&self, environment: &str, name: &str) -> Result<Secret, Fault> {
        let value = match self {
            Self::Env(variable) => from_variable(variable),
            Self::File(path) => from_file(path),
            Self::Command(command) => from_command(command),
            Self::Prompt => from_person(environment, name),
        };
        let fault = |what: &str, label: String, help| Fault {
            path: below("secrets", name),
            part: String::new(),
            message: format!("the secret `{name}` of `{environment}` cannot be {what}"),
            label,
            help,
        };
        let value = value.map_err(|Absent { reason, help }| fault("read", reason, Some(help)))?;
        unfit(&value).map_or_else(|| Ok(Secret::new(value)), |reason| Err(fault("used", reason, None)))
    }

    /// Whether it may be missing although its place is right, as on another person's
    /// machine: then what is stored already can be kept.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Env(variable) => std::env::var_os(variable).is_none(),
            Self::Prompt => !io::stdin().is_terminal(),
            Self::File(_) | Self::Command(_) => false,
        }
    }
}

/// What is wrong with a value, if something is.
fn unfit(value: &str) -> Option<String> {
    let length = value.trim().chars().count();
    if length == 0 {
        Some("it is empty".into())
    } else if length < SHORTEST {
        Some(format!(
            "it is shorter than {SHORTEST} characters, and could not be kept out of logs without spoiling them"
        ))
    } else if value.len() > LARGEST {
        Some(format!("it is larger than {} KiB", LARGEST >> 10))
    } else if value.contains('\0') {
        Some("it contains a zero byte".into())
    } else {
        None
    }
}

fn from_variable(variable: &str) -> Result<String, Absent> {
    let Some(value) = std::env::var_os(variable) else {
        let help = format!("set it to the secret's value: `{variable}=… cargo etcdtest env apply …`");
        return Err(Absent { reason: format!("the variable {variable} is not set"), help });
    };
    value.into_string().map_err(|_| Absent {
        reason: format!("the variable {variable} is no Unicode text"),
        help: "encode it, for example as base64".into(),
    })
}

fn from_file(path: &PathBuf) -> Result<String, Absent> {
    let failed = |reason: String| Absent {
        reason: format!("the file {} {reason}", path.display()),
        help: "its path begins at the folder of the environment's file".into(),
    };
    let size = std::fs::metadata(path).map_err(|error| failed(format!("cannot be read: {error}")))?.len();
    if size > LARGEST as u64 + 2 {
        return Err(failed(format!("is larger than {} KiB", LARGEST >> 10)));
    }
    let content = std::fs::read(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    without_newline(content).ok_or_else(|| failed("is no UTF-8 text".into()))
}

fn from_command(command: &[String]) -> Result<String, Absent> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Absent { reason: "its command is empty".into(), help: "name a program".into() });
    };
    // Its arguments stand under `secrets`, and may hold one.
    let absent = |reason: String| Absent { reason, help: "try its command by hand".into() };
    let output = Command::new(program).args(arguments).stdin(std::process::Stdio::inherit()).output();
    let output = output.map_err(|error| absent(format!("{program} did not start: {error}")))?;
    if !output.status.success() {
        // Nobody knows the value yet that would have to be taken out of it.
        let reason = "what it printed is not shown, as that may hold the secret";
        return Err(absent(format!("{program} ended with {}; {reason}", output.status)));
    }
    without_newline(output.stdout).ok_or_else(|| absent(format!("what {program} printed is no UTF-8 text")))
}

fn from_person(environment: &str, name: &str) -> Result<String, Absent> {
    if !io::stdin().is_terminal() {
        return Err(Absent {
            reason: "nobody is there to type it: standard input is no terminal".into(),
            help: format!(
                "apply it from a terminal, or have the file take it from a variable: `{name} = {{ env = \"NAME\" }}`"
            ),
        });
    }
    rpassword::prompt_password(format!("{name} of {environment}: ")).map_err(|error| Absent {
        reason: format!("it could not be typed: {error}"),
        help: "apply it from another terminal".into(),
    })
}

/// As text, without one newline at its end.
fn without_newline(bytes: Vec<u8>) -> Option<String> {
    let mut text = String::from_utf8(bytes).ok()?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &SecretInput) -> Result<Secret, String> {
        input.read("staging", "db").map_err(|fault| format!("{fault}: {}", fault.label))
    }

    #[cfg(unix)]
    fn script(commands: &str) -> SecretInput {
        SecretInput::Command(["sh", "-c", commands].map(str::to_owned).to_vec())
    }

    #[test]
    fn a_file_loses_one_newline_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (content, value) in [
            ("hunter2", "hunter2"),
            ("hunter2\n", "hunter2"),
            ("a b\nc\r\n", "a b\nc"),
            ("abcd\n\n", "abcd\n"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(read(&SecretInput::File(path.clone())), Ok(Secret::new(value)));
        }
        std::fs::write(&path, b"\xff\xff\xff\xff").unwrap();
        assert!(read(&SecretInput::File(path.clone())).unwrap_err().contains("is no UTF-8 text"));
        std::fs::write(&path, vec![b'x'; LARGEST + 3]).unwrap();
        assert!(read(&SecretInput::File(path.clone())).unwrap_err().contains("larger than 64 KiB"));
        assert!(read(&SecretInput::File(folder.path().into())).is_err());
    }

    #[test]
    fn a_value_that_cannot_be_a_secret_is_refused() {
        for (value, reason) in [("", "empty"), (" \n", "empty"), ("abc", "shorter"), ("ab\0cd", "zero byte")]
        {
            assert!(unfit(value).unwrap().contains(reason), "{value:?}");
        }
        assert_eq!(unfit("abcd"), None);
    }

    #[test]
    #[cfg(unix)]
    fn a_command_gives_what_it_prints_and_never_shows_it() {
        assert_eq!(read(&script("echo hunter2")), Ok(Secret::new("hunter2")));
        let fault = script("printf hunter; echo no access with hunter2 >&2; exit 3").read("staging", "db");
        let fault = fault.unwrap_err();
        assert!(fault.label.contains("sh ended with exit status: 3"), "{}", fault.label);
        assert!(!format!("{fault:?}").contains("hunter"), "{fault:?}");
        let error = read(&SecretInput::Command(vec!["no-such-program".into()])).unwrap_err();
        assert!(error.contains("no-such-program did not start"), "{error}");
        assert!(read(&script("true")).unwrap_err().contains("it is empty"));
    }
}
