//! What a test binary and the runner say to each other.
//!
//! **Listing.** The runner starts the binary with `--list --format terse` and
//! [`LIST_VARIABLE`] set. A plain libtest binary ignores the variable and prints its
//! terse list; a binary with `etcdtest::main!()` prints one JSON line, a [`Listing`].
//!
//! **An attempt.** The runner starts the binary with [`ATTEMPT_ARGUMENT`] alone and a
//! stream socket as its standard input, and sends one [`Start`]. The binary answers with
//! [`Event`]s, the last of them [`Event::Finished`], and exits with [`Start::exit_code`].
//!
//! **A zygote.** On Linux the runner starts the binary once, with [`ZYGOTE_ARGUMENT`] alone,
//! and asks it for a child per attempt with [`Fork`]; see there.
//!
//! **A check.** The runner starts the binary with [`CHECK_ARGUMENT`] alone and a [`Check`] on
//! standard input; the binary answers with one JSON line, a [`Checked`]. Nothing runs.
//!
//! Both directions carry frames: the length of what follows as `u32` little-endian, one
//! kind byte and the payload. Those of every attempt are plain bytes, since test binaries
//! are seldom optimised and each of their processes would pay for more:
//!
//! | kind | payload |
//! | --- | --- |
//! | `J` | a JSON document |
//! | `A` | an attachment: the length of its name as `u16` little-endian, the name in UTF-8, its bytes |
//! | `S` | a [`Start`]: test, run, unit, worker, attempt, token and exit code as texts that each end with a zero byte, then the environment as JSON |
//! | `P` | the test passed; no payload |
//! | `F`, `B`, `X` | of a zygote: fork, born, exited; the id as `u64` and a number as `i32`, little-endian |

mod check;
mod environment;
mod reference;
mod zygote;

pub use check::{CHECK_ARGUMENT, Check, Checked, Lack};
pub(crate) use environment::texts_by_name;
pub use environment::{EnvironmentData, Secrets};
pub use reference::{Malformed, Piece, Reference, pieces};
pub(crate) use zygote::{ABOUT_PROCESS, about_process};
pub use zygote::{Fork, ZYGOTE_ARGUMENT, ZygoteEvent};

use std::fmt;
use std::io::{self, Read, Write};
use std::time::Duration;

use serde_json::{Map, Value, json};

/// The version both sides must have in common.
pub const VERSION: u64 = 1;
/// Set to [`VERSION`] by the runner when it asks a binary for its list.
pub const LIST_VARIABLE: &str = "ETCDTEST_PROTOCOL";
/// The only argument of a binary that is to run one attempt.
pub const ATTEMPT_ARGUMENT: &str = "--etcdtest-attempt";
/// The file a process started without an attempt's socket reads its environment from.
pub const ENVIRONMENT_VARIABLE: &str = "ETCDTEST_ENVIRONMENT";
/// Names the attempt ([`Start::id`]) in its process, and so in all that this one starts: what a test
/// leaves behind is known by it.
pub const ATTEMPT_VARIABLE: &str = "ETCDTEST_ATTEMPT";
/// What the variables begin with that hand secrets to a process started without an attempt's
/// socket; the rest of their names are the secrets'.
pub const SECRET_VARIABLES: &str = "ETCDTEST_SECRET_";
/// What stands for a secret in the texts of the file of [`ENVIRONMENT_VARIABLE`].
pub fn secret_placeholder(name: &str) -> String {
    format!("\u{1}{name}\u{1}")
}

/// What [`Frame::Passed`] travels as.
pub(crate) const PASSED: [u8; 5] = *b"\x01\0\0\0P";
/// The largest frame that is read, in bytes.
pub const MAX_FRAME: usize = 64 << 20;

/// Everything that a binary says of its tests, in one line of JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// The tests in the order of their names.
    pub tests: Vec<Listed>,
}

