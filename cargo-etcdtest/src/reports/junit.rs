//! JUnit XML, made for the dashboards that read it. `docs/reports.md` says what stands where.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, FixedOffset};
use jiff::Timestamp;
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use super::details::{RunDetails, UnitDetails};
use super::error::ReportError;
use super::{story, text};
use crate::model::{Attempt, Outcome, UnitResult};

/// The longest attribute of any other kind, in characters.
const ATTRIBUTE: usize = 2000;

/// A run as JUnit XML: one suite for each binary and environment, in the order of names.
///
/// # Errors
/// [`ReportError::Rendering`].
pub fn junit(details: &RunDetails) -> Result<Vec<u8>, ReportError> {
    let mut suites: BTreeMap<(&str, &str, &str), Vec<&UnitDetails>> = BTreeMap::new();
    for unit in &details.units {
        let test = &unit.planned.test;
        suites.entry((&test.package, &test.binary, &unit.planned.environment)).or_default().push(unit);
    }
    let mut names = Names::default();
    let mut report = Report::new(attribute(&format!("etcdtest run {}", details.run.id)));
    report.timestamp = timestamp(details.run.created);
    report.set_time(details.summary().duration);
    for ((package, binary, environment), mut units) in suites {
        units.sort_by_key(|unit| (&unit.planned.test, unit.planned.repetition));
        // With one environment its name would only make every name longer.
        let at = if details.run.environments.len() > 1 { format!("@{environment}") } else { String::new() };
        let class = attribute(&format!("{package}::{binary}{at}"));
        report.add_test_suite(suite(details, &class, environment, &units, &mut names));
    }
    let mut bytes = Vec::new();
    report
        .serialize(&mut bytes)
        .map_err(|error| ReportError::Rendering { name: "junit.xml", reason: error.to_string() })?;
    Ok(bytes)
}

/// The names given so far in each class: dashboards drop the second of two that are equal.
#[derive(Default)]
struct Names(HashMap<(String, String), u32>);

impl Names {
    fn unique(&mut self, class: &str, name: String) -> String {
        let count = self.0.entry((class.to_owned(), name.clone())).or_insert(0);
        *count += 1;
        if *count == 1 {
            return name;
        }
        let numbered = format!("{name} ({count})");
        self.unique(class, numbered)
    }
}

fn suite(
    details: &RunDetails,
    class: &str,
    environment: &str,
    units: &[&UnitDetails],
    names: &mut Names,
) -> TestSuite {
    let mut suite = TestSuite::new(class);
    let run = &details.run;
    // The run's list knows an environment's version even where its snapshot cannot be read.
    let version = run.environments.iter().find(|version| version.name == environment);
    property(&mut suite.properties, "environment", environment);
    if let Some(version) = version.filter(|version| version.version > 0) {
        property(&mut suite.properties, "environment.version", &version.version.to_string());
        property(&mut suite.properties, "environment.revision", &version.revision.to_string());
    }
    property(&mut suite.properties, "run", run.id.as_str());
    property(&mut suite.properties, "author", &run.author);
    if let Some(commit) = &run.commit {
        property(&mut suite.properties, "commit", &commit.id);
        property(&mut suite.properties, "commit.dirty", if commit.dirty { "true" } else { "false" });
    }
    for unit in units {
        let mut name = attribute(&unit.planned.test.test);
        if let Some(repetition) = unit.planned.repetition {
            name = format!("{name} ({repetition})");
        }
        let name = names.unique(class, name);
        suite.add_test_case(test_case(unit, class, &name));
    }
    let attempts =
        || units.iter().filter_map(|unit| unit.result.as_ref()).flat_map(|result| &result.attempts);
    suite.timestamp = attempts().map(|attempt| attempt.started).min().and_then(timestamp);
    suite.set_time(attempts().map(|attempt| attempt.duration).sum());
    suite
}

