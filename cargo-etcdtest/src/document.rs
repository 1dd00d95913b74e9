//! TOML files that people write: read whole, every mistake shown at its place.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode, SourceSpan};
use toml::de::DeTable;

/// The text of a file with the name by which the user knows it.
#[derive(Clone, Debug)]
pub struct Document {
    path: PathBuf,
    text: String,
    shown: Arc<String>,
}

/// Why a document is not accepted.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum DocumentError {
    /// It could not be read at all.
    #[error("failed to read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mistake(Box<Mistake>),
}

/// A mistake at one place of a document.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub struct Mistake {
    message: String,
    label: String,
    #[source_code]
    text: NamedSource<Arc<String>>,
    #[label("{label}")]
    place: SourceSpan,
    #[help]
    help: Option<String>,
}

impl Document {
    /// A document with this text.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { path: path.into(), shown: Arc::new(text.clone()), text }
    }

    /// Reads a file, of which errors speak by `name`.
    ///
    /// # Errors
    /// [`DocumentError::Unreadable`], or a [`Mistake`] where it is not UTF-8.
    pub fn read(path: &Path, name: &Path) -> Result<Self, DocumentError> {
        let bytes = std::fs::read(path)
            .map_err(|source| DocumentError::Unreadable { path: name.to_owned(), source })?;
        String::from_utf8(bytes).map(|text| Self::new(name, text)).map_err(|error| {
            let place = error.utf8_error().valid_up_to();
            let document = Self::new(name, String::from_utf8_lossy(error.as_bytes()));
            document.mistake("the file is not UTF-8", place..place, "this byte").into()
        })
    }

    /// Blanks out places that errors may not show.
    #[must_use]
    pub fn hiding(mut self, places: impl IntoIterator<Item = Range<usize>>) -> Self {
        let mut shown = Arc::unwrap_or_clone(self.shown).into_bytes();
        for place in places {
            let bytes = shown.get_mut(place).into_iter().flatten();
            bytes.filter(|byte| !b"\r\n".contains(byte)).for_each(|byte| *byte = b'*');
        }
        self.shown = Arc::new(String::from_utf8_lossy(&shown).into_owned());
        self
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its content as TOML, with the place of each key and value.
    ///
    /// # Errors
    /// Where it is not TOML.
    pub fn table(&self) -> Result<DeTable<'_>, Box<Mistake>> {
        match DeTable::parse(&self.text) {
            Ok(table) => Ok(table.into_inner()),
            Err(error) => {
                let place = error.span().unwrap_or(0..0);
                Err(self.mistake("the file is not valid TOML", place, error.message()))
            }
        }
    }

    /// The line of a place, from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.text.get(..offset).map_or(0, |before| before.matches('\n').count()) + 1
    }

    /// What stands at a place, as it is written.
    pub fn written(&self, place: Range<usize>) -> &str {
        self.text.get(place).unwrap_or_default()
    }

    /// A mistake: what it is in a whole sentence, where, and what is wrong with this very place.
    pub fn mistake(
        &self,
        message: impl Into<String>,
        place: Range<usize>,
        label: impl Into<String>,
    ) -> Box<Mistake> {
        Box::new(Mistake {
            message: message.into(),
            label: label.into(),
            text: NamedSource::new(self.path.to_string_lossy(), Arc::clone(&self.shown)),
            place: place.into(),
            help: None,
        })
    }
}

impl Mistake {
    /// The same mistake with the next step.
    #[must_use]
    pub fn with_help(mut self: Box<Self>, help: impl Into<Option<String>>) -> Box<Self> {
        self.help = help.into();
        self
    }

    /// Where it begins, in bytes.
    pub fn offset(&self) -> usize {
        self.place.offset()
    }
}

/// Something that is right in form, and probably not what was meant: a warning.
#[derive(Debug)]
pub struct Doubt(pub Box<Mistake>);

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Doubt {}

impl Diagnostic for Doubt {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Warning)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.help()
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.0.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.0.labels()
    }
}

impl From<Box<Mistake>> for DocumentError {
    fn from(mistake: Box<Mistake>) -> Self {
        Self::Mistake(mistake)
    }
}

/// An error as people see it, for tests: without colour, of fixed width.
#[cfg(test)]
pub(crate) fn rendered(error: &dyn Diagnostic) -> String {
    let theme = miette::GraphicalTheme::unicode_nocolor();
    let handler = miette::GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
    let mut text = String::new();
    handler.render_report(&mut text, error).unwrap();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
