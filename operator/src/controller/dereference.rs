//! Which Secrets a cluster refers to: the only things read from elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::api::{self, PgPoolCluster};

/// A value of a Secret. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Takes the bytes.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, if they are UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} secret bytes)", self.0.len())
    }
}

/// A Secret's values by key.
pub type SecretData = BTreeMap<String, SecretValue>;

/// A cluster and what it refers to.
#[derive(Clone, Debug)]
pub struct Dereferenced {
    /// The cluster as written, with the API's defaults.
    pub cluster: PgPoolCluster,
    /// Every Secret it refers to, by name; `None` where there is none.
    pub secrets: BTreeMap<String, Option<SecretData>>,
    /// Services it refers to that were looked for and are not there. Files say
    /// nothing of Services: there, none is looked for.
    pub missing_services: BTreeSet<String>,
}

impl Dereferenced {
    /// Looks up each Secret that the cluster refers to.
    pub fn new(cluster: &PgPoolCluster, read: impl Fn(&str) -> Option<SecretData>) -> Self {
        let secrets = references(cluster)
            .secrets
            .into_iter()
            .map(|name| {
                let data = read(&name);
                (name, data)
            })
            .collect();
        Self {
            cluster: cluster.clone(),
            secrets,
            missing_services: BTreeSet::new(),
        }
    }
}

/// Names of what a cluster refers to, all in its namespace. It refers to no
/// ConfigMap: what a podTemplate names is the kubelet's to find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Secrets: those of the manifest, and those that CloudNativePG names.
    pub secrets: BTreeSet<String>,
    /// Services that CloudNativePG makes.
    pub services: BTreeSet<String>,
}

/// What a cluster refers to.
#[must_use]
pub fn references(cluster: &PgPoolCluster) -> References {
    let spec = &cluster.spec;
    let mut references = References::default();
    let told = spec.notifications.iter().flat_map(notification_secrets);
    let whole = [
        &spec.auth.userlist_secret_ref,
        &spec.tls.client.cert_secret_ref,
        &spec.tls.server.cert_secret_ref,
    ];
    let users = spec.users.iter().map(|user| &user.password_secret_ref);
    let authorities = [
        &spec.tls.client.ca_secret_ref,
        &spec.tls.server.ca_secret_ref,
    ];
    let names = (told.map(|secret| &secret.name))
        .chain(whole.into_iter().chain(users).flatten().map(|it| &it.name))
        .chain(authorities.into_iter().flatten().map(|it| &it.name))
        .chain(spec.upstream.uri_secret_ref.iter().map(|it| &it.name));
    references.secrets.extend(names.cloned());
    if let Some(cnpg) = &spec.upstream.cnpg_cluster_ref {
        references.services.insert(cnpg.service());
        references.secrets.insert(cnpg.app_secret());
        if spec.tls.server.checks_authority() && spec.tls.server.ca_secret_ref.is_none() {
            references.secrets.insert(cnpg.ca_secret());
        }
    }
    references
}

/// The Secrets that say where a channel is.
fn notification_secrets(
    notification: &api::Notification,
) -> impl Iterator<Item = &api::SecretKeyRef> {
    let slack = notification
        .slack
        .iter()
        .flat_map(|slack| [&slack.webhook_url_secret_ref, &slack.bot_token_secret_ref]);
    let webhook = notification.webhook.iter();
    let urls = webhook.clone().map(|webhook| &webhook.url_secret_ref);
    let keys = webhook.map(|webhook| &webhook.signing_key_secret_ref);
    let alertmanager = notification.alertmanager.iter();
    let tokens = alertmanager.map(|alertmanager| &alertmanager.token_secret_ref);
    slack.chain(keys).chain(tokens).flatten().chain(urls)
}
