//! What happens in a run, for people: a line for each result, a bar on a terminal,
//! failures as they happen and again at the end.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::iter;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anstream::AutoStream;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::lines::Lines;
use super::reservation_text::{resource_text, waiting_text};
use super::style::{FAINT, Label, STRONG, WARNING, painted};
use crate::config::{OutputWhen, StatusLevel};
use crate::environments::Waiting;
use crate::execution::{AttemptOutput, Part, RunEvent, Unit};
use crate::model::{Attempt, Outcome, RunSummary, UnitIndex, UnitResult};
use crate::reports::{story, text};

/// In how many columns the first word of a line stands.
const COLUMN: usize = 12;
/// How many tests under way are named below the bar.
const NAMED: usize = 8;
/// How often events are looked for at the most.
const LOOK: Duration = Duration::from_millis(25);
/// How many events are shown in one piece at the most.
const BATCH: usize = 500;
/// From how many bytes on what is to be shown is written at once.
const MUCH: usize = 1 << 20;
/// How many bytes of a stream's beginning and end are shown with a failure.
const SHOWN: usize = 64 << 10;

/// Something that shows events.
pub(super) trait Display {
    /// Takes in one, to be shown with the next [`Display::flush`].
    ///
    /// # Errors
    /// Nobody looks any more.
    fn show(&mut self, event: RunEvent) -> io::Result<()>;

    /// Shows what was taken in.
    ///
    /// # Errors
    /// Nobody looks any more.
    fn flush(&mut self) -> io::Result<()>;
}

/// Shows events until there are no more, or nobody looks. They come to their end soon once `end` has no
/// sender any more.
pub(super) fn show(
    mut events: mpsc::UnboundedReceiver<RunEvent>,
    end: &Receiver<()>,
    display: &mut impl Display,
) {
    let mut shown = Instant::now();
    while let Some(event) = events.blocking_recv() {
        let is_behind = events.len() >= BATCH;
        let more = iter::from_fn(|| events.try_recv().ok()).take(BATCH);
        let shown_all = iter::once(event).chain(more).try_for_each(|event| display.show(event));
        if shown_all.and_then(|()| display.flush()).is_err() {
            return;
        }
        // Nobody sees more often, and each look takes time from the tests.
        if !is_behind && shown.elapsed() < LOOK {
            let _ = end.recv_timeout(LOOK);
        }
        shown = Instant::now();
    }
}

/// The display for people.
#[derive(Debug)]
pub(super) struct Progress {
    lines: Lines,
    /// What is to be written, with its colours.
    unwritten: RefCell<Vec<u8>>,
    /// Units are named with their environments.
    matrix: bool,
    /// The output of tests has been shown already, as it came.
    quiet: bool,
    bars: MultiProgress,
    bar: Option<ProgressBar>,
    named: HashMap<UnitIndex, ProgressBar>,
    counts: RunSummary,
    /// Those that were reported as slow.
    slow: HashSet<UnitIndex>,
    /// Those of whom more is to be told at the end, with what their last attempt printed.
    finals: Vec<(Unit, UnitResult, Arc<AttemptOutput>)>,
    /// Those that are listed at the end.
    listed: Vec<(Unit, UnitResult)>,
}

impl Progress {
    /// A display of a run with these lines, whose tests' output has been shown elsewhere, or not.
    pub(super) fn new(lines: Lines, quiet: bool) -> Self {
        Self {
            lines,
            unwritten: RefCell::default(),
            matrix: false,
            quiet,
            bars: MultiProgress::new(),
            bar: None,
            named: HashMap::new(),
            counts: RunSummary::default(),
            slow: HashSet::new(),
            finals: Vec::new(),
            listed: Vec::new(),
        }
    }

    /// Writes lines, which will stand above the bar.
    fn print(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut unwritten = self.unwritten.borrow_mut();
        write(&mut *unwritten)?;
        if unwritten.len() < MUCH { Ok(()) } else { self.write_out(&std::mem::take(&mut *unwritten)) }
    }

