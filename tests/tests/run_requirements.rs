//! What tests need of environments is looked at before any is run.
#![cfg(unix)]

use serde_json::json;
use whole_program::subject::Subject;

const FINE: &str = "port = 1\nregion = \"eu\"\nlimits = { pieces = 1, orders = 2 }";

#[test]
fn all_that_environments_lack_is_told_together_and_nothing_runs() {
    let subject = Subject::new();
    subject.environment("eu", "port = \"hidden\"\nlimits = { pieces = 1 }", &[]);
    subject.environment("fine", FINE, &[]);
    let arguments = ["needs::", "--run-id", "r", "--env", "eu", "--env", "fine", "--env", "local"];
    let ran = subject.etcdtest(&arguments);
    ran.refuses(
        102,
        &[
            "nothing was run: environments lack what tests read of them",
            "in `eu`: subject::annotated::needs::limits",
            "limits.orders: missing (limits: Limits)",
            "port: expected u16, found a string (port: u16)",
            "subject::annotated::needs::only_in_eu region: missing (region: String)",
            "in `local`: subject::annotated::needs::limits",
            "pieces: missing (limits: Limits)",
            "`cargo etcdtest env show NAME` what one has",
        ],
    );
    assert!(!ran.stderr.contains("hidden") && !ran.stderr.contains("fine"), "{}", ran.stderr);
    assert!(!subject.meeting("nothing").exists(), "a test ran");
    subject.etcdtest(&["runs", "show", "r"]).refuses(2, &["there is no run "]);

    let (ran, events) = subject.events(&arguments);
    assert_eq!(ran.code, Some(102), "{ran:?}");
    assert!(events.iter().all(|event| event["event"] == "requirement-unmet"), "{events:?}");
    let first = json!({
        "event": "requirement-unmet", "environment": "eu", "id": "subject::annotated::needs::limits",
        "parameter": "limits: Limits", "key": "limits.orders", "reason": null,
    });
    assert_eq!((events.len(), &events[0]), (6, &first));
}

#[test]
fn what_is_skipped_or_not_selected_needs_nothing() {
    let subject = Subject::new();
    subject.environment("fine", "port = 1\nlimits = { pieces = 1, orders = 2 }", &[]);
    let (ran, events) = subject.events(&["needs::", "--env", "fine"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let skipped: Vec<_> = events.iter().filter(|event| event["outcome"] == "skipped").collect();
    assert_eq!(skipped.len(), 1, "{events:?}");
    assert_eq!(skipped[0]["message"], "runs only in eu");
    assert_eq!(events.last().unwrap()["counts"]["skipped"], 1);
    let junit = subject.etcdtest(&["report", "export", "latest", "--format", "junit"]).stdout;
    assert!(junit.contains("<skipped message=\"runs only in eu\""), "{junit}");

    let ran = subject.etcdtest(&["needs::nothing"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn a_value_that_is_known_only_later_is_no_lack() {
    let subject = Subject::new();
    subject.write("environments/token", "seventeen");
    let text = "[config]\nport = \"${services.s.port}\"\nregion = \"${secrets.token}\"\n\
        limits = { pieces = 1, orders = 2 }\n[secrets]\ntoken = { file = \"token\" }\n\
        [services.s]\ncommand = \"sh\"\nargs = [\"-c\", \"exec sleep 600 # {port}\"]\n";
    subject.apply("eu", text, &[]);
    let (ran, events) = subject.events(&["needs::", "--env", "eu"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let outputs: Vec<_> = events.iter().filter_map(|event| event["output"].as_str()).collect();
    assert!(outputs.contains(&"1 pieces, 2 orders, a port: true\n"), "{outputs:?}");
}

#[test]
fn a_binary_that_cannot_be_asked_is_told_and_runs() {
    let subject = Subject::new();
    let ran = subject.etcdtest(&["odd::"]);
    let said = "subject::annotated was not asked what its tests need of the environments: it ended with exit \
        status: 3 and said: no questions";
    ran.refuses(0, &["warning:", said]);
}
