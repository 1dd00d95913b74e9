//! Building and listing real cargo projects.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use cargo_etcdtest::testcases::{Built, CargoCommand, ListError, build, discover};
use rustix::process::{Pid, test_kill_process};
use whole_program::{Project, Running, root};

const PATIENCE: Duration = Duration::from_mins(2);

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn listed(project: &Project, arguments: &[&str]) -> String {
    let output = project.etcdtest(&[&["list"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stdout(&output)
}

async fn built(project: &Project) -> Built {
    let cargo = CargoCommand {
        directory: Some(project.folder().to_owned()),
        target_directory: Some(Project::target()),
        ..CargoCommand::default()
    };
    build(&cargo).await.unwrap()
}

#[test]
fn every_kind_of_target_is_listed_under_its_own_name() {
    let plain = "#[test] fn works() {}";
    let project = Project::new("kinds")
        .file("Cargo.toml", "[workspace]\nmembers = [\"alpha\", \"beta\"]\nresolver = \"3\"\n")
        .file(
            "alpha/Cargo.toml",
            &format!(
                "[package]\nname = \"alpha\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
                 [features]\nextra = []\n\
                 [dev-dependencies]\netcdtest = {{ path = {:?}, default-features = false }}\n\
                 [[test]]\nname = \"annotated\"\nharness = false\n\
                 [[example]]\nname = \"shown\"\ntest = true\n",
                root().join("harness")
            ),
        )
        .file(
            "alpha/src/lib.rs",
            "mod inner { #[test] fn works() {} #[test] #[ignore = \"slow\"] fn waits() {} }\n\
             #[cfg(feature = \"extra\")] #[test] fn extra() {}\n\
             /// ```\n/// assert!(true);\n/// ```\npub fn documented() {}",
        )
        .file("alpha/src/main.rs", &format!("fn main() {{}} {plain}"))
        .file("alpha/tests/smoke.rs", plain)
        .file("alpha/tests/lib.rs", plain)
        .file("alpha/tests/empty.rs", "")
        .file("alpha/examples/shown.rs", &format!("fn main() {{}} {plain}"))
        .file("alpha/examples/hidden.rs", &format!("fn main() {{}} {plain}"))
        .file(
            "alpha/tests/annotated.rs",
            "/// A paid order is listed as paid.\n///\n/// # Steps\n/// 1. Pay.\n///\n/// # Expected\n/// It is paid.\n\
             #[etcdtest::test(tags = [\"smoke\"], owner = \"orders\", timeout = \"3s\", retries = 2)]\n\
             fn paid() {}\n\
             #[etcdtest::test(ignore = \"not yet\")]\nfn later() {}\n\
             etcdtest::main!();\n",
        )
        .file(
            "beta/Cargo.toml",
            "[package]\nname = \"beta\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\nproc-macro = true\n",
        )
        .file("beta/src/lib.rs", plain)
        .with_lock();

    assert_eq!(
        listed(&project, &["--workspace"]),
        "alpha::annotated:\n    later (ignored: not yet)\n    paid\n\
         alpha::bin/alpha:\n    works\n\
         alpha::example/shown:\n    works\n\
         alpha::lib:\n    inner::waits (ignored)\n    inner::works\n\
         alpha::smoke:\n    works\n\
         alpha::test/lib:\n    works\n\
         beta::lib:\n    works\n"
    );
    assert_eq!(listed(&project, &["-p", "beta"]), "beta::lib:\n    works\n");
    assert_eq!(listed(&project, &["-p", "alpha", "--test", "smoke"]), "alpha::smoke:\n    works\n");
    assert_eq!(
        listed(&project, &["-p", "alpha", "--lib", "--features", "extra"]),
        "alpha::lib:\n    extra\n    inner::waits (ignored)\n    inner::works\n"
    );
    let manifest = project.folder().join("beta/Cargo.toml");
    assert_eq!(listed(&project, &["--manifest-path", manifest.to_str().unwrap()]), "beta::lib:\n    works\n");

    let paid = listed(&project, &["--workspace", "-E", "tag(smoke) & owner(orders)", "--format", "json"]);
    let paid: serde_json::Value = serde_json::from_str(&paid).unwrap();
    assert_eq!(paid["id"], "alpha::annotated::paid");
    let code = &paid["code"];
    assert_eq!(code["description"], "A paid order is listed as paid.");
    assert_eq!((&code["steps"][0], &code["expected"]), (&"Pay.".into(), &"It is paid.".into()));
    assert_eq!((&code["file"], &code["retries"]), (&"alpha/tests/annotated.rs".into(), &2.into()));
    assert!(!project.folder().join(".etcdtest").exists(), "listing needs no store");

    let none = project.etcdtest(&["list", "--workspace", "no_such_test"]);
    assert_eq!((none.status.code(), stdout(&none).as_str()), (Some(0), ""));
    assert!(stderr(&none).ends_with("no test is selected, of 9\n"), "{}", stderr(&none));
}

/// What a process sees of what cargo gives it: the variables that cargo speaks of, and
/// where it runs.
const TELL: &str = r#"
    #[test]
    fn tell() {
        for (name, value) in std::env::vars() {
            if name.starts_with("CARGO_") || ["OUT_DIR", "LD_LIBRARY_PATH", "FROM_BUILD", "FROM_CONFIG"].contains(&name.as_str()) {
                println!("{name}={}", value.replace('\n', " "));
            }
        }
        println!("CURRENT_DIR={}", std::env::current_dir().unwrap().display());
    }
"#;

fn told(output: &Output) -> BTreeMap<String, String> {
    let text = stdout(output);
    let lines = text.lines().filter_map(|line| line.split_once('='));
    // libtest writes the name of the test before its first line.
    let name = |name: &str| name.rsplit(' ').next().unwrap().to_owned();
    lines.map(|(key, value)| (name(key), value.to_owned())).collect()
}

#[tokio::test]
async fn a_process_gets_from_us_what_it_gets_from_cargo() {
    let project = Project::package("surroundings", "authors = [\"A <a@b.c>\", \"D\"]\nlicense = \"MIT\"\n")
        .file("src/lib.rs", "")
        .file("src/bin/some-tool.rs", "fn main() {}")
        .file("tests/tell.rs", TELL)
        .file(".cargo/config.toml", "[env]\nFROM_CONFIG = { value = \"data\", relative = true }\n")
        .file(
            "build.rs",
            "fn main() {\n\
             println!(\"cargo::rustc-env=FROM_BUILD=1\");\n\
             println!(\"cargo::rustc-link-search=native={}/libraries\", std::env::var(\"OUT_DIR\").unwrap());\n\
             println!(\"cargo::rustc-link-search=/usr/lib\");\n}",
        );
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--quiet", "--test", "tell", "--", "--nocapture"]);
    let mut from_cargo = told(&Running::start(project.prepare(&mut cargo)).output());
    assert!(from_cargo.contains_key("CARGO_BIN_EXE_some-tool"), "{from_cargo:#?}");
    // Cargo may name a folder twice, where it was started by another cargo.
    let libraries = from_cargo.get_mut("LD_LIBRARY_PATH").unwrap();
    let mut once = Vec::new();
    for folder in libraries.split(':').filter(|folder| !folder.is_empty()) {
        if !once.contains(&folder) {
            once.push(folder);
        }
    }
    *libraries = once.join(":");

    let built = built(&project).await;
    let binary = built.binaries.iter().find(|binary| binary.name == "tell").unwrap();
    let mut ours = binary.command();
    for name in ["CARGO_TARGET_DIR", "CARGO_NET_OFFLINE", "CARGO_TERM_COLOR"] {
        ours.env(name, &from_cargo[name]);
    }
    let from_us = told(&Running::start(ours.args(["tell", "--exact", "--nocapture"])).output());
    let differences: Vec<_> = from_cargo
        .iter()
        .filter(|(name, value)| from_us.get(*name) != Some(value))
        .map(|(name, value)| (name, value, from_us.get(name)))
        .collect();
    assert!(differences.is_empty(), "(name, cargo's, ours): {differences:#?}");
}

/// A project in which every binary has a `main` of its own.
fn foreign(name: &str, mains: &[(&str, &str)]) -> Project {
    let targets: Vec<_> =
        mains.iter().map(|(target, _)| format!("[[test]]\nname = {target:?}\nharness = false\n")).collect();
    let project = Project::package(name, &targets.concat()).file("src/lib.rs", "#[test] fn fine() {}");
    mains.iter().fold(project, |project, (target, main)| {
        project.file(&format!("tests/{target}.rs"), &format!("fn main() {{ {main} }}"))
    })
}

#[test]
fn binaries_that_speak_no_protocol_are_all_named_with_what_they_said() {
    let mains = [
        ("garbage", r#"println!("\x1b[31mHello, I am a test.");"#),
        ("bytes", r#"use std::io::Write; std::io::stdout().write_all(b"\xff\xfe").unwrap();"#),
        ("exits", r#"eprintln!("no configuration"); std::process::exit(3);"#),
        ("dies", "std::process::abort();"),
        ("newer", r#"println!("{{\"etcdtest\":99,\"tests\":[]}}");"#),
        ("panics", r#"panic!("lost");"#),
    ];
    let output = foreign("foreign", &mains).etcdtest(&["list"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(101), ""));
    let said = stderr(&output).split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    for expected in [
        "failed to list the tests of 6 binaries",
        "foreign::garbage (",
        "expected lines like `name: test`, but line 1 is `\u{fffd}[31mHello, I am a test.`",
        "foreign::bytes (",
        "line 1 of its list is not UTF-8",
        "foreign::exits (",
        "it ended with exit status: 3 and said: no configuration",
        "foreign::dies (",
        "it ended with signal: 6 (SIGABRT)",
        "the binary speaks version 99 of the protocol",
        "use the same version of `etcdtest` and `cargo-etcdtest`",
        "foreign::panics (",
        "needs `etcdtest::main!()`",
    ] {
        assert!(said.contains(expected), "{expected}\n\nis not in\n\n{said}");
    }
    assert!(!stderr(&output).contains('\x1b'), "nothing that a binary printed reaches the terminal raw");
}

#[test]
fn a_main_that_lists_nothing_is_warned_of_since_what_it_tests_would_not_run() {
    let output = foreign("silent", &[("silent", "")]).etcdtest(&["list"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "silent::lib:\n    fine\n"));
    assert!(stderr(&output).contains("warning: silent::silent lists no tests"), "{}", stderr(&output));
}

async fn fault(mut built: Built, binary: &str, timeout: Duration) -> String {
    built.binaries.retain(|candidate| candidate.name == binary);
    let ListError { failures } = discover(built, timeout).await.unwrap_err();
    failures[0].to_string()
}

#[tokio::test]
async fn a_binary_that_hangs_or_never_stops_printing_is_ended_with_all_that_it_started() {
    let told = Project::target().join("hanging-child");
    let hangs = format!(
        "let child = std::process::Command::new(\"sleep\").arg(\"600\").spawn().unwrap(); \
         std::fs::write({told:?}, child.id().to_string()).unwrap(); \
         loop {{ std::thread::park(); }}"
    );
    let floods = r#"loop { println!("{}: test", "x".repeat(1000)); }"#;
    let built = built(&foreign("endless", &[("hangs", &hangs), ("floods", floods)])).await;

    let flood = fault(built.clone(), "floods", PATIENCE).await;
    assert!(flood.ends_with("it printed more than 64 MiB"), "{flood}");

    // Its child is known once the file is there, so the time given grows until it is.
    let _ = std::fs::remove_file(&told);
    let mut timeout = Duration::from_millis(500);
    let child = loop {
        let hanging = fault(built.clone(), "hangs", timeout).await;
        assert!(hanging.contains("it did not finish its list within"), "{hanging}");
        if let Some(child) = read_pid(&told) {
            break child;
        }
        timeout *= 2;
    };
    let gone = async {
        while test_kill_process(child).is_ok() && !is_zombie(child) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("what the binary started is ended too");
}

fn read_pid(file: &PathBuf) -> Option<Pid> {
    Pid::from_raw(std::fs::read_to_string(file).ok()?.parse().ok()?)
}

/// Whether a process is dead but not yet waited for by whoever inherited it.
fn is_zombie(process: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    status
        .is_ok_and(|status| status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

#[test]
fn a_failed_build_is_told_in_cargos_own_words() {
    let project = Project::package("broken", "").file("src/lib.rs", "#[test] fn broken() { nonsense() }");
    let output = project.etcdtest(&["list"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(101), ""));
    let said = stderr(&output);
    assert!(said.contains("error[E0425]: cannot find function `nonsense`"), "{said}");
    assert!(
        said.trim_end().ends_with("`cargo test` failed (exit status: 101); what is wrong stands above"),
        "{said}"
    );

    let unknown = project.etcdtest(&["list", "-p", "nobody"]);
    assert_eq!(unknown.status.code(), Some(101));
    assert!(
        stderr(&unknown).contains("package ID specification `nobody` did not match"),
        "{}",
        stderr(&unknown)
    );

    let missing = project.etcdtest(&["list", "--manifest-path", "none/Cargo.toml"]);
    assert_eq!(missing.status.code(), Some(2), "that is wrong usage, known before cargo is asked");
    assert!(stderr(&missing).contains("none/Cargo.toml"), "{}", stderr(&missing));
}

#[test]
fn a_wrong_filter_expression_is_refused_before_anything_is_built() {
    let project = Project::package("misspelt", "").file("src/lib.rs", "#[test] fn broken() { nonsense() }");
    let output = project.etcdtest(&["list", "-E", "test(a) & tset(b)"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("there is no `tset`") && said.contains("did you mean `test()`?"), "{said}");
    assert!(!said.contains("nonsense"), "{said}");
}
