//! `env`.

use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{Op, Store, Txn};
use serde_json::{Value, json};

use super::program::{Folder, Said, program};

const STAGING: &str = "description = \"the shop\"\n[config]\nurl = \"http://a\"\n";

#[test]
fn what_is_applied_is_listed_shown_and_deleted() {
    let folder = Folder::with(&[("environments/staging.toml", STAGING), ("environments/local.toml", "")]);
    assert!(folder.ok("env list").contains("no environments yet"));
    assert_eq!(folder.ok("env apply environments"), "local applied, version 1\nstaging applied, version 1\n");
    assert_eq!(folder.ok("env apply environments/staging.toml"), "staging unchanged, version 1\n");
    let listed = folder.ok("env list");
    assert!(listed.contains("staging  1") && listed.contains("the shop"), "{listed}");
    let shown: Value = serde_json::from_str(&folder.ok("env show staging --format json")).unwrap();
    assert_eq!((&shown["version"], &shown["config"]), (&json!(1), &json!({ "url": "http://a" })));
    assert_eq!(folder.ok("env delete staging local --yes"), "staging deleted\nlocal deleted\n");
    assert_eq!(folder.ok("env list --format json"), "");
    let applied = folder.ok("env apply environments/staging.toml --format json");
    let applied: Value = serde_json::from_str(&applied).unwrap();
    assert_eq!((&applied["version"], &applied["changed"]), (&json!(2), &json!(true)));
}

#[test]
fn what_is_shown_can_be_applied_again() {
    let folder = Folder::with(&[("staging.toml", STAGING)]);
    folder.ok("env apply staging.toml");
    folder.write("shown.txt", &folder.ok("env show staging"));
    assert_eq!(folder.ok("env apply shown.txt --name staging"), "staging unchanged, version 1\n");
    assert_eq!(folder.ok("env apply shown.txt --name other"), "other applied, version 1\n");
    folder.run("env apply shown.txt staging.toml --name x").failed(2, &["--name is for one file only"]);
    folder.run("env apply shown.txt").failed(2, &["shown.txt is not called NAME.toml", "--name"]);
}

#[test]
fn of_a_folder_with_a_wrong_file_nothing_is_applied() {
    let folder = Folder::with(&[("e/a.toml", STAGING), ("e/b.toml", "[confg]\nurl = 1\n")]);
    folder.run("env apply e").failed(2, &["unknown key `confg`", "e/b.toml:1:2", "did you mean `config`?"]);
    assert_eq!(folder.ok("env list --format json"), "");
}

#[test]
fn all_mistakes_of_all_files_are_shown_at_once() {
    let folder = Folder::with(&[
        ("e/a.toml", "[confg]\nurl = 1\n[data]\n"),
        ("e/b.toml", "capacity = 0\n[config]\nx = nan\n"),
        ("e/c.toml", "a ="),
        ("other.txt", ""),
    ]);
    folder.run("env apply e other.txt missing").failed(
        2,
        &[
            "6 mistakes",
            "e/a.toml:1:2",
            "e/b.toml:1:12",
            "e/b.toml:3:5",
            "e/c.toml:1:4",
            "other.txt is not called",
            "failed to read missing",
        ],
    );
    folder.write("e/a.toml", "[data]\nusers = \"none.json\"\nshops = \"none\"\n");
    folder.write("e/b.toml", "[data]\nusers = \"none.json\"\n");
    folder.write("e/c.toml", "");
    folder.run("env apply e").failed(2, &["3 mistakes", "e/a.toml:2:9", "e/a.toml:3:9", "e/b.toml:2:9"]);
    assert_eq!(folder.ok("env list --format json"), "");
}

#[test]
fn a_secret_that_is_not_given_keeps_all_files_from_being_applied() {
    let file =
        "extends = \"base\"\n[secrets]\none = { env = \"NOT_SET_1\" }\ntwo = { env = \"NOT_SET_2\" }\n";
    let folder = Folder::with(&[("e/base.toml", BASE), ("e/eu.toml", file)]);
    folder.run("env apply e").failed(2, &["2 mistakes", "e/eu.toml:3:7", "e/eu.toml:4:7"]);
    assert_eq!(folder.ok("env list --format json"), "");
}

