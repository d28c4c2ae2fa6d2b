//! `spec.images` and `spec.updatePolicy`: what the Pods run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;

/// What the Pods run. Has no effect on local processes.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Images {
    /// The poolers' image, by tag or, better, by digest. At most 512
    /// characters. Default: the one that came with the operator, see
    /// updatePolicy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")
    )]
    pub pooler: Option<String>,

    /// The balancers' image, as pooler.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")
    )]
    pub balancer: Option<String>,

    /// When nodes fetch the images. Default: as Kubernetes decides, Always for
    /// the tag latest, IfNotPresent for all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,

    /// Secrets, of type kubernetes.io/dockerconfigjson, that open the
    /// registry. At most 8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub pull_secrets: Vec<SecretRef>,
}

/// When nodes fetch an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// The word, as in a Pod.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// When a tier gets the images of a newer operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum UpdatePolicy {
    #[default]
    OnRequest,
    Automatic,
}
