//! Values that may be written as a number or as text.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The value of a pgbouncer.ini key: an integer, or text.
///
/// Its own type because `IntOrString` reads only 32-bit integers while the API
/// server lets any 64-bit one through, and one object that cannot be read
/// stalls the whole watch.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ParameterValue {
    /// Written as a number.
    Integer(i64),
    /// Written as text.
    Text(String),
}

impl fmt::Display for ParameterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for ParameterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Text(text) => fmt::Debug::fmt(text, f),
        }
    }
}

impl JsonSchema for ParameterValue {
    fn schema_name() -> Cow<'static, str> {
        "ParameterValue".into()
    }

    fn inline_schema() -> bool {
        true
    }

    // The pattern keeps a value on its line of the ini file. It holds for text
    // only; integers cannot break a line.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 1024,
            "pattern": "^[^\\x00-\\x1f]*$",
        })
    }
}

/// CPU and memory of each container, as in any Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Resources {
    /// What the scheduler sets aside, by resource name, such as cpu: 100m,
    /// memory: 128Mi.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, ParameterValue>,
    /// What the container may use at most, by resource name. CPU beyond it is
    /// throttled; memory beyond it ends the process.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, ParameterValue>,
}

impl Resources {
    /// Requests and limits of CPU and memory.
    pub(crate) fn of(requests: [&str; 2], limits: [&str; 2]) -> Self {
        let both = |[cpu, memory]: [&str; 2]| {
            [("cpu", cpu), ("memory", memory)]
                .map(|(name, quantity)| {
                    (name.to_owned(), ParameterValue::Text(quantity.to_owned()))
                })
                .into()
        };
        Self {
            requests: both(requests),
            limits: both(limits),
        }
    }
}

fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "pattern": "^[0-9]+(\\.[0-9]+)?([numkMGTPE]|[KMGTPE]i|[eE][0-9]+)?$",
        },
    })
}
