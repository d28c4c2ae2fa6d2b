//! `spec.notifications`: who is told, and where.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats a struct inside a function"
)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;

/// Someone to tell.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Name, unique in the list, at most 40 characters of a to z, 0 to 9 and -.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    )]
    pub name: String,

    /// A Slack channel.
    pub slack: Slack,

    /// Whether to tell also that an endpoint is up again. Default true.
    #[serde(default = "yes")]
    pub send_resolved: bool,
}

/// A Slack channel: an incoming webhook, or a bot and a channel.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.webhookUrlSecretRef) != has(self.botTokenSecretRef)")
        .message("exactly one of webhookUrlSecretRef and botTokenSecretRef must be set"),
    validation = Rule::new("has(self.botTokenSecretRef) == has(self.channel)")
        .message("channel goes with botTokenSecretRef, and a webhook has a channel of its own")
)]
pub struct Slack {
    /// The Secret's key that holds an incoming webhook's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_url_secret_ref: Option<SecretKeyRef>,

    /// The Secret's key that holds a bot's token. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bot_token_secret_ref: Option<SecretKeyRef>,

    /// The channel that the bot writes to. Only with botTokenSecretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 80))]
    pub channel: Option<String>,
}

const fn yes() -> bool {
    true
}
