use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::forms::COMPONENT;
use super::*;

fn redactor(secrets: &[(&str, &str)]) -> Redactor {
    Redactor::new(secrets.iter().copied())
}

/// The text in pieces that end at these places.
fn in_pieces(redactor: &Redactor, text: &[u8], ends: &[usize]) -> Vec<u8> {
    let mut stream = redactor.stream();
    let (mut passed, mut done) = (Vec::new(), 0);
    for &end in ends.iter().chain([&text.len()]) {
        passed.extend_from_slice(&stream.push(&text[done..end]));
        done = end;
    }
    passed.extend(stream.finish(false));
    passed
}

#[test]
fn every_form_of_a_secret_is_replaced() {
    let value = "p\"ä/ss w?rd+~\\1&";
    let redactor = redactor(&[("db", value)]);
    for form in [
        value.to_owned(),
        serde_json::json!({ "password": value }).to_string(),
        format!("{value:?}"),
        format!("{:?}", serde_json::json!({ "password": value }).to_string()),
        "p%22%C3%A4%2Fss%20w%3Frd%2B%7E%5C1%26".into(),
        "p%22%c3%a4%2fss%20w%3frd%2b~%5c1%26".into(),
        "p%22%C3%A4%2Fss+w%3Frd%2B~%5C1%26".into(),
        "p\\u0022ä/ss w?rd+~\\\\1\\u0026".into(),
        "p\\u{22}\\u{e4}/ss\\u0020w?rd+~\\x5c1&".into(),
        "p&quot;ä/ss w?rd+~\\1&amp;".into(),
        "p&#34;&#228;&#x2F;ss w?rd+~\\1&#38;".into(),
        format!("p&quot;ä/ss%20w?rd+~{}1&amp;", "\\".repeat(4)),
        format!("{:?}", serde_json::json!({ "message": format!("{value:?}") }).to_string()),
        format!("{:?}", value.as_bytes()),
        format!("{:#?}", value.as_bytes()),
        "[70, 22, c3, a4, 2f, 73, 73, 20, 77, 3f, 72, 64, 2b, 7e, 5c, 31, 26]".into(),
        "7022c3a42f737320773f72642b7e5c3126".into(),
        "7022C3A42F737320773F72642B7E5C3126".into(),
        "70:22:c3:a4:2f:73:73:20:77:3f:72:64:2b:7e:5c:31:26".into(),
        STANDARD.encode(value),
        utf8_percent_encode(&STANDARD.encode(value), COMPONENT).to_string(),
        URL_SAFE.encode(value).trim_end_matches('=').to_owned(),
    ] {
        let shown = redactor.text(format!("a {form} b"));
        assert!(shown.contains("[secret db]") && !shown.contains("w?rd"), "{form}: {shown}");
    }
}

#[test]
fn a_secret_in_the_middle_of_base64_is_replaced() {
    for before in ["", "u", "us", "user:"] {
        for after in ["", "x", "xy", "and more"] {
            let encoded = STANDARD.encode(format!("{before}hunter2-hunter3{after}"));
            let shown = redactor(&[("db", "hunter2-hunter3")]).text(encoded.clone());
            assert!(shown.contains("[secret db]"), "{before} {after}: {shown}");
            // What is left of it are at most the characters it shares with its neighbours.
            let others = STANDARD.encode(format!("{before}{after}")).len();
            assert!(shown.len() <= "[secret db]".len() + others + 4, "{encoded}: {shown}");
        }
    }
}

#[test]
fn a_secret_in_base64_that_is_broken_into_lines_is_replaced() {
    let secret = "a-secret-that-is-long-enough-for-more-than-one-line-of-base64-as-mail-and-pem-have-it";
    for before in 0..90 {
        let encoded = STANDARD.encode(format!("{}{secret} and more", "x".repeat(before)));
        for (columns, end) in [(76, "\r\n"), (64, "\n"), (64, "\\n"), (19, "\n    ")] {
            let lines: Vec<_> =
                encoded.as_bytes().chunks(columns).map(|line| std::str::from_utf8(line).unwrap()).collect();
            let text = lines.join(end);
            let redactor = redactor(&[("db", secret)]);
            let shown = redactor.text(text.clone());
            // What it shares with its neighbours stays.
            assert!(shown.contains("[secret db]"), "{shown}");
            assert!(shown.len() < before * 4 / 3 + before / columns * end.len() + 50, "{text}: {shown}");
            assert_eq!(in_pieces(&redactor, text.as_bytes(), &[text.len() / 3]), shown.as_bytes());
        }
    }
}

