//! JUnit XML, made for the dashboards that read it. `docs/reports.md` says what stands where.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::iter::once;
use std::time::Duration;

use jiff::Timestamp;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

use super::details::{RunDetails, UnitDetails};
use super::{story, text};
use crate::model::{Attempt, Outcome, UnitResult};

/// The longest attribute of any other kind, in characters.
const ATTRIBUTE: usize = 2000;

type Writer = quick_xml::Writer<Vec<u8>>;

/// An attribute's name and its value, which is fit for XML.
type Attribute = (&'static str, String);

/// A run as JUnit XML: one suite for each binary and environment, in the order of names. The
/// document comes in pieces, of a test case each: there may be a hundred thousand.
pub fn junit(details: &RunDetails) -> impl Iterator<Item = Vec<u8>> + Send {
    let mut suites: BTreeMap<(&str, &str, &str), Vec<&UnitDetails>> = BTreeMap::new();
    for unit in &details.units {
        let test = &unit.planned.test;
        suites.entry((&test.package, &test.binary, &unit.planned.environment)).or_default().push(unit);
    }
    let suites = suites.into_iter().flat_map(|((package, binary, environment), mut units)| {
        units.sort_by_key(|unit| (&unit.planned.test, unit.planned.repetition));
        // With one environment its name would only make every name longer.
        let at = if details.run.environments.len() > 1 { format!("@{environment}") } else { String::new() };
        let class = attribute(&format!("{package}::{binary}{at}"));
        let suite = Part::Suite { class, environment, units: units.clone() };
        once(suite).chain(units.into_iter().map(Part::Case)).chain(once(Part::SuiteEnd))
    });
    let mut document = Document {
        details,
        writer: Writer::new_with_indent(Vec::new(), b' ', 4),
        class: String::new(),
        names: Names::default(),
    };
    let parts = once(Part::Run).chain(suites).chain(once(Part::RunEnd));
    parts.map(move |part| document.piece(part))
}

/// What stands in the document, one after the other.
enum Part<'a> {
    Run,
    Suite { class: String, environment: &'a str, units: Vec<&'a UnitDetails> },
    Case(&'a UnitDetails),
    SuiteEnd,
    RunEnd,
}

/// A document that is being written.
struct Document<'a> {
    details: &'a RunDetails,
    writer: Writer,
    /// The class of the suite's test cases.
    class: String,
    names: Names,
}

impl Document<'_> {
    /// The text of a part, which comes after all those before it.
    fn piece(&mut self, part: Part<'_>) -> Vec<u8> {
        self.write(part).expect("memory can be written");
        std::mem::take(self.writer.get_mut())
    }

    fn write(&mut self, part: Part<'_>) -> io::Result<()> {
        let (writer, details) = (&mut self.writer, self.details);
        match part {
            Part::Run => {
                writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
                let name = attribute(&format!("etcdtest run {}", details.run.id));
                let mut attributes = vec![("name", name)];
                attributes.extend(Counts::of(&details.units).attributes());
                attributes.push(("timestamp", timestamp(details.run.created)));
                attributes.push(("time", seconds(details.summary().duration)));
                open(writer, "testsuites", &attributes)
            }
            Part::Suite { class, environment, units } => {
                let results = || units.iter().filter_map(|unit| unit.result.as_ref());
                let attempts = || results().flat_map(|result| &result.attempts);
                let mut attributes = vec![("name", class.clone())];
                attributes.extend(Counts::of(units.iter().copied()).attributes());
                let began = attempts().map(|attempt| attempt.started).min();
                attributes.extend(began.map(|began| ("timestamp", timestamp(began))));
                attributes.push(("time", seconds(attempts().map(|attempt| attempt.duration).sum())));
                self.class = class;
                open(writer, "testsuite", &attributes)?;
                properties(writer, suite_properties(details, environment))
            }
            Part::Case(unit) => {
                let mut name = attribute(&unit.planned.test.test);
                if let Some(repetition) = unit.planned.repetition {
                    name = format!("{name} ({repetition})");
                }
                let name = self.names.unique(&self.class, name);
                test_case(writer, unit, &self.class, name)
            }
            Part::SuiteEnd => close(writer, "testsuite"),
            Part::RunEnd => {
                close(writer, "testsuites")?;
                writer.write_indent()
            }
        }
    }
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

/// How many units there are, and how many of each kind that is counted.
#[derive(Default)]
struct Counts {
    tests: usize,
    skipped: usize,
    failures: usize,
    errors: usize,
}

