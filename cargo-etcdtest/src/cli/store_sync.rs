//! `store sync`: results that runs could not store are sent.

use clap::Args;
use serde_json::{Value, json};

use super::print::{json_line, print};
use super::run::failure_of;
use super::style::{FAINT, Label, WARNING, painted};
use super::{Exit, Failure, Session};
use crate::author::host;
use crate::config::Format;
use crate::execution::{Header, LeftBehind, RunError, StoreName, Synced, Unreadable, sync};
use crate::store::{Patience, SharedStore};

/// In how many columns the first word of a line stands.
const COLUMN: usize = 12;

/// Arguments of `store sync`.
#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// Remove journals of which something can never be stored: it is damaged, its run was deleted
    /// or ended without it, or other workers have executed the same tests
    #[arg(long)]
    discard: bool,
}

/// A journal, and what came of it.
#[derive(Debug)]
struct Told {
    header: Header,
    path: String,
    damaged: usize,
    /// Results for another store are not sent.
    came: Came,
    /// The file is still there.
    kept: bool,
}

#[derive(Debug)]
enum Came {
    Synced(Synced),
    Elsewhere(usize),
}

/// Sends what is left behind for this store, and tells what came of each journal. What fails is told
/// as well; it exits with the first of that, and else as it should.
///
/// # Errors
/// The store is the project's own, or does not answer: then nothing more can be sent.
pub(super) async fn run(args: &SyncArgs, session: &Session) -> Result<Exit, Failure> {
    let store = session.store().await?;
    let Some(journals) = session.journals(&*store) else {
        return Err(Failure::usage(miette::miette!(
            help = "name the etcd that the results are for with --endpoints",
            "the project's own store needs no journals"
        )));
    };
    let format = session.settings.format;
    let (mut exit, mut found) = (Exit::Passed, false);
    for left in journals.left_behind() {
        found = true;
        let (path, told) = match left {
            Ok(left) => {
                let path = left.path().to_owned();
                (path, send(left, &store, journals.store(), session, args.discard).await)
            }
            Err(error) => (error.path().to_owned(), Err(unreadable(&error))),
        };
        match told {
            Ok(told) => print(&match format {
                Format::Human => text(&told),
                Format::Json => json_line(&document(&told)),
            })?,
            Err(failure) => {
                if format == Format::Json {
                    let error = json!({ "journal": path, "error": failure.to_string(), "kept": true });
                    print(&json_line(&error))?;
                }
                if failure.is_passing() {
                    return Err(failure);
                }
                let failed = failure.print();
                exit = if exit == Exit::Passed { failed } else { exit };
            }
        }
    }
    if !found && format == Format::Human {
        print(&format!("{:>COLUMN$} nothing: all results are stored\n", "Left behind"))?;
    }
    Ok(exit)
}

/// Sends what workers on this machine have left behind for this store, and tells people what came of
/// it. What cannot be sent is told as well, and kept.
///
/// # Errors
/// The store does not answer: then nothing more can be sent.
pub(super) async fn send_left_behind(session: &Session, store: &SharedStore) -> Result<(), Failure> {
    let Some(journals) = session.journals(&**store) else { return Ok(()) };
    let left = journals.left_behind().into_iter().flatten();
    for left in left.filter(|left| left.header().store.is(journals.store())) {
        match send(left, store, journals.store(), session, false).await {
            Ok(told) => anstream::eprint!("{}", text(&told)),
            Err(failure) if failure.is_passing() => return Err(failure),
            Err(failure) => drop(failure.print()),
        }
    }
    Ok(())
}

/// Sends one journal to this store, if it is for that.
async fn send(
    mut left: LeftBehind,
    store: &SharedStore,
    name: &StoreName,
    session: &Session,
    discard: bool,
) -> Result<Told, Failure> {
    let header = left.header().clone();
    let came = if header.store.is(name) {
        let patience = Patience::from(session.settings.store_timeout);
        let synced = sync(store, &mut left, host(), &patience).await;
        Came::Synced(synced.map_err(|error| not_sent(error, &left))?)
    } else {
        Came::Elsewhere(left.count())
    };
    let (path, damaged) = (left.path().display().to_string(), left.damaged());
    let kept = keep(left, &came, discard);
    Ok(Told { header, path, damaged, came, kept })
}

/// Why a journal is not read, and what can be done.
fn unreadable(error: &Unreadable) -> Failure {
    let help = "nothing of it was sent, and it is kept; if it is of no use any more, remove the file";
    Failure::usage(miette::miette!(help = help, "{error}"))
}

/// Why a journal could not be sent, and what can be done.
fn not_sent(error: RunError, left: &LeftBehind) -> Failure {
    let (count, path) = (results(left.count()), left.path().display());
    let run = &left.header().run;
    let first = format!("{path} keeps {count} of {run}: call `cargo etcdtest store sync` again");
    failure_of(error, run).with_help(&first)
}

