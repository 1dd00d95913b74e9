//! `[secrets]`: where each comes from, never what it is.

use std::num::NonZeroU64;
use std::path::PathBuf;

use toml::de::DeValue;

use super::super::sealing::check_recipient;
use super::reader::{Node, Read, Reader};
use crate::document::Document;
use crate::model::SecretVersion;

/// Where the value of a secret is taken from when its file is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretInput {
    /// This variable.
    Env(String),
    /// This file; a relative path is below the folder of the environment's file.
    File(PathBuf),
    /// What this program with its arguments prints.
    Command(Vec<String>),
    /// Whoever applies it is asked, and does not see what they type.
    Prompt,
}

/// What a file says of a secret.
pub(super) enum Secret {
    /// Where its value is taken from.
    Input(SecretInput),
    /// It stays as it is stored, which a file that was printed from the store says.
    Stored(SecretVersion),
}

/// What may stand for a secret.
const FORMS: &str = "write where it comes from: `NAME = { env = \"VARIABLE\" }`, `{ file = \"path\" }`, \
    `{ command = [\"program\", \"argument\"] }` or `{ prompt = true }`";

const KINDS: [&str; 4] = ["env", "file", "command", "prompt"];

pub(super) fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Read<Secret> {
    let (path, place) = (node.0.clone(), node.1.span());
    if !matches!(node.1.get_ref(), DeValue::Table(_)) {
        let message = format!("`{path}` holds a value, which a file of an environment never does");
        let mistake = reader.document.mistake(message, place, "not shown here").with_help(FORMS.to_owned());
        return Err(reader.tell(mistake));
    }
    let mut fields =
        reader.fields(node, "a secret", &[&KINDS[..], &["environment", "version", "encrypted"]].concat())?;
    if let Some(environment) = fields.take("environment") {
        let environment = reader.filled(environment);
        let number = |reader: &mut Reader<'_>, node| {
            reader.number::<NonZeroU64>(node, "the number of a version").map(NonZeroU64::get)
        };
        let version = fields.required(reader, "version", number);
        if let Some((kind, (_, value))) = KINDS.iter().find_map(|kind| Some((kind, fields.take(kind)?))) {
            let label = format!("`{kind}` beside a stored version");
            return Err(reader.wrong(&path, value.span(), label));
        }
        let encrypted = fields.optional(reader, "encrypted", Reader::truth).unwrap_or_default();
        return Ok(Secret::Stored(SecretVersion { environment: environment?, version: version?, encrypted }));
    }
    for alone in ["version", "encrypted"] {
        if let Some((_, value)) = fields.take(alone) {
            let label = format!("`{alone}` without `environment`");
            return Err(reader.wrong_as(&path, value.span(), label, Some(FORMS.to_owned())));
        }
    }
    let (kind, node) = fields.take_one(reader, &KINDS, Some(FORMS))?;
    Ok(Secret::Input(match kind.as_str() {
        "env" => SecretInput::Env(variable(reader, node)?),
        "file" => SecretInput::File(beside(reader.document, &reader.filled(node)?)),
        "command" => SecretInput::Command(reader.command(node)?),
        _ => match node.1.get_ref() {
            DeValue::Boolean(true) => SecretInput::Prompt,
            _ => return Err(reader.wrong(&node.0, node.1.span(), "expected `true`")),
        },
    }))
}

/// Somebody for whom secrets are encrypted.
pub(super) fn recipient(reader: &mut Reader<'_>, node: Node<'_>) -> Read<String> {
    let (path, place) = (node.0.clone(), node.1.span());
    let text = reader.text(node)?;
    check_recipient(&text).map_err(|reason| {
        let help = "`age-keygen -y IDENTITY-FILE` shows the recipient of an identity: `age1…`";
        let mistake = reader.document.mistake(format!("`{path}` is no recipient of age"), place, reason);
        reader.tell(mistake.with_help(help.to_owned()))
    })
}

/// The name of a variable.
pub(super) fn variable(reader: &mut Reader<'_>, node: Node<'_>) -> Read<String> {
    let (path, place) = (node.0.clone(), node.1.span());
    let name = reader.text(node)?;
    if is_variable(&name) {
        Ok(name)
    } else {
        Err(reader.wrong(&path, place, "this is no name of a variable"))
    }
}

pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !name.contains(char::is_whitespace)
}

/// A path that a document names.
pub(super) fn beside(document: &Document, path: &str) -> PathBuf {
    document.path().parent().map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
}