/// One test as its author described it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    /// Path inside the binary, as libtest writes it: `module::name` or `module::name::case`.
    pub name: String,
    /// First paragraph of the doc comment.
    pub description: String,
    /// The list under `# Steps`.
    pub steps: Vec<String>,
    /// The text under `# Expected`.
    pub expected: String,
    /// Tags to filter by.
    pub tags: Vec<String>,
    /// The person or team that answers for the test.
    pub owner: Option<String>,
    /// Longest time an attempt may take.
    pub timeout: Option<Duration>,
    /// How often a failed attempt is tried again.
    pub retries: Option<u32>,
    /// Patterns of the environments the test may run in; none means all.
    pub environments: Vec<String>,
    /// A resource that only one test at a time may use.
    pub exclusive: Option<String>,
    /// Labels that a worker must have to run it.
    pub needs: Vec<String>,
    /// Why the test is ignored; an empty text where no reason was given.
    pub ignore: Option<String>,
    /// The test passes if it panics.
    pub should_panic: bool,
    /// The test takes a parameter that is read from the environment's config.
    pub typed: bool,
    /// Source file, as the compiler names it.
    pub file: String,
    /// Line in that file, from 1.
    pub line: u32,
}

/// What the runner sends first on an attempt's socket. Its environment, which may hold
/// secrets, does not print.
#[derive(Clone, Default, PartialEq)]
pub struct Start {
    /// The test's name, as listed.
    pub test: String,
    /// What it runs against: [`EnvironmentData`] as JSON, since few tests look at all of it.
    pub environment: String,
    /// Id of the run.
    pub run: String,
    /// Place of the test in the plan of the run, from 0.
    pub unit: u32,
    /// Id of the worker.
    pub worker: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Fencing token of the unit: grows whenever the unit moves to another worker.
    pub token: i64,
    /// What the process exits with after a pass; random, never 0.
    pub exit_code: i32,
}

/// The environment may hold secrets.
impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { test, run, unit, worker, attempt, token, .. } = self;
        let mut start = f.debug_struct("Start");
        start.field("test", test).field("run", run).field("unit", unit).field("worker", worker);
        start.field("attempt", attempt).field("token", token).finish_non_exhaustive()
    }
}

/// What a test tells the runner while it runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A step began.
    StepStarted {
        /// Its number in the attempt, from 1.
        step: u32,
        /// Its name.
        name: String,
    },
    /// A step ended.
    StepFinished {
        /// Its number in the attempt.
        step: u32,
        /// False when it panicked or returned an error.
        ok: bool,
        /// How long it took.
        duration: Duration,
    },
    /// A document that belongs to the attempt.
    Attachment {
        /// Its file name.
        name: String,
        /// Its content.
        bytes: Vec<u8>,
    },
    /// The last event.
    Finished(Outcome),
}

/// How an attempt ended, in its own words.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The test did what it promises.
    Passed,
    /// The test asked to be skipped, with its reason.
    Skipped(String),
    /// The test panicked, returned an error, or did not panic where it should.
    Failed {
        /// The panic message, or the error with its chain.
        message: String,
        /// `file:line:column` of the panic.
        location: Option<String>,
    },
}

/// One frame as it travels.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A JSON document.
    Json(Value),
    /// A [`Start`], without its kind byte.
    Start(Vec<u8>),
    /// The test passed.
    Passed,
    /// About a process of a zygote.
    Process {
        /// `F`, `B` or `X`.
        kind: u8,
        /// What the process is called by.
        id: u64,
        /// Its process id, or its status.
        number: i32,
    },
    /// An attachment.
    Attachment {
        /// Its file name.
        name: String,
        /// Its content.
        bytes: Vec<u8>,
    },
}

impl Listing {
    /// The line a binary prints.
    pub fn to_line(&self) -> String {
        let tests: Vec<String> = self.tests.iter().map(Listed::to_json).collect();
        format!("{{\"etcdtest\":{VERSION},\"tests\":[{}]}}", tests.join(","))
    }

