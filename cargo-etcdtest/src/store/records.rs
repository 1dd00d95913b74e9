//! How records become values: JSON with a `schema` number.

use serde::Deserialize;

use super::api::{Key, KeyValue, Result};
use super::error::StoreError;
use crate::model::Record;

/// What every record has beside its own fields.
#[derive(Deserialize)]
struct Schema {
    schema: Option<u64>,
}

/// The value to store for a record.
pub fn encode<T: Record>(record: &T) -> Vec<u8> {
    let fields = serde_json::to_vec(record).expect("records are maps with text keys");
    let mut value = format!("{{\"schema\":{}", T::SCHEMA).into_bytes();
    if fields.len() > b"{}".len() {
        value.push(b',');
    }
    value.extend_from_slice(&fields[1..]);
    value
}

/// Reads a record back.
///
/// # Errors
/// [`StoreError::Record`] where the value is no such record, or of a newer schema.
pub fn decode<T: Record>(pair: &KeyValue) -> Result<T> {
    decode_value(&pair.key, &pair.value)
}

/// Reads a record back from the value of a key.
///
/// # Errors
/// As [`decode`].
pub fn decode_value<T: Record>(key: &Key, value: &[u8]) -> Result<T> {
    let wrong = |reason: String| StoreError::Record { key: key.clone(), reason };
    let unreadable = |error: serde_json::Error| {
        wrong(if error.is_data() { error.to_string() } else { format!("not JSON: {error}") })
    };
    let schema = match leading_schema(value) {
        Some(schema) => Some(schema),
        None => serde_json::from_slice::<Schema>(value).map_err(unreadable)?.schema,
    };
    match schema {
        None => Err(wrong("it has no `schema` number".into())),
        Some(found) if found > T::SCHEMA => {
            Err(wrong(format!("its schema is {found}, this version knows those up to {}", T::SCHEMA)))
        }
        Some(_) => serde_json::from_slice(value).map_err(unreadable),
    }
}

/// The schema number where [`encode`] puts it. Somebody else may have put it elsewhere; to look
/// for it there is to read the record twice.
fn leading_schema(value: &[u8]) -> Option<u64> {
    let rest = value.strip_prefix(b"{\"schema\":")?;
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    matches!(rest[digits], b',' | b'}').then(|| str::from_utf8(&rest[..digits]).ok()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        name: String,
        #[serde(default)]
        since_schema_2: Option<u32>,
    }

    impl Record for Sample {
        const SCHEMA: u64 = 2;
    }

    fn read(value: &str) -> Result<Sample> {
        decode_value(&"/sample".into(), value.as_bytes())
    }

    #[test]
    fn an_older_schema_is_read_and_a_newer_one_refused() {
        let sample = Sample { name: "a".into(), since_schema_2: None };
        assert_eq!(decode_value::<Sample>(&"/s".into(), &encode(&sample)).unwrap(), sample);
        assert_eq!(read(r#"{"schema":1,"name":"a"}"#).unwrap(), sample);
        assert_eq!(read(r#" { "name" : "a", "schema" : 2 }"#).unwrap(), sample, "wherever it stands");
        let newer = read(r#"{"schema":3,"name":"a"}"#).unwrap_err().to_string();
        assert_eq!(read(r#"{"name":"a","schema":3}"#).unwrap_err().to_string(), newer);
        assert_eq!(
            newer,
            "the record /sample cannot be read: its schema is 3, this version knows those up to 2"
        );
        assert!(read(r#"{"name":"a"}"#).is_err());
        for garbage in
            ["garbage", r#"{"schema":"#, r#"{"schema":,"name":"a"}"#, r#"{"schema":1.5,"name":"a"}"#]
        {
            assert!(read(garbage).is_err(), "{garbage}");
        }
        assert!(read(r#"{"schema":1,"name":"a""#).unwrap_err().to_string().contains("not JSON"));
    }
}
