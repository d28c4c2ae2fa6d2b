//! `spec.notifications`: who is told what, where and how often.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats a struct inside a function"
)]

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{Period, SecretKeyRef};

/// Someone to tell: exactly one of slack, webhook and alertmanager says where.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "(has(self.slack) ? 1 : 0) + (has(self.webhook) ? 1 : 0) + (has(self.alertmanager) ? 1 : 0) == 1", "message": "exactly one of slack, webhook and alertmanager must be set"},
    {"rule": "duration(self.groupWait) <= duration('1m')", "message": "must be at most 1m", "fieldPath": ".groupWait"},
    {"rule": "duration(self.groupInterval) >= duration('1s') && duration(self.groupInterval) <= duration('1h')", "message": "must be 1s to 1h", "fieldPath": ".groupInterval"},
    {"rule": "duration(self.repeatInterval) >= duration('5m') && duration(self.repeatInterval) <= duration('168h')", "message": "must be 5m to 168h", "fieldPath": ".repeatInterval"}
]))]
pub struct Notification {
    /// Name, unique in the list, at most 40 characters of a to z, 0 to 9 and -.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    )]
    pub name: String,

    /// A Slack channel, or one of a server that takes Slack's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack: Option<Slack>,

    /// A service of your own that takes JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<JsonWebhook>,

    /// A Prometheus Alertmanager. It is told what is true; grouping, repeating
    /// and routing are its own: groupWait applies, groupInterval and
    /// repeatInterval do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alertmanager: Option<Alertmanager>,

    /// Whether to tell also that something is over. Default true.
    #[serde(default = "yes")]
    pub send_resolved: bool,

    /// What to tell: `TierDown` no pooler or no balancer is left, so that
    /// nothing serves; `UpstreamUnreachable` poolers cannot reach PostgreSQL;
    /// `EndpointDown` a pooler or a balancer is out of service, unplanned;
    /// `Saturated` clients wait too long for a server, or are refused;
    /// `ConfigurationRefused` the spec, or a change of it, is not carried out;
    /// `RolloutStuck` new Pods do not become available; `CertificateExpiring` a
    /// certificate that the spec names has to be renewed; `EndpointRestarted` a
    /// pooler or a balancer came back as a new process before it was missed;
    /// `NotificationsFailing` another channel cannot be reached. Default all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "events")]
    pub events: Vec<NotificationEvent>,

    /// What is less severe is not told. `Critical` are TierDown and
    /// UpstreamUnreachable, `Info` is EndpointRestarted, the others are
    /// `Warning`. Default Info.
    #[serde(default)]
    pub minimum_severity: Severity,

    /// How long bad news waits for more of it, so that what happens together is
    /// one message. At most 1m. Default 500ms.
    #[serde(default = "group_wait")]
    pub group_wait: Period,

    /// Shortest time from a message to one with good news; bad news does not
    /// wait for it. 1s to 1h. Default 5s.
    #[serde(default = "group_interval")]
    pub group_interval: Period,

    /// How often to tell again what is still wrong. 5m to 168h. Default 4h.
    #[serde(default = "repeat_interval")]
    pub repeat_interval: Period,

    /// Where to look further, shown in each message: a runbook, a dashboard. At
    /// most 4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub links: Vec<NotificationLink>,
}

/// Where to look further.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationLink {
    /// What it is, as people read it: Runbook.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,

    /// Its URL, of http or https.
    #[schemars(length(min = 1, max = 500), regex(pattern = "^https?://[^ ]+$"))]
    pub url: String,
}

/// A Slack channel: an incoming webhook, or a bot and a channel.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.webhookUrlSecretRef) != has(self.botTokenSecretRef)")
        .message("exactly one of webhookUrlSecretRef and botTokenSecretRef must be set"),
    validation = Rule::new("has(self.botTokenSecretRef) == has(self.channel)")
        .message("channel goes with botTokenSecretRef, and a webhook has a channel of its own"),
    validation = Rule::new("!has(self.apiUrl) || has(self.botTokenSecretRef)")
        .message("apiUrl goes with botTokenSecretRef")
)]
pub struct Slack {
    /// The Secret's key that holds an incoming webhook's URL. Servers that take
    /// Slack's messages do too: Mattermost, Rocket.Chat, Discord (its URL with
    /// /slack at the end).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_url_secret_ref: Option<SecretKeyRef>,

