//! What environments inherit from, now and at the time of an old version.

use std::collections::BTreeMap;

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
pub(super) enum AsOf {
    /// As they are.
    Now,
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
                    check(&id.name, &environment.definition).map_err(|fault| fault.of(&id.name))?;
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
    pub(super) async fn extend(&self, mut chain: Chain, as_of: AsOf) -> Result<Chain, EnvironmentError> {
        while let Some(name) = chain.missing().map(str::to_owned) {
            let mut names = chain.names();
            if names.contains(&name) {
                names.push(name);
                return Err(EnvironmentError::Circle { names });
            }
            let base = match as_of {
                AsOf::Now => self.find(&name).await?,
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
    /// from the store, and puts them in an order in which each comes after its base.
    /// Nothing is written.
    ///
    /// # Errors
    /// A mistake in a file, at its place, or as the store fails.
    pub async fn check(&self, files: Vec<EnvironmentFile>) -> Result<Vec<EnvironmentFile>, EnvironmentError> {
        let by_name: BTreeMap<_, _> = files.iter().map(|file| (file.name.as_str(), file)).collect();
        let mut depths = BTreeMap::new();
        for file in &files {
            let own = Environment::unstored(&file.name, file.whole(), "");
            let mut chain = Chain::new(own);
            // As far as the files reach, then on in the store.
            while let Some(base) = chain.missing().and_then(|name| by_name.get(name)) {
                if chain.names().contains(&base.name) {
                    break;
                }
                chain.push(Environment::unstored(&base.name, base.whole(), ""));
            }
            depths.insert(file.name.clone(), chain.bases().len());
            let chain = match self.extend(chain, AsOf::Now).await {
                Ok(chain) => chain,
                Err(error) => return Err(self.wrong_base(file, &by_name, error).await?),
            };
            file.check(&chain.resolve().definition)?;
        }
        let mut files = files;
        files.sort_by_key(|file| depths.get(&file.name).copied());
        Ok(files)
    }

    /// The error about a base, at its place in the file where that names it.
    async fn wrong_base(
        &self,
        file: &EnvironmentFile,
        files: &BTreeMap<&str, &EnvironmentFile>,
        error: EnvironmentError,
    ) -> Result<EnvironmentError, EnvironmentError> {
        let (label, help) = match &error {
            EnvironmentError::NoBase { name, base } if *name == file.name => {
                let stored = self.list().await?;
                let known = stored.iter().map(|environment| environment.name.as_str());
                let known = known.chain(files.keys().copied()).filter(|known| *known != file.name);
                (
                    format!("there is no environment `{base}`"),
                    suggestion(base, known.collect::<std::collections::BTreeSet<_>>()),
                )
            }
            EnvironmentError::Circle { names } => (
                "in the end it extends itself".into(),
                Some(format!("each extends the next: {}", names.join(" → "))),
            ),
            _ => return Ok(error),
        };
        Ok(file.mistake(Fault {
            path: "extends".into(),
            part: String::new(),
            message: format!("the environment `{}` cannot inherit", file.name),
            label,
            help,
        }))
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
