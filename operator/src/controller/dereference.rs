//! Which Secrets a cluster refers to: the only things read from elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::api::PgPoolCluster;

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

/// A cluster and the Secrets it refers to.
#[derive(Clone, Debug)]
pub struct Dereferenced {
    /// The cluster as written, with the API's defaults.
    pub cluster: PgPoolCluster,
    /// Every Secret it refers to, by name; `None` where there is none.
    pub secrets: BTreeMap<String, Option<SecretData>>,
}

impl Dereferenced {
    /// Looks up each Secret that the cluster refers to.
    pub fn new(cluster: &PgPoolCluster, read: impl Fn(&str) -> Option<SecretData>) -> Self {
        let secrets = references(cluster)
            .into_iter()
            .map(|name| {
                let data = read(&name);
                (name, data)
            })
            .collect();
        Self {
            cluster: cluster.clone(),
            secrets,
        }
    }
}

/// Names of the Secrets that a cluster refers to.
#[must_use]
pub fn references(cluster: &PgPoolCluster) -> BTreeSet<String> {
    let spec = &cluster.spec;
    let slack = spec.notifications.iter().flat_map(|notification| {
        [
            &notification.slack.webhook_url_secret_ref,
            &notification.slack.bot_token_secret_ref,
        ]
    });
    let mut names: BTreeSet<String> = slack.flatten().map(|secret| secret.name.clone()).collect();
    names.insert(spec.auth.userlist_secret_ref.name.clone());
    names.extend(
        spec.upstream
            .uri_secret_ref
            .iter()
            .map(|secret| secret.name.clone()),
    );
    names.extend(
        spec.tls
            .client
            .cert_secret_ref
            .iter()
            .map(|secret| secret.name.clone()),
    );
    names.extend(
        spec.tls
            .server
            .ca_secret_ref
            .iter()
            .map(|secret| secret.name.clone()),
    );
    names
}
