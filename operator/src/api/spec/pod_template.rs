//! `podTemplate`: what users add to the Pods of a component.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Parts of a PodTemplateSpec, as written. The schema lets anything through, as
/// Kubernetes' own is a megabyte; what it holds is judged by
/// [`validate`](crate::controller::validate).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodTemplate(pub serde_json::Map<String, serde_json::Value>);

impl JsonSchema for PodTemplate {
    fn schema_name() -> Cow<'static, str> {
        "PodTemplate".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": 2,
            "x-kubernetes-preserve-unknown-fields": true,
        })
    }
}