    /// Reads the line back; `None` where it is not a listing at all.
    ///
    /// # Errors
    /// The line is a listing, but of another protocol version or with a part missing.
    pub fn from_line(line: &str) -> Option<Result<Self, String>> {
        let Ok(Value::Object(object)) = serde_json::from_str(line) else {
            return None;
        };
        let version = object.get("etcdtest")?.as_u64();
        if version != Some(VERSION) {
            let spoken = version.map_or_else(|| "an unknown version".into(), |v| format!("version {v}"));
            return Some(Err(format!(
                "the binary speaks {spoken} of the protocol, this runner version {VERSION}"
            )));
        }
        let tests = object.get("tests").and_then(Value::as_array);
        let parsed = tests.ok_or("the listing has no `tests`").and_then(|tests| {
            tests
                .iter()
                .map(|test| Listed::from_json(test).ok_or("a test of the listing is incomplete"))
                .collect()
        });
        Some(parsed.map(|tests| Self { tests }).map_err(str::to_owned))
    }
}

impl Listed {
    /// As JSON, only what differs from [`Listed::default`], and as text at once: there may be thousands
    /// of them, and test binaries are seldom optimised.
    fn to_json(&self) -> String {
        let mut test = String::from("{");
        let mut say = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                let comma = if test.len() > 1 { "," } else { "" };
                test.extend([comma, "\"", key, "\":", &value.to_string()]);
            }
        };
        let said = |text: &str| (!text.is_empty()).then(|| text.into());
        let list = |texts: &[String]| (!texts.is_empty()).then(|| texts.into());
        say("name", said(&self.name));
        say("description", said(&self.description));
        say("steps", list(&self.steps));
        say("expected", said(&self.expected));
        say("tags", list(&self.tags));
        say("owner", self.owner.as_deref().map(Value::from));
        say("timeout_ms", self.timeout.map(millis).map(Value::from));
        say("retries", self.retries.map(Value::from));
        say("environments", list(&self.environments));
        say("exclusive", self.exclusive.as_deref().map(Value::from));
        say("needs", list(&self.needs));
        say("ignore", self.ignore.as_deref().map(Value::from));
        say("should_panic", self.should_panic.then(|| true.into()));
        say("typed", self.typed.then(|| true.into()));
        say("file", said(&self.file));
        say("line", Some(self.line.into()));
        test + "}"
    }

    fn from_json(value: &Value) -> Option<Self> {
        let test = value.as_object()?;
        Some(Self {
            name: text(test, "name")?,
            description: text(test, "description").unwrap_or_default(),
            steps: texts(test, "steps").unwrap_or_default(),
            expected: text(test, "expected").unwrap_or_default(),
            tags: texts(test, "tags").unwrap_or_default(),
            owner: text(test, "owner"),
            timeout: test.get("timeout_ms").and_then(Value::as_u64).map(Duration::from_millis),
            retries: number(test, "retries"),
            environments: texts(test, "environments").unwrap_or_default(),
            exclusive: text(test, "exclusive"),
            needs: texts(test, "needs").unwrap_or_default(),
            ignore: text(test, "ignore"),
            should_panic: test.get("should_panic").is_some_and(|value| *value == true),
            typed: test.get("typed").is_some_and(|value| *value == true),
            file: text(test, "file").unwrap_or_default(),
            line: number(test, "line")?,
        })
    }
}

impl Start {
    /// Names this attempt among all that ever were: `RUN/UNIT.TOKEN.ATTEMPT`.
    pub fn id(&self) -> String {
        let Self { run, unit, token, attempt, .. } = self;
        format!("{run}/{unit}.{token}.{attempt}")
    }

    /// The frame that carries it. No text of it but the environment's contains a zero byte.
    pub fn to_frame(&self) -> Frame {
        Frame::Start(self.to_texts())
    }

    pub(crate) fn to_texts(&self) -> Vec<u8> {
        let Self { test, environment, run, unit, worker, attempt, token, exit_code } = self;
        format!("{test}\0{run}\0{unit}\0{worker}\0{attempt}\0{token}\0{exit_code}\0{environment}")
            .into_bytes()
    }
}

impl Event {
    /// The frame that carries it.
    pub fn into_frame(self) -> Frame {
        Frame::Json(match self {
            Self::Finished(Outcome::Passed) => return Frame::Passed,
            Self::StepStarted { step, name } => json!({ "step_started": { "step": step, "name": name } }),
            Self::StepFinished { step, ok, duration } => json!({
                "step_finished": { "step": step, "ok": ok, "duration_us": micros(duration) }
            }),
            Self::Attachment { name, bytes } => return Frame::Attachment { name, bytes },
            Self::Finished(Outcome::Skipped(reason)) => json!({
                "finished": { "outcome": "skipped", "message": reason }
            }),
            Self::Finished(Outcome::Failed { message, location }) => json!({
                "finished": { "outcome": "failed", "message": message, "location": location }
            }),
        })
    }