fn test_case(unit: &UnitDetails, class: &str, name: &str) -> TestCase {
    let mut case = TestCase::new(name, status(unit));
    case.set_classname(class);
    if let Some(code) = unit.case.as_ref().and_then(|case| case.code.as_ref()) {
        if let Some(file) = &code.file {
            case.extra.insert("file".into(), attribute(file).into());
        }
        if let Some(line) = code.line {
            case.extra.insert("line".into(), line.to_string().into());
        }
    }
    if let Some(result) = &unit.result {
        property(&mut case.properties, "worker", result.worker.as_str());
        case.set_time(result.duration());
        if let Some(last) = result.attempts.last() {
            if let Some(place) = &last.place {
                property(&mut case.properties, "host", &place.host);
                property(&mut case.properties, "lane", &place.lane.to_string());
            }
            case.timestamp = timestamp(last.started);
            case.system_out = system_out(unit, last).map(Into::into);
        }
    }
    let description = unit.description();
    property(&mut case.properties, "tags", &description.tags.join(","));
    property(&mut case.properties, "owner", description.owner.as_deref().unwrap_or_default());
    property(&mut case.properties, "description", &description.description.replace('\n', " "));
    case
}

/// What came of a unit: its last attempt decides, those before it stand below as reruns.
fn status(unit: &UnitDetails) -> TestCaseStatus {
    let Some(result) = &unit.result else {
        return skipped(Some("not run: the run ended before"), "not_run");
    };
    let mut status = match result.outcome {
        Outcome::Passed => TestCaseStatus::success(),
        Outcome::Skipped => return skipped(skip_reason(result), "skipped"),
        Outcome::Failed | Outcome::TimedOut | Outcome::Crashed => {
            let mut status = TestCaseStatus::non_success(kind(result.outcome));
            status.set_type(type_name(result.outcome));
            if let Some(last) = result.attempts.last() {
                status.set_message(story::headline(last)).set_description(xml(&story::whole(last)));
            } else if let Some(reason) = &result.reason {
                // Given up without an attempt that could be recorded.
                status.set_message(text::one_line(reason, text::MESSAGE)).set_description(xml(reason));
            }
            status
        }
    };
    let earlier = result.attempts.split_last().map_or(&[][..], |(_, earlier)| earlier);
    status.add_reruns(earlier.iter().map(|attempt| rerun(unit, attempt)));
    status
}

/// The reason stands in the attribute and in the body: some dashboards read only one.
fn skipped(reason: Option<&str>, type_name: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_type(type_name);
    if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
        status.set_message(text::one_line(reason, text::MESSAGE)).set_description(xml(reason));
    }
    status
}

fn skip_reason(result: &UnitResult) -> Option<&str> {
    let said = || result.attempts.last().and_then(|attempt| attempt.message.as_deref());
    result.reason.as_deref().or_else(said)
}

fn rerun(unit: &UnitDetails, attempt: &Attempt) -> TestRerun {
    let mut rerun = TestRerun::new(kind(attempt.outcome));
    rerun.timestamp = timestamp(attempt.started);
    rerun.set_time(attempt.duration);
    rerun
        .set_type(type_name(attempt.outcome))
        .set_message(story::headline(attempt))
        .set_stack_trace(xml(&story::whole(attempt)));
    rerun.system_out = system_out(unit, attempt).map(Into::into);
    rerun
}

/// A test that says no is a failure; one that could not say anything is an error.
fn kind(outcome: Outcome) -> NonSuccessKind {
    match outcome {
        Outcome::TimedOut | Outcome::Crashed => NonSuccessKind::Error,
        Outcome::Passed | Outcome::Failed | Outcome::Skipped => NonSuccessKind::Failure,
    }
}

fn type_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "failed",
        Outcome::Skipped => "skipped",
        Outcome::TimedOut => "timed_out",
        Outcome::Crashed => "crashed",
    }
}

/// What the test printed, and below it what each service wrote meanwhile.
fn system_out(unit: &UnitDetails, attempt: &Attempt) -> Option<String> {
    let mut text = output(unit, attempt, "output");
    for stored in &attempt.output {
        let Some(service) = stored.name.strip_prefix("services/") else { continue };
        let Some(log) = output(unit, attempt, &stored.name) else { continue };
        let text = text.get_or_insert_default();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.extend(["── service ", service, " ──\n", &log]);
    }
    text
}

fn output(unit: &UnitDetails, attempt: &Attempt, name: &str) -> Option<String> {
    unit.output(attempt.number, name).map(xml)
}

/// A text for the body of an element. quick-junit drops tabs, so they become spaces.
fn xml(text: &str) -> String {
    text::plain(text).replace('\t', "    ")
}

/// A text for an attribute: on one line.
fn attribute(text: &str) -> String {
    let text = xml(text).replace('\n', " ");
    text.trim().chars().take(ATTRIBUTE).collect()
}

