//! What environments inherit from, now and at the time of an old version.

use std::collections::{BTreeMap, BTreeSet};

use super::super::chain::Chain;
use super::super::check::check;
use super::super::error::EnvironmentError;
use super::super::fault::Fault;
use super::super::file::EnvironmentFile;
use super::super::name::EnvironmentId;
use super::{Environments, LOCAL, read};
use crate::author::author;
use crate::model::{Definition, Environment};
use crate::nearest::suggestion;
use crate::store::{self, keys};

/// As of when the bases of an environment are read.
#[derive(Clone, Copy)]
pub(super) enum AsOf<'f> {
    /// As they are.
    Now,
    /// As they are once these files are applied.
    Applied(&'f BTreeMap<&'f str, &'f EnvironmentFile>),
    /// As they were at this revision.
    Revision(i64),
}

impl Environments {
    /// The environments that a run uses: those chosen, each once, in the order given, with
    /// all that they inherit; if none is chosen, the default one. [`LOCAL`] is empty where
    /// the store has none. An old version inherits from its bases as they were when it was
    /// applied.
    ///
    /// # Errors
    /// [`EnvironmentError::Unknown`] with all names that do not exist,
    /// [`EnvironmentError::TwoVersions`], as [`Environments::chain`], for an environment
    /// that does not hold together any more, or as the store fails.
    pub async fn resolve(
        &self,
        chosen: &[EnvironmentId],
        default: &str,
    ) -> Result<Vec<Environment>, EnvironmentError> {
        let default = [EnvironmentId::current(default)];
        let chosen = if chosen.is_empty() { &default[..] } else { chosen };
        let mut resolved = Vec::new();
        let mut unknown = Vec::new();
        for (index, id) in chosen.iter().enumerate() {
            let earlier = chosen[..index].iter().find(|earlier| earlier.name == id.name);
            if let Some(earlier) = earlier {
                if earlier == id {
                    continue;
                }
                return Err(EnvironmentError::TwoVersions { name: id.name.clone() });
            }
            match self.chain(id).await {
                Ok(chain) => {
                    let environment = chain.resolve();
                    let faults = check(&id.name, &environment.definition).into_iter();
                    EnvironmentError::all(faults.map(|fault| fault.of(&id.name)).collect())?;
                    resolved.push(environment);
                }
                Err(EnvironmentError::Unknown { .. }) if *id == EnvironmentId::current(LOCAL) => {
                    resolved.push(Environment::unstored(LOCAL, Definition::default(), &author()));
                }
                Err(EnvironmentError::Unknown { .. }) => unknown.push(id.name.clone()),
                Err(error) => return Err(error),
            }
        }
        if unknown.is_empty() { Ok(resolved) } else { Err(self.unknown(unknown).await?) }
    }

    /// An environment with those that it inherits from: as they are now, or for a version
    /// that is named, as they were when that was applied.
    ///
    /// # Errors
    /// [`EnvironmentError::Unknown`], [`EnvironmentError::UnknownVersion`],
    /// [`EnvironmentError::NoBase`], [`EnvironmentError::Circle`], or as the store fails.
    pub async fn chain(&self, id: &EnvironmentId) -> Result<Chain, EnvironmentError> {
        let own = self.own(id).await?;
        let as_of = if id.version.is_some() { AsOf::Revision(own.revision) } else { AsOf::Now };
        self.extend(Chain::new(own), as_of).await
    }

    /// An environment by itself, with the revision at which it was written.
    ///
    /// # Errors
    /// As [`Environments::get`] and [`Environments::version`].
    pub async fn own(&self, id: &EnvironmentId) -> Result<Environment, EnvironmentError> {
        match id.version {
            None => self.get(&id.name).await,
            Some(version) => self.version(&id.name, version).await,
        }
    }

