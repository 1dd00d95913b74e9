//! What an attempt came to, by what it said and how its process ended.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::LazyLock;
use std::time::Duration;

use etcdtest::protocol;
use regex::Regex;

use super::events::AttemptOutput;
use crate::model::Outcome;
use crate::reports::story::signal_name;

/// The longest message that is kept, in bytes.
const MAX_MESSAGE: usize = 32 << 10;
/// Within how many bytes from its end libtest's closing line is looked for.
pub(super) const CLOSING: usize = 4 << 10;

/// An outcome with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    /// The outcome.
    pub(super) outcome: Outcome,
    /// The panic message, the error, the signal or the reason.
    pub(super) message: Option<String>,
    /// Where it panicked.
    pub(super) location: Option<String>,
}

impl Ending {
    /// It took too long.
    pub(super) fn timed_out(timeout: Duration) -> Self {
        let message = format!("timed out after {}", humantime::format_duration(timeout));
        Self { outcome: Outcome::TimedOut, message: Some(message), location: None }
    }

    /// Its process ended without saying how the test went.
    pub(super) fn crashed(message: String) -> Self {
        Self { outcome: Outcome::Crashed, message: Some(message), location: None }
    }

    fn passed() -> Self {
        Self { outcome: Outcome::Passed, message: None, location: None }
    }
}

/// The ending of an annotated test. It passed if it said so on its socket, or, where the
/// test closed that, by exiting with the code that was agreed on.
pub(super) fn annotated(
    said: Option<protocol::Outcome>,
    status: ExitStatus,
    agreed: i32,
    output: &AttemptOutput,
) -> Ending {
    match said {
        Some(protocol::Outcome::Failed { message, location }) => {
            let location = location.map(bounded);
            Ending { outcome: Outcome::Failed, message: Some(bounded(message)), location }
        }
        Some(protocol::Outcome::Skipped(reason)) => {
            Ending { outcome: Outcome::Skipped, message: Some(bounded(reason)), location: None }
        }
        Some(protocol::Outcome::Passed) | None if status.code() == Some(agreed) => Ending::passed(),
        Some(protocol::Outcome::Passed) => {
            Ending::crashed(format!("the test passed, but then its process {}", ended(status, output)))
        }
        None => Ending::crashed(format!("its process {}", ended_early(status, output))),
    }
}

/// The ending of a plain libtest test: exit code and closing line, which is looked for in the
/// end of what was printed, secrets included, must agree.
pub(super) fn plain(status: ExitStatus, printed: &str, output: &AttemptOutput) -> Ending {
    match (status.code(), closing(printed)) {
        (Some(0), Some((1, 0))) => Ending::passed(),
        (Some(0), Some((0, 0))) => {
            Ending::crashed("the binary ran no test of this name: it lists other tests than it runs".into())
        }
        (Some(101), Some((_, 1..))) => failed_plainly(output),
        _ => Ending::crashed(format!("its process {}", ended_early(status, output))),
    }
}

/// How many passed and failed, as libtest says it at its end.
///
/// It writes that line in pieces, of which the numbers are one: a thread that goes on may print
/// something between them, and whatever runs at the exit of the process something after them.
fn closing(printed: &str) -> Option<(u64, u64)> {
    printed.rmatch_indices(" passed; ").find_map(|(at, between)| {
        let (before, rest) = (&printed[..at], &printed[at + between.len()..]);
        let start = before.trim_end_matches(|digit: char| digit.is_ascii_digit());
        let (failed, mut rest) = leading_number(rest)?;
        for word in [" failed; ", " ignored; ", " measured; "] {
            (_, rest) = leading_number(rest.strip_prefix(word)?)?;
        }
        rest.strip_prefix(" filtered out")?;
        let (_, word) = start.strip_suffix(". ")?.rsplit_once("test result: ")?;
        word.contains(if failed == 0 { "ok" } else { "FAILED" }).then_some(())?;
        Some((before[start.len()..].parse().ok()?, failed))
    })
}

