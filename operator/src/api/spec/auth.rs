//! `spec.auth`: how applications prove who they are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;

/// How applications prove who they are.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// What a client must show: `scram-sha-256` and `md5` a password (`md5`
    /// uses SCRAM for users whose secret is a SCRAM verifier), `trust` nothing,
    /// `cert` a client certificate, `hba` whatever a pg_hba.conf file says.
    /// Default scram-sha-256. `cert` and `hba` are not supported yet.
    /// PgBouncer: auth_type.
    #[serde(default)]
    pub r#type: AuthType,

    /// The Secret whose key `userlist.txt` lists the users, one a line, as
    /// `"user" "password"`; the password is plain text, an MD5 hash or a SCRAM
    /// verifier as in pg_authid. Users in the list may log in to databases;
    /// none of them may use the administration console unless
    /// pool.parameters names them in admin_users or stats_users. Not needed
    /// where users bring a password of their own (users[].passwordSecretRef)
    /// or the upstream names one (uriSecretRef, cnpgClusterRef).
    /// PgBouncer: auth_file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userlist_secret_ref: Option<SecretRef>,
}

/// How a client is authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum AuthType {
    #[default]
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    Md5,
    Cert,
    Hba,
    Trust,
}