    /// One version of an environment, with the revision at which it was written.
    ///
    /// # Errors
    /// [`EnvironmentError::UnknownVersion`], [`EnvironmentError::Unknown`] for a name that
    /// never existed, or as the store fails.
    pub async fn version(&self, name: &str, version: u64) -> Result<Environment, EnvironmentError> {
        if let Some(pair) = store::get(&*self.store, keys::environment_version(name, version)).await? {
            return Ok(read(&pair)?);
        }
        match self.last_version(name, 0).await? {
            0 => Err(self.unknown(vec![name.to_owned()]).await?),
            last => Err(EnvironmentError::UnknownVersion { name: name.to_owned(), version, last }),
        }
    }

    /// Adds what a chain lacks.
    pub(super) async fn extend(&self, mut chain: Chain, as_of: AsOf<'_>) -> Result<Chain, EnvironmentError> {
        while let Some(name) = chain.missing().map(str::to_owned) {
            let mut names = chain.names();
            if names.contains(&name) {
                names.push(name);
                return Err(EnvironmentError::Circle { names });
            }
            let base = match as_of {
                AsOf::Now => self.find(&name).await?,
                AsOf::Applied(files) => match files.get(name.as_str()) {
                    Some(file) => Some(Environment::unstored(&name, file.whole(), "")),
                    None => self.find(&name).await?,
                },
                AsOf::Revision(revision) => {
                    let history = self.history(&name).await?;
                    history.into_iter().rfind(|version| version.revision <= revision)
                }
            };
            let Some(base) = base else {
                return Err(EnvironmentError::NoBase { name: names.pop().unwrap_or_default(), base: name });
            };
            chain.push(base);
        }
        Ok(chain)
    }

    /// Checks files that are applied together, each with all it inherits from the others and
    /// from the store, and all that is stored and inherits from them; and sorts them so that
    /// each comes after its base. Nothing is written.
    ///
    /// # Errors
    /// All mistakes, each at its place in its file; [`EnvironmentError::Breaks`] for what is
    /// stored; or as the store fails.
    pub async fn check(&self, files: &mut [EnvironmentFile]) -> Result<(), EnvironmentError> {
        let by_name: BTreeMap<_, _> = files.iter().map(|file| (file.name.as_str(), file)).collect();
        let (mut chains, mut errors) = (Vec::new(), Vec::new());
        for file in files.iter() {
            let own = Chain::new(Environment::unstored(&file.name, file.whole(), ""));
            match self.extend(own, AsOf::Applied(&by_name)).await {
                Ok(chain) => chains.push((chain, file)),
                Err(error) => errors.extend(self.wrong_base(file, &by_name, error).await?),
            }
        }
        chains.sort_by_key(|(chain, _)| chain.bases().len());
        let mut told: Vec<Fault> = Vec::new();
        for (chain, file) in &chains {
            let whole = chain.resolve().definition;
            for fault in check(&file.name, &whole) {
                let written = file.as_written(fault.clone(), &whole);
                // What a base says is its own mistake.
                if file.says(&written.path) || !told.iter().any(|told| told.is_like(&fault)) {
                    errors.push(file.mistake(written));
                    told.push(fault);
                }
            }
        }
        EnvironmentError::all(errors)?;
        self.check_extending(&by_name).await?;
        let order: Vec<_> = chains.into_iter().map(|(_, file)| file.name.clone()).collect();
        files.sort_by_key(|file| order.iter().position(|name| *name == file.name));
        Ok(())
    }

