//! `cargo etcdtest report`: the documents that are stored about a run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use super::print::{json_line, print, print_raw};
use super::run_text::environment;
use super::style::{FAINT, Label, STRONG, ago, local_time, painted};
use super::{Exit, Failure, Format};
use crate::model::{Outcome, RunId, Verdict};
use crate::reports::{JUNIT, LATEST, Reports, SUMMARY, SummaryReport, UnitSummary, resolve_run};
use crate::store::{SharedStore, decode_value, keys};

/// Show or export what is stored about a run
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    #[command(subcommand)]
    verb: ReportVerb,
}

#[derive(Debug, Subcommand)]
enum ReportVerb {
    /// Show the summary of a run and which reports it has, or print one of them
    Show {
        /// Id of the run, the beginning of one, or `latest`
        #[arg(value_name = "RUN", default_value = LATEST)]
        run: String,
        /// Print this report as it is stored
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Write a report to a file, or to stdout
    Export {
        /// Id of the run, the beginning of one, or `latest`
        #[arg(value_name = "RUN", default_value = LATEST)]
        run: String,
        /// Which report: JUnit XML for dashboards, or JSON
        // This flag takes the place of the global one. Both need one type, for clap hands
        // global flags up: JUnit is what people read on their dashboards.
        #[arg(id = "format", long, value_name = "FORMAT", value_parser = export_format(), default_value = "junit")]
        format: Format,
        /// File to write instead of stdout; its folder is made where it is missing
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

fn export_format() -> impl TypedValueParser<Value = Format> {
    let values = [
        PossibleValue::new("junit").help("JUnit XML, `junit.xml`"),
        PossibleValue::new("json").help("`summary.json`"),
    ];
    PossibleValuesParser::new(values).map(|name| if name == "json" { Format::Json } else { Format::Human })
}

/// Runs the verb.
///
/// # Errors
/// No such run or report, the file cannot be written, or the store failed.
pub(crate) async fn run(arguments: ReportArgs, store: SharedStore, format: Format) -> Result<Exit, Failure> {
    match arguments.verb {
        ReportVerb::Show { run, name } => {
            let answer = show(&store, &run, name, format, Timestamp::now(), &TimeZone::system()).await?;
            match answer {
                Answer::Text(text) => print(&text)?,
                Answer::Report(content) => print_raw(&content)?,
            }
        }
        ReportVerb::Export { run, format, output } => {
            let run = resolve_run(&*store, &run).await?;
            let name = match format {
                Format::Human => JUNIT,
                Format::Json => SUMMARY,
            };
            let content = Reports::new(store).get(&run, name).await?;
            match output {
                None => print_raw(&content)?,
                Some(file) => export(&run, name, &file, &content)?,
            }
        }
    }
    Ok(Exit::Passed)
}

/// What `show` prints.
enum Answer {
    /// A text of ours.
    Text(String),
    /// A report as it is stored.
    Report(Vec<u8>),
}

async fn show(
    store: &SharedStore,
    run: &str,
    name: Option<String>,
    format: Format,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<Answer, Failure> {
    let reports = Reports::new(store.clone());
    let run = resolve_run(&**store, run).await?;
    if let Some(name) = name {
        return Ok(Answer::Report(reports.get(&run, &name).await?));
    }
    let content = reports.get(&run, SUMMARY).await?;
    let names = reports.names(&run).await?;
    let summary: SummaryReport = decode_value(&keys::report(&run, SUMMARY), &content)?;
    Ok(Answer::Text(match format {
        Format::Human => text(&summary, &names, now, zone),
        Format::Json => json_line(&json!({ "summary": summary, "reports": names })),
    }))
}

fn export(run: &RunId, name: &str, file: &Path, content: &[u8]) -> Result<(), Failure> {
    write_file(file, content)
        .map_err(|error| Failure::usage(miette::miette!("failed to write {}: {error}", file.display())))?;
    anstream::eprintln!("wrote {name} of run {run} to {}", file.display());
    Ok(())
}

/// Writes a report to a file; makes its folder where it is missing.
///
/// # Errors
/// Whatever the file system says.
pub(crate) fn write_file(file: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, content)
}

fn text(summary: &SummaryReport, names: &[String], now: Timestamp, zone: &TimeZone) -> String {
    let mut text = String::new();
    let when = format!("{} ({})", local_time(summary.started, zone), ago(summary.started, now));
    let environments: Vec<String> = summary.environments.iter().map(environment).collect();
    // Writing to a text cannot fail.
    let _ = writeln!(
        text,
        "{} {when}, took {:.3}s",
        painted(STRONG, format!("Run {}", summary.run)),
        summary.duration
    );
    let _ = writeln!(text, "  in {}", environments.join(", "));
    let counts = &summary.counts;
    let kinds = [
        (counts.passed, Label::Pass),
        (counts.flaky, Label::Flaky),
        (counts.failed, Label::Fail),
        (counts.timed_out, Label::Timeout),
        (counts.crashed, Label::Crash),
        (counts.skipped, Label::Skip),
        (counts.not_run, Label::NotRun),
    ];
    for (count, label) in kinds.into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(text, "{} {count}", label.painted(9));
    }
    let noted = summary
        .units
        .iter()
        .filter(|unit| unit.verdict == Some(Verdict::Flaky) || unit.outcome.is_some_and(Outcome::is_failure));
    for (place, unit) in noted.enumerate() {
        if place == 0 {
            text.push('\n');
        }
        text += &unit_line(summary, unit);
    }
    let _ = writeln!(text, "\n{}", painted(STRONG, "Reports"));
    for name in names {
        let _ = writeln!(text, "  {name}");
    }
    let hint = format!("`cargo etcdtest report show {} --name NAME` prints one", summary.run);
    text + &painted(FAINT, hint) + "\n"
}

fn unit_line(summary: &SummaryReport, unit: &UnitSummary) -> String {
    let label = match (unit.verdict, unit.outcome) {
        (Some(Verdict::Flaky), _) => Label::Flaky,
        (_, Some(outcome)) => outcome.into(),
        (_, None) => Label::NotRun,
    };
    let mut line = format!("{} {:>8.3}s  {}", label.painted(9), unit.duration, unit.id);
    if summary.environments.len() > 1 {
        line += &painted(FAINT, format!(" @{}", unit.environment));
    }
    let first = || unit.attempts.iter().find_map(|attempt| attempt.message.clone());
    if let Some(message) = unit.message.clone().or_else(first) {
        let _ = write!(line, "\n{:21}{}", "", crate::reports::text::one_line(&message, 200));
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::GlobalArgs;
    use crate::reports::REPORTS;
    use crate::reports::sample::{TestStore, at, every_kind};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        global: GlobalArgs,
        #[command(subcommand)]
        verb: Verb,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Verb {
        Report(ReportArgs),
    }

    fn parse(arguments: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("etcdtest").chain(arguments.split_whitespace()))
    }

    async fn finished() -> TestStore {
        let store = TestStore::new();
        let details = every_kind();
        store.write(&details).await;
        let reports = Reports::new(store.store.clone());
        for (name, render) in REPORTS {
            reports.put(&details.run.id, name, render(&details)).await.unwrap();
        }
        store
    }

    #[test]
    fn export_has_formats_of_its_own_beside_the_global_ones() {
        Cli::command().debug_assert();
        for (arguments, expected) in [
            ("report export", Format::Human),
            ("report export --format junit", Format::Human),
            ("report export r --format json", Format::Json),
            ("--format json report export", Format::Json),
        ] {
            let Verb::Report(ReportArgs { verb: ReportVerb::Export { format, .. } }) =
                parse(arguments).unwrap().verb
            else {
                panic!("{arguments} is an export")
            };
            assert_eq!(format, expected, "{arguments}");
        }
        assert_eq!(parse("report show --format json").unwrap().global.format, Some(Format::Json));
        assert!(parse("report show --format junit").is_err());
        let error = parse("report export --format human").unwrap_err().to_string();
        assert!(error.contains("[possible values: junit, json]"), "{error}");
    }

    #[tokio::test]
    async fn show_tells_the_summary_and_which_reports_there_are() {
        let store = finished().await;
        let answer = show(&store.store, LATEST, None, Format::Human, at(7200), &TimeZone::UTC).await.unwrap();
        let Answer::Text(text) = answer else { panic!("it is a text") };
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
    }

    #[tokio::test]
    async fn show_prints_a_named_report_and_names_those_there_are_for_another() {
        let store = finished().await;
        let zone = TimeZone::UTC;
        let named =
            |name: &str| show(&store.store, LATEST, Some(name.to_owned()), Format::Human, at(0), &zone);
        let Ok(Answer::Report(content)) = named(JUNIT).await else { panic!("it is there") };
        assert_eq!(content, crate::reports::junit(&every_kind()).flatten().collect::<Vec<u8>>());
        let Err(failure) = named("report.html").await else { panic!("it is not there") };
        assert_eq!(failure.exit(), Exit::Usage);
        assert_eq!(
            failure.to_string(),
            "run 20261231-235959-x7k2pq has no report `report.html` (it has `junit.xml`, `summary.json`)"
        );
    }

    #[tokio::test]
    async fn export_writes_the_file_and_the_folder_it_is_in() {
        let store = finished().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("target/reports/junit.xml");
        let arguments = format!("report export --format junit -o {}", file.display());
        let Verb::Report(arguments) = parse(&arguments).unwrap().verb;
        assert_eq!(run(arguments, store.store.clone(), Format::Human).await.unwrap(), Exit::Passed);
        assert_eq!(
            std::fs::read(&file).unwrap(),
            crate::reports::junit(&every_kind()).flatten().collect::<Vec<u8>>()
        );

        let arguments = format!("report export -o {}", folder.path().display());
        let Verb::Report(arguments) = parse(&arguments).unwrap().verb;
        let failure = run(arguments, store.store.clone(), Format::Human).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().starts_with("failed to write "), "{failure}");
    }
}
