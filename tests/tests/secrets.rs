//! Secrets reach tests, and nothing else.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../fixtures/leaks/forms.rs"]
mod forms;

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use age::secrecy::ExposeSecret as _;
use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{KeyRange, Op, Store, Txn, decompress, keys, list_chunks};
use forms::forms;
use whole_program::Project;
use whole_program::etcd::Etcd;
use whole_program::subject::{Ran, Subject};

const SECRET: &str = "s3cret/p+ss&wörd-1";

/// What is built sees no credentials; where it would, cargo asks it again.
const BUILD: &str = r#"
fn main() {
    for name in ["ETCDTEST_AGE_KEY", "ETCDTEST_PASSWORD"] {
        println!("cargo::rerun-if-env-changed={name}");
        assert!(std::env::var_os(name).is_none(), "{name} is there");
    }
}
"#;

const FILES: [(&str, &str); 5] = [
    ("build.rs", BUILD),
    ("tests/leaks.rs", include_str!("../fixtures/leaks/annotated.rs")),
    ("tests/plain_leaks.rs", include_str!("../fixtures/leaks/plain.rs")),
    ("tests/forms/mod.rs", include_str!("../fixtures/leaks/forms.rs")),
    ("environments/staging.toml", ENVIRONMENT),
];

/// An environment with a service that lets the secret slip, too.
const ENVIRONMENT: &str = r#"
[config]
login = "shop:${secrets.token}"
[secrets]
token = { env = "SHOP_TOKEN" }
[services.talker]
command = "sh"
args = ["-c", "while :; do printf \"serving $TOKEN. $HEAD\"; sleep 0.01; printf \"$TAIL.\n\"; done"]
env = { TOKEN = "${secrets.token}", HEAD = "s3cre", TAIL = "t/p+ss&wörd-1" }
url = "http://talker/?token=${secrets.token}"
ready = { log = "serving", timeout = "30s" }
"#;

/// Probes that cannot pass, and say what they know.
const PROBES: &str = r#"
[[probes]]
http = "http://127.0.0.1:1/?token=${secrets.token}"
timeout = "100ms"
[[probes]]
tcp = "${secrets.token}:1"
timeout = "100ms"
[[probes]]
dns = "${secrets.token}.invalid"
timeout = "100ms"
[[probes]]
command = ["sh", "-c", "echo no access with $0; false", "${secrets.token}"]
timeout = "100ms"
"#;

/// A project whose tests let the secret slip, and all that its calls print.
struct Leaky {
    subject: Subject,
    since: SystemTime,
    printed: String,
}

impl Leaky {
    fn new() -> Self {
        Self::with(&[])
    }