impl Counts {
    fn of<'a>(units: impl IntoIterator<Item = &'a UnitDetails>) -> Self {
        let mut counts = Self::default();
        for unit in units {
            counts.tests += 1;
            match unit.result.as_ref().map(|result| result.outcome) {
                Some(Outcome::Passed) => {}
                Some(Outcome::Skipped) | None => counts.skipped += 1,
                Some(Outcome::Failed) => counts.failures += 1,
                Some(Outcome::TimedOut | Outcome::Crashed) => counts.errors += 1,
            }
        }
        counts
    }

    fn attributes(&self) -> Vec<Attribute> {
        let Self { tests, skipped, failures, errors } = self;
        let counts = [("tests", tests), ("skipped", skipped), ("failures", failures), ("errors", errors)];
        counts.map(|(name, count)| (name, count.to_string())).to_vec()
    }
}

fn tag(name: &'static str, attributes: &[Attribute]) -> BytesStart<'static> {
    BytesStart::new(name).with_attributes(attributes.iter().map(|(name, value)| (*name, value.as_str())))
}

fn open(writer: &mut Writer, name: &'static str, attributes: &[Attribute]) -> io::Result<()> {
    writer.write_event(Event::Start(tag(name, attributes)))
}

fn close(writer: &mut Writer, name: &'static str) -> io::Result<()> {
    writer.write_event(Event::End(BytesEnd::new(name)))
}

/// An element without anything in it.
fn empty(writer: &mut Writer, name: &'static str, attributes: &[Attribute]) -> io::Result<()> {
    writer.write_event(Event::Empty(tag(name, attributes)))
}

/// An element around a text.
fn body(writer: &mut Writer, name: &'static str, attributes: &[Attribute], text: &str) -> io::Result<()> {
    open(writer, name, attributes)?;
    writer.write_event(Event::Text(BytesText::new(text)))?;
    close(writer, name)
}

fn suite_properties(details: &RunDetails, environment: &str) -> Vec<Attribute> {
    let run = &details.run;
    let mut properties = vec![("environment", environment.to_owned())];
    // The run's list knows an environment's version even where its snapshot cannot be read.
    let version = run.environments.iter().find(|version| version.name == environment);
    if let Some(version) = version.filter(|version| version.version > 0) {
        properties.push(("environment.version", version.version.to_string()));
        properties.push(("environment.revision", version.revision.to_string()));
    }
    properties.push(("run", run.id.to_string()));
    properties.push(("author", run.author.clone()));
    if let Some(commit) = &run.commit {
        properties.push(("commit", commit.id.clone()));
        properties.push(("commit.dirty", commit.dirty.to_string()));
    }
    properties
}

fn test_case(writer: &mut Writer, unit: &UnitDetails, class: &str, name: String) -> io::Result<()> {
    let last = unit.result.as_ref().and_then(|result| result.attempts.last());
    let mut attributes = vec![("name", name), ("classname", class.to_owned())];
    attributes.extend(last.map(|last| ("timestamp", timestamp(last.started))));
    attributes.extend(unit.result.as_ref().map(|result| ("time", seconds(result.duration()))));
    if let Some(code) = unit.case.as_ref().and_then(|case| case.code.as_ref()) {
        attributes.extend(code.file.as_ref().map(|file| ("file", attribute(file))));
        attributes.extend(code.line.map(|line| ("line", line.to_string())));
    }
    open(writer, "testcase", &attributes)?;
    properties(writer, case_properties(unit))?;
    status(writer, unit)?;
    if let Some(last) = last {
        system_out(writer, unit, last)?;
    }
    close(writer, "testcase")
}

fn case_properties(unit: &UnitDetails) -> Vec<Attribute> {
    let mut properties = Vec::new();
    if let Some(result) = &unit.result {
        properties.push(("worker", result.worker.to_string()));
        if let Some(place) = result.attempts.last().and_then(|last| last.place.as_ref()) {
            properties.push(("host", place.host.clone()));
            properties.push(("lane", place.lane.to_string()));
        }
    }
    let description = unit.description();
    properties.push(("tags", description.tags.join(",")));
    properties.push(("owner", description.owner.unwrap_or_default()));
    properties.push(("description", description.description));
    properties
}

/// Those that say something.
fn properties(writer: &mut Writer, properties: Vec<Attribute>) -> io::Result<()> {
    let properties = properties.into_iter().map(|(name, value)| (name, attribute(&value)));
    let said: Vec<_> = properties.filter(|(_, value)| !value.is_empty()).collect();
    if said.is_empty() {
        return Ok(());
    }
    open(writer, "properties", &[])?;
    for (name, value) in said {
        empty(writer, "property", &[("name", name.to_owned()), ("value", value)])?;
    }
    close(writer, "properties")
}

/// What came of a unit: its last attempt decides, those before it stand below as reruns.
fn status(writer: &mut Writer, unit: &UnitDetails) -> io::Result<()> {
    let Some(result) = &unit.result else {
        return told(writer, "skipped", "not_run", Some("not run: the run ended before"));
    };
    let reruns = match result.outcome {
        Outcome::Passed => ["flakyFailure", "flakyError"],
        // The reason stands in the attribute and in the body: some dashboards read only one.
        Outcome::Skipped => return told(writer, "skipped", "skipped", skip_reason(result)),
        Outcome::Failed | Outcome::TimedOut | Outcome::Crashed => {
            let (name, typed) = (kind(["failure", "error"], result.outcome), type_name(result.outcome));
            match result.attempts.last() {
                Some(last) => {
                    let attributes = [("message", story::headline(last)), ("type", typed.to_owned())];
                    body(writer, name, &attributes, &xml(&story::whole(last)))?;
                }
                // Given up without an attempt that could be recorded.
                None => told(writer, name, typed, result.reason.as_deref())?,
            }
            ["rerunFailure", "rerunError"]
        }
    };
    let earlier = result.attempts.split_last().map_or(&[][..], |(_, earlier)| earlier);
    earlier.iter().try_for_each(|attempt| rerun(writer, reruns, unit, attempt))
}

/// An element with a reason, if there is one: its first line as attribute, all of it as body.
fn told(writer: &mut Writer, name: &'static str, typed: &str, reason: Option<&str>) -> io::Result<()> {
    let typed = ("type", typed.to_owned());
    match reason.filter(|reason| !reason.is_empty()) {
        Some(reason) => {
            let message = text::one_line(reason, text::MESSAGE);
            body(writer, name, &[("message", message), typed], &xml(reason))
        }
        None => empty(writer, name, &[typed]),
    }
}

fn skip_reason(result: &UnitResult) -> Option<&str> {
    let said = || result.attempts.last().and_then(|attempt| attempt.message.as_deref());
    result.reason.as_deref().or_else(said)
}

/// An attempt before the last one; the names are those of a failure and of an error.
fn rerun(
    writer: &mut Writer,
    names: [&'static str; 2],
    unit: &UnitDetails,
    attempt: &Attempt,
) -> io::Result<()> {
    let name = kind(names, attempt.outcome);
    let attributes = [
        ("timestamp", timestamp(attempt.started)),
        ("time", seconds(attempt.duration)),
        ("message", story::headline(attempt)),
        ("type", type_name(attempt.outcome).to_owned()),
    ];
    open(writer, name, &attributes)?;
    body(writer, "stackTrace", &[], &xml(&story::whole(attempt)))?;
    system_out(writer, unit, attempt)?;
    close(writer, name)
}

/// A test that says no is a failure; one that could not say anything is an error.
fn kind([failure, error]: [&'static str; 2], outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::TimedOut | Outcome::Crashed => error,
        Outcome::Passed | Outcome::Failed | Outcome::Skipped => failure,
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
fn system_out(writer: &mut Writer, unit: &UnitDetails, attempt: &Attempt) -> io::Result<()> {
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
    text.map_or(Ok(()), |text| body(writer, "system-out", &[], &text))
}

fn output(unit: &UnitDetails, attempt: &Attempt, name: &str) -> Option<String> {
    unit.output(attempt.number, name).map(xml)
}

/// A text for the body of an element. Readers drop tabs, so they become spaces.
fn xml(text: &str) -> String {
    text::plain(text).replace('\t', "    ")
}

/// A text for an attribute: on one line.
fn attribute(text: &str) -> String {
    let text = xml(text).replace('\n', " ");
    text.trim().chars().take(ATTRIBUTE).collect()
}

/// In UTC, to the millisecond.
fn timestamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use quick_junit::{Report, TestCaseStatus};

    use super::*;
    use crate::model::EnvironmentVersion;
    use crate::reports::sample::{attempt, every_kind, print, run, unit};

    fn text_of(details: &RunDetails) -> String {
        String::from_utf8(junit(details).flatten().collect()).unwrap()
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
