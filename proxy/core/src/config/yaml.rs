//! YAML as a tree that knows its lines, so that everything wrong in a file can be
//! told at once.
//!
//! Deserializing into structs ends at the first error. Here the text becomes a
//! tree first; [`Reader`] then takes it apart and keeps a list of problems.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Spanned, options::DuplicateKeyPolicy};

use super::{Bind, Problem, balancer::duration, excerpt, nearest};

/// A value and the line it stands on, counted from 1.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u32,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Text(String),
    /// A number, truth value or nothing, as it would be written.
    Plain(String),
    List(Vec<Node>),
    /// In the order written, repeated keys included.
    Map(Vec<(String, u32, Node)>),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Plain(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Plain(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Plain(value.to_string()))
            }

            fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
                Ok(Value::Plain(value.to_string()))
            }

            fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
                Ok(Value::Plain(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Plain(value.to_string()))
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Plain("null".to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element::<Spanned<Value>>()? {
                    list.push(node(item));
                }
                Ok(Value::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
                let mut map = Vec::new();
                while let Some((key, value)) =
                    entries.next_entry::<Spanned<String>, Spanned<Value>>()?
                {
                    let line = line(&key);
                    map.push((key.value, line, node(value)));
                }
                Ok(Value::Map(map))
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

fn line<T>(spanned: &Spanned<T>) -> u32 {
    u32::try_from(spanned.referenced.line())
        .unwrap_or(u32::MAX)
        .max(1)
}

fn node(spanned: Spanned<Value>) -> Node {
    Node {
        line: line(&spanned),
        value: spanned.value,
    }
}

/// Reads the text of one YAML document.
///
/// # Errors
/// The first place where it is not YAML.
pub(super) fn parse(file: &str, text: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // Without it the message repeats the lines of the file.
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options)
        .map(node)
        .map_err(|error| Problem {
            file: file.to_owned(),
            line: error
                .location()
                .and_then(|location| u32::try_from(location.line()).ok())
                .unwrap_or(1)
                .max(1),
            message: message(&error),
        })
}

/// What the parser says, without the place, which we tell in our own way, and
/// without its advice to programmers.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    let text = text.split("; use ").next().unwrap_or(text);
    format!("not valid YAML: {}", excerpt(text))
}

/// The entries of a mapping whose keys are known.
pub(super) struct Fields<'n> {
    /// What the mapping is, for messages: `targets[2]`, empty for the document.
    name: String,
    line: u32,
    entries: &'n [(String, u32, Node)],
}

impl<'n> Fields<'n> {
    /// The value of a key; the last one where the key is repeated.
    pub(super) fn value(&self, key: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .rev()
            .find(|(name, ..)| name == key)
            .map(|(.., node)| node)
    }

    /// `targets[2].name`
    fn path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }
}

