//! Secrets of environments that are applied.

use std::process::Stdio;

use serde_json::{Value, json};

use super::program::{Folder, Said};

const ENVIRONMENT: &str = "[secrets]\ntoken = { env = \"SHOP_TOKEN\" }\n";

/// Calls the program with this token in its variable.
fn with_token(folder: &Folder, words: &str, token: &str) -> Said {
    let said = Said::of(folder.command(words).env("SHOP_TOKEN", token));
    assert!(!said.stdout.contains("hunter") && !said.stderr.contains("hunter"), "{}", said.stderr);
    said
}

/// Which version of the token the environment has.
fn token_version(folder: &Folder) -> Value {
    let shown: Value = serde_json::from_str(&folder.ok("env show staging --format json")).unwrap();
    assert_eq!(shown["secrets"]["token"]["environment"], "staging", "{shown}");
    shown["secrets"]["token"]["version"].clone()
}

#[test]
fn a_secret_has_a_new_version_where_its_value_is_another() {
    let folder = Folder::with(&[("staging.toml", ENVIRONMENT)]);
    for (token, said, version) in [
        ("hunter1", "staging applied, version 1\n", 1),
        ("hunter1", "staging unchanged, version 1\n", 1),
        ("hunter2", "staging applied, version 2\n", 2),
    ] {
        assert_eq!(with_token(&folder, "env apply staging.toml", token).stdout, said);
        assert_eq!(token_version(&folder), json!(version));
    }
}

#[test]
fn a_secret_that_is_not_at_hand_stays_as_it_is_stored() {
    let folder = Folder::with(&[("staging.toml", ENVIRONMENT)]);
    let missing = [
        "the secret `token` of `staging` cannot be read",
        "the variable SHOP_TOKEN is not set",
        "SHOP_TOKEN=…",
    ];
    folder.run("env apply staging.toml").failed(2, &missing);
    assert_eq!(folder.ok("env list --format json"), "", "nothing was written");
    with_token(&folder, "env apply staging.toml", "hunter1");
    folder.write("staging.toml", &format!("description = \"the shop\"\n{ENVIRONMENT}"));
    let said = folder.run("env apply staging.toml");
    assert_eq!(said.stdout, "staging applied, version 2\n");
    assert_eq!(said.stderr, "the secret token was not given, and stays as it is stored\n");
    assert_eq!(token_version(&folder), json!(1));
    // Of an environment that was deleted nothing is taken over.
    folder.ok("env delete staging --yes");
    folder.run("env apply staging.toml").failed(2, &missing);
}

#[test]
fn a_secret_comes_from_a_file_beside_or_from_a_command_but_not_from_nobody() {
    let folder = Folder::with(&[("environments/token", "hunter1\n")]);
    let of =
        |from: &str| folder.write("environments/staging.toml", &format!("[secrets]\ntoken = {{ {from} }}\n"));
    of("file = \"token\"");
    folder.ok("env apply environments");
    of("command = [\"echo\", \"hunter1\"]");
    assert_eq!(folder.ok("env apply environments"), "staging unchanged, version 1\n", "it is the same value");
    of("command = [\"sh\", \"-c\", \"echo hunter2; echo hunter2 is locked >&2; false\"]");
    let said = folder.run("env apply environments");
    said.failed(2, &["environments/staging.toml:2:9", "sh ended with exit status: 1"]);
    assert!(!said.stdout.contains("hunter2") && !said.stderr.contains("is locked\n"), "{}", said.stderr);
    folder.ok("env delete staging --yes");
    of("prompt = true");
    folder.run("env apply environments").failed(2, &["nobody is there to type it", "token = { env ="]);
    for (token, reason) in [("", "it is empty"), ("abc", "it is shorter than 4 characters")] {
        folder.write("environments/staging.toml", ENVIRONMENT);
        with_token(&folder, "env apply environments", token).failed(2, &[reason]);
    }
}

#[test]
fn secrets_are_encrypted_for_recipients_and_again_for_others() {
    use age::secrecy::ExposeSecret as _;
    let folder = Folder::with(&[]);
    let person = |name: &str| {
        let identity = age::x25519::Identity::generate();
        folder.write(name, &format!("# {name}\n{}\n", identity.to_string().expose_secret()));
        identity.to_public().to_string()
    };
    let (ann, bob) = (person("ann.txt"), person("bob.txt"));
    let for_those = |recipients: &[&str]| {
        folder.write("staging.toml", &format!("recipients = {recipients:?}\n{ENVIRONMENT}"));
    };
    let holds = |text: &str| {
        let files = std::fs::read_dir(folder.path(".etcdtest")).unwrap();
        files
            .map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .any(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
    };
    for_those(&[&ann]);
    with_token(&folder, "env apply staging.toml", "hunter1-hunter2");
    assert!(holds("/secrets/staging/token/") && !holds("hunter1-hunter2"));
    // Without an identity nobody can tell that it is the same; with it, it is.
    with_token(&folder, "env apply staging.toml", "hunter1-hunter2");
    assert_eq!(token_version(&folder), json!(2));
    with_token(&folder, "env apply staging.toml --identity ann.txt", "hunter1-hunter2");
    assert_eq!(token_version(&folder), json!(2));
    // Whoever can read it can hand it on without knowing it.
    for_those(&[&ann, &bob]);
    folder.run("env apply staging.toml").failed(102, &["there is no identity", "ETCDTEST_IDENTITY"]);
    folder.run("env apply staging.toml --identity bob.txt").failed(102, &["encrypted for others"]);
    folder.ok("env apply staging.toml --identity ann.txt");
    assert_eq!(token_version(&folder), json!(3));
    assert!(!holds("hunter1-hunter2"));

    for_those(&["age1wrong"]);
    with_token(&folder, "env apply staging.toml", "hunter1")
        .failed(2, &["staging.toml:1:15", "is no recipient of age"]);
    for_those(&[&ann]);
    for (file, reason) in [("gone.txt", "No such file"), ("staging.toml", "data on line 1")] {
        folder.run(&format!("env apply staging.toml --identity {file}")).failed(102, &[file, reason]);
    }
    let said = Said::of(
        folder.command("env apply staging.toml").env("ETCDTEST_AGE_KEY", "hunter1").stdin(Stdio::null()),
    );
    said.failed(102, &["what ETCDTEST_AGE_KEY holds is no age identity"]);
    assert!(!said.stderr.contains("hunter1"));
}

#[test]
fn what_is_typed_about_an_environment_is_kept_without_its_secrets() {
    let folder = Folder::with(&[("staging.toml", &format!("capacity = 1\n{ENVIRONMENT}"))]);
    with_token(&folder, "env apply staging.toml", "hunter1");
    with_token(&folder, "env apply staging.toml", "hunter2");
    folder.ok("env rollback staging@1 --message from=hunter2,to=hunter1");
    let history = folder.ok("env history staging");
    let message = "rollback to version 1: from=[secret token],to=[secret token]";
    assert!(history.contains(message) && !history.contains("hunter"), "{history}");
    folder.ok("env reserve staging --for 1h --why rotating-hunter1");
    let shown = folder.ok("env show staging");
    assert!(shown.contains("rotating-[secret token]") && !shown.contains("hunter"), "{shown}");
}
