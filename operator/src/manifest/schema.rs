//! Judges a document by an OpenAPI schema, as the API server does with strict
//! field validation: unknown fields are errors. CEL rules are not judged here.

use std::fmt::Write as _;

use regex::Regex;
use serde_json::Value as Json;

use super::document::{Entry, Node, Value};

/// Something that does not fit the schema.
pub(crate) struct Misfit {
    pub(crate) line: u32,
    /// Where, as `spec.databases[0].name`; empty for the whole.
    pub(crate) path: String,
    /// What is wrong there.
    pub(crate) text: String,
}

impl Misfit {
    pub(crate) fn message(&self) -> String {
        match self.path.as_str() {
            "" => self.text.clone(),
            path => format!("{path}: {}", self.text),
        }
    }
}

/// Everything in `node` that does not fit `schema`. With `secret`, values are
/// not repeated in messages.
pub(crate) fn check(node: &Node, schema: &Json, secret: bool) -> Vec<Misfit> {
    let mut checker = Checker {
        secret,
        misfits: Vec::new(),
    };
    checker.node(&Path::default(), node.line, node, schema);
    checker.misfits
}

/// Where in the document, as `spec.databases[0].name`.
#[derive(Clone, Default)]
struct Path(String);

impl Path {
    fn field(&self, key: &str) -> Self {
        if self.0.is_empty() {
            Self(key.to_owned())
        } else {
            Self(format!("{}.{key}", self.0))
        }
    }

