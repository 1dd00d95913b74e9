//! Reading a part of the configuration into a type, with the path of what is wrong and
//! never its value: serde's own errors show values, which may be secrets.

use std::fmt::{self, Display};

use serde_core::de::value::{MapAccessDeserializer, StrDeserializer};
use serde_core::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Error, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde_core::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// Reads `value` as a `T`.
pub(crate) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Wrong> {
    T::deserialize(At(value))
}

/// How many things are said to be wrong at the most.
const MOST: usize = 20;

/// All that `wrong` says of a value: it is asked again and again, each time with something in
/// the place of what it complained about, as far as anything will do there.
pub(crate) fn all_wrong(value: &Value, wrong: &dyn Fn(&Value) -> Option<Wrong>) -> Vec<Wrong> {
    let mut value = value.clone();
    let mut all: Vec<Wrong> = Vec::new();
    let mut next = wrong(&value);
    for _ in 0..MOST {
        let Some(found) = next.take() else { break };
        let anything = ["".into(), 1.into(), true.into(), Value::Array(Vec::new()), Map::new().into()];
        for candidate in anything {
            if !put(&mut value, &found.path, candidate) {
                break;
            }
            next = wrong(&value);
            if next.as_ref().is_none_or(|next| next.path != found.path) {
                break;
            }
            next = None;
        }
        // What stands below something that is wrong itself is no news.
        if !all.iter().any(|earlier| found.path.ends_with(&earlier.path)) {
            all.push(found);
        }
    }
    all
}

/// Puts something at a path, whose innermost part comes first.
fn put(value: &mut Value, path: &[String], new: Value) -> bool {
    let Some((key, above)) = path.split_last() else {
        *value = new;
        return true;
    };
    match value {
        Value::Object(table) => put(table.entry(key).or_insert(Value::Null), above, new),
        Value::Array(values) => {
            let item = key.parse().ok().and_then(|index: usize| values.get_mut(index));
            item.is_some_and(|item| put(item, above, new))
        }
        _ => false,
    }
}

/// What is wrong, and where below the value that was read.
#[doc(hidden)]
#[derive(Debug)]
pub struct Wrong {
    /// Innermost part first.
    path: Vec<String>,
    /// `None` where there is nothing at the path.
    reason: Option<String>,
}

impl Wrong {
    /// Nothing is there.
    pub(crate) fn missing() -> Self {
        Self { path: Vec::new(), reason: None }
    }

    /// The same, seen from the table in which the value has this key.
    pub(crate) fn below(mut self, key: &str) -> Self {
        self.path.push(key.to_owned());
        self
    }

    /// It is the value itself, not a part of it.
    pub(crate) fn at_root(&self) -> bool {
        self.path.is_empty()
    }

    /// The dotted path; `config` for the whole of it.
    pub(crate) fn key(&self) -> String {
        if self.path.is_empty() {
            return "config".to_owned();
        }
        self.path.iter().rev().map(String::as_str).collect::<Vec<_>>().join(".")
    }

    /// What is wrong; `None` where the value is missing.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "`{}`: {}", self.key(), self.reason().unwrap_or("missing"))
    }
}

impl std::error::Error for Wrong {}

impl Error for Wrong {
    fn custom<T: Display>(message: T) -> Self {
        Self { path: Vec::new(), reason: Some(message.to_string()) }
    }

    fn invalid_type(found: Unexpected, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {}", kind(found)))
    }

    fn invalid_value(found: Unexpected, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {} that does not fit", kind(found)))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("expected one of {}", expected.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::missing().below(field)
    }
}

fn kind(found: Unexpected) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "an integer",
        Unexpected::Float(_) => "a float",
        Unexpected::Char(_) | Unexpected::Str(_) => "a string",
        Unexpected::Seq => "an array",
        Unexpected::Map => "a table",
        _ => "a value",
    }
}

/// A value that is being read.
struct At<'a>(&'a Value);

impl<'de> Deserializer<'de> for At<'de> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(value) => match (value.as_u64(), value.as_i64(), value.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (.., value) => visitor.visit_f64(value.unwrap_or(f64::NAN)),
            },
            Value::String(value) => visitor.visit_borrowed_str(value),
            Value::Array(values) => visitor.visit_seq(Items { values: values.iter(), index: 0 }),
            Value::Object(values) => visitor.visit_map(Members::of(values)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::String(variant) => visitor.visit_enum(StrDeserializer::new(variant)),
            Value::Object(values) => visitor.visit_enum(MapAccessDeserializer::new(Members::of(values))),
            _ => Err(Wrong::custom("expected the name of a variant, or a table with one")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a> {
    values: std::slice::Iter<'a, Value>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        let Some(value) = self.values.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(At(value)).map(Some).map_err(|wrong| wrong.below(&index.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.values.len())
    }
}

struct Members<'a> {
    values: serde_json::map::Iter<'a>,
    current: Option<(&'a str, &'a Value)>,
}