#[test]
fn an_environment_is_checked_where_there_is_no_project() {
    let folder = Folder::with(&[("a.toml", "")]);
    folder.ok("env apply a.toml");
    let said = folder.run("env check a");
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_base_that_others_need_is_changed_together_with_them() {
    let folder = Folder::with(&[("e/base.toml", BASE), ("e/eu.toml", EU)]);
    folder.ok("env apply e");
    folder.write("e/base.toml", "[config]\nhots = \"h\"\n");
    folder
        .run("env apply e/base.toml")
        .failed(2, &["`eu`, which extends `base`, would not hold together", "config.url", "a changed `eu`"]);
    folder.write("e/eu.toml", "extends = \"base\"\n");
    assert_eq!(folder.ok("env apply e"), "base applied, version 2\neu applied, version 2\n");
}

#[test]
fn what_is_probably_meant_otherwise_is_applied_with_a_warning() {
    let folder = Folder::with(&[("a.toml", "[config]\ncapacity = 1\n")]);
    let said = folder.run("env apply a.toml");
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "a applied, version 1\n"));
    assert!(said.stderr.contains("⚠ `config.capacity` is a value that tests read"), "{}", said.stderr);
}

#[test]
fn an_unknown_environment_is_named_with_the_nearest() {
    let folder = Folder::with(&[("staging.toml", STAGING)]);
    folder.run("env show stagin").failed(102, &["there is no environment `stagin`", "there is none yet"]);
    folder.ok("env apply staging.toml");
    for verb in ["env show stagin", "env edit stagin", "env delete stagin --yes"] {
        folder.run(verb).failed(102, &["there is no environment `stagin`", "did you mean `staging`?"]);
    }
    folder
        .run("env delete staging other --yes")
        .failed(102, &["is no environment `other`", "there is: staging"]);
    folder.run("env delete stagin stagging staging other --yes").failed(
        102,
        &[
            "no environments `stagin`, `stagging`, `other`",
            "`staging` for `stagin`, `staging` for `stagging`",
        ],
    );
    for verb in ["env release stagin", "env release stagin --force", "env reserve stagin --for 1h"] {
        folder.run(verb).failed(102, &["there is no environment `stagin`", "did you mean `staging`?"]);
    }
    assert!(folder.ok("env list").contains("staging"));
}

#[test]
fn nothing_is_deleted_unasked() {
    let folder = Folder::with(&[("staging.toml", STAGING)]);
    folder.ok("env apply staging.toml");
    folder.run("env delete staging").failed(2, &["--yes"]);
    assert!(folder.ok("env list").contains("staging"));
}

/// An edit with this shell command, which finds the file in `$1`.
fn edit(folder: &Folder, commands: &str) -> Said {
    folder.write("editor.sh", commands);
    let editor = format!("sh '{}'", folder.path("editor.sh").display());
    Said::of(folder.command("env edit staging").env("EDITOR", editor))
}

#[test]
fn an_edit_is_a_new_version() {
    let folder = Folder::with(&[("staging.toml", STAGING)]);
    folder.ok("env apply staging.toml");
    assert_eq!(edit(&folder, "true").stdout, "staging unchanged, version 1\n");
    let said = edit(&folder, "echo 'more = 1' >> \"$1\"");
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (Some(0), "staging applied, version 2\n"),
        "{}",
        said.stderr
    );
    assert!(folder.ok("env show staging").contains("more = 1"));
    assert!(folder.left_over().is_empty());
}

#[test]
fn an_emptied_text_changes_nothing() {
    let folder = Folder::with(&[("staging.toml", STAGING)]);
    folder.ok("env apply staging.toml");
    for emptied in [": > \"$1\"", "printf ' \\n# nothing\\n\\n' > \"$1\""] {
        edit(&folder, emptied)
            .failed(2, &["`staging` was not changed: its text is empty", "env delete staging"]);
        assert!(folder.left_over().is_empty());
    }
    assert_eq!(edit(&folder, "echo '[config]' > \"$1\"").stdout, "staging applied, version 2\n");
}

