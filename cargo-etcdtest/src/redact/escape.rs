//! Escapes undone, as JSON, Rust, C, shells, URLs and HTML write them.

use super::views::Seen;

/// Sequences that stand for one character.
const NAMED: [(&[u8], char); 7] = [
    (b"&amp;", '&'),
    (b"&lt;", '<'),
    (b"&gt;", '>'),
    (b"&quot;", '"'),
    (b"&apos;", '\''),
    // Within single quotes, which shells and those who write for them leave for it.
    (b"'\\''", '\''),
    (b"'\"'\"'", '\''),
];

/// Undoes one layer of escapes in a stream.
#[derive(Clone, Default)]
pub(super) struct Unescape {
    /// What may become an escape.
    open: Vec<Seen>,
}

/// What the beginning of some bytes is.
enum Escape {
    Not,
    /// More bytes have to tell.
    Open,
    /// So many bytes stand for this one.
    Byte(usize, u8),
    /// So many bytes stand for this character.
    Letter(usize, char),
}

impl Unescape {
    /// Whether an escape may begin so.
    pub(super) fn begins(byte: u8) -> bool {
        matches!(byte, b'\\' | b'%' | b'&' | b'\'')
    }

    /// From where on it waits for more.
    pub(super) fn open_from(&self) -> Option<u64> {
        self.open.first().map(|seen| seen.start)
    }

    pub(super) fn take(&mut self, seen: Seen, given: &mut Vec<Seen>) {
        if self.open.is_empty() && !Self::begins(seen.byte) {
            return given.push(seen);
        }
        self.open.push(seen);
        while !self.open.is_empty() {
            let bytes: Vec<u8> = self.open.iter().map(|seen| seen.byte).collect();
            match escape(&bytes) {
                Escape::Open => return,
                Escape::Not => given.push(self.open.remove(0)),
                Escape::Byte(length, byte) => self.replace(length, &[byte], given),
                Escape::Letter(length, letter) => {
                    self.replace(length, letter.encode_utf8(&mut [0; 4]).as_bytes(), given);
                }
            }
        }
    }

    /// What is no escape, as nothing follows.
    pub(super) fn end(&mut self, given: &mut Vec<Seen>) {
        given.append(&mut self.open);
    }

    fn replace(&mut self, length: usize, bytes: &[u8], given: &mut Vec<Seen>) {
        let (start, end) = (self.open[0].start, self.open[length - 1].end);
        self.open.drain(..length);
        given.extend(bytes.iter().map(|&byte| Seen { byte, start, end }));
    }
}

/// A text with one layer of escapes undone.
pub(super) fn unescaped(text: &str) -> String {
    let (mut unescape, mut given) = (Unescape::default(), Vec::new());
    for (start, byte) in (0..).zip(text.bytes()) {
        unescape.take(Seen { byte, start, end: start + 1 }, &mut given);
    }
    unescape.end(&mut given);
    String::from_utf8_lossy(&given.iter().map(|seen| seen.byte).collect::<Vec<_>>()).into_owned()
}

fn escape(bytes: &[u8]) -> Escape {
    for (name, letter) in NAMED {
        if bytes == name {
            return Escape::Letter(name.len(), letter);
        }
        if name.starts_with(bytes) {
            return Escape::Open;
        }
    }
    match bytes {
        [b'%', digits @ ..] => byte(1, 16, 2, digits),
        [b'\\', b'x', digits @ ..] => byte(2, 16, 2, digits),
        [b'\\', digits @ ..] if matches!(digits, [b'0'..=b'7', ..]) => byte(1, 8, 3, digits),
        [b'\\', b'u', b'{', digits @ ..] => letter(3, 16, digits, b'}'),
        [b'\\', b'u', digits @ ..] => utf16(digits),
        [b'&', b'#', b'x' | b'X', digits @ ..] => letter(3, 16, digits, b';'),
        [b'&', b'#', digits @ ..] => letter(2, 10, digits, b';'),
        [b'\\'] => Escape::Open,
        [b'\\', sign, ..] => match sign {
            b'n' => Escape::Byte(2, b'\n'),
            b'r' => Escape::Byte(2, b'\r'),
            b't' => Escape::Byte(2, b'\t'),
            b'a' => Escape::Byte(2, 0x07),
            b'b' => Escape::Byte(2, 0x08),
            b'v' => Escape::Byte(2, 0x0b),
            b'f' => Escape::Byte(2, 0x0c),
            b'e' | b'E' => Escape::Byte(2, 0x1b),
            sign if sign.is_ascii_punctuation() => Escape::Byte(2, *sign),
            _ => Escape::Not,
        },
        _ => Escape::Not,
    }
}

