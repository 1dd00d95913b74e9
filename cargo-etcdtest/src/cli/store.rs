//! `cargo etcdtest store`: what the store says of itself, and which settings led to it; and
//! taking care of it.

use std::fmt::Write as _;

use anstyle::Style;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::print::{json_line, print};
use super::store_copy::CopyArgs;
use super::store_gc::GcArgs;
use super::store_sync::SyncArgs;
use super::style::{FAINT, STRONG, WARNING, painted};
use super::table::Table;
use super::{Exit, Failure, Session, store_copy, store_gc, store_sync};
use crate::config::{Format, Origin, Setting};
use crate::store::{KeyRange, StoreError, StoreStatus, connect, keys};

/// Look at the store, and take care of it
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    verb: StoreVerb,
}

#[derive(Debug, Subcommand)]
enum StoreVerb {
    /// Show kind, version, size, health and content of the store, and each setting with its origin
    Status,
    /// Delete old runs, with all that was stored of them
    Gc(GcArgs),
    /// Copy a store into another one
    Copy(CopyArgs),
    /// Send results that runs on this machine could not store
    Sync(SyncArgs),
}

/// What a store says of itself, and how many records it has below each prefix, where that may
/// be known.
#[derive(Debug)]
struct Described {
    status: StoreStatus,
    records: Vec<(&'static str, Option<u64>)>,
}

/// Runs the verb. The settings are printed even where the store cannot be asked.
///
/// # Errors
/// The store failed.
pub(crate) async fn run(arguments: StoreArgs, session: &Session) -> Result<Exit, Failure> {
    match arguments.verb {
        StoreVerb::Status => {
            let described = describe(session).await;
            let settings = &session.settings;
            print(&match settings.format {
                Format::Human => text(described.as_ref(), &settings.origins),
                Format::Json => json_line(&document(described.as_ref(), &settings.origins)),
            })?;
            described?;
            Ok(Exit::Passed)
        }
        StoreVerb::Gc(args) => store_gc::run(&args, session).await,
        StoreVerb::Copy(args) => store_copy::run(args, session).await,
        StoreVerb::Sync(args) => store_sync::run(&args, session).await,
    }
}

async fn describe(session: &Session) -> Result<Described, StoreError> {
    let store = connect(&session.settings.store_options(&session.root)).await?;
    let status = store.status().await?;
    let mut records = Vec::new();
    for prefix in keys::STORED.into_iter().chain(keys::LEASED) {
        let count = match store.count(KeyRange::prefix(prefix)).await {
            Err(StoreError::Denied { .. }) => None,
            counted => Some(counted?),
        };
        records.push((prefix, count));
    }
    Ok(Described { status, records })
}

fn document(described: Result<&Described, &StoreError>, settings: &[Setting]) -> Value {
    let store = match described {
        Err(error) => json!({ "error": error.to_string() }),
        Ok(Described { status, records }) => {
            let member =
                |(endpoint, health): &(String, String)| json!({ "endpoint": endpoint, "health": health });
            let records = records.iter().map(|(prefix, count)| json!({ "prefix": prefix, "count": count }));
            json!({
                "kind": status.kind,
                "location": status.location,
                "version": status.version,
                "size": status.size,
                "quota": status.quota,
                "revision": status.revision.0,
                "members": status.members.iter().map(member).collect::<Vec<_>>(),
                "records": records.collect::<Vec<_>>(),
                "healthy": status.warnings.is_empty(),
                "warnings": status.warnings,
            })
        }
    };
    json!({ "store": store, "settings": settings })
}

fn text(described: Result<&Described, &StoreError>, settings: &[Setting]) -> String {
    let mut text = String::new();
    if let Ok(Described { status, records }) = described {
        let mut line = |name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} {value}", painted(FAINT, format_args!("{name:<8}")));
        };
        line("store", &format!("{} at {}", painted(STRONG, status.kind), status.location));
        line("version", status.version.as_deref().unwrap_or("not known"));
        line("size", &size(status));
        line("revision", &status.revision.to_string());
        for (endpoint, health) in &status.members {
            line("member", &format!("{endpoint} {health}"));
        }
        for (prefix, count) in records {
            let count = count.map_or_else(|| "not known".to_owned(), |count| count.to_string());
            line("records", &format!("{prefix:<14} {count}"));
        }
        line("health", if status.warnings.is_empty() { "ok" } else { "needs attention" });
        for warning in &status.warnings {
            line("warning", &painted(WARNING, warning));
        }
        text.push('\n');
    }
    text.push_str(&table(settings));
    text
}

