//! A YAML document whose every value knows its line.
//!
//! Problems are reported by line, all of them and not only the first, so
//! documents are read into this tree first and judged afterwards.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value as Json;
use serde_saphyr::Spanned;

/// A value and where it begins.
#[derive(Clone)]
pub(crate) struct Node {
    /// Line of the value's first character, counted from 1.
    pub(crate) line: u32,
    pub(crate) value: Value,
}

/// What a YAML node can be.
#[derive(Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// A number that is not a 64-bit integer.
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map and its value.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Line of the key.
    pub(crate) line: u32,
    pub(crate) node: Node,
}

impl Node {
    /// What JSON says, without lines.
    pub(crate) fn of(json: &Json) -> Self {
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Value::Integer(value),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(items) => Value::List(items.iter().map(Self::of).collect()),
            Json::Object(map) => Value::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        line: 0,
                        node: Self::of(value),
                    })
                    .collect(),
            ),
        };
        Self { line: 0, value }
    }

    /// The value of a key, if this is a map that has it.
    pub(crate) fn field(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The key and its value, if this is a map that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The same value as JSON. Keys without a value are left out: Kubernetes
    /// reads them as absent.
    pub(crate) fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::from(*value),
            Value::Integer(value) => Json::from(*value),
            Value::Float(value) => Json::from(*value),
            Value::Text(value) => Json::from(value.as_str()),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .filter(|entry| !matches!(entry.node.value, Value::Null))
                .map(|entry| (entry.key.clone(), entry.node.to_json()))
                .collect(),
        }
    }

    /// The line of a path such as `spec.databases[0].poolSize`, or of the
    /// nearest thing above it that is written down. A key may itself hold dots:
    /// the longest that fits is taken.
    pub(crate) fn line_of(&self, path: &str) -> u32 {
        self.line_below(path.trim_start_matches('.'), self.line)
    }

    fn line_below(&self, path: &str, line: u32) -> u32 {
        if path.is_empty() {
            return line;
        }
        match &self.value {
            Value::Map(entries) => entries
                .iter()
                .filter_map(|entry| {
                    let rest = path.strip_prefix(entry.key.as_str())?;
                    (rest.is_empty() || rest.starts_with(['.', '['])).then_some((entry, rest))
                })
                .max_by_key(|(entry, _)| entry.key.len())
                .map_or(line, |(entry, rest)| {
                    entry
                        .node
                        .line_below(rest.trim_start_matches('.'), entry.line)
                }),
            Value::List(items) => path
                .strip_prefix('[')
                .and_then(|path| path.split_once(']'))
                .and_then(|(index, rest)| Some((items.get(index.parse::<usize>().ok()?)?, rest)))
                .map_or(line, |(item, rest)| {
                    item.line_below(rest.trim_start_matches('.'), item.line)
                }),
            _ => line,
        }
    }
}

/// What went wrong in reading YAML, and where.
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) message: String,
}

/// Reads every document of a text; empty ones are skipped. What follows a
/// document that cannot be read is still tried.
pub(crate) fn read(text: &str) -> Vec<Result<Node, SyntaxError>> {
    let options = serde_saphyr::options! { with_snippet: false };
    let mut bytes = text.as_bytes();
    serde_saphyr::read_with_options(&mut bytes, options)
        .map(|document| document.map_err(|error| syntax_error(&error)))
        .collect()
}

fn syntax_error(error: &serde_saphyr::Error) -> SyntaxError {
    let line = error.location().map_or(1, |location| line(location.line()));
    // The location has its own place in what we print.
    let message = error.to_string();
    let message = message
        .split_once(" at line ")
        .map_or(message.as_str(), |(message, _)| message)
        .lines()
        .next()
        .unwrap_or_default()
        .replace(", set DuplicateKeyPolicy in Options if acceptable", "");
    SyntaxError { line, message }
}

fn line(line: u64) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            line: line(spanned.referenced.line()),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        // Beyond 63 bits no field of ours accepts it anyway.
        #[allow(clippy::cast_precision_loss, reason = "only shown in a refusal")]
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, Node>()? {
            entries.push(Entry {
                line: line(key.referenced.line()),
                key: key.value,
                node,
            });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_line() {
        let text = "a: 1\nb:\n  - name: x\n    size: 2\n  - name: y\nc:\n  tls.crt: |\n    one\n    two\n  d: {e: 1}\n";
        let documents = read(text);
        let Ok(node) = &documents[0] else {
            panic!("unreadable");
        };
        for (path, line) in [
            ("a", 1),
            ("b", 2),
            ("b[0]", 3),
            ("b[0].size", 4),
            (".b[1].name", 5),
            ("b[1].missing", 5),
            ("b[7]", 2),
            ("c.tls.crt", 7),
            ("c.d.e", 10),
            ("c.d.missing.deeper", 10),
            ("nothing", 1),
        ] {
            assert_eq!(node.line_of(path), line, "{path}");
        }
    }

    #[test]
    fn broken_document_does_not_hide_the_next() {
        let documents = read("a: 1\na: 2\n---\n\n---\nb: 3\n");
        assert_eq!(documents.len(), 2);
        let Err(error) = &documents[0] else {
            panic!("duplicate key was taken");
        };
        assert_eq!(
            (error.line, error.message.as_str()),
            (2, "duplicate mapping key: a")
        );
        let Ok(node) = &documents[1] else {
            panic!("second document lost");
        };
        assert_eq!(node.line_of("b"), 6);
    }

    #[test]
    fn key_without_a_value_is_absent() {
        let documents = read("a:\nb: ~\nc: [~]\n");
        let Ok(node) = &documents[0] else {
            panic!("unreadable");
        };
        assert_eq!(node.to_json(), serde_json::json!({"c": [null]}));
    }
}