#[test]
fn a_secret_that_looks_like_an_escape_is_found() {
    for value in ["50%41-off", "a\\nb\\u0026c", "x&amp;y%25z", "it's 'quoted'", "tab\there"] {
        let redactor = redactor(&[("db", value)]);
        for form in [
            value.to_owned(),
            serde_json::json!([value]).to_string(),
            serde_json::json!([format!("\"{value}")]).to_string(),
            utf8_percent_encode(value, NON_ALPHANUMERIC).to_string(),
            shlex::try_quote(value).unwrap().into_owned(),
            format!("'{}'", value.replace('\'', "'\\''")),
            format!("'{}'", value.replace('\'', "'\"'\"'")),
        ] {
            assert!(redactor.text(form.clone()).contains("[secret db]"), "{form}");
        }
    }
}

#[test]
fn each_line_of_a_secret_is_one_but_not_the_frame_of_a_key() {
    let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\nBCIEIKJkshort\n-----END PRIVATE KEY-----";
    let redactor = redactor(&[("key", key)]);
    assert_eq!(
        redactor.text(key.replace('\n', "\n| ")),
        "-----BEGIN PRIVATE KEY-----\n| [secret key]\n| [secret key]\n| -----END PRIVATE KEY-----"
    );
    let line = STANDARD.encode("MC4CAQAwBQYDK2Vw");
    assert!(redactor.text(line).starts_with("[secret key]"));
    assert_eq!(redactor.text(key.replace('\n', "\r\n")), "[secret key]");
    assert_eq!(redactor.text(key.into()), "[secret key]");
}

#[test]
fn the_longest_secret_wins_and_the_first_name() {
    let redactor = redactor(&[("a", "hunter"), ("b", "hunter2"), ("c", "hunter")]);
    assert_eq!(redactor.text("hunter2 hunter1".into()), "[secret b] [secret a]1");
    assert_eq!(in_pieces(&redactor, b"hunter2 hunter1", &[6, 14]), b"[secret b] [secret a]1");
}

#[test]
fn nothing_is_held_back_that_cannot_become_a_secret() {
    let redactor = redactor(&[("a", "hunter2")]);
    let mut stream = redactor.stream();
    assert_eq!(&*stream.push(b"a line\n"), b"a line\n");
    assert_eq!(&*stream.push(b"prompt: hu"), b"prompt: ");
    assert_eq!(&*stream.push(b"ge\n"), b"huge\n");
    assert_eq!(&*Redactor::default().stream().push(b"hunter2"), b"hunter2");
}

#[test]
fn a_large_secret_is_replaced_and_holds_back_no_more_than_itself() {
    let large = "abcdefghij\\\n".repeat(5000);
    let redactor = redactor(&[("large", &large)]);
    let text = format!("{large}end");
    let ends: Vec<usize> = (0..text.len()).step_by(4096).collect();
    assert_eq!(in_pieces(&redactor, text.as_bytes(), &ends), b"[secret large]end");
    let mut stream = redactor.stream();
    for _ in 0..20 {
        stream.push(&large.as_bytes()[..large.len() - 1]);
        assert!(stream.held.len() <= large.len() * 2, "{}", stream.held.len());
    }
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        text in "[ab1%]{0,40}",
        secrets in proptest::collection::vec("[ab1]{1,6}", 0..4),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let named: Vec<_> = secrets.iter().map(|secret| (secret.as_str(), secret.as_str())).collect();
        let redactor = redactor(&named);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        ends.sort_unstable();
        let whole = redactor.text(text.clone());
        prop_assert_eq!(in_pieces(&redactor, text.as_bytes(), &ends), whole.as_bytes());
        // One byte at a time is the worst there is.
        let all: Vec<usize> = (0..text.len()).collect();
        prop_assert_eq!(in_pieces(&redactor, text.as_bytes(), &all), whole.as_bytes());
    }

    #[test]
    fn no_secret_gets_through(before in ".{0,20}", secret in "[a-z0-9\"/&+ ä\\\\]{4,20}", after in ".{0,20}", cut: prop::sample::Index) {
        let redactor = redactor(&[("N", &secret)]);
        let forms = [secret.clone(), STANDARD.encode(&secret), utf8_percent_encode(&secret, COMPONENT).to_string()];
        for form in forms {
            let text = format!("{before}{form}{after}");
            let end = cut.index(text.len() + 1);
            let passed = in_pieces(&redactor, text.as_bytes(), &[end]);
            let passed = String::from_utf8(passed).unwrap();
            prop_assert!(!passed.contains(&form), "{:?}", passed);
            prop_assert!(passed.contains("[secret N]"));
        }
    }
}