impl<'a> Members<'a> {
    fn of(values: &'a Map<String, Value>) -> Self {
        Self { values: values.iter(), current: None }
    }
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        self.current = self.values.next().map(|(key, value)| (key.as_str(), value));
        let Some((key, _)) = self.current else { return Ok(None) };
        seed.deserialize(Key(key)).map(Some).map_err(|wrong| wrong.below(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let (key, value) =
            self.current.ok_or_else(|| Wrong::custom("a value was asked for before its key"))?;
        seed.deserialize(At(value)).map_err(|wrong| wrong.below(key))
    }
}

/// The key of a table, which is a number where the type wants one.
struct Key<'a>(&'a str);

macro_rules! number_keys {
    ($($method:ident $visit:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            match self.0.parse() {
                Ok(number) => visitor.$visit(number),
                Err(_) => visitor.visit_borrowed_str(self.0),
            }
        }
    )* };
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_borrowed_str(self.0)
    }

    number_keys! {
        deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32 deserialize_i64 visit_i64
        deserialize_u8 visit_u8 deserialize_u16 visit_u16 deserialize_u32 visit_u32 deserialize_u64 visit_u64
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let key: StrDeserializer<Wrong> = self.0.into_deserializer();
        de::Deserializer::deserialize_enum(key, name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i128 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    enum Mode {
        Plain,
        Tries(u8),
        Point(u8, u8),
        Named { name: String },
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Meters(f64);

    #[derive(Debug, Deserialize, PartialEq)]
    struct All {
        flag: bool,
        signed: i64,
        float: f64,
        letter: char,
        text: Option<String>,
        list: Vec<(u8, Meters)>,
        ports: BTreeMap<u16, Mode>,
        modes: BTreeMap<String, Mode>,
        #[serde(default)]
        absent: Option<u8>,
        anything: Value,
    }

    fn all() -> Value {
        json!({
            "flag": true, "signed": -3, "float": 1.5, "letter": "x", "text": null,
            "list": [[1, 2.0], [3, 4]],
            "ports": { "80": "Plain", "81": { "Tries": 3 } },
            "modes": { "a": { "Point": [1, 2] }, "b": { "Named": { "name": "n" } } },
            "anything": { "a": [1, null] },
        })
    }

    #[test]
    fn all_that_is_wrong_is_found_at_once() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Shop {
            url: String,
            limits: Limits,
            ports: Vec<u16>,
            mode: Option<Mode>,
        }
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Limits {
            pieces: u32,
            orders: u32,
        }
        let all = |value: &Value| -> Vec<String> {
            let mut all: Vec<_> =
                all_wrong(value, &|value| read::<Shop>(value).err()).iter().map(Wrong::to_string).collect();
            all.sort();
            all
        };
        assert_eq!(all(&json!({})), ["`limits`: missing", "`ports`: missing", "`url`: missing"]);
        assert_eq!(
            all(
                &json!({ "url": 7, "limits": { "pieces": "x" }, "ports": [1, -1, 2, true], "mode": "Plain" })
            ),
            [
                "`limits.orders`: missing",
                "`limits.pieces`: expected u32, found a string",
                "`ports.1`: expected u16, found an integer that does not fit",
                "`ports.3`: expected u16, found a boolean",
                "`url`: expected a string, found an integer",
            ]
        );
        // Nothing that is put there will do: what comes after it is not seen.
        assert_eq!(all(&json!({ "mode": "Odd" })), ["`mode`: expected one of Plain, Tries, Point, Named"]);
        assert_eq!(all(&json!(3)), ["`config`: expected struct Shop, found an integer"]);
        let fine = json!({ "url": "", "limits": { "pieces": 1, "orders": 1 }, "ports": [] });
        assert_eq!(all(&fine), [""; 0]);
    }

    fn wrong<T: DeserializeOwned + std::fmt::Debug>(value: &Value) -> String {
        read::<T>(value).unwrap_err().to_string()
    }

    #[test]
    fn every_shape_is_read_as_serde_json_reads_it() {
        let value = all();
        assert_eq!(read::<All>(&value).unwrap(), serde_json::from_value::<All>(value).unwrap());
    }

    #[test]
    fn the_path_leads_to_what_is_wrong_and_the_value_is_not_shown() {
        for (pointer, bad, expected) in [
            ("/flag", json!("hidden"), "`flag`: expected a boolean, found a string"),
            ("/list/1/0", json!(700), "`list.1.0`: expected u8, found an integer that does not fit"),
            ("/list/0", json!([1]), "`list.0`: invalid length 1, expected a tuple of size 2"),
            ("/ports", json!({ "hidden": "Plain" }), "`ports.hidden`: expected u16, found a string"),
            ("/ports/80", json!("hidden"), "`ports.80`: expected one of Plain, Tries, Point, Named"),
            ("/ports/81/Tries", json!([]), "`ports.81.Tries`: expected u8, found an array"),
            ("/ports/81", json!(1), "`ports.81`: expected the name of a variant, or a table with one"),
            ("/modes/b/Named", json!({}), "`modes.b.Named.name`: missing"),
            ("/letter", json!("hidden"), "`letter`: expected a character, found a string that does not fit"),
        ] {
            let mut value = all();
            *value.pointer_mut(pointer).unwrap() = bad;
            assert_eq!(wrong::<All>(&value), expected);
        }
        assert_eq!(wrong::<u8>(&json!({})), "`config`: expected u8, found a table");
    }
}