    /// Checks what is stored and inherits from these files.
    async fn check_extending(
        &self,
        files: &BTreeMap<&str, &EnvironmentFile>,
    ) -> Result<(), EnvironmentError> {
        let mut errors = Vec::new();
        for stored in self.list().await? {
            if stored.definition.extends.is_none() || files.contains_key(stored.name.as_str()) {
                continue;
            }
            let name = stored.name.clone();
            // Where a base is missing, that is nothing that these files break.
            let Ok(after) = self.extend(Chain::new(stored.clone()), AsOf::Applied(files)).await else {
                continue;
            };
            let Some(base) = after.bases().iter().find(|base| files.contains_key(base.name.as_str())) else {
                continue;
            };
            let before = self.extend(Chain::new(stored), AsOf::Now).await?;
            let before = check(&name, &before.resolve().definition);
            let faults = check(&name, &after.resolve().definition).into_iter();
            let faults = faults.filter(|fault| !before.iter().any(|before| before.is_like(fault)));
            errors.extend(faults.map(|fault| {
                let (base, name) = (base.name.clone(), name.clone());
                let hint = fault.help.as_ref().map(|help| format!("{help} ")).unwrap_or_default();
                let help = format!("{hint}a changed `{name}` can be applied together with `{base}`");
                EnvironmentError::Breaks { base, name, what: fault.whole(), help }
            }));
        }
        EnvironmentError::all(errors)
    }

    /// The error about a base, at its place in the file where that names it; nothing where
    /// another of the files tells of it.
    async fn wrong_base(
        &self,
        file: &EnvironmentFile,
        files: &BTreeMap<&str, &EnvironmentFile>,
        error: EnvironmentError,
    ) -> Result<Option<EnvironmentError>, EnvironmentError> {
        let (label, help) = match &error {
            EnvironmentError::NoBase { name, base } if *name == file.name => {
                let stored = self.list().await?;
                let known = stored.iter().map(|environment| environment.name.as_str());
                let known = known.chain(files.keys().copied()).filter(|known| *known != file.name);
                (
                    format!("there is no environment `{base}`"),
                    suggestion(base, known.collect::<BTreeSet<_>>()),
                )
            }
            EnvironmentError::NoBase { name, .. } if files.contains_key(name.as_str()) => return Ok(None),
            EnvironmentError::Circle { names } => {
                let circle = names.last().and_then(|last| names.iter().position(|name| name == last));
                let circle = &names[circle.unwrap_or_default()..];
                let teller = circle.iter().filter(|name| files.contains_key(name.as_str())).min();
                if teller.is_some_and(|teller| *teller != file.name) {
                    return Ok(None);
                }
                let help = format!("each extends the next: {}", names.join(" → "));
                ("in the end it extends itself".into(), Some(help))
            }
            _ => return Ok(Some(error)),
        };
        Ok(Some(file.mistake(Fault {
            path: "extends".into(),
            part: String::new(),
            message: format!("the environment `{}` cannot inherit", file.name),
            label,
            help,
        })))
    }

    /// The names of environments that are to be deleted, each once and before its base.
    /// Nothing is deleted.
    ///
    /// # Errors
    /// [`EnvironmentError::Unknown`], [`EnvironmentError::Extended`] by others than these,
    /// or as the store fails.
    pub async fn in_order_of_deletion(&self, names: &[String]) -> Result<Vec<String>, EnvironmentError> {
        let mut left = self.list().await?;
        let unknown = names.iter().filter(|name| !left.iter().any(|known| known.name == **name));
        let unknown: Vec<_> = unknown.cloned().collect();
        if !unknown.is_empty() {
            return Err(self.unknown(unknown).await?);
        }
        let mut waiting: Vec<_> = names.to_vec();
        let mut ordered = Vec::new();
        while let Some(first) = waiting.first() {
            let free = waiting.iter().position(|name| extending(&left, name).next().is_none());
            let Some(free) = free else {
                let by = extending(&left, first).map(|other| other.name.clone()).collect();
                return Err(EnvironmentError::Extended { name: first.clone(), by });
            };
            let name = waiting.remove(free);
            left.retain(|other| other.name != name);
            if !ordered.contains(&name) {
                ordered.push(name);
            }
        }
        Ok(ordered)
    }
}

/// Which of them inherit from this one directly.
pub(super) fn extending<'e>(all: &'e [Environment], name: &'e str) -> impl Iterator<Item = &'e Environment> {
    all.iter().filter(move |other| other.definition.extends.as_deref() == Some(name))
}