#[test]
fn stored_secrets_and_data_are_lost_with_their_own_line_only() {
    let text =
        "[config]\na = 1\n[secrets]\none = { file = \"f\" }\ntwo = { file = \"f\" }\n[data]\nset = \"g\"\n";
    let folder = Folder::with(&[("staging.toml", text), ("f", "hunter22\n"), ("g", "users\n")]);
    folder.ok("env apply staging.toml");
    for header in ["secrets", "data"] {
        let said = edit(&folder, &format!("sed -i '/^.{header}.$/d' \"$1\""));
        assert_eq!(said.code, Some(2), "{header}: {}", said.stderr);
    }
    assert_eq!(edit(&folder, "true").stdout, "staging unchanged, version 1\n");
    assert_eq!(edit(&folder, "sed -i '/^one/d' \"$1\"").stdout, "staging applied, version 2\n");
    let shown: Value = serde_json::from_str(&folder.ok("env show staging --format json")).unwrap();
    let names: Vec<_> = shown["secrets"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((names, shown["config"].clone()), (vec!["two"], json!({ "a": 1 })));
}

#[test]
fn secrets_are_compared_and_not_shown() {
    let text = "[secrets]\nsame = { file = \"same\" }\nother = { file = \"other\" }\n";
    let folder =
        Folder::with(&[("a.toml", text), ("b.toml", text), ("same", "hunter22"), ("other", "hunter33")]);
    folder.ok("env apply a.toml");
    folder.write("other", "hunter44");
    folder.ok("env apply a.toml b.toml");
    let other = |a: &str, b: &str| {
        format!(
            "- secrets.other = {{ environment = {a} }}\n+ secrets.other = {{ environment = {b} }}  # another value\n"
        )
    };
    assert_eq!(
        folder.ok("env diff a@1 b"),
        format!("a@1 → b@1\n{}", other("\"a\", version = 1", "\"b\", version = 1"))
    );
    assert_eq!(folder.ok("env diff a b"), "a@2 → b@1\nno difference\n");
    let line: Value = serde_json::from_str(&folder.ok("env diff a@1 a --format json")).unwrap();
    assert_eq!((&line["path"], &line["compared"]), (&json!("secrets.other"), &json!(true)));
}

#[test]
fn what_was_written_is_kept_where_it_is_wrong() {
    let folder = Folder::with(&[("staging.toml", STAGING)]);
    folder.ok("env apply staging.toml");
    let said = edit(&folder, "echo 'more =' >> \"$1\"");
    let [kept] = &folder.left_over()[..] else { panic!("one file is kept: {}", said.stderr) };
    said.failed(2, &["staging.toml:5:7", &kept.display().to_string()]);
    assert!(std::fs::read_to_string(kept).unwrap().ends_with("more =\n"));
    assert!(!folder.ok("env show staging").contains("more"));
}

#[test]
fn what_was_written_is_kept_where_somebody_else_was_faster() {
    let folder = Folder::with(&[("staging.toml", STAGING)]);
    folder.ok("env apply staging.toml");
    folder.write("staging.toml", "[config]\nby = \"somebody else\"\n");
    let apply = format!("'{}' etcdtest env apply staging.toml >&2", program().display());
    let said = edit(&folder, &format!("{apply}\necho 'mine = 1' >> \"$1\""));
    let [kept] = &folder.left_over()[..] else { panic!("one file is kept: {}", said.stderr) };
    said.failed(2, &["changed by somebody else", "version 2", &kept.display().to_string()]);
    assert!(folder.ok("env show staging").contains("somebody else"));
}

#[test]
fn an_editor_that_is_missing_is_named() {
    let folder = Folder::with(&[("staging.toml", STAGING)]);
    folder.ok("env apply staging.toml");
    let said = Said::of(folder.command("env edit staging").env("EDITOR", "/there/is/none"));
    said.failed(2, &["/there/is/none", "set VISUAL or EDITOR"]);
    assert!(folder.left_over().is_empty());
}

#[test]
fn processes_that_apply_at_once_make_a_version_each() {
    let folder = Folder::with(&[]);
    let apply = &|writer: usize| {
        folder.write(&format!("{writer}/staging.toml"), &format!("[config]\nwriter = {writer}\n"));
        let applied: Value =
            serde_json::from_str(&folder.ok(&format!("env apply {writer} --format json"))).unwrap();
        applied["version"].as_u64().unwrap()
    };
    let mut versions: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|writer| scope.spawn(move || apply(writer))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn an_environment_that_a_newer_version_wrote_is_refused() {
    let folder = Folder::with(&[]);
    let store = LocalStore::open(&folder.path(".etcdtest")).unwrap();
    let put = Op::put("/environments/staging", r#"{"schema":99}"#);
    store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    folder
        .run("env show staging")
        .failed(2, &["/environments/staging", "its schema is 99", "update this one"]);
}

const BASE: &str = "[config]\nhost = \"h\"\nlimits = { a = 1, b = 1 }\n";
const EU: &str =
    "description = \"eu\"\nextends = \"base\"\n[config]\nurl = \"http://${config.host}\"\nlimits.b = 2\n";

#[test]
fn what_is_inherited_is_shown_with_where_it_comes_from() {
    let folder = Folder::with(&[("e/base.toml", BASE), ("e/a-eu.toml", EU)]);
    assert_eq!(
        folder.ok("env apply e --message first"),
        "base applied, version 1\na-eu applied, version 1\n"
    );
    let shown = folder.ok("env show a-eu");
    for line in [
        "# first",
        "# with what it inherits from base@1",
        "host = \"h\"  # from base@1",
        "b = 2  # from a-eu@1",
        "url = \"http://${config.host}\"  # from a-eu@1",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    assert!(!folder.ok("env show a-eu --own").contains("host = "));
    let shown: Value = serde_json::from_str(&folder.ok("env show a-eu --format json")).unwrap();
    assert_eq!(shown["config"]["limits"], json!({ "a": 1, "b": 2 }));
    assert_eq!(shown["bases"][0]["name"], "base");
    let origins = shown["origins"].as_array().unwrap();
    let host = origins.iter().find(|origin| origin["path"] == "config.host").unwrap();
    assert_eq!(host["from"], shown["bases"][0]);
    folder.run("env delete base --yes").failed(2, &["`base` cannot be deleted: `a-eu` extends it"]);
    assert_eq!(folder.ok("env delete base a-eu --yes"), "a-eu deleted\nbase deleted\n");
}

#[test]
fn a_base_that_is_missing_is_shown_in_the_file() {
    let folder = Folder::with(&[("base.toml", BASE), ("e/eu.toml", &EU.replace("base", "bsae"))]);
    folder.ok("env apply base.toml");
    folder.run("env apply e").failed(2, &["e/eu.toml:2:11", "no environment `bsae`", "did you mean `base`?"]);
}

#[test]
fn versions_are_told_compared_and_brought_back() {
    let folder = Folder::with(&[("base.toml", BASE), ("eu.toml", EU)]);
    folder.ok("env apply base.toml");
    folder.write("base.toml", &BASE.replace("\"h\"", "[\"h\", 2]").replace("b = 1", "c = \"x y\""));
    folder.ok("env apply base.toml -m other");
    assert_eq!(
        folder.ok("env diff base@1"),
        "base@1 → base@2\n- config.host = \"h\"\n+ config.host = [\"h\", 2]\n\
         - config.limits.b = 1\n+ config.limits.c = \"x y\"\n"
    );
    assert_eq!(folder.ok("env diff base base@2"), "base@2 → base@2\nno difference\n");
    let first = folder.ok("env diff base@1 base --format json");
    let first: Value = serde_json::from_str(first.lines().nth(1).unwrap()).unwrap();
    assert_eq!(first, json!({ "path": "config.limits.b", "from": 1, "to": null }));
    folder.run("env diff base").failed(2, &["nothing to compare `base` with", "base@VERSION"]);

    assert_eq!(folder.ok("env rollback base@1"), "base applied, version 3\n");
    assert_eq!(folder.ok("env rollback base@1"), "base unchanged, version 3\n");
    folder.run("env rollback base").failed(2, &["to which version", "env history base"]);
    folder.run("env rollback base@9").failed(102, &["no version 9", "its last is 3"]);
    let history = folder.ok("env history base");
    let rows: Vec<_> = history.lines().collect();
    assert!(rows.len() == 4 && rows[1].ends_with("rollback to version 1"), "{history}");
    assert!(rows[2].ends_with("other") && rows[3].starts_with('1'), "{history}");
    let newest = folder.ok("env history base --format json");
    let newest: Value = serde_json::from_str(newest.lines().next().unwrap()).unwrap();
    assert_eq!((&newest["version"], &newest["message"]), (&json!(3), &json!("rollback to version 1")));
    assert!(folder.ok("env show base@2").contains("c = \"x y\""));
    folder.run("env show base@7").failed(102, &["no version 7"]);
    folder.run("env show base@x").failed(2, &["the number of a version is expected"]);
    folder.run("env history bsae").failed(102, &["did you mean `base`?"]);
}

#[test]
fn an_edit_keeps_all_that_a_file_can_say() {
    let text = "description = \"all\"\ncapacity = 2\n[labels]\nteam = \"a\"\n\
        [config]\nurl = \"${services.orders.url}/\"\n[services.orders]\ncommand = \"orders\"\n\
        args = [\"{port}\"]\nready = { log = \"ready\" }\nneeds = [\"stock\"]\n\
        [services.stock]\ncommand = \"stock\"\nstop-grace = \"1s 500ms\"\n\
        [[probes]]\nhttp = \"http://a\"\nstatus = 204\n[[probes]]\ncommand = [\"true\"]\n";
    let folder = Folder::with(&[("staging.toml", text)]);
    folder.ok("env apply staging.toml");
    assert_eq!(edit(&folder, "true").stdout, "staging unchanged, version 1\n");
    let said = edit(&folder, "sed -i 's/needs = .*/needs = [\"stokc\"]/' \"$1\"");
    said.failed(2, &["staging.toml:", "there is no service `stokc`", "did you mean `stock`?"]);
}