/// The number that a text begins with, and what follows.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let rest = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    Some((text[..text.len() - rest.len()].parse().ok()?, rest))
}

/// The panic's message and place, out of what the default panic hook prints.
fn failed_plainly(output: &AttemptOutput) -> Ending {
    static PANIC: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?m)^thread '[^\n]*' (?:\(\d+\) )?panicked at ([^\n]+?:\d+:\d+):\n")
            .expect("it is well formed")
    });
    let text = String::from_utf8_lossy(&output.printed.bytes()).into_owned();
    let found = PANIC.captures_iter(&text).last();
    let Some((found, place)) = found.as_ref().and_then(|found| Some((found.get(0)?, found.get(1)?))) else {
        let error = text.lines().find(|line| line.starts_with("Error: "));
        let error = error.map(|line| bounded(line.to_owned()));
        return Ending { outcome: Outcome::Failed, message: error, location: None };
    };
    let rest = &text[found.end()..];
    // Where the hook says nothing more, libtest's own lines follow.
    let ends = ["\nnote: run with `RUST_BACKTRACE", "\nstack backtrace:", "\nFAILED\n", "\ntest "];
    let end = ends.iter().filter_map(|end| rest.find(end)).min();
    Ending {
        outcome: Outcome::Failed,
        message: Some(bounded(rest[..end.unwrap_or(rest.len())].trim_end().to_owned())),
        location: Some(bounded(place.as_str().to_owned())),
    }
}

fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push_str("\n[… the rest was left out …]");
    }
    message
}

/// "exited with code 3 before the test was over", "was killed by SIGABRT: its stack overflowed".
fn ended_early(status: ExitStatus, output: &AttemptOutput) -> String {
    let when = if status.code().is_some() { " before the test was over" } else { "" };
    format!("{}{when}", ended(status, output))
}

/// "exited with code 3", "was killed by SIGSEGV (core dumped)", and why, where that can be told.
fn ended(status: ExitStatus, output: &AttemptOutput) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => {
            let core = if status.core_dumped() { " (core dumped)" } else { "" };
            let why = why_killed(signal, output).map(|why| format!(": {why}")).unwrap_or_default();
            format!("was killed by {}{core}{why}", signal_name(signal))
        }
        (None, None) => "ended".into(),
    }
}

