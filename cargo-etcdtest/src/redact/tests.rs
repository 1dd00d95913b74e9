use proptest::prelude::*;

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
    passed.extend(stream.end());
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
        STANDARD.encode(value),
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
fn each_line_of_a_secret_is_one_but_not_the_frame_of_a_key() {
    let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\nBCIEIKJkshort\n-----END PRIVATE KEY-----";
    let redactor = redactor(&[("key", key)]);
    assert_eq!(
        redactor.text(key.replace('\n', "\r\n")),
        "-----BEGIN PRIVATE KEY-----\r\n[secret key]\r\n[secret key]\r\n-----END PRIVATE KEY-----"
    );
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
fn what_only_shows_without_terminal_sequences_is_replaced_as_well() {
    let redactor = Redactor::new([("token", "hunter2-hunter3")]);
    for between in ["\u{1b}[1m", "\u{1b}[0;31m", "\u{7}", "\u{8}", "\0"] {
        let split = format!("it is hunter2{between}-hunter3 here");
        assert_eq!(redactor.text(split.clone()), "it is [secret token] here", "{between:?}");
        let passed = redactor.passed(split.into_bytes());
        assert_eq!(passed, b"it is [secret token] here", "{between:?}");
    }
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
