//! Terminal sequences and control characters left out, as they are wherever a text is read.

use super::views::Seen;

/// Leaves them out of a stream, as [`plain`](crate::reports::text::plain) does of a text.
#[derive(Default)]
pub(super) struct Strip {
    within: Within,
    /// The beginning of a character that may be one to leave out.
    open: Vec<Seen>,
    /// The last byte was a carriage return.
    returned: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Within {
    #[default]
    Text,
    /// Behind the escape character.
    Escape,
    /// Behind intermediate bytes of an escape.
    Intermediate,
    /// Behind a control sequence introducer.
    Control,
    /// In a string, up to its terminator.
    String,
    /// In a string, behind an escape character.
    StringEscape,
}

const ESCAPE: u8 = 0x1b;

impl Strip {
    /// Whether something may begin so that is left out or changed.
    pub(super) fn begins(byte: u8) -> bool {
        byte < b' ' && byte != b'\n' && byte != b'\t' || matches!(byte, 0x7f | 0xc2 | 0xef)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.within == Within::Text && self.open.is_empty() && !self.returned
    }

    /// From where on it waits for more.
    pub(super) fn open_from(&self) -> Option<u64> {
        self.open.first().map(|seen| seen.start)
    }

    pub(super) fn take(&mut self, seen: Seen, given: &mut Vec<Seen>) {
        let byte = seen.byte;
        self.within = match self.within {
            Within::Text => return self.text(seen, given),
            Within::Escape => match byte {
                b'[' => Within::Control,
                b']' | b'P' | b'X' | b'^' | b'_' => Within::String,
                b' '..=b'/' => Within::Intermediate,
                b'0'..=b'~' => Within::Text,
                _ => return self.again(seen, given),
            },
            Within::Intermediate => match byte {
                b' '..=b'/' => Within::Intermediate,
                b'0'..=b'~' => Within::Text,
                _ => return self.again(seen, given),
            },
            Within::Control => match byte {
                b' '..=b'?' => Within::Control,
                b'@'..=b'~' => Within::Text,
                _ => return self.again(seen, given),
            },
            // 0x9c is the last byte of a terminator, 0xc2 0x9c.
            Within::String => match byte {
                0x07 | 0x9c => Within::Text,
                ESCAPE => Within::StringEscape,
                b'\n' => return self.again(seen, given),
                _ => Within::String,
            },
            Within::StringEscape if byte == b'\\' => Within::Text,
            Within::StringEscape => {
                self.within = Within::Escape;
                return self.take(seen, given);
            }
        };
    }

    /// What is left, as nothing follows.
    pub(super) fn end(&mut self, given: &mut Vec<Seen>) {
        given.append(&mut self.open);
    }

    /// Takes a byte as text with which a sequence is over that it does not belong to.
    fn again(&mut self, seen: Seen, given: &mut Vec<Seen>) {
        self.within = Within::Text;
        self.text(seen, given);
    }

    fn text(&mut self, seen: Seen, given: &mut Vec<Seen>) {
        if self.is_idle() && !Self::begins(seen.byte) {
            return given.push(seen);
        }
        let returned = std::mem::take(&mut self.returned);
        self.open.push(seen);
        let open: Vec<u8> = self.open.iter().map(|seen| seen.byte).collect();
        match open[..] {
            // A carriage return, alone or before a line feed, is a line feed.
            [b'\n'] if returned => {}
            [b'\r'] => {
                self.returned = true;
                given.push(Seen { byte: b'\n', ..seen });
            }
            [b'\n' | b'\t'] => given.push(seen),
            [ESCAPE] => self.within = Within::Escape,
            // The beginning of a character of which some are left out.
            [0xc2 | 0xef] | [0xef, 0xbf] => return,
            [0xc2, 0x9b] => self.within = Within::Control,
            [0xc2, 0x90 | 0x98 | 0x9d..=0x9f] => self.within = Within::String,
            [..b' ' | 0x7f] | [0xc2, 0x80..=0x9f] | [0xef, 0xbf, 0xbe | 0xbf] => {}
            _ if self.open.len() > 1 => {
                // The last may be the first of something else.
                let last = self.open.pop();
                given.append(&mut self.open);
                return last.into_iter().for_each(|last| self.text(last, given));
            }
            _ => given.push(seen),
        }
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::text::plain;

    fn stripped(text: &str) -> String {
        let (mut strip, mut given) = (Strip::default(), Vec::new());
        for (start, byte) in (0..).zip(text.bytes()) {
            strip.take(Seen { byte, start, end: start + 1 }, &mut given);
        }
        strip.end(&mut given);
        String::from_utf8(given.iter().map(|seen| seen.byte).collect()).unwrap()
    }

    #[test]
    fn it_is_what_reports_show() {
        for text in [
            "\u{1b}[1;31mred\u{1b}[0m \u{1b}[38:5:1mx\u{1b}[?25l",
            "\u{1b}]8;;http://x\u{7}link\u{1b}]8;;\u{1b}\\ end",
            "\u{1b}]0;title\u{1b}\\a\u{1b}P1;2|data\u{1b}\\b\u{1b}_app\u{9c}c",
            "\u{9b}31mred\u{9d}0;t\u{7}!",
            "\u{1b}(Ba\u{1b}7b\u{1b}=c",
            "10%\r20%\r\nnext\tcell\r\r\nx",
            "a\0\u{8}\u{b}\u{7f}\u{85}\u{fffe}\u{ffff}b\u{fffd}ü\u{a0}ﬀ",
            "\u{1b}]0;title\nthe reason\n",
            "\u{1b}]0;title\u{1b}[1mbold\n",
            "\u{1b}[31\nthe reason",
            "\u{1b}",
        ] {
            assert_eq!(stripped(text), plain(text), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn it_is_what_reports_show_of_any_text_without_strings(
            text in "([a-z]|\\PC|[\\x00-\\x0f\\u{7f}-\\u{8f}\u{fffe}]|\u{1b}\\[|\n){0,100}",
        ) {
            assert_eq!(stripped(&text), plain(&text));
        }
    }
}
