//! What tests print and say, made fit for reports and terminals.

use std::borrow::Cow;
use std::iter::Peekable;
use std::str::Chars;

/// The longest message on one line, in characters: dashboards show it in a table.
pub const MESSAGE: usize = 500;

/// Text without terminal sequences and without the characters that XML 1.0 forbids or
/// discourages: of the control characters only line feeds and tabs are left, and a carriage
/// return, alone or before a line feed, is a line feed.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\u{1b}' => skip_escape(&mut rest),
            '\u{9b}' => skip_control_sequence(&mut rest),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut rest),
            '\r' => {
                rest.next_if_eq(&'\n');
                plain.push('\n');
            }
            '\n' | '\t' => plain.push(character),
            '\u{fffe}' | '\u{ffff}' => {}
            _ if character.is_control() => {}
            _ => plain.push(character),
        }
    }
    plain
}

/// Skips what follows an escape (ECMA-48 and its private uses).
fn skip_escape(rest: &mut Peekable<Chars<'_>>) {
    match rest.peek() {
        Some('[') => {
            rest.next();
            skip_control_sequence(rest);
        }
        // An operating system command, a device control string and their kin.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            rest.next();
            skip_string(rest);
        }
        _ => {
            while rest.next_if(|next| matches!(next, ' '..='/')).is_some() {}
            rest.next_if(|next| matches!(next, '0'..='~'));
        }
    }
}

/// Skips the parameters, intermediates and final character of a control sequence; one that
/// is torn ends where something else begins.
fn skip_control_sequence(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|next| matches!(next, ' '..='?')).is_some() {}
    rest.next_if(|next| matches!(next, '@'..='~'));
}

/// Skips a string up to its terminator. One that has none, because the process died inside
/// it, ends with its line: it must not swallow the rest of the report.
fn skip_string(rest: &mut Peekable<Chars<'_>>) {
    let mut ahead = rest.clone();
    while let Some(next) = ahead.next() {
        match next {
            '\u{07}' | '\u{9c}' => return *rest = ahead,
            '\u{1b}' if ahead.next_if_eq(&'\\').is_some() => return *rest = ahead,
            '\u{1b}' | '\u{18}' | '\u{1a}' => break,
            _ => {}
        }
    }
    while rest.next_if(|next| !matches!(next, '\n' | '\u{1b}')).is_some() {}
}

/// The first line that says something, [`plain`], at most `most` characters long.
pub fn one_line(text: &str, most: usize) -> String {
    let text = plain(text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line = line.replace('\t', " ");
    match line.char_indices().nth(most) {
        None => line,
        Some(_) => line.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A line longer than this is cut where only a part of a text is shown.
const LINE: usize = 1024;

/// The beginning and the end of a text, about `head` and `tail` bytes of them and whole
/// lines where lines are short; in between, a line that says how much was left out.
pub fn bounded(text: &str, head: usize, tail: usize) -> Cow<'_, str> {
    if text.len() <= head + tail {
        return text.into();
    }
    let start = (0..=head).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let end = (text.len() - tail..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    // To the nearest line break, unless that would cost much of what is shown.
    let bytes = text.as_bytes();
    let back = bytes[..start].iter().rev().take(LINE).position(|&byte| byte == b'\n').unwrap_or(0);
    let on = bytes[end - 1..bytes.len() - 1].iter().take(LINE).position(|&byte| byte == b'\n').unwrap_or(0);
    let (start, end) = (start - back, end + on);
    let (first, last) = (&text[..start], &text[end..]);
    let line_break = if first.is_empty() || first.ends_with('\n') { "" } else { "\n" };
    format!("{first}{line_break}{}{last}", left_out_line((end - start) as u64)).into()
}

/// The line that stands where `bytes` bytes of output were left out; with its line break.
pub fn left_out_line(bytes: u64) -> String {
    format!("[… {bytes} bytes left out …]\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sequences_are_removed_whole() {
        let cases = [
            ("\u{1b}[1;31mred\u{1b}[0m \u{1b}[38:5:1mx\u{1b}[?25l", "red x"),
            ("\u{1b}]8;;http://x\u{7}link\u{1b}]8;;\u{1b}\\ end", "link end"),
            ("\u{1b}]0;title\u{1b}\\a\u{1b}P1;2|data\nmore\u{1b}\\b\u{1b}_app\u{9c}c", "abc"),
            ("\u{9b}31mred\u{9d}0;t\u{7}!", "red!"),
            ("\u{1b}(Ba\u{1b}7b\u{1b}=c", "abc"),
            ("10%\r20%\r\nnext\tcell", "10%\n20%\nnext\tcell"),
            ("a\0\u{8}\u{b}\u{7f}\u{85}\u{fffe}\u{ffff}b", "ab"),
        ];
        for (text, expected) in cases {
            assert_eq!(plain(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_torn_sequence_does_not_swallow_what_follows() {
        assert_eq!(plain("\u{1b}]0;title\nthe reason\n"), "\nthe reason\n");
        assert_eq!(plain("\u{1b}]0;title\u{1b}[1mbold\n"), "bold\n");
        assert_eq!(plain("\u{1b}[31\nthe reason"), "\nthe reason");
        assert_eq!(plain("\u{1b}"), "");
        assert_eq!(plain("\u{1b}P"), "");
        assert_eq!(plain("\u{1b}[31üx"), "üx");
    }

    #[test]
    fn one_line_is_the_first_that_says_something() {
        assert_eq!(one_line("\n  \u{1b}[31massertion\tfailed\u{1b}[0m\n left: 1", 80), "assertion failed");
        assert_eq!(one_line("ääääää", 4), "äää…");
        assert_eq!(one_line("ääää", 4), "ääää");
        assert_eq!(one_line(" \n", 4), "");
    }

    #[test]
    fn a_bounded_text_keeps_whole_lines_of_both_ends() {
        let text = "first line\nsecond line\nthird line\nfourth line\nlast line\n";
        assert_eq!(bounded(text, 100, 100), text);
        assert_eq!(bounded(text, 15, 15), "first line\n[… 35 bytes left out …]\nlast line\n");
        // Within one long line, and within a character.
        assert_eq!(bounded("ääääääää", 3, 3), "ä\n[… 12 bytes left out …]\nä");
    }

    proptest::proptest! {
        #[test]
        fn any_text_becomes_plain_and_bounded(
            text in "([a-z]|\\PC|[\\x00-\\x1f\\u{7f}-\\u{9f}]|\u{1b}[\\]\\[P]|\n){0,200}",
            head in 0..50_usize,
            tail in 0..50_usize,
        ) {
            let once = plain(&text);
            assert!(!once.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')));
            assert_eq!(plain(&once), once);
            let short = bounded(&once, head, tail);
            assert!(short.len() <= once.len() || short.len() <= head + tail + 64);
            assert!(one_line(&text, head).chars().count() <= head.max(1));
        }
    }
}
