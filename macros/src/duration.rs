//! Durations as people write them: `500ms`, `30s`, `1m 30s`, `2h`.

use std::time::Duration;

/// Reads one or more numbers with their units, added up. `None` where the text is
/// something else, adds up to nothing, or to more than can be counted.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit());
        let (unit, after) = split(after.trim_start(), |c| c.is_ascii_alphabetic());
        let millis = match unit {
            "ms" | "msec" | "millis" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(millis)?)?;
        rest = after.trim_start();
    }
    (total > 0).then(|| Duration::from_millis(total))
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_add_up() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            (" 1m 30s ", 90_000),
            ("1h2m3s4ms", 3_723_004),
            ("2 min", 120_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", " ", "30", "s", "1.5s", "-1s", "1d", "1s,", "0s", "18446744073709551615h", "1ß"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