#[test]
fn what_stands_before_an_encoded_secret_does_not_hide_it() {
    let redactor = redactor(&[("N", "&/\\\\")]);
    assert_eq!(redactor.text("\\%26%2F%5C%5C".into()), "\\[secret N]");
}

#[test]
fn what_only_shows_without_terminal_sequences_is_replaced_as_well() {
    let redactor = Redactor::new([("token", "hunter2-hunter3")]);
    for between in ["\u{1b}[1m", "\u{1b}[0;31m", "\u{7}", "\u{8}", "\0"] {
        let split = format!("it is hunter2{between}-hunter3 here");
        assert_eq!(redactor.text(split.clone()), "it is [secret token] here", "{between:?}");
        for end in 0..split.len() {
            let passed = in_pieces(&redactor, split.as_bytes(), &[end]);
            assert_eq!(passed, b"it is [secret token] here", "{between:?}");
        }
    }
    let escaped = "it is h\\u0075n\u{1b}[1mter2\\u002d\u{1b}[0mhunter3 here";
    assert_eq!(redactor.text(escaped.into()), "it is [secret token] here");
    let coloured = "\u{1b}[1mbold\u{1b}[0m".to_owned();
    assert_eq!(redactor.text(coloured.clone()), coloured, "what holds none stays as it is");
}

#[test]
fn a_document_that_is_no_text_is_redacted_too() {
    let redactor = Redactor::new([("token", "hunter2-hunter3")]);
    let latin = b"caf\xe9 hunter2-hunter3\n".to_vec();
    assert_eq!(redactor.document(latin), b"caf\xe9 [secret token]\n");
    assert_eq!(redactor.document(vec![0xff, 0xfe]), [0xff, 0xfe]);
}

#[test]
fn what_a_stream_was_cut_off_in_is_replaced_if_enough_of_it_is_there() {
    let end = |secret: &str, printed: &str| {
        let mut stream = redactor(&[("db", secret)]).stream();
        let mut passed = stream.push(printed.as_bytes()).into_owned();
        passed.extend(stream.end());
        String::from_utf8(passed).unwrap()
    };
    assert_eq!(end("hunter2-hunter3", "it is hunter2-h"), "it is [secret db]");
    assert_eq!(end("hunter2-hunter3", "it is hunter"), "it is hunter");
    assert_eq!(end("hunter2", "it is hunt"), "it is [secret db]");
    assert_eq!(end("p&ss w/rd-1234", "it is p%26ss%20w%2F"), "it is [secret db]");
    let encoded = STANDARD.encode("hunter2-hunter3");
    assert_eq!(end("hunter2-hunter3", &encoded[..14]), "[secret db]");
    let shown = redactor(&[("db", "hunter2-hunter3")]).text("it is hunter2-h".into());
    assert_eq!(shown, "it is hunter2-h", "a text is whole");
}

#[test]
fn what_overlaps_is_replaced_as_one() {
    let redactor = redactor(&[("a", "abcdef"), ("b", "efghijkl")]);
    assert_eq!(redactor.text("1abcdefghijkl2".into()), "1[secret b]2");
    assert_eq!(redactor.places("1abcdefghijkl2"), [(1..13, "b")]);
    assert_eq!(redactor.text("abcdefabcdef".into()), "[secret a][secret a]");
}

#[test]
fn a_whole_line_does_not_wait_for_the_next() {
    let secrets: Vec<(String, String)> =
        (0..50).map(|number| (format!("s{number}"), format!("{number}-secret-value-{number}"))).collect();
    let redactor = Redactor::new(secrets.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut stream = redactor.stream();
    for line in ["listening on port 1\n", "GET /orders\n", "progress 100%\n", "it's ready: 'now'\n", "ABC\n"]
    {
        assert_eq!(String::from_utf8_lossy(&stream.push(line.as_bytes())), line);
    }
}

#[test]
fn the_time_it_takes_grows_with_the_text_alone() {
    // Each of these made a search go back again and again.
    let secret = "ab".repeat(10_000);
    let redactor = redactor(&[("db", &secret)]);
    for text in ["ab".repeat(9_999), "a".repeat(20_000), "\\".repeat(20_000), "\u{1b}[1ma".repeat(5_000)] {
        let ends: Vec<usize> = (0..text.len()).step_by(100).collect();
        assert_eq!(in_pieces(&redactor, text.as_bytes(), &ends), text.as_bytes());
    }
    assert_eq!(redactor.text("ab".repeat(11_000)), "[secret db]");
}
