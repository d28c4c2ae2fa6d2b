//! `spec.tls`: encryption on both sides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CaSecretRef, SecretRef};

/// Encryption on both sides. Secrets that cert-manager makes fit as they are.
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
    {"rule": "self.mode == 'disable' || has(self.certSecretRef)", "message": "is needed unless mode is disable", "fieldPath": ".certSecretRef"},
    {"rule": "!(self.mode in ['verify-ca', 'verify-full']) || has(self.caSecretRef)", "message": "is needed with verify-ca and verify-full", "fieldPath": ".caSecretRef"}
]))]
pub struct ClientTls {
    /// `disable` refuses TLS, `prefer` allows it, `require` insists on it,
    /// `verify-ca` and `verify-full` also ask for the client's certificate.
    /// Default disable. The verify modes are not supported yet.
    /// PgBouncer: client_tls_sslmode.
    pub mode: TlsMode,

    /// A Secret with the keys `tls.crt` (certificate chain) and `tls.key`
    /// (private key), both PEM; the type kubernetes.io/tls fits. Needed unless
    /// mode is disable. Changes of it are reloaded.
    /// PgBouncer: client_tls_cert_file, client_tls_key_file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_secret_ref: Option<SecretRef>,

    /// A Secret with certificates, PEM, of those who may sign clients'
    /// certificates. Needed with verify-ca and verify-full.
    /// PgBouncer: client_tls_ca_file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
}

/// Encryption between the tier and PostgreSQL.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerTls {
    /// `disable` uses no TLS, `prefer` uses it where PostgreSQL offers it,
    /// `require` insists, `verify-ca` also checks who signed the certificate,
    /// `verify-full` also that it names the host. Default disable.
    /// PgBouncer: server_tls_sslmode.
    pub mode: TlsMode,

    /// A Secret with certificates, PEM, of those who may sign PostgreSQL's
    /// certificate. Needed with verify-ca and verify-full, except for a
    /// CloudNativePG Cluster, whose own is taken. Changes of it are reloaded.
    /// PgBouncer: server_tls_ca_file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,

    /// A Secret with the keys `tls.crt` (certificate chain) and `tls.key`
    /// (private key), both PEM, shown to a PostgreSQL that asks for a client
    /// certificate. Default: none is shown.
    /// PgBouncer: server_tls_cert_file, server_tls_key_file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_secret_ref: Option<SecretRef>,
}

impl ServerTls {
    /// Whether it is checked who signed PostgreSQL's certificate.
    #[must_use]
    pub fn checks_authority(&self) -> bool {
        self.mode >= TlsMode::VerifyCa
    }
}

/// How much encryption is wanted, from least to most.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
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

impl TlsMode {
    /// The word, as in pgbouncer.ini.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}