/// The number that digits are, as far as they are some.
fn number(digits: &[u8], base: u32) -> Option<u32> {
    digits.iter().try_fold(0_u32, |number, &digit| {
        number.checked_mul(base)?.checked_add(char::from(digit).to_digit(base)?)
    })
}

/// A byte behind `before` others: exactly so many digits.
fn byte(before: usize, base: u32, most: usize, digits: &[u8]) -> Escape {
    let digits = &digits[..digits.len().min(most)];
    match number(digits, base).map(u8::try_from) {
        None | Some(Err(_)) => Escape::Not,
        Some(Ok(byte)) if digits.len() == most => Escape::Byte(before + most, byte),
        Some(Ok(_)) => Escape::Open,
    }
}

/// A character behind `before` bytes: some digits up to a last byte.
fn letter(before: usize, base: u32, digits: &[u8], last: u8) -> Escape {
    /// As many as the largest has, and some zeros.
    const MOST: usize = 8;
    let end = digits.iter().position(|&digit| digit == last);
    let digits = &digits[..end.unwrap_or(digits.len())];
    match (end, number(digits, base)) {
        (None, Some(_)) if digits.len() <= MOST => Escape::Open,
        (Some(1..=MOST), Some(number)) => char::from_u32(number)
            .map_or(Escape::Not, |letter| Escape::Letter(before + digits.len() + 1, letter)),
        _ => Escape::Not,
    }
}

/// A character behind `\u`: four digits, or twice four for one that is beyond those.
fn utf16(digits: &[u8]) -> Escape {
    const DIGITS: usize = 4;
    const HALF: usize = DIGITS + 2;
    let (first, rest) = digits.split_at(digits.len().min(DIGITS));
    let Some(unit) = number(first, 16).and_then(|unit| u16::try_from(unit).ok()) else { return Escape::Not };
    if first.len() < DIGITS {
        return Escape::Open;
    }
    if let Some(letter) = char::from_u32(unit.into()) {
        return Escape::Letter(HALF, letter);
    }
    let (mark, second) = rest.split_at(rest.len().min(2));
    let second = &second[..second.len().min(DIGITS)];
    if !b"\\u".starts_with(mark) {
        return Escape::Not;
    }
    let Some(low) = number(second, 16).and_then(|unit| u16::try_from(unit).ok()) else { return Escape::Not };
    match char::decode_utf16([unit, low]).next() {
        _ if second.len() < DIGITS => Escape::Open,
        Some(Ok(letter)) => Escape::Letter(2 * HALF, letter),
        _ => Escape::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_escape_is_undone() {
        for (text, meaning) in [
            (r#"a\"b\\c\/d\ne\tf"#, "a\"b\\c/d\ne\tf"),
            (r"\u0026\u00e4\u{e4}\ud83d\ude00\u{1f600}", "&ää😀😀"),
            (r"\x26\303\244\046", "&ä&"),
            ("%26%C3%a4%%41", "&ä%A"),
            ("&amp;&#38;&#x26;&#X26;&lt;&gt;&quot;&apos;&#39;", "&&&&<>\"''"),
            (r#"'it'\''s' 'it'"'"'s'"#, "'it's' 'it's'"),
            (r"\$\`\!", "$`!"),
        ] {
            assert_eq!(unescaped(text), meaning, "{text}");
        }
    }

    #[test]
    fn what_is_no_escape_stays() {
        for text in [
            "100%",
            "% 5",
            "%4",
            r"\q",
            r"\",
            r"\u12",
            r"\u{}",
            r"\u{110000}",
            r"\ud83d",
            r"\ud83d\q",
            "&am",
            "&a;",
            "&#;",
            "'",
            r"\08",
        ] {
            assert_eq!(unescaped(text), text);
        }
        assert_eq!(unescaped(r"\q\n&ä%41"), "\\q\n&äA", "what follows is one again");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in r##"([\\%&'"#;xu{}0-9a-f]|\PC){0,40}"##) {
            unescaped(&text);
        }
    }
}