/// Removes a journal that is of no use any more, and says whether it is still there.
fn keep(left: LeftBehind, came: &Came, discard: bool) -> bool {
    let keep = match came {
        Came::Elsewhere(_) => true,
        Came::Synced(synced) => !discard && (synced.superseded > 0 || left.damaged() > 0),
    };
    if !keep {
        left.discard();
    }
    keep
}

fn text(told: &Told) -> String {
    let Told { header, path, damaged, came, kept } = told;
    let run = &header.run;
    let line = |word: &str, style, rest: String| {
        format!("{} {rest}\n", painted(style, format_args!("{word:>COLUMN$}")))
    };
    let mut text = String::new();
    match came {
        Came::Elsewhere(count) => {
            let rest = format!("{} of {run} for the store {}", results(*count), header.store);
            text += &line("Elsewhere", WARNING, rest);
        }
        Came::Synced(synced) => {
            if synced.stored > 0 || synced.superseded == 0 {
                text += &line("Stored", Label::Pass.style(), format!("{} of {run}", results(synced.stored)));
            }
            if let Some(why) = synced.why {
                let rest = format!("{} of {run}: {why}", results(synced.superseded));
                text += &line("Superseded", WARNING, rest);
            }
            if synced.finished {
                text += &line(
                    "Finished",
                    Label::Pass.style(),
                    format!("{run}; see `cargo etcdtest runs show {run}`"),
                );
            }
        }
    }
    if *damaged > 0 {
        text += &line("Damaged", WARNING, format!("{damaged} bytes of {path} cannot be read"));
    }
    if *kept && matches!(came, Came::Synced(_)) {
        text += &line("Kept", FAINT, format!("{path}; `--discard` removes it"));
    }
    text
}

fn results(count: usize) -> String {
    if count == 1 { "1 result".into() } else { format!("{count} results") }
}

fn document(told: &Told) -> Value {
    let Told { header, path, damaged, came, kept } = told;
    let mut document = json!({
        "journal": path, "run": header.run, "worker": header.worker, "store": header.store,
        "damaged": damaged, "kept": kept,
    });
    match came {
        Came::Elsewhere(count) => document["elsewhere"] = json!(count),
        Came::Synced(Synced { stored, superseded, why, finished }) => {
            document["stored"] = json!(stored);
            document["superseded"] = json!(superseded);
            document["why"] = json!(why.map(|why| why.to_string()));
            document["finished"] = json!(finished);
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::Superseded;
    use crate::model::{RunId, WorkerId};

    fn header() -> Header {
        let endpoints = vec!["http://etcd:2379".into()];
        Header {
            store: StoreName { endpoints, namespace: "/team".into(), cluster: None },
            run: RunId::new("nightly"),
            worker: WorkerId::new("desk-1"),
            identity: 3,
            locks: vec![],
            project: "shop".into(),
        }
    }

    #[test]
    fn each_journal_is_told_with_what_came_of_it() {
        let header = header();
        let told = |came, damaged, kept| {
            let told = Told { header: header.clone(), path: "a.journal".into(), damaged, came, kept };
            text(&told)
        };
        let synced =
            |stored, superseded, why, finished| Came::Synced(Synced { stored, superseded, why, finished });
        let all = [
            told(synced(2, 0, None, true), 0, false),
            told(synced(1, 12, Some(Superseded::TakenOver), false), 0, true),
            told(synced(0, 1, Some(Superseded::Gone), false), 30, true),
            told(synced(0, 1, Some(Superseded::LocksLost), false), 0, false),
            told(Came::Elsewhere(1), 0, true),
        ];
        insta::assert_snapshot!("sync", anstream::adapter::strip_str(&all.concat()).to_string());
    }

    #[test]
    fn the_document_says_the_same_with_stable_names() {
        let came =
            Came::Synced(Synced { stored: 1, superseded: 2, why: Some(Superseded::Over), finished: false });
        let told = Told { header: header(), path: "a.journal".into(), damaged: 0, came, kept: true };
        let expected = json!({
            "journal": "a.journal", "run": "nightly", "worker": "desk-1",
            "store": { "endpoints": ["http://etcd:2379"], "namespace": "/team" },
            "stored": 1, "superseded": 2, "why": "the run has ended without it", "finished": false,
            "damaged": 0, "kept": true,
        });
        assert_eq!(document(&told), expected);

        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/machine-output.md");
        let guide = std::fs::read_to_string(path).unwrap();
        let (_, section) = guide.split_once("## store sync\n").unwrap();
        let elsewhere = Told { came: Came::Elsewhere(1), ..told };
        for document in [expected, document(&elsewhere)] {
            let undocumented =
                document.as_object().unwrap().keys().find(|name| !section.contains(&format!("`{name}`")));
            assert_eq!(undocumented, None);
        }
    }
}
