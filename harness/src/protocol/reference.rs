//! References within texts: `${config.orders.url}`, `${services.orders.port}`.

use std::fmt;

/// What a value of an environment refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference<'t> {
    /// `${config.a.b}`: another value of the configuration.
    Config(Vec<&'t str>),
    /// `${services.NAME.url}`: where a service is reached.
    Url(&'t str),
    /// `${services.NAME.port}`: the port of a service.
    Port(&'t str),
    /// `${secrets.NAME}`: a secret.
    Secret(&'t str),
    /// `${environment.name}`: the name of the environment itself.
    EnvironmentName,
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'t> {
    /// As it is.
    Text(&'t str),
    /// In its place stands what it refers to.
    Reference(Reference<'t>),
}

/// Something that begins like a reference and is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed<'t> {
    /// As it is written.
    pub written: &'t str,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The parts of a text, in which `$${` stands for `${`.
///
/// # Errors
/// At the first `${` that begins no reference.
pub fn pieces(text: &str) -> Result<Vec<Piece<'_>>, Malformed<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            pieces.push(Piece::Text(&rest[..start - 1]));
            pieces.push(Piece::Text(&rest[start..start + 2]));
            rest = &rest[start + 2..];
            continue;
        }
        let opened = &rest[start..];
        let Some(end) = opened.find('}') else {
            return Err(Malformed { written: "${", reason: "it has no closing `}`" });
        };
        let malformed = |reason| Malformed { written: &opened[..=end], reason };
        pieces.push(Piece::Text(&rest[..start]));
        pieces.push(Piece::Reference(Reference::parse(&opened[2..end]).map_err(malformed)?));
        rest = &opened[end + 1..];
    }
    pieces.push(Piece::Text(rest));
    pieces.retain(|piece| *piece != Piece::Text(""));
    Ok(pieces)
}

impl<'t> Reference<'t> {
    fn parse(path: &'t str) -> Result<Self, &'static str> {
        let parts: Vec<_> = path.split('.').collect();
        if parts.iter().any(|part| part.trim().is_empty()) {
            return Err("a part of it is empty");
        }
        match parts[..] {
            ["config"] => Err("it names no value, as `${config.NAME}` does"),
            ["config", ref names @ ..] => Ok(Self::Config(names.to_vec())),
            ["services", name, "url"] => Ok(Self::Url(name)),
            ["services", name, "port"] => Ok(Self::Port(name)),
            ["services", ..] => {
                Err("of a service there are `${services.NAME.url}` and `${services.NAME.port}`")
            }
            ["secrets", name] => Ok(Self::Secret(name)),
            ["secrets", ..] => Err("a secret is `${secrets.NAME}`"),
            ["environment", "name"] => Ok(Self::EnvironmentName),
            ["environment", ..] => Err("of the environment there is `${environment.name}`"),
            _ => Err("it begins with none of `config`, `services`, `secrets` and `environment`"),
        }
    }
}

impl fmt::Display for Reference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(names) => write!(f, "${{config.{}}}", names.join(".")),
            Self::Url(name) => write!(f, "${{services.{name}.url}}"),
            Self::Port(name) => write!(f, "${{services.{name}.port}}"),
            Self::Secret(name) => write!(f, "${{secrets.{name}}}"),
            Self::EnvironmentName => f.write_str("${environment.name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_at_its_references() {
        use Piece::{Reference as Refers, Text};
        let split = |text| pieces(text).unwrap();
        assert_eq!(split(""), []);
        assert_eq!(split("a $b {c} }"), [Text("a $b {c} }")]);
        assert_eq!(
            split("${services.orders.url}/v1?${secrets.t}"),
            [Refers(Reference::Url("orders")), Text("/v1?"), Refers(Reference::Secret("t"))]
        );
        assert_eq!(split("${config.a b.c}"), [Refers(Reference::Config(vec!["a b", "c"]))]);
        assert_eq!(
            split("a$${x} ${environment.name}"),
            [Text("a"), Text("${"), Text("x} "), Refers(Reference::EnvironmentName)]
        );
        assert_eq!(split("$$${"), [Text("$"), Text("${")]);
    }

    #[test]
    fn what_only_looks_like_a_reference_is_told() {
        for wrong in [
            "${",
            "${}",
            "x${config}",
            "${config.}",
            "${config..a}",
            "${services.a}",
            "${secrets.a.b}",
            "${environment}",
            "${HOME}",
            "${ config.a }",
        ] {
            assert!(pieces(wrong).is_err(), "{wrong}");
        }
        assert_eq!(pieces("a ${b} ${config.c}").unwrap_err().written, "${b}");
    }
}