    /// Reads it from a frame; `None` where the frame is no event of this version.
    pub fn from_frame(frame: Frame) -> Option<Self> {
        let event = match frame {
            Frame::Attachment { name, bytes } => return Some(Self::Attachment { name, bytes }),
            Frame::Passed => return Some(Self::Finished(Outcome::Passed)),
            Frame::Json(event) => event,
            Frame::Start(_) | Frame::Process { .. } => return None,
        };
        let (kind, body) = event.as_object()?.iter().next()?;
        let body = body.as_object()?;
        match kind.as_str() {
            "step_started" => {
                Some(Self::StepStarted { step: number(body, "step")?, name: text(body, "name")? })
            }
            "step_finished" => Some(Self::StepFinished {
                step: number(body, "step")?,
                ok: body.get("ok")?.as_bool()?,
                duration: Duration::from_micros(body.get("duration_us")?.as_u64()?),
            }),
            "finished" => Some(Self::Finished(match body.get("outcome")?.as_str()? {
                "skipped" => Outcome::Skipped(text(body, "message")?),
                "failed" => {
                    Outcome::Failed { message: text(body, "message")?, location: text(body, "location") }
                }
                _ => return None,
            })),
            _ => None,
        }
    }
}

impl Frame {
    /// The bytes that travel, length first.
    ///
    /// # Errors
    /// The frame is larger than [`MAX_FRAME`], or an attachment's name longer than 64 KiB.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "too large for one frame");
        let mut bytes = vec![0; 4];
        match self {
            Self::Json(value) => {
                bytes.push(b'J');
                serde_json::to_writer(&mut bytes, value)?;
            }
            Self::Start(texts) => {
                bytes.push(b'S');
                bytes.extend_from_slice(texts);
            }
            Self::Passed => bytes.push(b'P'),
            Self::Process { kind, id, number } => {
                bytes.extend_from_slice(&about_process(*kind, *id, *number)[4..]);
            }
            Self::Attachment { name, bytes: content } => {
                let length = u16::try_from(name.len()).map_err(|_| too_large())?;
                bytes.push(b'A');
                bytes.extend(length.to_le_bytes());
                bytes.extend(name.as_bytes());
                bytes.extend(content);
            }
        }
        let length = bytes.len() - 4;
        if length > MAX_FRAME {
            return Err(too_large());
        }
        let length = u32::try_from(length).map_err(|_| too_large())?;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        Ok(bytes)
    }

    /// Reads a frame from what followed its length.
    ///
    /// # Errors
    /// The bytes are no frame.
    pub fn decode(body: &[u8]) -> io::Result<Self> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        match body.split_first() {
            Some((b'J', json)) => Ok(Self::Json(serde_json::from_slice(json)?)),
            Some((b'S', texts)) => Ok(Self::Start(texts.to_vec())),
            Some((b'P', [])) => Ok(Self::Passed),
            Some((kind @ (b'F' | b'B' | b'X'), rest)) => {
                let torn = || invalid("torn process");
                let (id, rest) = rest.split_first_chunk().ok_or_else(torn)?;
                let number = rest.try_into().map_err(|_| torn())?;
                let (id, number) = (u64::from_le_bytes(*id), i32::from_le_bytes(number));
                Ok(Self::Process { kind: *kind, id, number })
            }
            Some((b'A', rest)) => {
                let (length, rest) =
                    rest.split_first_chunk::<2>().ok_or_else(|| invalid("torn attachment"))?;
                let (name, bytes) = rest
                    .split_at_checked(u16::from_le_bytes(*length).into())
                    .ok_or_else(|| invalid("torn attachment"))?;
                Ok(Self::Attachment {
                    name: String::from_utf8_lossy(name).into_owned(),
                    bytes: bytes.to_vec(),
                })
            }
            _ => Err(invalid("unknown kind of frame")),
        }
    }

    /// Writes the frame in one call, so that frames of several threads do not mix.
    ///
    /// # Errors
    /// As [`Frame::encode`], and whatever the socket says.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.encode()?)
    }

    /// Reads the next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// The stream ended inside a frame, or carries something else.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut length = [0; 4];
        let read = from.read(&mut length)?;
        if read == 0 {
            return Ok(None);
        }
        from.read_exact(&mut length[read..])?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        Self::decode(&body).map(Some)
    }
}

