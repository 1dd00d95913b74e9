//! The backtrace of a panic, as std's own hook shows it.

use std::backtrace::Backtrace;
use std::env;
use std::fmt::Write;

const NOTE_OFF: &str = "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
const NOTE_SHORT: &str =
    "note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.\n";

/// What comes after the message of a panic, by `RUST_BACKTRACE`; without it a note, where
/// this is the `first` panic.
pub(crate) fn after_message(first: bool) -> String {
    match env::var_os("RUST_BACKTRACE") {
        Some(value) if value == "full" => format!("stack backtrace:\n{:#}", Backtrace::force_capture()),
        Some(value) if value != "0" => {
            format!("stack backtrace:\n{}{NOTE_SHORT}", short(&Backtrace::force_capture().to_string()))
        }
        _ if first => NOTE_OFF.to_owned(),
        _ => String::new(),
    }
}

/// The frames between those that raised the panic and those that called the test, numbered
/// anew. From the first on, where the names of the former are not known.
fn short(backtrace: &str) -> String {
    let lines: Vec<&str> = backtrace.lines().collect();
    let raised = lines.iter().rposition(|line| named(line, "__rust_end_short_backtrace"));
    let frames = &lines[raised.unwrap_or_default()..];
    // The place of the marker's own frame may follow it.
    let begin = raised.map_or(0, |_| 1 + frames[1..].iter().take_while(|line| frame(line).is_none()).count());
    let called = |line: &&str| named(line, "etcdtest::run::") || named(line, "__rust_begin_short_backtrace");
    let mut text = String::new();
    let mut number = 0;
    for line in frames[begin..].iter().take_while(|line| !called(line)) {
        // Writing to a string cannot fail.
        let _ = match frame(line) {
            Some(name) => writeln!(text, "{number:>4}: {name}"),
            None => writeln!(text, "{line}"),
        };
        number += usize::from(frame(line).is_some());
    }
    text
}

/// The name in a frame's first line, `  12: name`; `None` in the line of its place.
fn frame(line: &str) -> Option<&str> {
    let (number, name) = line.trim_start().split_once(": ")?;
    number.parse::<u32>().ok().map(|_| name)
}

fn named(line: &str, part: &str) -> bool {
    frame(line).is_some_and(|name| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_frames_of_the_test_are_left() {
        let all = "   0: std::backtrace::Backtrace::create\n   \
                   1: std::sys::backtrace::__rust_end_short_backtrace\n             at /rustc/backtrace.rs:1:1\n   \
                   2: core::panicking::panic_fmt\n   \
                   3: orders::paid\n             at ./tests/orders.rs:7:5\n  \
                   10: etcdtest::run::in_place::{{closure}}\n  \
                   11: main\n";
        let left = "   0: core::panicking::panic_fmt\n   \
                    1: orders::paid\n             at ./tests/orders.rs:7:5\n";
        assert_eq!(short(all), left);
        let unknown = "   0: <unknown>\n   1: <unknown>\n";
        assert_eq!(short(unknown), unknown);
        assert_eq!(short(""), "");
    }
}