fn size(status: &StoreStatus) -> String {
    match (status.size, status.quota) {
        (None, _) => "not known".into(),
        (Some(size), None) => bytes(size),
        (Some(size), Some(quota)) => format!("{} of {}", bytes(size), bytes(quota)),
    }
}

fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

fn table(settings: &[Setting]) -> String {
    let mut table = Table::new(&["SETTING", "VALUE", "FROM"]);
    for setting in settings {
        let style = if setting.origin == Origin::Default { FAINT } else { Style::new() };
        let value = if setting.value.is_empty() { "-" } else { &setting.value };
        table.row(
            [setting.name.clone(), value.to_owned(), setting.origin.to_string()].map(|cell| (cell, style)),
        );
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Settings};
    use crate::store::Revision;

    fn settings() -> Vec<Setting> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(".config")).unwrap();
        let file = "[profile.ci]\nendpoints = [\"a:2379\"]\n";
        std::fs::write(root.path().join(".config/etcdtest.toml"), file).unwrap();
        let flags = Flags {
            profile: Some("ci".into()),
            retries: Some(crate::config::Retries::at_once(2)),
            ..Flags::default()
        };
        let variables = [("ETCDTEST_PASSWORD".into(), "hunter2".into())];
        Settings::load(flags, root.path(), variables).unwrap().origins
    }

    fn healthy() -> Described {
        let status = StoreStatus {
            kind: "etcd",
            location: "a:2379".into(),
            version: Some("3.5.9".into()),
            size: Some(1_300_000),
            quota: Some(2 << 30),
            revision: Revision(17),
            members: vec![("a:2379".into(), "leader".into()), ("b:2379".into(), "does not answer".into())],
            warnings: vec!["something is wrong".into()],
        };
        Described { status, records: vec![(keys::RUNS, Some(17)), (keys::SECRETS, None)] }
    }

    #[test]
    fn a_healthy_store_is_shown_with_every_setting_and_its_origin() {
        let text = text(Ok(&healthy()), &settings());
        insta::assert_snapshot!("status", anstream::adapter::strip_str(&text).to_string());
    }

    #[test]
    fn settings_are_shown_where_the_store_is_not_reached() {
        let error = StoreError::Unavailable { location: "a:2379".into(), reason: "refused".into() };
        let text = text(Err(&error), &settings());
        assert!(text.contains("a:2379") && !text.contains("hunter2"), "{text}");
        let document = document(Err(&error), &settings());
        assert_eq!(document["store"]["error"], "the store at a:2379 cannot be reached: refused");
        let endpoints = &document["settings"][0];
        assert_eq!(endpoints["name"], "endpoints");
        assert_eq!(endpoints["origin"]["from"], "file");
        assert_eq!(endpoints["origin"]["profile"], "ci");
    }

    #[test]
    fn the_document_of_a_store_has_stable_names() {
        let document = document(Ok(&healthy()), &[]);
        let expected = json!({
            "store": {
                "kind": "etcd", "location": "a:2379", "version": "3.5.9", "size": 1_300_000,
                "quota": 2_147_483_648_u64, "revision": 17,
                "members": [
                    { "endpoint": "a:2379", "health": "leader" },
                    { "endpoint": "b:2379", "health": "does not answer" },
                ],
                "records": [
                    { "prefix": "/runs/", "count": 17 },
                    { "prefix": "/secrets/", "count": null },
                ],
                "healthy": false, "warnings": ["something is wrong"],
            },
            "settings": [],
        });
        assert_eq!(document, expected);
    }
}