    /// The Secret's key that holds a bot's token (xoxb-…) with the scope
    /// chat:write. A bot edits the first message of an incident to how things
    /// are now, and tells the story in its thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bot_token_secret_ref: Option<SecretKeyRef>,

    /// The channel that the bot writes to, best its ID. Only with
    /// botTokenSecretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 80))]
    pub channel: Option<String>,

    /// Where Slack's API is. Default `https://slack.com/api/`; GovSlack's is
    /// `https://slack-gov.com/api/`. Only with botTokenSecretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2000))]
    pub api_url: Option<String>,
}

/// A service of your own: each message is posted to it as JSON.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JsonWebhook {
    /// The Secret's key that holds the URL, of https.
    pub url_secret_ref: SecretKeyRef,

    /// The Secret's key that holds a key to sign with: the header
    /// Poolkeeper-Signature is `v1=` and HMAC-SHA256 in hexadecimal over the
    /// header Poolkeeper-Timestamp (seconds since 1970), a full stop and the
    /// body. Not signed without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key_secret_ref: Option<SecretKeyRef>,
}

/// A Prometheus Alertmanager, its API v2.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alertmanager {
    /// Its URL, of https, without /api/v2.
    #[schemars(length(min = 1, max = 2000))]
    pub url: String,

    /// The Secret's key that holds a token for the header Authorization:
    /// Bearer. None is sent without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKeyRef>,
}

/// What people may be told of; worst first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum NotificationEvent {
    TierDown,
    UpstreamUnreachable,
    EndpointDown,
    Saturated,
    ConfigurationRefused,
    RolloutStuck,
    CertificateExpiring,
    EndpointRestarted,
    NotificationsFailing,
}

impl NotificationEvent {
    /// All of them, worst first.
    pub const ALL: [Self; 9] = [
        Self::TierDown,
        Self::UpstreamUnreachable,
        Self::EndpointDown,
        Self::Saturated,
        Self::ConfigurationRefused,
        Self::RolloutStuck,
        Self::CertificateExpiring,
        Self::EndpointRestarted,
        Self::NotificationsFailing,
    ];

    /// The word in manifests.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::TierDown => "TierDown",
            Self::UpstreamUnreachable => "UpstreamUnreachable",
            Self::EndpointDown => "EndpointDown",
            Self::Saturated => "Saturated",
            Self::ConfigurationRefused => "ConfigurationRefused",
            Self::RolloutStuck => "RolloutStuck",
            Self::CertificateExpiring => "CertificateExpiring",
            Self::EndpointRestarted => "EndpointRestarted",
            Self::NotificationsFailing => "NotificationsFailing",
        }
    }

    /// How bad it is.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::TierDown | Self::UpstreamUnreachable => Severity::Critical,
            Self::EndpointDown
            | Self::Saturated
            | Self::ConfigurationRefused
            | Self::RolloutStuck
            | Self::CertificateExpiring
            | Self::NotificationsFailing => Severity::Warning,
            Self::EndpointRestarted => Severity::Info,
        }
    }

    /// Whether nobody needs to hear of single endpoints while it lasts.
    #[must_use]
    pub const fn subsumes_endpoints(self) -> bool {
        matches!(self, Self::TierDown | Self::UpstreamUnreachable)
    }
}

/// How bad something is; least first.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    JsonSchema,
    Serialize,
    Deserialize,
)]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum Severity {
    #[default]
    Info,
    Warning,
    Critical,
}

impl Severity {
    /// The lower-case word, as in labels.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

fn events(generator: &mut SchemaGenerator) -> Schema {
    let event = generator.subschema_for::<NotificationEvent>();
    json_schema!({
        "type": "array",
        "maxItems": NotificationEvent::ALL.len(),
        "x-kubernetes-list-type": "set",
        "items": event,
    })
}

const fn yes() -> bool {
    true
}

const fn group_wait() -> Period {
    Period(std::time::Duration::from_millis(500))
}

const fn group_interval() -> Period {
    Period::from_secs(5)
}

const fn repeat_interval() -> Period {
    Period::from_secs(4 * 3600)
}