    /// The same with other files as well, or in the place of those.
    fn with(others: &[(&str, &str)]) -> Self {
        let subject = Subject::new();
        let files = [&FILES[..], others].concat();
        let mut content = DefaultHasher::new();
        files.hash(&mut content);
        let manifest = fs::read_to_string(subject.path().join("Cargo.toml")).unwrap();
        let (before, version) = manifest.split_once("version = \"").unwrap();
        let (_, after) = version.split_once('"').unwrap();
        let manifest = format!(
            "{before}version = \"0.2.{}\"{after}[[test]]\nname = \"leaks\"\nharness = false\n",
            content.finish() >> 32
        );
        for (path, content) in files.into_iter().chain([("Cargo.toml", &*manifest)]) {
            subject.write(path, content);
            // Older than whatever was built: the version tells cargo the contents apart.
            let file = File::options().write(true).open(subject.path().join(path)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        }
        fs::create_dir(subject.path().join("tmp")).unwrap();
        Self { subject, since: SystemTime::now(), printed: String::new() }
    }

    /// Calls the program; what it prints and leaves in folders is looked at later.
    fn call(&mut self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        let mut command = self.subject.command(arguments);
        command.env("TMPDIR", self.subject.path().join("tmp")).envs(variables.iter().copied());
        let ran = Ran::of(&mut command);
        self.printed += &ran.stdout;
        self.printed += &ran.stderr;
        ran
    }

    /// Runs all tests in every way of showing it, and has all of it reported.
    fn run(&mut self, store: &[&str], variables: &[(&str, &str)]) {
        let tests = ["--test", "leaks", "--test", "plain_leaks", "--env", "staging", "--no-fail-fast"];
        let run = |more: &[&'static str]| [&["run"], &tests[..], more, store].concat();
        let shown = self.call(&run(&["--retries", "1", "--run-id", "one"]), variables);
        assert_eq!(shown.code, Some(100), "{shown:?}");
        let word = "[secret token]";
        for place in [
            format!("whole: {word}."),
            format!("in pieces: {word}."),
            format!("in colours: {word}."),
            format!("half of it: {word}"),
            format!("signed in with {:?}", forms(SECRET).map(|_| word)),
            format!("no access: [\\\"{word}\\\""),
            format!("not with {word}"),
            format!("serving {word}. {word}."),
        ] {
            assert!(shown.stdout.contains(&place), "{place}: {}", shown.stdout);
        }
        assert!(shown.stdout.contains("2 passed, 5 failed, 2 crashed, 1 skipped"), "{}", shown.stdout);
        let checked = self.call(&[&["env", "check", "staging"], store].concat(), variables);
        assert_eq!(checked.code, Some(0), "{checked:?}");
        let streamed = self.call(&run(&["--format", "json"]), variables);
        assert!(streamed.stdout.contains(&format!("sign in with {word}")), "{}", streamed.stdout);
        let passed_on = self.call(&run(&["--no-capture"]), variables);
        for place in ["in pieces", "in colours"] {
            assert!(passed_on.stdout.contains(&format!("{place}: {word}.")), "{}", passed_on.stdout);
        }
        for more in [
            &["runs", "show", "one"][..],
            &["runs", "show", "one", "--format", "json"],
            &["report", "show", "one"],
            &["report", "export", "one", "-o", "junit.xml"],
            &["env", "show", "staging"],
            &["env", "show", "staging", "--format", "json"],
        ] {
            let ran = self.call(&[more, store].concat(), variables);
            assert_eq!(ran.code, Some(0), "{more:?}: {ran:?}");
        }
        let junit = fs::read_to_string(self.subject.path().join("junit.xml")).unwrap();
        assert!(junit.contains(word), "{junit}");
    }

    /// Fails where a form of the secret was printed, or is in a file that was written
    /// meanwhile, in the project or where cargo builds it.
    fn kept_quiet(&self, but: &[&str]) {
        free_of_secrets("what was printed", self.printed.as_bytes());
        let mut files = Vec::new();
        files_since(self.subject.path(), self.since, &mut files);
        assert!(files.iter().any(|file| file.ends_with("junit.xml")), "{files:?}");
        files_since(&Project::target().join("debug/.fingerprint"), self.since, &mut files);
        for file in files {
            let name = file.to_string_lossy();
            if !but.iter().any(|but| name.contains(but)) {
                // Files of other tests come and go.
                free_of_secrets(&name, &fs::read(&file).unwrap_or_default());
            }
        }
    }
}

fn free_of_secrets(place: &str, bytes: &[u8]) {
    // What a terminal makes of it.
    let plain = String::from_utf8_lossy(bytes).replace("\u{1b}[1m", "");
    for form in forms(SECRET).into_iter().chain([SECRET[..SECRET.len() / 2].to_owned()]) {
        assert!(!plain.contains(&form), "on a terminal it holds {form}: {place}");
        let found = bytes.windows(form.len()).position(|part| part == form.as_bytes());
        let around = found.map(|at| String::from_utf8_lossy(&bytes[at.saturating_sub(200)..at]));
        assert_eq!(around, None, "it holds {form} behind this: {place}");
    }
}

fn files_since(folder: &Path, since: SystemTime, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            files_since(&entry.path(), since, files);
        } else if metadata.modified().is_ok_and(|modified| modified >= since) {
            files.push(entry.path());
        }
    }
}

