//! Test cases managed from the command line.

use std::process::Output;
use std::thread;

use whole_program::Project;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a verb prints; it must succeed.
fn prints(project: &Project, arguments: &[&str]) -> String {
    let output = project.etcdtest(&[&["testcase"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    stdout(&output)
}

/// What a verb complains of, as one line; it must exit with 2.
fn complains(project: &Project, arguments: &[&str]) -> String {
    let output = project.etcdtest(&[&["testcase"], arguments].concat());
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""));
    let said = String::from_utf8(output.stderr).unwrap();
    said.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_test_case_goes_from_paper_to_code_and_out_of_it() {
    let project = Project::package("papers", "").file("src/lib.rs", "#[test] fn other() {}");
    let id = "papers::checkout";
    let written = [
        "--description",
        "One buys.",
        "--step",
        "Fill.",
        "--step",
        "Pay.",
        "--tag",
        "smoke",
        "--owner",
        "shop",
    ];
    prints(&project, &[&["create", id], &written[..], &["--expected", "A parcel."]].concat());
    prints(&project, &["sync"]);
    assert_eq!(
        prints(&project, &["list"]),
        "STATE        TEST CASE           OWNER  TAGS\n\
         written      papers::checkout    shop   smoke\n\
         implemented  papers::lib::other\n"
    );

    let project = project.file("src/lib.rs", "mod buy { #[test] fn checkout() {} }");
    assert_eq!(json(&prints(&project, &["sync", "--format", "json"]))["adopted"], 1);
    let show = prints(&project, &["show", id]);
    let (text, revision) = show.split_once("  revision     ").unwrap();
    assert_eq!(
        text,
        "papers::lib::buy::checkout\n  state        implemented\n  description  One buys.\n  \
         steps        1. Fill.\n               2. Pay.\n  expected     A parcel.\n  tags         smoke\n  \
         owner        shop\n  kind         plain #[test]\n"
    );
    assert!(revision.trim().parse::<i64>().is_ok(), "{revision}");
    assert_eq!(
        prints(&project, &["list", "--state", "vanished", "--format", "json"]).lines().count(),
        1,
        "the other one is gone from the code"
    );
    let kept = complains(&project, &["delete", "papers::checkout"]);
    assert!(kept.contains("has code") && kept.contains("--yes"), "{kept}");
    prints(&project, &["delete", "papers::lib::other"]);
    let ids = prints(&project, &["list", "--tag", "smoke", "--owner", "shop", "--format", "json"]);
    assert_eq!(json(&ids)["id"], "papers::lib::buy::checkout");
    assert_eq!(json(&ids)["state"], "implemented");
}

#[test]
fn what_is_wrong_is_said_with_the_way_out() {
    let project = Project::package("wrongs", "").file("src/lib.rs", "");
    prints(&project, &["create", "wrongs::checkout", "--step", "one"]);
    for (arguments, expected) in [
        (&["show", "wrongs::chekout"][..], "did you mean `wrongs::checkout`?"),
        (&["show", "checkout"], "write `package::test` or `package::binary::test`"),
        (&["create", "wrongs::checkout"], "change it with `cargo etcdtest testcase update wrongs::checkout`"),
        (&["update", "wrongs::checkout"], "name at least one of --description"),
        (&["update", "wrongs::checkout", "--if-revision", "99", "--owner", "me"], "read it again with"),
        (&["delete", "wrongs::checkout", "--if-revision", "99"], "was changed meanwhile by somebody else"),
        (&["list", "--state", "lost"], "implemented, written, vanished"),
        (&["lsit"], "tip: a similar subcommand exists: 'list'"),
    ] {
        let said = complains(&project, arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn of_two_processes_that_change_what_they_read_one_is_told_to_read_again() {
    let project = Project::package("rivals", "").file("src/lib.rs", "");
    let created = json(&prints(&project, &["create", "rivals::plan", "--format", "json"]));
    let revision = created["revision"].to_string();
    let update = |owner: &'static str| {
        project.etcdtest(&[
            "testcase",
            "update",
            "rivals::plan",
            "--owner",
            owner,
            "--if-revision",
            &revision,
        ])
    };
    let codes = thread::scope(|scope| {
        let rivals = ["left", "right"].map(|owner| scope.spawn(move || update(owner).status.code()));
        rivals.map(|rival| rival.join().unwrap())
    });
    let mut sorted = codes;
    sorted.sort_unstable();
    assert_eq!(sorted, [Some(0), Some(2)]);
    let winner = if codes[0] == Some(0) { "left" } else { "right" };
    let now = json(&prints(&project, &["show", "rivals::plan", "--format", "json"]));
    assert_eq!(now["written"]["owner"], winner, "what was acknowledged is there");
}
