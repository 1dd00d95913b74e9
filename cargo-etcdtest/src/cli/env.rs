//! `cargo etcdtest env`: the environments that tests run against.

use std::path::PathBuf;

use anstyle::Style;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use super::confirm::{confirm, somebody_is_there};
use super::print::{json_line, print};
use super::style::{FAINT, STRONG, ago, local_time, painted};
use super::table::Table;
use super::{Exit, Failure, Session};
use crate::author::author;
use crate::config::Format;
use crate::environments::{
    Applied, Draft, EnvironmentError, EnvironmentFile, Environments, GivenSecrets, Secrets, editor,
    read_files,
};
use crate::model::Environment;
use crate::reports::text::one_line;
use crate::store::SharedStore;

/// Manage the environments that tests run against
#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    #[command(subcommand)]
    verb: EnvVerb,
}

#[derive(Debug, Subcommand)]
enum EnvVerb {
    /// Make environments what files NAME.toml say; what changes something is a new version
    Apply {
        /// Files, or folders whose NAME.toml are meant
        #[arg(value_name = "FILE|FOLDER", required = true)]
        paths: Vec<PathBuf>,
        /// Name of the environment, if it is not the file's; for one file only
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// List the environments
    List,
    /// Show an environment, as a file says it
    Show {
        /// The environment
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Change an environment in the editor that VISUAL or EDITOR names
    Edit {
        /// The environment
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Delete environments; their versions are kept
    Delete {
        /// The environments
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs the verb.
///
/// # Errors
/// A file is wrong, there is no such environment, or the store failed.
pub(crate) async fn run(arguments: EnvArgs, store: SharedStore, session: &Session) -> Result<Exit, Failure> {
    let format = session.settings.format;
    let environments = Environments::new(store.clone());
    match arguments.verb {
        EnvVerb::Apply { paths, name } => {
            let secrets = session.secrets(store)?;
            apply(&environments, &secrets, files(&paths, name)?, format).await?;
        }
        EnvVerb::List => {
            let list = environments.list().await?;
            print(&match format {
                Format::Human => list_text(&list, Timestamp::now()),
                Format::Json => list.iter().map(json_line).collect(),
            })?;
        }
        EnvVerb::Show { name } => {
            let environment = environments.get(&name).await?;
            print(&match format {
                Format::Human => show_text(&environment, Timestamp::now(), &TimeZone::system())?,
                Format::Json => json_line(&environment),
            })?;
        }
        EnvVerb::Edit { name } => {
            let secrets = session.secrets(store)?;
            print(&edit(&environments, &secrets, &name, format).await?)?;
        }
        EnvVerb::Delete { names, yes } => delete(&environments, &names, yes, format).await?,
    }
    Ok(Exit::Passed)
}

fn files(paths: &[PathBuf], name: Option<String>) -> Result<Vec<EnvironmentFile>, Failure> {
    match (name, paths) {
        (None, paths) => Ok(read_files(paths)?),
        (Some(name), [file]) if !file.is_dir() => Ok(vec![EnvironmentFile::read(file, Some(&name))?]),
        (Some(_), _) => Err(Failure::usage(miette::miette!("--name is for one file only"))),
    }
}

async fn apply(
    environments: &Environments,
    secrets: &Secrets,
    files: Vec<EnvironmentFile>,
    format: Format,
) -> Result<(), Failure> {
    // Nothing is written anywhere until all values are known.
    let given = |file: EnvironmentFile| Ok((GivenSecrets::read(&file)?, file));
    let given: Vec<_> = tokio::task::block_in_place(|| {
        files.into_iter().map(given).collect::<Result<_, EnvironmentError>>()
    })?;
    for (given, mut file) in given {
        let current = environments.find(&file.name).await?;
        let current = current.as_ref().map(|current| &current.definition);
        for name in given.store(secrets, &mut file, current).await? {
            let name = painted(STRONG, name);
            anstream::eprintln!("the secret {name} was not given, and stays as it is stored");
        }
        let applied = environments.apply(&file, &author()).await?;
        print(&applied_text(&applied, format))?;
    }
    Ok(())
}

/// Opens the editor until what was written is right, or nobody wants to go on.
async fn edit(
    environments: &Environments,
    secrets: &Secrets,
    name: &str,
    format: Format,
) -> Result<String, Failure> {
    let seen = environments.get(name).await?;
    let draft = Draft::new(&seen)?;
    let error = loop {
        match edit_once(environments, secrets, &seen, &draft).await {
            Ok(applied) => return Ok(applied_text(&applied, format)),
            Err(error @ EnvironmentError::File(_)) if somebody_is_there() => {
                Failure::usage(error).print();
                if !confirm("edit it again?") {
                    break Failure::usage(miette::miette!("`{name}` was not changed"));
                }
            }
            Err(error) => break error.into(),
        }
    };
    if draft.is_changed() {
        anstream::eprintln!("what you wrote is kept in {}", draft.keep()?.display());
    }
    Err(error)
}

async fn edit_once(
    environments: &Environments,
    secrets: &Secrets,
    seen: &Environment,
    draft: &Draft,
) -> Result<Applied, EnvironmentError> {
    let editor = editor()?;
    tokio::task::block_in_place(|| draft.open(&editor))?;
    let mut file = draft.read()?;
    let given = tokio::task::block_in_place(|| GivenSecrets::read(&file))?;
    given.store(secrets, &mut file, Some(&seen.definition)).await?;
    environments.replace(seen, &file, &author()).await
}

async fn delete(
    environments: &Environments,
    names: &[String],
    yes: bool,
    format: Format,
) -> Result<(), Failure> {
    for name in names {
        environments.get(name).await?;
    }
    if !yes {
        let what = names.join(", ");
        if !somebody_is_there() {
            let help = "say --yes";
            return Err(Failure::usage(miette::miette!(
                help = help,
                "nobody is there to confirm: delete {what}"
            )));
        }
        if !confirm(&format!("delete {what}?")) {
            return Err(Failure::usage(miette::miette!("nothing was deleted")));
        }
    }
    for name in names {
        environments.delete(name).await?;
        print(&match format {
            Format::Human => format!("{} deleted\n", painted(STRONG, name)),
            Format::Json => json_line(&json!({ "name": name, "deleted": true })),
        })?;
    }
    Ok(())
}

fn applied_text(applied: &Applied, format: Format) -> String {
    let (environment, changed) = match applied {
        Applied::Unchanged(environment) => (environment, false),
        Applied::Written(environment) => (environment, true),
    };
    let Environment { name, version, revision, .. } = environment;
    match format {
        Format::Json => {
            json_line(&json!({ "name": name, "version": version, "revision": revision, "changed": changed }))
        }
        Format::Human => {
            let what = if changed { "applied" } else { "unchanged" };
            format!("{} {what}, version {version}\n", painted(STRONG, name))
        }
    }
}

fn list_text(environments: &[Environment], now: Timestamp) -> String {
    if environments.is_empty() {
        return "no environments yet: write environments/NAME.toml and `cargo etcdtest env apply` it\n"
            .into();
    }
    let mut table = Table::new(&["NAME", "VERSION", "APPLIED", "BY", "DESCRIPTION"]);
    for environment in environments {
        table.row([
            (environment.name.clone(), STRONG),
            (environment.version.to_string(), Style::new()),
            (ago(environment.applied, now), FAINT),
            (one_line(&environment.author, 40), FAINT),
            (one_line(&environment.definition.description, 80), Style::new()),
        ]);
    }
    table.to_string()
}

/// The environment as a file, with what else is known of it as comments: the output can be
/// applied again.
fn show_text(environment: &Environment, now: Timestamp, zone: &TimeZone) -> Result<String, EnvironmentError> {
    let comment = |text: String| painted(FAINT, format_args!("# {text}"));
    let Environment { name, version, revision, applied, author, .. } = environment;
    let first = comment(format!("{name}, version {version} (revision {revision})"));
    let second = comment(format!(
        "applied {} ({}) by {}",
        local_time(*applied, zone),
        ago(*applied, now),
        one_line(author, 80)
    ));
    Ok(format!("{first}\n{second}\n{}", environment.to_toml()?))
}