/// Fails where a form of the secret is in a key or value of the store, but for those that
/// begin so; and where the output of the tests is not there at all.
async fn store_kept_quiet(store: &dyn Store, but: Option<&str>) {
    let (mut outputs, mut secrets) = (0, 0);
    for pair in list_chunks(store, KeyRange::prefix("/")).await.unwrap().pairs {
        let key = pair.key.to_string();
        if but.is_some_and(|but| key.starts_with(but)) {
            secrets += 1;
            continue;
        }
        free_of_secrets("a key", key.as_bytes());
        free_of_secrets(&key, &pair.value);
        if let Ok(content) = decompress(&pair.key, &pair.value) {
            free_of_secrets(&key, &content);
            outputs += usize::from(String::from_utf8_lossy(&content).contains("[secret token]"));
        }
    }
    assert!(outputs > 10, "{outputs}");
    assert_eq!(secrets > 0, but.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tests_let_slip_is_nowhere_on_this_machine_if_secrets_are_encrypted() {
    let mut leaky = Leaky::new();
    let identity = age::x25519::Identity::generate();
    let key = identity.to_string();
    leaky.subject.write(
        "environments/staging.toml",
        &format!("recipients = [\"{}\"]\n{}", identity.to_public(), ENVIRONMENT),
    );
    let applied = leaky.call(&["env", "apply", "environments"], &[("SHOP_TOKEN", SECRET)]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    leaky.run(&[], &[("ETCDTEST_AGE_KEY", key.expose_secret())]);
    leaky.kept_quiet(&[]);
    let store = LocalStore::open(&leaky.subject.path().join(".etcdtest")).unwrap();
    store_kept_quiet(&store, None).await;
    assert!(!leaky.printed.contains(key.expose_secret()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tests_let_slip_is_in_etcd_under_secrets_only() {
    let etcd = Etcd::start();
    let endpoint = etcd.endpoint();
    let store = ["--endpoints", &endpoint];
    let mut leaky = Leaky::new();
    let apply = [&["env", "apply", "environments"], &store[..]].concat();
    assert_eq!(leaky.call(&apply, &[("SHOP_TOKEN", SECRET)]).code, Some(0));
    leaky.run(&store, &[]);
    leaky.kept_quiet(&[]);
    store_kept_quiet(&etcd.connect().await, Some("/secrets/staging/token/")).await;
}

#[test]
fn what_is_not_ready_says_why_without_its_secrets() {
    let mut leaky = Leaky::new();
    leaky.subject.write("environments/staging.toml", &format!("{ENVIRONMENT}{PROBES}"));
    assert_eq!(leaky.call(&["env", "apply", "environments"], &[("SHOP_TOKEN", SECRET)]).code, Some(0));
    let checked = leaky.call(&["env", "check", "staging"], &[]);
    assert_eq!(checked.code, Some(102), "{checked:?}");
    assert!(checked.stdout.contains("no access with [secret token]"), "{checked:?}");
    let streamed = leaky.call(&["env", "check", "staging", "--format", "json"], &[]);
    assert_eq!(streamed.stdout.matches("\"not-ready\"").count(), 4, "{streamed:?}");
    let run = leaky.call(&["run", "--env", "staging", "--test", "leaks"], &[]);
    assert_eq!(run.code, Some(102), "{run:?}");
    free_of_secrets("what was printed", leaky.printed.as_bytes());
}

#[test]
fn without_the_right_identity_nothing_is_built_or_run() {
    // It would not build.
    let mut leaky = Leaky::with(&[("tests/leaks.rs", "fn")]);
    let (ann, bob) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    let file = format!("recipients = [\"{}\"]\n{}", ann.to_public(), ENVIRONMENT);
    leaky.subject.write("environments/staging.toml", &file);
    leaky.subject.write("bob.txt", bob.to_string().expose_secret());
    assert_eq!(leaky.call(&["env", "apply", "environments"], &[("SHOP_TOKEN", SECRET)]).code, Some(0));
    let run = ["run", "--env", "staging", "--test", "leaks"];
    let token = "the secret `token` of `staging` is encrypted";
    leaky.call(&run, &[]).refuses(102, &[token, "there is no identity", "--identity"]);
    let others = "for others than the identity that was given";
    leaky.call(&run, &[("ETCDTEST_IDENTITY", "bob.txt")]).refuses(102, &[token, others]);
    leaky.call(&[&run[..], &["--identity", "bob.txt"]].concat(), &[]).refuses(102, &[token, others]);
    let bob = bob.to_string();
    leaky.call(&run, &[("ETCDTEST_AGE_KEY", bob.expose_secret())]).refuses(102, &[token, others]);
    assert!(!leaky.printed.contains(bob.expose_secret()));
    leaky.call(&run, &[("ETCDTEST_AGE_KEY", ann.to_string().expose_secret())]).refuses(101, &["leaks.rs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_to_an_encrypted_environment_is_encrypted_too() {
    let mut leaky = Leaky::new();
    let ann = age::x25519::Identity::generate();
    let file = format!("recipients = [\"{}\"]\n{}", ann.to_public(), ENVIRONMENT);
    leaky.subject.write("environments/staging.toml", &file);
    let child = "extends = \"staging\"\n[secrets]\nown = { env = \"OWN\" }\n";
    leaky.subject.write("environments/child.toml", child);
    let values = [("SHOP_TOKEN", SECRET), ("OWN", "one-of-the-child"), ("LATER", "one-of-the-editor")];
    assert_eq!(leaky.call(&["env", "apply", "environments"], &values).code, Some(0));
    leaky.subject.write("edit.sh", "printf '\\n[secrets.later]\\nenv = \"LATER\"\\n' >> \"$1\"\n");
    let edited =
        leaky.call(&["env", "edit", "staging"], &[&values[..], &[("EDITOR", "sh edit.sh")]].concat());
    assert_eq!(edited.code, Some(0), "{edited:?}");

    let store = LocalStore::open(&leaky.subject.path().join(".etcdtest")).unwrap();
    let page = cargo_etcdtest::store::list(&store, KeyRange::prefix("/secrets/")).await.unwrap();
    let names: Vec<_> = page.pairs.iter().map(|pair| pair.key.to_string()).collect();
    for name in ["/secrets/child/own/", "/secrets/staging/later/", "/secrets/staging/token/"] {
        assert!(names.iter().any(|key| key.starts_with(name)), "{name} in {names:?}");
    }
    for pair in page.pairs {
        assert!(String::from_utf8_lossy(&pair.value).contains("ciphertext"), "{}", pair.key);
    }
}

/// The project of `leaky` in an environment of one secret, for one person, as it is stored.
fn encrypted(leaky: &mut Leaky) -> age::x25519::Identity {
    let ann = age::x25519::Identity::generate();
    let file =
        format!("recipients = [\"{}\"]\n[secrets]\ntoken = {{ env = \"SHOP_TOKEN\" }}\n", ann.to_public());
    leaky.subject.write("environments/staging.toml", &file);
    assert_eq!(leaky.call(&["env", "apply", "environments"], &[("SHOP_TOKEN", SECRET)]).code, Some(0));
    ann
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_put_in_the_place_of_an_encrypted_one_is_refused() {
    let mut leaky = Leaky::new();
    let ann = encrypted(&mut leaky);
    let store = LocalStore::open(&leaky.subject.path().join(".etcdtest")).unwrap();
    let key = keys::secret("staging", "token", 1);
    let forged = br#"{"schema":1,"value":"one-of-mine"}"#.to_vec();
    let txn = Txn { compares: vec![], then: vec![Op::put(key, forged)], otherwise: vec![] };
    store.txn(txn).await.unwrap();
    let run = ["run", "--env", "staging", "--test", "leaks"];
    let identity = [("ETCDTEST_AGE_KEY", ann.to_string())];
    let identity = identity.each_ref().map(|(name, key)| (*name, key.expose_secret()));
    leaky.call(&run, &identity).refuses(102, &["/secrets/staging/token/", "is not encrypted"]);
}

#[test]
fn recipients_are_shown_inherited_and_changed_like_all_else() {
    let mut leaky = Leaky::new();
    let ann = encrypted(&mut leaky);
    let bob = age::x25519::Identity::generate().to_public().to_string();
    let (ann, key) = (ann.to_public().to_string(), ann.to_string());
    let child = "extends = \"staging\"\n[secrets]\nown = { env = \"OWN\" }\n";
    leaky.subject.write("environments/child.toml", child);
    let apply = ["env", "apply", "environments"];
    let given = [("OWN", "one-of-the-child"), ("ETCDTEST_AGE_KEY", key.expose_secret())];
    assert_eq!(leaky.call(&apply, &given).code, Some(0));
    let shown = leaky.call(&["env", "show", "child"], &[]);
    assert!(shown.stdout.contains(&format!("\"{ann}\"")), "{shown:?}");
    assert!(shown.stdout.contains("encrypted = true"), "{shown:?}");
    let file =
        format!("recipients = [\"{bob}\", \"{ann}\"]\n[secrets]\ntoken = {{ env = \"SHOP_TOKEN\" }}\n");
    leaky.subject.write("environments/staging.toml", &file);
    let rotated = leaky.call(&apply, &[("ETCDTEST_AGE_KEY", key.expose_secret())]);
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    for name in ["staging", "child"] {
        let shown = leaky.call(&["env", "show", name, "--format", "json"], &[]);
        let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
        let mut both = [ann.as_str(), &bob];
        both.sort_unstable();
        assert_eq!(shown["recipients"], serde_json::json!(both), "{shown}");
        assert_eq!(shown["secrets"]["token"]["version"], 2, "{shown}");
        assert_eq!(shown["secrets"]["token"]["encrypted"], true, "{shown}");
    }
}

#[test]
fn a_secret_that_stands_elsewhere_too_is_refused_and_not_shown() {
    let mut leaky = Leaky::new();
    let secret = "[secrets]\ntoken = { env = \"SHOP_TOKEN\" }\n";
    let write = |leaky: &Leaky, more: &str| {
        leaky.subject.write("environments/staging.toml", &format!("{more}{secret}"));
    };
    let apply = ["env", "apply", "environments"];
    write(&leaky, &format!("[config]\nlogin = \"shop:{SECRET}\"\n"));
    let refused = leaky.call(&apply, &[("SHOP_TOKEN", SECRET)]);
    refused.refuses(2, &["staging.toml:2:9", "`config.login` holds the value of the secret `token`"]);
    leaky.subject.write("environments/users.json", &format!("{{\"password\": \"{SECRET}\"}}"));
    write(&leaky, "[data]\nusers = \"users.json\"\n");
    let refused = leaky.call(&apply, &[("SHOP_TOKEN", SECRET)]);
    refused.refuses(2, &["staging.toml:2:9", "it holds the value of the secret `token`"]);
    // A word of every day may stand for something else.
    write(&leaky, "[config]\nlogin = \"shop:postgres\"\n");
    assert_eq!(leaky.call(&apply, &[("SHOP_TOKEN", "postgres")]).code, Some(0));
    // One that is stored already is known as well.
    write(&leaky, "");
    let message = format!("now with {SECRET}");
    let applied = leaky.call(&[&apply[..], &["--message", &message]].concat(), &[("SHOP_TOKEN", SECRET)]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    write(&leaky, &format!("description = \"{SECRET}\"\n"));
    leaky.call(&apply, &[]).refuses(2, &["staging.toml:1:15", "the secret `token`"]);
    let history = leaky.call(&["env", "history", "staging"], &[]);
    assert!(history.stdout.contains("now with [secret token]"), "{history:?}");
    free_of_secrets("what was printed", leaky.printed.as_bytes());
}

#[test]
fn why_a_run_was_cancelled_is_kept_without_its_secrets() {
    let mut leaky = Leaky::new();
    leaky.subject.write("environments/staging.toml", "[secrets]\ntoken = { env = \"SHOP_TOKEN\" }\n");
    let applied = leaky.call(&["env", "apply", "environments"], &[("SHOP_TOKEN", SECRET)]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let arguments = ["endless::waits_too", "--env", "staging", "--run-id", "cut"];
    let mut run = leaky.subject.start(&arguments);
    run.line_with("Starting").unwrap();
    let why = format!("everybody knows {SECRET} by now");
    let cancelled = leaky.call(&["runs", "cancel", "cut", "--why", &why], &[]);
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    let ended = run.end();
    let shown = leaky.call(&["runs", "show", "cut"], &[]);
    for told in [&ended.stdout, &shown.stdout] {
        assert!(told.contains("cancelled it: everybody knows [secret token] by now"), "{told}");
    }
    free_of_secrets("what was printed", (leaky.printed + &ended.stdout).as_bytes());
}

#[test]
fn a_secret_that_is_one_of_libtests_own_words_changes_no_outcome() {
    let plain = "#[test]\nfn passes() {}\n#[test]\nfn fails() { panic!(\"no\") }\n";
    let environment = "[secrets]\na = { env = \"A\" }\nb = { env = \"B\" }\n";
    let mut leaky =
        Leaky::with(&[("tests/plain_leaks.rs", plain), ("environments/staging.toml", environment)]);
    let words = [("A", "test"), ("B", "passed")];
    assert_eq!(leaky.call(&["env", "apply", "environments"], &words).code, Some(0));
    let run = ["run", "--env", "staging", "--test", "plain_leaks", "--no-fail-fast"];
    let ran = leaky.call(&run, &[]);
    assert!(ran.stdout.contains("1 passed, 1 failed"), "{ran:?}");
}