fn property(properties: &mut Vec<Property>, name: &str, value: &str) {
    let value = attribute(value);
    if !value.is_empty() {
        properties.push(Property::new(name, value));
    }
}

fn timestamp(time: Timestamp) -> Option<DateTime<FixedOffset>> {
    DateTime::from_timestamp_millis(time.as_millisecond()).map(|time| time.fixed_offset())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EnvironmentVersion;
    use crate::reports::sample::{attempt, every_kind, print, run, unit};

    fn text_of(details: &RunDetails) -> String {
        String::from_utf8(junit(details).unwrap()).unwrap()
    }

    #[test]
    fn every_kind_of_result_has_its_place() {
        insta::assert_snapshot!(text_of(&every_kind()));
    }

    #[test]
    fn what_is_written_reads_back_with_the_same_counts() {
        let details = every_kind();
        let report = Report::deserialize_from_str(&text_of(&details)).unwrap();
        assert_eq!((report.tests, report.failures, report.errors, report.skipped), (8, 1, 2, 3));
        let suite = &report.test_suites[0];
        assert_eq!(suite.name.as_str(), "shop::checkout");
        for case in &suite.test_cases {
            assert_eq!(case.classname.as_deref(), Some("shop::checkout"));
        }
    }

    #[test]
    fn over_a_matrix_each_environment_has_its_own_suite_and_class() {
        let mut other = unit(1, "a", vec![attempt(1, Outcome::Passed, "")]);
        other.planned.environment = "prod".into();
        let mut details = run(vec![unit(0, "a", vec![attempt(1, Outcome::Passed, "")]), other]);
        details.run.environments.push(EnvironmentVersion { name: "prod".into(), version: 0, revision: 0 });
        let report = Report::deserialize_from_str(&text_of(&details)).unwrap();
        let suites: Vec<_> = report.test_suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(suites, ["shop::checkout@prod", "shop::checkout@staging"]);
        let classes: Vec<_> = report
            .test_suites
            .iter()
            .flat_map(|suite| &suite.test_cases)
            .map(|case| case.classname.as_deref())
            .collect();
        assert_eq!(classes, [Some("shop::checkout@prod"), Some("shop::checkout@staging")]);
    }

    #[test]
    fn repetitions_have_names_of_their_own() {
        use crate::model::Repetition;
        let repeated = |number| {
            let mut unit = unit(0, "paid", vec![attempt(1, Outcome::Passed, "")]);
            unit.planned.repetition = Some(Repetition { number, of: 2 });
            unit
        };
        let text = text_of(&run(vec![repeated(2), repeated(1)]));
        let place = |name: &str| text.find(name).unwrap_or_else(|| panic!("no {name} in {text}"));
        assert!(place("paid (1/2)") < place("paid (2/2)"));
    }

    #[test]
    fn a_hostile_test_yields_a_document_that_is_well_formed() {
        let nasty = "\u{1b}]8;;x\u{7}<b>]]>&amp;\u{0}\u{1}\u{b}\u{ffff}\u{1b}[31m\"'\u{1b}[0m\n\u{fffd}tail";
        let mut first =
            unit(0, nasty, vec![attempt(1, Outcome::Failed, nasty), attempt(2, Outcome::Crashed, nasty)]);
        print(&mut first, 1, "output", nasty);
        print(&mut first, 2, "output", nasty);
        let mut skipped = unit(1, nasty, vec![]);
        skipped.result.as_mut().unwrap().reason = Some(nasty.into());
        let long = unit(2, "long", vec![attempt(1, Outcome::Failed, &"ä".repeat(1_000_000))]);
        let text = text_of(&run(vec![first, skipped, long]));
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n' || matches!(c, '\u{fffe}' | '\u{ffff}'))
        );
        assert!(text.len() < 100_000);

        let report = Report::deserialize_from_str(&text).unwrap();
        let cases = &report.test_suites[0].test_cases;
        let clean = "<b>]]>&amp;\"' \u{fffd}tail";
        let names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, [clean, &format!("{clean} (2)"), "long"]);
        assert_eq!(cases[0].system_out.as_deref(), Some(clean.replacen(' ', "\n", 1).as_str()));
        let TestCaseStatus::NonSuccess { message, reruns, .. } = &cases[0].status else {
            panic!("it failed")
        };
        assert_eq!(message.as_deref(), Some("<b>]]>&amp;\"'"));
        assert_eq!(reruns.runs.len(), 1);
    }
}
