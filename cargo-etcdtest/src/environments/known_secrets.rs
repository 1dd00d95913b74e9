//! The secrets that are known where environments are applied, kept out of all else of these.

use super::error::EnvironmentError;
use super::fault::Fault;
use super::file::EnvironmentFile;
use super::given_data::GivenData;
use super::given_secrets::GivenSecrets;
use super::name::EnvironmentId;
use super::path::below;
use super::secrets::Secrets;
use super::service::Environments;
use crate::redact::Redactor;
use crate::store::Secret;

/// The longest value that may be an ordinary word, in letters.
const WORD: usize = 8;

/// Those given for files, and those stored that can be read here.
#[derive(Debug)]
pub struct KnownSecrets {
    all: Redactor,
    /// Without ordinary words, which may stand anywhere for something else.
    telling: Redactor,
}

impl KnownSecrets {
    /// Those of files that are applied together, and of what these change and extend.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn of(
        files: impl IntoIterator<Item = (&EnvironmentFile, &GivenSecrets)>,
        environments: &Environments,
        secrets: &Secrets,
    ) -> Result<Self, EnvironmentError> {
        let mut known = Vec::new();
        for (file, given) in files {
            known.extend(given.values().map(|(name, value)| (name.to_owned(), Secret::new(value))));
            for name in [Some(&file.name), file.definition.extends.as_ref()].into_iter().flatten() {
                // One that is not there comes into being with one of the other files, or not at all.
                known.extend(stored(&EnvironmentId::current(name), environments, secrets).await?);
            }
        }
        Ok(Self::new(&known))
    }

    /// Those stored of these environments, and of what they extend; none of one that is not there.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn stored(
        ids: impl IntoIterator<Item = EnvironmentId>,
        environments: &Environments,
        secrets: &Secrets,
    ) -> Result<Self, EnvironmentError> {
        let mut known = Vec::new();
        for id in ids {
            known.extend(stored(&id, environments, secrets).await?);
        }
        Ok(Self::new(&known))
    }

    fn new(known: &[(String, Secret)]) -> Self {
        let known = || known.iter().map(|(name, value)| (name.as_str(), value.expose()));
        let is_word =
            |value: &str| value.len() <= WORD && value.bytes().all(|byte| byte.is_ascii_lowercase());
        let telling = Redactor::new(known().filter(|(_, value)| !is_word(value)));
        Self { all: Redactor::new(known()), telling }
    }

    /// Checks that neither a file nor its data sets hold one of them: they would be stored,
    /// and shown to whoever looks at the environment.
    ///
    /// # Errors
    /// The first that does, at its place.
    pub fn check(&self, file: &EnvironmentFile, data: &GivenData) -> Result<(), EnvironmentError> {
        file.check_for(&self.telling)?;
        for (set, content) in data.contents() {
            if let Some((_, name)) = self.telling.places(content).first() {
                return Err(file.mistake(Fault {
                    path: below("data", set),
                    part: String::new(),
                    message: format!("the data set `{set}` cannot be stored"),
                    label: format!("it holds the value of the secret `{name}`"),
                    help: Some("have the tests put it in where they read the data".into()),
                }));
            }
        }
        Ok(())
    }

    /// A text without them.
    pub fn without(&self, text: &str) -> String {
        self.all.text(text.to_owned())
    }
}

/// The secrets of an environment that can be read here, with those that it inherits.
async fn stored(
    id: &EnvironmentId,
    environments: &Environments,
    secrets: &Secrets,
) -> Result<Vec<(String, Secret)>, EnvironmentError> {
    match environments.chain(id).await {
        Ok(chain) => Ok(secrets.readable(&chain.resolve().definition).await?),
        Err(error @ EnvironmentError::Store(_)) => Err(error),
        Err(_) => Ok(Vec::new()),
    }
}
