//! `spec.tls`: encryption on both sides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;

/// Encryption on both sides.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tls {
    /// Between applications and the tier.
    pub client: ClientTls,

    /// Between the tier and PostgreSQL.
    pub server: ServerTls,
}

/// Encryption between applications and the tier.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.mode == 'disable' || has(self.certSecretRef)", "message": "is needed unless mode is disable", "fieldPath": ".certSecretRef"}
]))]
pub struct ClientTls {
    /// `disable` refuses TLS, `prefer` allows it, `require` insists on it,
    /// `verify-ca` and `verify-full` also ask for the client's certificate.
    /// Default disable. The verify modes are not supported yet.
    pub mode: TlsMode,

    /// A Secret with the keys `tls.crt` (certificate chain) and `tls.key`
    /// (private key), both PEM; the type kubernetes.io/tls fits.
    /// Needed unless mode is disable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_secret_ref: Option<SecretRef>,
}

/// Encryption between the tier and PostgreSQL.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!(self.mode in ['verify-ca', 'verify-full']) || has(self.caSecretRef)", "message": "is needed with verify-ca and verify-full", "fieldPath": ".caSecretRef"}
]))]
pub struct ServerTls {
    /// `disable` uses no TLS, `prefer` uses it where PostgreSQL offers it,
    /// `require` insists, `verify-ca` also checks who signed the certificate,
    /// `verify-full` also that it names the host. Default disable; nothing else
    /// is supported yet.
    pub mode: TlsMode,

    /// A Secret with the key `ca.crt`, PEM: who may sign PostgreSQL's
    /// certificate. Needed with verify-ca and verify-full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretRef>,
}

/// How much encryption is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(
    missing_docs,
    reason = "a variant's doc turns the schema's enum into a oneOf"
)]
pub enum TlsMode {
    #[default]
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}
