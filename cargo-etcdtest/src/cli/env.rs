//! `cargo etcdtest env`: the environments that tests run against.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use super::confirm::{confirm, somebody_is_there};
use super::env_text::{Shown, applied_text, diff, history_text, list_text};
use super::print::{json_line, print};
use super::reservation::{ReleaseArgs, ReserveArgs, release, reserve};
use super::style::{STRONG, painted};
use super::{Exit, Failure, Session, env_check};
use crate::author::author;
use crate::config::{Flags, Format};
use crate::environments::{
    Applied, Change, Draft, EnvironmentError, EnvironmentFile, EnvironmentId, Environments, GivenData,
    GivenSecrets, KnownSecrets, Reservations, Secrets, editor, read_files,
};
use crate::model::Environment;
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
        /// Why, for the history
        #[arg(long, short, value_name = "TEXT", default_value = "")]
        message: String,
    },
    /// List the environments
    List,
    /// Show an environment with all it inherits, as a file says it
    Show {
        /// The environment, or one of its versions
        #[arg(value_name = "NAME[@VERSION]")]
        id: EnvironmentId,
        /// Without what it inherits
        #[arg(long)]
        own: bool,
    },
    /// Change an environment in the editor that VISUAL or EDITOR names
    Edit {
        /// The environment
        #[arg(value_name = "NAME")]
        name: String,
        /// Why, for the history
        #[arg(long, short, value_name = "TEXT", default_value = "")]
        message: String,
    },
    /// List the versions of an environment, the newest first
    History {
        /// The environment
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Compare what two environments, or two versions of one, come to with all they inherit
    Diff {
        /// One environment, or one of its versions
        #[arg(value_name = "NAME[@VERSION]")]
        from: EnvironmentId,
        /// The other; the current version of the same if only an old one is given
        #[arg(value_name = "NAME[@VERSION]")]
        to: Option<EnvironmentId>,
    },
    /// Make an environment again what it was in an old version: as a new version
    Rollback {
        /// The version
        #[arg(value_name = "NAME@VERSION")]
        id: EnvironmentId,
        /// Why, for the history
        #[arg(long, short, value_name = "TEXT", default_value = "")]
        message: String,
    },
    /// Keep an environment for yourself: runs and other people wait meanwhile
    Reserve(ReserveArgs),
    /// Give an environment back that you have reserved
    Release(ReleaseArgs),
    /// Start an environment's services, try its probes, and stop the services
    Check {
        /// The environment, or one of its versions
        #[arg(value_name = "NAME[@VERSION]")]
        id: EnvironmentId,
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

impl EnvArgs {
    /// What its flags say of the settings.
    pub(super) fn flags(&self) -> Flags {
        let reserve_timeout = match &self.verb {
            EnvVerb::Reserve(args) => args.reserve_timeout,
            _ => None,
        };
        Flags { reserve_timeout, ..Flags::default() }
    }
}

/// Runs the verb.
///
/// # Errors
/// A file is wrong, there is no such environment, or the store failed.
pub(crate) async fn run(arguments: EnvArgs, store: SharedStore, session: &Session) -> Result<Exit, Failure> {
    let settings = &session.settings;
    let format = settings.format;
    let environments = Environments::new(store.clone());
    let reservations = Reservations::new(store.clone(), settings.store_timeout);
    match arguments.verb {
        EnvVerb::Apply { paths, name, message } => {
            let mut files = files(&paths, name)?;
            environments.check(&mut files).await?;
            files.iter_mut().for_each(warn);
            let change = Change { author: &author(), message: &message };
            apply(&environments, &session.secrets(store)?, files, change, format).await?;
        }
        EnvVerb::List => {
            let list = environments.list().await?;
            let queues = reservations.queues().await?;
            print(&match format {
                Format::Human => list_text(&list, &queues, Timestamp::now()),
                Format::Json => {
                    let shown = |environment| Shown::own(environment, &queues).json();
                    list.into_iter().map(shown).collect()
                }
            })?;
        }
        EnvVerb::Show { id, own } => {
            let shown = if own { None } else { Some(environments.chain(&id).await?) };
            let queues = reservations.queues().await?;
            let shown = match &shown {
                Some(chain) => Shown::resolved(chain, &queues),
                None => Shown::own(environments.own(&id).await?, &queues),
            };
            print(&match format {
                Format::Human => shown.text(Timestamp::now(), &TimeZone::system())?,
                Format::Json => shown.json(),
            })?;
        }
        EnvVerb::Edit { name, message } => {
            let change = Change { author: &author(), message: &message };
            print(&edit(&environments, &session.secrets(store)?, &name, change, format).await?)?;
        }
        EnvVerb::History { name } => {
            let history = environments.history(&name).await?;
            if history.is_empty() {
                environments.get(&name).await?;
            }
            print(&match format {
                Format::Human => history_text(&history, Timestamp::now(), &TimeZone::system()),
                Format::Json => history.iter().rev().map(json_line).collect(),
            })?;
        }
        EnvVerb::Diff { from, to } => {
            let to = match to {
                Some(to) => to,
                None if from.version.is_some() => EnvironmentId::current(&from.name),
                None => return Err(nothing_to_compare(&from.name)),
            };
            let (from, to) = (environments.chain(&from).await?, environments.chain(&to).await?);
            let (from, to) = (from.resolve(), to.resolve());
            let compared = session.secrets(store)?.compare(&from.definition, &to.definition).await?;
            print(&diff(&from, &to, &compared, format))?;
        }
        EnvVerb::Rollback { id, message } => {
            let Some(version) = id.version else { return Err(no_version(&id.name)) };
            let both = [EnvironmentId::current(&id.name), id.clone()];
            let message = session.without_secrets(&message, both, &store).await?;
            let message = match message.as_str() {
                "" => format!("rollback to version {version}"),
                why => format!("rollback to version {version}: {why}"),
            };
            let change = Change { author: &author(), message: &message };
            print(&applied_text(&environments.roll_back(&id.name, version, change).await?, format))?;
        }
        EnvVerb::Reserve(args) => return reserve(args, store, session).await,
        EnvVerb::Release(args) => return release(args, store, settings).await,
        EnvVerb::Check { id } => {
            let secrets = session.secrets(store)?;
            return env_check::run(&environments, &secrets, id, session).await;
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

/// Shows what of a file was probably meant otherwise.
fn warn(file: &mut EnvironmentFile) {
    for doubt in file.doubts.drain(..) {
        anstream::eprintln!("{:?}", miette::Report::new(doubt));
    }
}

async fn apply(
    environments: &Environments,
    secrets: &Secrets,
    files: Vec<EnvironmentFile>,
    change: Change<'_>,
    format: Format,
) -> Result<(), Failure> {
    // Nothing is written anywhere until all values are known.
    let data = GivenData::read_all(&files)?;
    let values = GivenSecrets::read_all(&files)?;
    let known = KnownSecrets::of(files.iter().zip(&values), environments, secrets).await?;
    let mut told: Vec<_> =
        files.iter().zip(&data).filter_map(|(file, data)| known.check(file, data).err()).collect();
    let mut current = Vec::new();
    for (file, values) in files.iter().zip(&values) {
        let found = environments.find(&file.name).await?.map(|found| found.definition);
        told.extend(values.check(file, found.as_ref()).err());
        current.push(found);
    }
    EnvironmentError::all(told)?;
    let change = Change { message: &known.without(change.message), ..change };
    for (((mut file, data), values), current) in files.into_iter().zip(data).zip(values).zip(current) {
        for name in values.store(environments, secrets, &mut file, current.as_ref()).await? {
            let name = painted(STRONG, name);
            anstream::eprintln!("the secret {name} was not given, and stays as it is stored");
        }
        data.store(&environments.data_sets(), &mut file).await?;
        print(&applied_text(&environments.apply(&file, change).await?, format))?;
    }
    Ok(())
}

fn nothing_to_compare(name: &str) -> Failure {
    let help = format!("write `{name}@VERSION` to compare that with what it is now, or a second environment");
    Failure::usage(miette::miette!(help = help, "there is nothing to compare `{name}` with"))
}

fn no_version(name: &str) -> Failure {
    let help = format!("write `{name}@VERSION`; `cargo etcdtest env history {name}` shows all versions");
    Failure::usage(miette::miette!(help = help, "to which version of `{name}` is not said"))
}

/// Opens the editor until what was written is right, or nobody wants to go on.
async fn edit(
    environments: &Environments,
    secrets: &Secrets,
    name: &str,
    change: Change<'_>,
    format: Format,
) -> Result<String, Failure> {
    let seen = environments.get(name).await?;
    let (draft, editor) = (Draft::new(&seen)?, editor()?);
    let error = loop {
        if let Err(error) = draft.open(&editor).await {
            break error.into();
        }
        match take_draft(environments, secrets, &seen, &draft, change).await {
            Ok(applied) => return Ok(applied_text(&applied, format)),
            Err(error) if error.is_of_file() && somebody_is_there() => {
                Failure::usage(error).print();
                if !confirm("edit it again?") {
                    break Failure::usage(miette::miette!("`{name}` was not changed"));
                }
            }
            Err(error @ EnvironmentError::Abandoned { .. }) => return Err(error.into()),
            Err(error) => break error.into(),
        }
    };
    if draft.is_changed() {
        anstream::eprintln!("what you wrote is kept in {}", draft.keep()?.display());
    }
    Err(error)
}

/// Makes the environment what the draft says.
async fn take_draft(
    environments: &Environments,
    secrets: &Secrets,
    seen: &Environment,
    draft: &Draft,
    change: Change<'_>,
) -> Result<Applied, EnvironmentError> {
    let mut file = draft.read()?;
    environments.check(std::slice::from_mut(&mut file)).await?;
    warn(&mut file);
    let data = GivenData::read(&file)?;
    let given = GivenSecrets::read(&file)?;
    let known = KnownSecrets::of([(&file, &given)], environments, secrets).await?;
    known.check(&file, &data)?;
    let change = Change { message: &known.without(change.message), ..change };
    given.store(environments, secrets, &mut file, Some(&seen.definition)).await?;
    data.store(&environments.data_sets(), &mut file).await?;
    environments.replace(seen, &file, change).await
}

async fn delete(
    environments: &Environments,
    names: &[String],
    yes: bool,
    format: Format,
) -> Result<(), Failure> {
    let names = environments.in_order_of_deletion(names).await?;
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
        environments.delete(&name).await?;
        print(&match format {
            Format::Human => format!("{} deleted\n", painted(STRONG, &name)),
            Format::Json => json_line(&json!({ "name": name, "deleted": true })),
        })?;
    }
    Ok(())
}