fn text(object: &Map<String, Value>, key: &str) -> Option<String> {
    object.get(key)?.as_str().map(str::to_owned)
}

fn texts(object: &Map<String, Value>, key: &str) -> Option<Vec<String>> {
    let list = object.get(key)?.as_array()?;
    list.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

fn number(object: &Map<String, Value>, key: &str) -> Option<u32> {
    object.get(key)?.as_u64()?.try_into().ok()
}

fn number64(object: &Map<String, Value>, key: &str) -> Option<u64> {
    object.get(key)?.as_u64()
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_events_read_back_as_written() {
        let events = [
            Event::StepStarted { step: 1, name: "pay \"now\"\n".into() },
            Event::StepFinished { step: 1, ok: false, duration: Duration::from_micros(1_234_567) },
            Event::Attachment { name: "ordér.bin".into(), bytes: vec![0, 255, 10] },
            Event::Finished(Outcome::Passed),
            Event::Finished(Outcome::Skipped(String::new())),
            Event::Finished(Outcome::Failed { message: "no".into(), location: Some("a.rs:1:2".into()) }),
        ];
        let mut stream = Vec::new();
        for event in events.clone() {
            event.into_frame().write(&mut stream).unwrap();
        }
        let mut stream = stream.as_slice();
        for event in events {
            let frame = Frame::read(&mut stream).unwrap().unwrap();
            assert_eq!(Event::from_frame(frame), Some(event));
        }
        assert_eq!(Frame::read(&mut stream).unwrap(), None);
    }

    #[test]
    fn a_start_and_a_listing_read_back_as_written() {
        let environment = EnvironmentData {
            name: "staging".into(),
            version: 3,
            revision: 77,
            config: json!({ "url": "http://x\0" }),
            secrets: Secrets([("db".to_owned(), "hunter2".to_owned())].into()),
            data: [("users".to_owned(), "/x/users".to_owned())].into(),
        };
        assert_eq!(EnvironmentData::from_json(&environment.to_json()), Some(environment.clone()));
        let start = Start {
            test: "orders::paid".into(),
            environment: environment.to_json(),
            run: "r".into(),
            unit: 4,
            worker: "w".into(),
            attempt: 2,
            token: 9,
            exit_code: 77,
        };
        assert!(!format!("{start:?}").contains("hunter2"));

        let listing = Listing {
            tests: vec![Listed {
                name: "a".into(),
                steps: vec!["one".into()],
                timeout: Some(Duration::from_secs(3)),
                ignore: Some(String::new()),
                typed: true,
                line: 7,
                ..Listed::default()
            }],
        };
        let two = Listing { tests: [&listing.tests[..], &listing.tests].concat() };
        for listing in [listing, two, Listing::default()] {
            assert_eq!(Listing::from_line(&listing.to_line()), Some(Ok(listing)));
        }
        assert_eq!(Listing::from_line("a: test"), None);
        assert!(Listing::from_line("{\"etcdtest\":2}").unwrap().unwrap_err().contains("version 2"));
    }

    #[test]
    fn a_pass_travels_as_five_bytes() {
        assert_eq!(Frame::Passed.encode().unwrap(), PASSED);
    }

    #[test]
    fn a_torn_or_foreign_frame_is_an_error_not_a_panic() {
        for bytes in [
            &b"\x05\0\0\0J{}"[..],
            b"\x03\0\0\0J{x",
            b"\x01\0\0\0Z",
            b"\0\0\0\0",
            b"\x02\0\0\0A\x05",
            b"\xff\xff\xff\xff",
        ] {
            assert!(Frame::read(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