/// What stands behind a signal, as far as Rust's runtime says it or it can be guessed.
fn why_killed(signal: i32, output: &AttemptOutput) -> Option<&'static str> {
    const KILL: i32 = 9;
    const PANICS_IN_PANICS: [&str; 3] = [
        "thread panicked while processing panic. aborting.",
        "panic in a destructor during cleanup",
        "panic in a function that cannot unwind",
    ];
    if signal == KILL {
        return Some("this runner did not send it, perhaps the system ran out of memory");
    }
    let said = output.printed.end(CLOSING);
    if said.contains("has overflowed its stack") {
        Some("its stack overflowed")
    } else if PANICS_IN_PANICS.iter().any(|words| said.contains(words)) {
        Some("it panicked where a panic cannot be handled, such as during another panic")
    } else if said.contains("memory allocation of ") && said.contains(" bytes failed") {
        Some("the system gave it no more memory")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::output::Output;

    const KILLED: i32 = 9;

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn printed(text: &str) -> AttemptOutput {
        let mut printed = Output::default();
        printed.push(text.as_bytes());
        AttemptOutput { printed, ..AttemptOutput::default() }
    }

    const OK: &str = "\nrunning 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s\n\n";

    #[test]
    fn a_plain_test_passes_only_with_its_closing_line() {
        let outcome = |status, output: &str| plain(status, output, &printed(output)).outcome;
        assert_eq!(outcome(exited(0), OK), Outcome::Passed);
        assert_eq!(outcome(exited(0), "running 1 test\n"), Outcome::Crashed);
        assert_eq!(outcome(exited(0), &format!("{OK}profile written\n")), Outcome::Passed);
        let others = [
            OK.replace("ok.", "fine."),
            OK.replace("1 passed", "all passed"),
            OK.replace(". 1 passed", "1 passed"),
            OK.replace("; 3 filtered out", ""),
            OK.replace("test result: ", ""),
        ];
        for other in others {
            assert_eq!(outcome(exited(0), &other), Outcome::Crashed, "{other}");
            assert_eq!(outcome(exited(0), &format!("{OK}{other}")), Outcome::Passed, "{other}");
        }
        // A thread prints between the pieces in which libtest writes.
        for piece in ["\ntest a ... ok\n\n", "test result: ", "test result: ok", "filtered out"] {
            for said in ["still here\n", "still "] {
                let mixed = OK.replace(piece, &format!("{piece}{said}"));
                assert_eq!(outcome(exited(0), &mixed), Outcome::Passed, "{mixed}");
                assert_eq!(outcome(exited(0), &mixed.replace("1 passed", "0 passed")), Outcome::Crashed);
            }
        }
        assert_eq!(outcome(exited(0), &OK.replace("1 passed", "0 passed")), Outcome::Crashed);
        assert_eq!(outcome(exited(7), OK), Outcome::Crashed);
        assert_eq!(outcome(ExitStatus::from_raw(KILLED), OK), Outcome::Crashed);
    }

    #[test]
    fn a_plain_failure_tells_message_and_place_of_the_panic() {
        let closing = OK.replace("ok. 1 passed; 0 failed", "FAILED. 0 passed; 1 failed");
        let stderr = "\nthread 'a' (77) panicked at src/lib.rs:3:5:\nleft is 1\n right is 2\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        let ending = plain(exited(101), &closing, &printed(&format!("{stderr}{closing}")));
        assert_eq!(ending.message.as_deref(), Some("left is 1\n right is 2"));
        assert_eq!(ending.location.as_deref(), Some("src/lib.rs:3:5"));
    }

    #[test]
    fn an_annotated_test_passes_by_its_word_or_by_the_agreed_code_and_never_by_exit_0() {
        use protocol::Outcome::Passed;
        let ending = |said, status| annotated(said, status, 77, &printed(""));
        assert_eq!(ending(Some(Passed), exited(77)).outcome, Outcome::Passed);
        assert_eq!(ending(None, exited(77)).outcome, Outcome::Passed);
        assert_eq!(ending(None, exited(0)).outcome, Outcome::Crashed);
        assert_eq!(
            ending(Some(Passed), ExitStatus::from_raw(11)).message.as_deref(),
            Some("the test passed, but then its process was killed by SIGSEGV")
        );
    }

    #[test]
    fn a_killed_process_tells_why_where_that_is_known() {
        let message = |signal, stderr: &str| {
            let output = printed(stderr);
            let plain = plain(ExitStatus::from_raw(signal), stderr, &output);
            assert_eq!(annotated(None, ExitStatus::from_raw(signal), 77, &output), plain);
            plain.message.unwrap()
        };
        let abort = 6;
        let overflow =
            "\nthread 'a' (7) has overflowed its stack\nfatal runtime error: stack overflow, aborting\n";
        let twice = "\nthread 'a' (7) panicked at src/lib.rs:9:9:\npanic in a destructor during cleanup\nthread caused non-unwinding panic. aborting.\n";
        let core = 0x80;
        assert_eq!(message(abort, ""), "its process was killed by SIGABRT");
        assert_eq!(message(abort | core, ""), "its process was killed by SIGABRT (core dumped)");
        for signal in [(abort, "SIGABRT"), (11, "SIGSEGV")] {
            let expected = format!("its process was killed by {}: its stack overflowed", signal.1);
            assert_eq!(message(signal.0, overflow), expected);
        }
        let memory = "memory allocation of 1073741824 bytes failed\n";
        assert!(message(abort, memory).ends_with(": the system gave it no more memory"));
        assert!(message(abort, twice).contains("during another panic"), "{}", message(abort, twice));
        assert!(
            message(KILLED, "").contains("SIGKILL: this runner did not send it, perhaps the system ran out")
        );
    }
}