    fn item(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

struct Checker {
    secret: bool,
    misfits: Vec<Misfit>,
}

impl Checker {
    fn report(&mut self, line: u32, path: &Path, message: &str) {
        self.misfits.push(Misfit {
            line,
            path: path.0.clone(),
            text: message.to_owned(),
        });
    }

    /// `line` is where the value is named: its key's line, or its own.
    fn node(&mut self, path: &Path, line: u32, node: &Node, schema: &Json) {
        if let Some(types) = expected_type(schema)
            && !types.matches(&node.value)
        {
            let got = self.describe(&node.value);
            self.report(
                line,
                path,
                &format!("expected {}, got {got}", types.words()),
            );
            return;
        }
        match &node.value {
            Value::Map(entries) => self.map(path, line, entries, schema),
            Value::List(items) => self.list(path, line, items, schema),
            Value::Text(text) => self.text(path, line, text, schema),
            Value::Integer(number) => self.integer(path, line, *number, schema),
            Value::Null | Value::Bool(_) | Value::Float(_) => {}
        }
    }

    fn map(&mut self, path: &Path, line: u32, entries: &[Entry], schema: &Json) {
        let properties = schema["properties"].as_object();
        let additional = &schema["additionalProperties"];
        let open = schema["x-kubernetes-preserve-unknown-fields"] == true
            || (properties.is_none() && !additional.is_object());
        for entry in entries {
            let below = path.field(&entry.key);
            let known = properties.and_then(|properties| properties.get(&entry.key));
            match known.or_else(|| additional.is_object().then_some(additional)) {
                // A key without a value is absent.
                Some(_) if matches!(entry.node.value, Value::Null) => {}
                Some(schema) => self.node(&below, entry.line, &entry.node, schema),
                None if open => {}
                None => {
                    let names = properties
                        .into_iter()
                        .flat_map(|known| known.keys().map(String::as_str));
                    let hint = nearest(&entry.key, names)
                        .map_or(String::new(), |name| format!(", did you mean {name:?}?"));
                    self.report(entry.line, &below, &format!("unknown field{hint}"));
                }
            }
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            let present = entries
                .iter()
                .any(|entry| entry.key == name && !matches!(entry.node.value, Value::Null));
            if !present {
                self.report(line, &path.field(name), "is required");
            }
        }
        self.count(
            path,
            line,
            entries.len(),
            "entries",
            &schema["maxProperties"],
        );
    }

    fn list(&mut self, path: &Path, line: u32, items: &[Node], schema: &Json) {
        for (index, item) in items.iter().enumerate() {
            self.node(&path.item(index), item.line, item, &schema["items"]);
        }
        self.count(path, line, items.len(), "items", &schema["maxItems"]);
        if schema["x-kubernetes-list-type"] != "map" {
            return;
        }
        let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .collect();
        let key_of = |item: &Node| -> Vec<Json> {
            keys.iter()
                .map(|key| item.field(key).map_or(Json::Null, Node::to_json))
                .collect()
        };
        for (index, item) in items.iter().enumerate() {
            let key = key_of(item);
            if key.iter().all(|part| !part.is_null())
                && items[..index].iter().any(|earlier| key_of(earlier) == key)
            {
                let key: Vec<String> = key.iter().map(ToString::to_string).collect();
                let message = format!("{} {} appears twice", keys.join(", "), key.join(", "));
                self.report(item.line, &path.item(index), &message);
            }
        }
    }

    fn text(&mut self, path: &Path, line: u32, text: &str, schema: &Json) {
        let shown = self.show(&format!("{text:?}"));
        if let Some(choices) = schema["enum"].as_array() {
            let choices: Vec<&str> = choices.iter().filter_map(Json::as_str).collect();
            if !choices.contains(&text) {
                let message = format!("{shown} is not one of {}", choices.join(", "));
                self.report(line, path, &message);
            }
            return;
        }
        let length = text.chars().count() as u64;
        if schema["minLength"].as_u64().is_some_and(|min| length < min) {
            self.report(line, path, "must not be empty");
            return;
        }
        if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
            let message = format!("is {length} characters long, at most {max} are allowed");
            self.report(line, path, &message);
            return;
        }
        if let Some(pattern) = schema["pattern"].as_str() {
            let regex = Regex::new(pattern).expect("the patterns of our own schema compile");
            if !regex.is_match(text) {
                self.report(line, path, &format!("{shown} does not match {pattern}"));
            }
        }
        match schema["format"].as_str() {
            Some("date-time") if text.parse::<jiff::Timestamp>().is_err() => {
                self.report(line, path, &format!("{shown} is not an RFC 3339 time"));
            }
            Some("byte") if super::decode_base64(text).is_none() => {
                self.report(
                    line,
                    path,
                    "is not base64; plain text goes under stringData",
                );
            }
            _ => {}
        }
    }

    fn integer(&mut self, path: &Path, line: u32, number: i64, schema: &Json) {
        #[allow(
            clippy::cast_precision_loss,
            reason = "limits in our schemas are small"
        )]
        let value = number as f64;
        let minimum = schema["minimum"].as_f64();
        let maximum = schema["maximum"].as_f64();
        if minimum.is_some_and(|minimum| value < minimum)
            || maximum.is_some_and(|maximum| value > maximum)
        {
            let mut message = format!("{number} is out of range");
            match (minimum, maximum) {
                (Some(minimum), Some(maximum)) => {
                    let _ = write!(message, ", expected {minimum} to {maximum}");
                }
                (Some(minimum), None) => {
                    let _ = write!(message, ", expected at least {minimum}");
                }
                _ => {}
            }
            self.report(line, path, &message);
        }
    }

    fn count(&mut self, path: &Path, line: u32, count: usize, what: &str, max: &Json) {
        if let Some(max) = max.as_u64().filter(|max| count as u64 > *max) {
            let message = format!("has {count} {what}, at most {max} are allowed");
            self.report(line, path, &message);
        }
    }

    fn show(&self, value: &str) -> String {
        if self.secret {
            "the value".to_owned()
        } else {
            value.to_owned()
        }
    }

    fn describe(&self, value: &Value) -> String {
        match value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!(
                "{} (quote it if it is meant as text)",
                self.show(&value.to_string())
            ),
            Value::Integer(value) => format!("the number {}", self.show(&value.to_string())),
            Value::Float(value) => format!("the number {}", self.show(&value.to_string())),
            Value::Text(text) => format!("the text {}", self.show(&format!("{text:?}"))),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

/// The types that a schema lets through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Types {
    Map,
    List,
    Text,
    Integer,
    Number,
    Bool,
    IntegerOrText,
}