/// Takes a tree apart; what does not fit is noted and replaced by nothing.
pub(super) struct Reader<'a> {
    file: &'a str,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str) -> Self {
        Self {
            file,
            problems: Vec::new(),
        }
    }

    pub(super) fn problem(&mut self, line: u32, message: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line,
            message: message.into(),
        });
    }

    /// The entries of a mapping; unknown and repeated keys are problems.
    pub(super) fn fields<'n>(
        &mut self,
        node: &'n Node,
        name: &str,
        known: &[&'static str],
    ) -> Option<Fields<'n>> {
        let Value::Map(entries) = &node.value else {
            let name = if name.is_empty() { "the file" } else { name };
            self.problem(
                node.line,
                format!("{name} is {}, expected keys and values", node.shown()),
            );
            return None;
        };
        let fields = Fields {
            name: name.to_owned(),
            line: node.line,
            entries,
        };
        for (index, (key, line, _)) in entries.iter().enumerate() {
            let path = fields.path(&excerpt(key));
            if !known.contains(&key.as_str()) {
                let hint = match nearest(known.iter().copied(), key) {
                    Some(known) => format!("did you mean {known}?"),
                    None => format!("expected {}", known.join(", ")),
                };
                self.problem(*line, format!("unknown key {path}, {hint}"));
            } else if entries[..index].iter().any(|(earlier, ..)| earlier == key) {
                self.problem(*line, format!("{path} is set twice"));
            }
        }
        Some(fields)
    }

    /// The items of a list; a missing or empty one is a problem.
    pub(super) fn items<'n>(&mut self, fields: &Fields<'n>, key: &str) -> &'n [Node] {
        let path = fields.path(key);
        match fields.value(key).map(|node| (node, &node.value)) {
            Some((_, Value::List(items))) if !items.is_empty() => return items,
            Some((node, Value::List(_))) => {
                self.problem(node.line, format!("{path} is empty, expected at least one"));
            }
            Some((node, _)) => {
                self.problem(
                    node.line,
                    format!("{path} is {}, expected a list", node.shown()),
                );
            }
            None => self.problem(fields.line, format!("{path} is missing")),
        }
        &[]
    }

    /// Notes that a key must be there.
    pub(super) fn require<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        value: Option<T>,
    ) -> Option<T> {
        if fields.value(key).is_none() {
            self.problem(fields.line, format!("{} is missing", fields.path(key)));
        }
        value
    }

    /// Reads a scalar by `read`, which says what it expects where the text does not fit.
    fn scalar<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let node = fields.value(key)?;
        match read(&node.value) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.problem(
                    node.line,
                    format!(
                        "{} is {}, expected {expected}",
                        fields.path(key),
                        node.shown()
                    ),
                );
                None
            }
        }
    }

    pub(super) fn text(&mut self, fields: &Fields<'_>, key: &str) -> Option<String> {
        self.scalar(fields, key, |value| match value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err("text (put it in quotes)".to_owned()),
        })
    }

    /// A name for dashboards, metrics and CSV: letters, digits, `.`, `_`, `:` and `-`.
    pub(super) fn name(&mut self, fields: &Fields<'_>, key: &str) -> Option<String> {
        const LENGTH_MAX: usize = 100;
        self.scalar(fields, key, |value| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
            match value {
                Value::Text(text)
                    if (1..=LENGTH_MAX).contains(&text.len()) && text.chars().all(allowed) =>
                {
                    Ok(text.clone())
                }
                Value::Text(_) => Err(format!(
                    "1 to {LENGTH_MAX} letters, digits, dots, colons, _ and -"
                )),
                _ => Err("a name (put it in quotes)".to_owned()),
            }
        })
    }

    /// A name to look up: labels of letters, digits, `-` and `_`, with dots
    /// between them; a dot at the end makes it absolute.
    pub(super) fn dns_name(&mut self, fields: &Fields<'_>, key: &str) -> Option<String> {
        self.scalar(fields, key, |value| match value.text() {
            Some(text) if text.parse::<IpAddr>().is_ok() => {
                Err("a DNS name, addresses go into targets".to_owned())
            }
            Some(text) if is_dns_name(text) => Ok(text.to_owned()),
            _ => Err("a DNS name, such as shop-pooler.default.svc".to_owned()),
        })
    }

    pub(super) fn number(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        self.scalar(fields, key, |value| {
            value
                .plain()
                .and_then(|text| text.parse().ok())
                .filter(|number| range.contains(number))
                .ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
        })
    }

    pub(super) fn truth(&mut self, fields: &Fields<'_>, key: &str) -> Option<bool> {
        self.scalar(fields, key, |value| {
            value
                .plain()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| "true or false".to_owned())
        })
    }

    pub(super) fn duration(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.scalar(fields, key, |value| {
            value
                .text()
                .and_then(|text| duration::parse(text).ok())
                .filter(|time| range.contains(time))
                .ok_or_else(|| {
                    format!(
                        "a time from {} to {}, such as 500ms, 2s or 1m",
                        duration::format(*range.start()),
                        duration::format(*range.end())
                    )
                })
        })
    }

    pub(super) fn address(&mut self, fields: &Fields<'_>, key: &str) -> Option<SocketAddr> {
        self.scalar(fields, key, |value| {
            value
                .text()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| {
                    "a numeric address and a port, such as 10.0.0.5:6432 or [::1]:6432".to_owned()
                })
        })
    }

    /// Where to listen.
    pub(super) fn bind(&mut self, fields: &Fields<'_>, key: &str) -> Option<Bind> {
        self.scalar(fields, key, |value| {
            value
                .text()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| Bind::EXPECTED.to_owned())
        })
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        self.scalar(fields, key, |value| {
            choices
                .iter()
                .find(|(word, _)| value.text() == Some(word))
                .map(|(_, choice)| *choice)
                .ok_or_else(|| {
                    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                    words.join(" or ")
                })
        })
    }
}

/// RFC 1035, 2.3.4, with the underscore that is found in practice.
fn is_dns_name(text: &str) -> bool {
    let relative = text.strip_suffix('.').unwrap_or(text);
    relative.len() <= 253
        && relative.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        })
}

impl Value {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn plain(&self) -> Option<&str> {
        match self {
            Self::Plain(text) => Some(text),
            _ => None,
        }
    }
}

impl Node {
    /// The value inside a message.
    fn shown(&self) -> String {
        match &self.value {
            Value::Text(text) => format!("\"{}\"", excerpt(text)),
            Value::Plain(text) => text.clone(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}