    fn write_out(&self, unwritten: &[u8]) -> io::Result<()> {
        // In one piece: each write takes time from the tests, and wakes whoever reads.
        let mut out = AutoStream::new(Vec::new(), AutoStream::choice(&io::stdout()));
        out.write_all(unwritten)?;
        self.bars.suspend(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&out.into_inner())?;
            stdout.flush()
        })
    }

    /// Who is waited for: on a terminal in one line that changes, elsewhere in a line each.
    fn waiting(&mut self, waiting: &Waiting) -> io::Result<()> {
        let text = waiting_text(waiting, Timestamp::now());
        if self.bars.is_hidden() {
            return self.print(|out| {
                let label = painted(WARNING, format_args!("{:>COLUMN$}", "Waiting"));
                writeln!(out, "{label} {text}")
            });
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("{prefix:>12} [{elapsed_precise}] {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix("Waiting");
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        bar.set_message(text);
        Ok(())
    }

    /// What a test waits for.
    fn resource_waiting(&self, unit: &Unit, resource: &str, waiting: Option<&Waiting>) -> io::Result<()> {
        if !self.lines.tell(StatusLevel::Slow) {
            return Ok(());
        }
        self.print(|out| {
            let label = painted(WARNING, format_args!("{:>COLUMN$}", "Waiting"));
            let text = resource_text(resource, waiting, Timestamp::now());
            writeln!(out, "{label} {} {text}", self.title(unit))
        })
    }

    fn reserved(&mut self, environments: &[String], waited: Duration) -> io::Result<()> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.print(|out| {
            let label = painted(Label::Pass.style(), format_args!("{:>COLUMN$}", "Reserved"));
            let waited = super::style::seconds(waited);
            writeln!(out, "{label} [{waited:>9}] {}", environments.join(", "))
        })
    }

    fn start_bar(&mut self, units: u32) {
        let bar = self.bars.add(ProgressBar::new(units.into()));
        let style =
            ProgressStyle::with_template("{prefix:>12} [{elapsed_precise}] [{wide_bar}] {pos}/{len}: {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_prefix("Running");
        bar.enable_steady_tick(Duration::from_millis(250));
        self.bar = Some(bar);
    }

    fn name(&mut self, unit: &Unit) {
        if self.named.len() >= NAMED || self.bars.is_hidden() || self.named.contains_key(&unit.index) {
            return;
        }
        let Some(bar) = &self.bar else { return };
        let line = self.bars.insert_after(bar, ProgressBar::new_spinner());
        let style = ProgressStyle::with_template("             [{elapsed:>9}] {msg}");
        line.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        line.set_message(self.title(unit));
        line.enable_steady_tick(Duration::from_millis(250));
        self.named.insert(unit.index, line);
    }

    fn count(&mut self, result: &UnitResult) {
        let counts = &mut self.counts;
        *match Label::of_result(result) {
            Label::Pass => &mut counts.passed,
            Label::Flaky => &mut counts.flaky,
            Label::Fail => &mut counts.failed,
            Label::Timeout => &mut counts.timed_out,
            Label::Crash => &mut counts.crashed,
            Label::Skip => &mut counts.skipped,
            Label::NotRun => &mut counts.not_run,
        } += 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
            bar.set_message(counted(&self.counts));
        }
    }

    /// `shop::smoke orders::paid`, and the environment where there are several.
    fn title(&self, unit: &Unit) -> String {
        let test = &unit.test;
        let environment = if self.matrix { format!(" @{}", unit.environment) } else { String::new() };
        let repetition = unit.repetition.map(|repetition| format!(" [{repetition}]")).unwrap_or_default();
        let binary = painted(FAINT, format_args!("{}::{}", test.package, test.binary));
        format!("{binary} {}{}", painted(STRONG, &test.test), painted(FAINT, environment + &repetition))
    }

    fn line(&self, label: &str, duration: Duration, unit: &Unit) -> String {
        format!("{label} [{:>9}] {}", super::style::seconds(duration), self.title(unit))
    }

    /// The line of a result, with a time if anything was tried.
    fn result_line(&self, unit: &Unit, result: &UnitResult, time: Option<Duration>) -> String {
        let label = Label::of_result(result).painted(COLUMN);
        let time = time.map(super::style::seconds).unwrap_or_default();
        let reason = result.reason.as_deref().filter(|_| result.outcome == Outcome::Skipped);
        let reason =
            reason.map(|reason| painted(FAINT, format_args!(": {}", text::one_line(reason, text::MESSAGE))));
        format!("{label} [{time:>9}] {}{}", self.title(unit), reason.unwrap_or_default())
    }

    fn finished(
        &mut self,
        unit: Unit,
        result: UnitResult,
        output: Arc<AttemptOutput>,
        shown: OutputWhen,
    ) -> io::Result<()> {
        if let Some(line) = self.named.remove(&unit.index) {
            line.finish_and_clear();
            self.bars.remove(&line);
        }
        self.count(&result);
        let mut details = Vec::new();
        if shown.is_immediate() {
            self.details(&mut details, &unit, &result, &output)?;
        }
        // It is the heading of what follows, too.
        if self.lines.tell_result(&result) || !details.is_empty() {
            let last = result.attempts.last();
            self.print(|out| {
                writeln!(out, "{}", self.result_line(&unit, &result, last.map(|last| last.duration)))?;
                if last.is_some_and(|last| last.leaky) {
                    let label = painted(WARNING, format_args!("{:>COLUMN$}", "LEAK"));
                    writeln!(out, "{label} it left processes behind, which were ended")?;
                }
                out.write_all(&details)
            })?;
        }
        if self.lines.list(&result, self.slow.contains(&unit.index)) {
            self.listed.push((unit.clone(), result.clone()));
        }
        if shown.is_final() {
            self.finals.push((unit, result, output));
        }
        Ok(())
    }

    fn attempt_failed(
        &self,
        unit: &Unit,
        attempt: &Attempt,
        output: &AttemptOutput,
        of: u32,
        wait: Duration,
        shown: OutputWhen,
    ) -> io::Result<()> {
        let told = self.lines.tell(StatusLevel::Retry);
        if !told && !shown.is_immediate() {
            return Ok(());
        }
        self.print(|out| {
            let label = Label::from(attempt);
            let label = painted(
                label.style(),
                format_args!("{:>COLUMN$}", format!("TRY {}/{of} {}", attempt.number, label.word())),
            );
            writeln!(out, "{}", self.line(&label, attempt.duration, unit))?;
            if shown.is_immediate() {
                self.story(out, unit, attempt, output)?;
            }
            if !told || wait.is_zero() {
                return Ok(());
            }
            let label = painted(WARNING, format_args!("{:>COLUMN$}", "RETRY IN"));
            writeln!(out, "{}", self.line(&label, wait, unit))
        })
    }

    /// Why a unit failed, and what its last attempt printed.
    fn details(
        &self,
        out: &mut dyn Write,
        unit: &Unit,
        result: &UnitResult,
        output: &AttemptOutput,
    ) -> io::Result<()> {
        match result.attempts.last().filter(|_| result.outcome.is_failure()) {
            Some(last) => self.story(out, unit, last, output),
            None => self.streams(out, unit, output),
        }
    }

    /// Why an attempt failed, its steps and what it printed.
    fn story(
        &self,
        out: &mut dyn Write,
        unit: &Unit,
        attempt: &Attempt,
        output: &AttemptOutput,
    ) -> io::Result<()> {
        let indent = " ".repeat(COLUMN + 1);
        for line in story::whole(attempt).lines() {
            writeln!(out, "{}", format!("{indent}{line}").trim_end())?;
        }
        self.streams(out, unit, output)
    }

    /// What an attempt printed.
    fn streams(&self, out: &mut dyn Write, unit: &Unit, output: &AttemptOutput) -> io::Result<()> {
        if !self.quiet {
            show_bytes(out, &format!("output of {}", unit.test), &output.printed.bytes())?;
        }
        for log in &output.services {
            let title = format!("service {} during {}", log.service, unit.test);
            show_bytes(out, &title, &log.bytes())?;
        }
        Ok(())
    }

    fn ended(&mut self, run: &crate::model::RunId, summary: &RunSummary, cancelled: bool) -> io::Result<()> {
        for (_, line) in self.named.drain() {
            line.finish_and_clear();
        }
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let rule = painted(FAINT, "─".repeat(COLUMN));
        self.print(|out| writeln!(out, "{rule}"))?;
        for (unit, result, output) in &self.finals {
            let Some(last) = result.attempts.last() else { continue };
            self.print(|out| {
                writeln!(out, "{}", self.result_line(unit, result, Some(last.duration)))?;
                self.details(out, unit, result, output)
            })?;
        }
        self.print(|out| {
            if !self.finals.is_empty() {
                writeln!(out, "{rule}")?;
            }
            let failed = summary.failed + summary.timed_out + summary.crashed;
            let style = if failed + summary.not_run > 0 { Label::Fail.style() } else { Label::Pass.style() };
            let word = if cancelled { "Cancelled" } else { "Summary" };
            let ran = summary.passed + summary.flaky + failed;
            let tests = if ran == 1 { "test" } else { "tests" };
            writeln!(
                out,
                "{style}{word:>COLUMN$}{style:#} [{:>9}] {ran} {tests} run: {}",
                super::style::seconds(summary.duration),
                counted(summary)
            )?;
            for (unit, result) in &self.listed {
                let time = (!result.attempts.is_empty()).then(|| result.duration());
                writeln!(out, "{}", self.result_line(unit, result, time))?;
            }
            writeln!(out, "{:>COLUMN$} {run}; see `cargo etcdtest runs show {run}`", "Run")
        })
    }
}