impl Types {
    fn matches(self, value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::Map(_) => self == Self::Map,
            Value::List(_) => self == Self::List,
            Value::Text(_) => matches!(self, Self::Text | Self::IntegerOrText),
            Value::Integer(_) => {
                matches!(self, Self::Integer | Self::Number | Self::IntegerOrText)
            }
            Value::Float(_) => self == Self::Number,
            Value::Bool(_) => self == Self::Bool,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Map => "a map",
            Self::List => "a list",
            Self::Text => "text",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Bool => "true or false",
            Self::IntegerOrText => "an integer or text",
        }
    }
}

fn expected_type(schema: &Json) -> Option<Types> {
    if schema["x-kubernetes-int-or-string"] == true {
        return Some(Types::IntegerOrText);
    }
    Some(match schema["type"].as_str()? {
        "object" => Types::Map,
        "array" => Types::List,
        "string" => Types::Text,
        "integer" => Types::Integer,
        "number" => Types::Number,
        "boolean" => Types::Bool,
        _ => return None,
    })
}

/// The name that differs from `word` by the fewest letters, at most two.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (distance(word, name), name))
        .filter(|(distance, name)| *distance <= 2 && *distance < name.chars().count())
        .min()
        .map(|(_, name)| name)
}

/// Letters to change, add or drop, capitals aside (Levenshtein's distance).
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(64).flat_map(char::to_lowercase).collect();
    let right: Vec<char> = right
        .chars()
        .take(64)
        .flat_map(char::to_lowercase)
        .collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::document;

    fn misfits(text: &str, schema: &Json) -> Vec<String> {
        let documents = document::read(text);
        let Ok(node) = &documents[0] else {
            panic!("unreadable");
        };
        check(node, schema, false)
            .into_iter()
            .map(|misfit| format!("{}: {}", misfit.line, misfit.message()))
            .collect()
    }

    #[test]
    fn all_misfits_are_reported_by_line() {
        let schema = json!({
            "type": "object",
            "required": ["host"],
            "properties": {
                "host": {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z]+$"},
                "port": {"type": "integer", "minimum": 1.0, "maximum": 9.0},
                "mode": {"type": "string", "enum": ["on", "off", null]},
                "size": {"x-kubernetes-int-or-string": true},
                "list": {
                    "type": "array", "maxItems": 2,
                    "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
                },
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        });
        let text = "port: 10\nmode: 'x'\nsize: true\nprot: 1\nlist:\n- name: a\n- name: a\n- {}\nlabels:\n  a: 1\n  b: x\n";
        assert_eq!(
            misfits(text, &schema),
            [
                "1: port: 10 is out of range, expected 1 to 9",
                "2: mode: \"x\" is not one of on, off",
                "3: size: expected an integer or text, got true (quote it if it is meant as text)",
                "4: prot: unknown field, did you mean \"port\"?",
                "8: list[2].name: is required",
                "5: list: has 3 items, at most 2 are allowed",
                "7: list[1]: name \"a\" appears twice",
                "10: labels.a: expected text, got the number 1",
                "1: host: is required",
            ]
        );
        assert_eq!(misfits("host: abc\nport:\n", &schema), Vec::<String>::new());
        assert_eq!(
            misfits("host: A\nlist: {}\n", &schema),
            [
                "1: host: \"A\" does not match ^[a-z]+$",
                "2: list: expected a list, got a map"
            ]
        );
    }

    #[test]
    fn secret_values_are_not_repeated() {
        let schema =
            json!({"type": "object", "additionalProperties": {"type": "string", "pattern": "^x$"}});
        let documents = document::read("a: hunter2\nb: 4711\n");
        let Ok(node) = &documents[0] else {
            panic!("unreadable");
        };
        for misfit in check(node, &schema, true) {
            let message = misfit.message();
            assert!(!message.contains("hunter2") && !message.contains("4711"));
        }
    }
}
