//! Whatever stands in the file of an environment, it is read or its mistake is shown.

mod exercise;

use exercise::exercise;
use proptest::prelude::*;

/// Files that are right, to be made wrong.
const RIGHT: [&str; 3] = [
    r#"description = "the shop"
capacity = 1
recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
[labels]
team = "orders"
[config]
url = "${services.orders.url}/v1"
nested = { a = [1, 2.5, true, 2026-01-02], b = "${config.name} $${x}", c = "${config.url}" }
name = "${environment.name}"
[services.orders]
command = "orders"
args = ["--port", "{port}", "${services.stock.port}"]
env = { LOG = "debug" }
cwd = "orders"
needs = ["stock"]
ready = { http = "/health", timeout = "1m" }
restart = "on-failure"
stop-grace = "500ms"
[services.stock]
command = "stock"
url = "http://${environment.name}:{port}"
ready = { log = "listening on \\d+" }
[[probes]]
http = "${config.url}/health"
status = 204
body = "^ok$"
timeout = "5s"
[[probes]]
command = ["probe", "${config.name}"]
[[probes]]
tcp = "localhost:1"
"#,
    "extends = \"base\"\n[config]\na.b = \"${config.a.c}\"\n[secrets]\nt = { env = \"T\" }\nu = { prompt = true }\n\
     [[probes]]\ndns = \"${secrets.t}\"\n[data]\nusers = \"users.json\"\n",
    "[config]\na = \"${config.b}\"\nb = [\"${config.c}\", \"x\"]\nc = { d = 1 }\n\
     [secrets]\nold = { environment = \"base\", version = 3 }\n\
     [data]\nold = { environment = \"base\", digest = \"abc\", size = 7 }\n",
];

/// What is likely to meet a part of the reader that random letters do not.
const WORDS: [&str; 24] = [
    "${",
    "}",
    "$${",
    "${config.a}",
    "${config.url}",
    "${services.orders.url}",
    "${secrets.t}",
    "{port}",
    "[",
    "]",
    "[[",
    "\"",
    "'''",
    "\"\"\"",
    "=",
    ".",
    ",",
    "\n",
    "\u{feff}",
    "ü",
    "0",
    "-1",
    "nan",
    "1e999",
];

/// One change of a text: at a place, so much is taken out, and this is put in.
fn change() -> impl Strategy<Value = (prop::sample::Index, usize, String)> {
    let word = prop_oneof![
        prop::sample::select(&WORDS[..]).prop_map(str::to_owned),
        prop::sample::select(RIGHT.iter().flat_map(|file| file.lines()).collect::<Vec<_>>())
            .prop_map(|line| format!("\n{line}\n")),
        Just(String::new()),
        ".{0,4}",
    ];
    (any::<prop::sample::Index>(), 0..12_usize, word)
}

fn changed(text: &str, changes: &[(prop::sample::Index, usize, String)]) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for (place, taken, put) in changes {
        let start = place.index(letters.len() + 1);
        let end = (start + taken).min(letters.len());
        letters.splice(start..end, put.chars());
    }
    letters.into_iter().collect()
}

#[test]
fn right_files_go_all_the_way() {
    for text in RIGHT {
        assert_eq!(exercise(text).filter(|_| !text.contains("extends")), None);
    }
}

#[test]
fn the_file_of_the_guide_is_right() {
    let guide = include_str!("../../../docs/environments.md");
    let (_, file) = guide.split_once("```toml\n").unwrap();
    let (file, _) = file.split_once("```\n").unwrap();
    assert_eq!(exercise(file), None);
    assert_eq!(exercise(&file.replace("extends = \"base\"\n", "")), None);
}

proptest! {
    #[test]
    fn any_text_is_read_or_its_mistake_is_shown(text in ".*") {
        exercise(&text);
    }

    #[test]
    fn any_change_of_a_file_is_read_or_its_mistake_is_shown(
        text in prop::sample::select(&RIGHT[..]),
        changes in prop::collection::vec(change(), 1..5),
    ) {
        exercise(&changed(text, &changes));
    }

    #[test]
    fn no_mistake_shows_a_secret(
        text in prop::sample::select(&RIGHT[..]),
        changes in prop::collection::vec(change(), 0..4),
        form in prop::sample::select(&[
            "[secrets]\np = \"hunter2\"\n", "[secrets.p]\nvalue = \"hunter2\"\n", "[secrets]\np = [\n\"hunter2\"\n",
            "[secrets]\np = { env = \"hunter2=\" }\n", "[secrets]\np = hunter2\n", "[secret]\np = \"hunter2\"\n",
        ][..]),
    ) {
        // The file may be wrong before, within or after it.
        let text = changed(text, &changes).replace("[secrets]", "[config.more]");
        for text in [format!("{text}\n{form}"), format!("{form}\n{text}")] {
            let shown = exercise(&text).unwrap_or_default();
            prop_assert!(!shown.contains("hunter2"), "{}\n{}", text, shown);
        }
    }
}