impl Display for Progress {
    fn show(&mut self, event: RunEvent) -> io::Result<()> {
        match event {
            RunEvent::Waiting(waiting) => self.waiting(&waiting),
            RunEvent::Reserved { environments, waited } => self.reserved(&environments, waited),
            RunEvent::Started { run, units, tests, environments, shuffle } => {
                self.matrix = environments.len() > 1;
                let environments: Vec<String> = environments
                    .iter()
                    .map(|environment| match environment.version {
                        0 => environment.name.clone(),
                        version => format!("{}@{version}", environment.name),
                    })
                    .collect();
                let words = if tests == 1 { "test" } else { "tests" };
                self.print(|out| {
                    let starting = painted(Label::Pass.style(), format_args!("{:>COLUMN$}", "Starting"));
                    let environments = environments.join(", ");
                    let order =
                        shuffle.map(|seed| format!(", shuffled with seed {seed}")).unwrap_or_default();
                    writeln!(out, "{starting} {tests} {words} in {environments} (run {run}{order})")
                })?;
                self.start_bar(units);
                Ok(())
            }
            RunEvent::Ready { environment, part, url, took } => {
                let at = self.matrix.then(|| painted(FAINT, format_args!(" @{environment}")));
                self.print(|out| {
                    let line = ready_line(&part, url.as_deref(), took);
                    writeln!(out, "{line}{}", at.unwrap_or_default())
                })
            }
            RunEvent::AttemptStarted { unit, .. } => {
                self.name(&unit);
                Ok(())
            }
            RunEvent::Slow { unit, elapsed } => {
                self.slow.insert(unit.index);
                if !self.lines.tell(StatusLevel::Slow) {
                    return Ok(());
                }
                self.print(|out| {
                    let label = painted(WARNING, format_args!("{:>COLUMN$}", "SLOW"));
                    let title = self.title(&unit);
                    writeln!(out, "{label} [>{:>8}] {title}", super::style::seconds(elapsed))
                })
            }
            RunEvent::ResourceWaiting { unit, resource, waiting } => {
                self.resource_waiting(&unit, &resource, waiting.as_ref())
            }
            RunEvent::AttemptFailed { unit, attempt, output, of, wait, shown } => {
                self.attempt_failed(&unit, &attempt, &output, of, wait, shown)
            }
            RunEvent::Finished { unit, result, output, shown } => self.finished(unit, result, output, shown),
            RunEvent::Cancelled { reason } => self.print(|out| {
                let label = painted(WARNING, format_args!("{:>COLUMN$}", "Cancelling"));
                writeln!(out, "{label} the run: {reason}")
            }),
            RunEvent::Notice { text } => self.print(|out| {
                let label = painted(WARNING, format_args!("{:>COLUMN$}", "Notice"));
                writeln!(out, "{label} {text}")
            }),
            RunEvent::TakenOver { unit, worker } => self.print(|out| {
                let label = painted(WARNING, format_args!("{:>COLUMN$}", "Takeover"));
                writeln!(out, "{label} {}, which was lost with worker {worker}", self.title(&unit))
            }),
            RunEvent::Superseded { units } => self.print(|out| {
                let label = painted(WARNING, format_args!("{:>COLUMN$}", "Superseded"));
                let tests = if units.len() == 1 { "test" } else { "tests" };
                let count = units.len();
                writeln!(out, "{label} {count} {tests}, which other workers took over meanwhile")
            }),
            RunEvent::Leaving { others } => self.print(|out| {
                let label = painted(WARNING, format_args!("{:>COLUMN$}", "Leaving"));
                let workers = if others == 1 { "worker goes" } else { "workers go" };
                writeln!(out, "{label} the run: {others} other {workers} on with it")
            }),
            RunEvent::Queued { run } => self.print(|out| {
                let label = painted(WARNING, format_args!("{:>COLUMN$}", "Queued"));
                writeln!(out, "{label} the run waits for workers: `cargo etcdtest worker --run {run}` is one")
            }),
            RunEvent::Stalled { run, reason } => self.print(|out| {
                let label = painted(WARNING, format_args!("{:>COLUMN$}", "Stalled"));
                writeln!(out, "{label} run {run}: {reason}")
            }),
            RunEvent::StoreAway => self.print(|out| {
                let label = painted(WARNING, format_args!("{:>COLUMN$}", "Waiting"));
                writeln!(out, "{label} for the store, which does not answer")
            }),
            RunEvent::Stored { .. } | RunEvent::Spent { .. } => Ok(()),
            RunEvent::Ended { run, summary, cancelled } => self.ended(&run, &summary, cancelled),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let unwritten = std::mem::take(self.unwritten.get_mut());
        if unwritten.is_empty() { Ok(()) } else { self.write_out(&unwritten) }
    }
}

/// A part of an environment that is ready, on one line.
pub(super) fn ready_line(part: &Part, url: Option<&str>, took: Duration) -> String {
    let label = painted(Label::Pass.style(), format_args!("{:>COLUMN$}", "Ready"));
    let url = url.map(|url| format!(" at {url}")).unwrap_or_default();
    let part = match part {
        Part::Definition => "definition".to_owned(),
        Part::Service(name) => format!("service {}", painted(STRONG, name)),
        Part::Probe(text) => format!("probe {}", painted(STRONG, text::one_line(text, text::MESSAGE))),
        Part::Data(name) => format!("data set {}", painted(STRONG, name)),
    };
    format!("{label} [{:>9}] {part}{}", super::style::seconds(took), painted(FAINT, url))
}

/// What was printed, bounded, under its title.
fn show_bytes(out: &mut dyn Write, title: &str, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    writeln!(out, "{}", painted(FAINT, format_args!("── {title} ──")))?;
    let content = String::from_utf8_lossy(bytes);
    let shown = text::bounded(&content, SHOWN, SHOWN);
    // A test that changed the colour must not colour what follows.
    let reset = if shown.contains('\u{1b}') { "\u{1b}[0m" } else { "" };
    write!(out, "{shown}{reset}")?;
    if !shown.ends_with('\n') {
        writeln!(out)?;
    }
    Ok(())
}

/// `14 passed, 1 flaky, 1 failed, 2 skipped`: what there is of each.
fn counted(summary: &RunSummary) -> String {
    let counts = Label::counts(summary).into_iter();
    let told = counts.filter(|(count, label)| *count > 0 || *label == Label::Pass);
    let words: Vec<String> = told
        .map(|(count, label)| painted(label.style(), format_args!("{count} {}", label.participle())))
        .collect();
    words.join(", ")
}
