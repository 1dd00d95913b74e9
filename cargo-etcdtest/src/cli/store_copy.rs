//! `cargo etcdtest store copy`: from one store into another.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgGroup, Args};
use serde_json::json;

use super::print::{json_line, print};
use super::store_gc::counted;
use super::{Exit, Failure, Session};
use crate::config::{Format, SettingsError};
use crate::execution::StoreName;
use crate::store::copy::{Copied, CopyError, copy};
use crate::store::etcd::has_user;
use crate::store::{SharedStore, StoreOptions, connect};

/// Arguments of `store copy`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("sides").args(["from", "to"]).required(true).multiple(true)))]
pub(super) struct CopyArgs {
    /// Where to copy from: `local`, `local:FOLDER`, or endpoints of an etcd cluster [default: the
    /// store that the settings name]
    #[arg(long, value_name = "STORE")]
    from: Option<Place>,
    /// Where to copy to, likewise
    #[arg(long, value_name = "STORE")]
    to: Option<Place>,
    /// Prefix of all keys in the cluster that is copied from [default: that of the settings]
    #[arg(long, value_name = "PREFIX")]
    from_namespace: Option<String>,
    /// Prefix of all keys in the cluster that is copied to [default: that of the settings]
    #[arg(long, value_name = "PREFIX")]
    to_namespace: Option<String>,
    /// Copy secrets too, each as it is stored: encrypted, or readable for whoever may read the target
    #[arg(long)]
    secrets: bool,
}

/// A store, as somebody names it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The project's own, or that in a folder.
    Local(Option<PathBuf>),
    /// The cluster with these endpoints.
    Etcd(Vec<String>),
}

/// Why a text names no store.
#[derive(Debug, thiserror::Error)]
#[error("expected `local`, `local:FOLDER`, or endpoints such as `127.0.0.1:2379`")]
struct PlaceError;

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if text == "local" {
            return Ok(Self::Local(None));
        }
        if let Some(folder) = text.strip_prefix("local:") {
            return if folder.is_empty() { Err(PlaceError) } else { Ok(Self::Local(Some(folder.into()))) };
        }
        let endpoints = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let endpoints: Vec<String> = endpoints.map(str::to_owned).collect();
        if endpoints.is_empty() { Err(PlaceError) } else { Ok(Self::Etcd(endpoints)) }
    }
}

/// How to reach a store: as the settings say, but for what was typed.
fn options(
    session: &Session,
    place: Option<Place>,
    namespace: Option<String>,
) -> Result<StoreOptions, Failure> {
    let mut options = session.settings.store_options(&session.root);
    match place {
        None => {}
        Some(Place::Local(folder)) => {
            options.etcd.endpoints.clear();
            options.local = folder.unwrap_or(options.local);
        }
        Some(Place::Etcd(endpoints)) if endpoints.iter().any(|endpoint| has_user(endpoint)) => {
            return Err(Failure::usage(SettingsError::UserInEndpoint));
        }
        Some(Place::Etcd(endpoints)) => options.etcd.endpoints = endpoints,
    }
    if let Some(namespace) = namespace {
        if options.etcd.endpoints.is_empty() {
            return Err(Failure::usage(miette::miette!(
                help = "only a cluster has room for several projects",
                "a local store has no namespace `{namespace}`"
            )));
        }
        namespace.trim_end_matches('/').clone_into(&mut options.etcd.namespace);
    }
    Ok(options)
}

/// Opens a store; if that fails, the error says which of the two it was.
async fn open(options: &StoreOptions, side: &'static str) -> Result<SharedStore, Failure> {
    Ok(connect(options).await.map_err(|source| CopyError::Store { side, source })?)
}

/// Whether both are the same store.
fn are_one([from, to]: &[StoreOptions; 2], stores: [&SharedStore; 2]) -> bool {
    match (from.etcd.endpoints.is_empty(), to.etcd.endpoints.is_empty()) {
        (true, true) => from.local.canonicalize().ok() == to.local.canonicalize().ok(),
        (false, false) => {
            let [from, to] = [(from, stores[0]), (to, stores[1])]
                .map(|(options, store)| StoreName::new(&options.etcd, store.cluster_id()));
            from.is(&to)
        }
        _ => false,
    }
}

/// Runs the verb.
///
/// # Errors
/// One of the stores failed, or the target is in use.
pub(super) async fn run(args: CopyArgs, session: &Session) -> Result<Exit, Failure> {
    let sides =
        [options(session, args.from, args.from_namespace)?, options(session, args.to, args.to_namespace)?];
    let (from, to) = (open(&sides[0], "source").await?, open(&sides[1], "target").await?);
    if are_one(&sides, [&from, &to]) {
        return Err(Failure::usage(miette::miette!(
            help = "name another store with --to, or another prefix of its keys with --to-namespace",
            "the source and the target of the copy are the same store"
        )));
    }
    let copied = copy(&*from, &*to, args.secrets).await?;
    print(&match session.settings.format {
        Format::Human => text(&copied),
        Format::Json => json_line(&json!({
            "records": copied.records,
            "present": copied.present,
            "runs_left": copied.runs_left,
            "secrets_left": copied.secrets_left,
        })),
    })?;
    Ok(Exit::Passed)
}

fn text(copied: &Copied) -> String {
    let present = match copied.present {
        0 => String::new(),
        present => format!(", {present} were there already"),
    };
    let mut lines = vec![format!("{} copied{present}", counted(copied.records, "record"))];
    lines.extend(
        copied.runs_left.iter().map(|run| format!("left out: the run {run}, not over or not to be read")),
    );
    if copied.secrets_left > 0 {
        let secrets = counted(copied.secrets_left, "secret");
        lines.push(format!("left out: {secrets}, which --secrets copies too"));
    }
    lines.join("\n") + "\n"
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Store { side, source } => {
                let message = format!("the {side} of the copy: {source}");
                let help = source.help();
                let exit = Self::from(source).exit();
                Self::new(
                    exit,
                    match help {
                        Some(help) => miette::miette!(help = help, "{message}"),
                        None => miette::miette!("{message}"),
                    },
                )
            }
            CopyError::InUse { .. } | CopyError::Changing => Self::usage(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_by_a_word_a_folder_or_endpoints() {
        let place = |text: &str| text.parse::<Place>().ok();
        assert_eq!(place("local"), Some(Place::Local(None)));
        assert_eq!(place("local:/a b"), Some(Place::Local(Some("/a b".into()))));
        let endpoints = vec!["https://a:1".to_owned(), "b:2".to_owned()];
        assert_eq!(place("https://a:1, b:2,"), Some(Place::Etcd(endpoints)));
        for wrong in ["", ",", "local:"] {
            assert_eq!(place(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_was_left_out_is_told() {
        let copied = Copied {
            records: 3,
            present: 2,
            runs_left: vec![crate::model::RunId::new("nightly")],
            secrets_left: 1,
        };
        insta::assert_snapshot!(text(&copied), @r"
        3 records copied, 2 were there already
        left out: the run nightly, not over or not to be read
        left out: 1 secret, which --secrets copies too
        ");
    }
}
