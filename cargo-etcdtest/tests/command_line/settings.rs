//! Settings, and `store status` which shows them.

use std::net::TcpListener;

use serde_json::Value;

use super::program::{Folder, Said};

/// An address where nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn setting<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["settings"].as_array().unwrap().iter().find(|setting| setting["name"] == name).unwrap()
}

#[test]
fn the_status_of_the_local_store_names_its_file_and_every_setting() {
    let folder = Folder::with(&[(".config/etcdtest.toml", "[profile.default]\nretries = 3\n")]);
    let status = folder.ok("store status");
    for part in ["store    local at ", ".etcdtest/store.db", ".config/etcdtest.toml:2 (profile default)"] {
        assert!(status.contains(part), "`{part}` is not in: {status}");
    }
    let status: Value = serde_json::from_str(&folder.ok("store status --format json")).unwrap();
    assert_eq!(status["store"]["kind"], "local");
    assert_eq!(setting(&status, "retries")["value"], "3");
    assert_eq!(setting(&status, "format")["origin"]["from"], "flag");
}

#[test]
fn a_store_that_is_not_reached_leaves_the_settings_to_be_seen() {
    let folder = Folder::with(&[]);
    let address = nobody();
    let mut command = folder.command(&format!("--endpoints {address} --user root store status"));
    let said = Said::of(command.env("ETCDTEST_PASSWORD", "hunter2").env("ETCDTEST_STORE_TIMEOUT", "1s"));
    said.failed(103, &["cannot be reached", &address, "--endpoints"]);
    assert!(said.stdout.contains("ETCDTEST_STORE_TIMEOUT"), "{}", said.stdout);
    assert!(!format!("{}{}", said.stdout, said.stderr).contains("hunter2"));
    folder.run(&format!("--endpoints {address} env list")).failed(103, &["cannot be reached"]);
}

#[test]
fn a_file_that_is_no_certificate_is_named() {
    let folder = Folder::with(&[("ca.pem", "no certificate\n")]);
    let said = folder.run(&format!("--endpoints {} --cacert ca.pem store status", nobody()));
    said.failed(2, &["ca.pem"]);
    let said = folder.run(&format!("--endpoints {} --cacert missing.pem store status", nobody()));
    said.failed(2, &["missing.pem"]);
    folder.run("--cert a.pem store status").failed(2, &["`cert` is set, but `key` is not"]);
}

#[test]
fn wrong_settings_end_every_verb_with_their_place() {
    let folder = Folder::with(&[(".config/etcdtest.toml", "[profile.ci]\nretrys = 3\n")]);
    for verb in ["env list", "runs list", "store status"] {
        folder.run(verb).failed(2, &[".config/etcdtest.toml:2:1", "did you mean `retries`?"]);
    }
    folder.write(".config/etcdtest.toml", "profile ci\n");
    folder.run("env list").failed(2, &["not valid TOML", ".config/etcdtest.toml:1:"]);
    folder.write(".config/etcdtest.toml", "[profile.ci]\n");
    folder.run("env list --profile cj").failed(2, &["no profile `cj`, chosen by --profile", "`ci`"]);
    let said = Said::of(folder.command("env list").env("ETCDTEST_PROFIL", "ci"));
    said.failed(2, &["ETCDTEST_PROFIL sets nothing", "did you mean ETCDTEST_PROFILE?"]);
    let said = Said::of(folder.command("env list").env("ETCDTEST_FORMAT", "yaml"));
    said.failed(2, &["ETCDTEST_FORMAT has a wrong value", "`human` or `json`"]);
    folder.run("env list --format yaml").failed(2, &["yaml"]);
    folder.run("env lst").failed(2, &["lst"]);
}

#[test]
fn colours_are_used_as_the_settings_say() {
    let folder = Folder::with(&[]);
    let coloured = |text: &str| text.contains('\u{1b}');
    assert!(!coloured(&folder.run("env show x").stderr));
    assert!(coloured(&folder.run("env show x --color always").stderr));
    assert!(coloured(&folder.ok("store status --color always")));
    let said = Said::of(folder.command("store status").env("CARGO_TERM_COLOR", "always"));
    assert!(coloured(&said.stdout));
    let said = Said::of(folder.command("store status --color never").env("CARGO_TERM_COLOR", "always"));
    assert!(!coloured(&said.stdout));
}
