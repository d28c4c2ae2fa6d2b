//! What the settings `client_tls_*` and `server_tls_*` ask for.

use std::{fmt, fs, io, net::IpAddr, path::Path, sync::Arc};

use proxy_core::config::{Global, SslMode, TlsProtocols};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion, client::Resumption};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

use super::{
    Tls,
    verifier::{Checked, Verifier},
};

/// Why TLS cannot be spoken: names the key and the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// A file could not be read or understood.
    #[error("{key} = {path}: {reason}")]
    File {
        /// The setting.
        key: &'static str,
        /// Its value.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key were read and are of no use together.
    #[error("{cert_key} = {cert}, {key_key} = {key}: {reason}")]
    Pair {
        /// The setting that names the certificate.
        cert_key: &'static str,
        /// Certificate file.
        cert: String,
        /// The setting that names the key.
        key_key: &'static str,
        /// Key file.
        key: String,
        /// What is wrong.
        reason: Box<rustls::Error>,
    },
}

impl TlsConfigError {
    /// The setting that names the file.
    pub(in crate::pooler) fn key(&self) -> &'static str {
        match self {
            Self::File { key, .. } => key,
            Self::Pair { cert_key, .. } => cert_key,
        }
    }
}

/// What the settings `client_tls_*` ask for; `None` if TLS is disabled.
///
/// # Errors
/// See [`TlsConfigError`].
pub(in crate::pooler) fn server_config(
    global: &Global,
) -> Result<Option<Arc<ServerConfig>>, TlsConfigError> {
    if global.client_tls_sslmode == SslMode::Disable {
        return Ok(None);
    }
    let (Some(cert), Some(key)) = (&global.client_tls_cert_file, &global.client_tls_key_file)
    else {
        return Ok(None);
    };
    let files = PairFiles {
        cert_key: "client_tls_cert_file",
        cert,
        key_key: "client_tls_key_file",
        key,
    };
    let pair = files.read()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(global.client_tls_protocols))
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(pair.chain, pair.private)
        });
    let mut config = config.map_err(|reason| files.error(reason))?;
    // libpq never resumes, so one ticket is one too many; but without any, the
    // client's first request waits for a delayed ACK (44 ms measured).
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Some(Arc::new(config)))
}

/// How connections to PostgreSQL are made: what the settings `server_tls_*` ask
/// for, with what their files held. Two are equal if they make the same
/// connections.
#[derive(Default)]
pub(in crate::pooler) struct Connector {
    wish: Wish,
    /// `None` if TLS is disabled.
    config: Option<Arc<ClientConfig>>,
}

/// All that a connector is made of.
#[derive(Default, PartialEq, Eq)]
struct Wish {
    asks: Asks,
    checked: Checked,
    protocols: Option<TlsProtocols>,
    authorities: Vec<CertificateDer<'static>>,
    pair: Option<Pair>,
}

/// Whether PostgreSQL is asked for TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asks {
    #[default]
    Never,
    /// And does without if it has none.
    Always,
    /// And goes away if it has none.
    Insists,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("asks", &self.wish.asks)
            .field("checked", &self.wish.checked)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        // The rest follows from it.
        self.wish == other.wish
    }
}

impl Connector {
    /// Reads the files of `server_tls_*`.
    ///
    /// # Errors
    /// See [`TlsConfigError`].
    pub(in crate::pooler) fn new(global: &Global) -> Result<Self, TlsConfigError> {
        let (asks, checked) = match global.server_tls_sslmode {
            SslMode::Disable => return Ok(Self::default()),
            // As PgBouncer does: it asks first, also where libpq would try
            // without TLS before.
            SslMode::Allow | SslMode::Prefer => (Asks::Always, Checked::Nothing),
            SslMode::Require => (Asks::Insists, Checked::Nothing),
            SslMode::VerifyCa => (Asks::Insists, Checked::Issuer),
            SslMode::VerifyFull => (Asks::Insists, Checked::IssuerAndName),
        };
        let authorities = match &global.server_tls_ca_file {
            Some(path) => certificates("server_tls_ca_file", path)?,
            None => Vec::new(),
        };
        let files = match (&global.server_tls_cert_file, &global.server_tls_key_file) {
            (Some(cert), Some(key)) => Some(PairFiles {
                cert_key: "server_tls_cert_file",
                cert,
                key_key: "server_tls_key_file",
                key,
            }),
            _ => None,
        };
        let wish = Wish {
            asks,
            checked,
            protocols: Some(global.server_tls_protocols),
            authorities,
            pair: files.as_ref().map(PairFiles::read).transpose()?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let verifier = Verifier::new(checked, &wish.authorities, algorithms).map_err(|reason| {
            TlsConfigError::File {
                key: "server_tls_ca_file",
                path: global.server_tls_ca_file.clone().unwrap_or_default(),
                reason,
            }
        })?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(global.server_tls_protocols))
            .expect("at least one version is chosen, and ring has ciphers for each")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&files, &wish.pair) {
            (Some(files), Some(pair)) => builder
                .with_client_auth_cert(pair.chain.clone(), pair.private.clone_key())
                .map_err(|reason| files.error(reason))?,
            _ => builder.with_no_client_auth(),
        };
        // PostgreSQL resumes no sessions, and what is kept for it would be for nothing.
        config.resumption = Resumption::disabled();
        Ok(Self {
            wish,
            config: Some(Arc::new(config)),
        })
    }

    /// Whether PostgreSQL is asked for TLS. Never over Unix sockets.
    pub(in crate::pooler) fn asks(&self) -> bool {
        self.wish.asks != Asks::Never
    }

    /// Whether there is no connection without TLS.
    pub(in crate::pooler) fn insists(&self) -> bool {
        self.wish.asks == Asks::Insists
    }

    /// A session with `host`, found at `ip`, that begins with our hello.
    ///
    /// # Errors
    /// TLS is disabled, or no certificate can have the name that is to be checked.
    pub(in crate::pooler) fn connect(&self, host: &str, ip: IpAddr) -> io::Result<Tls> {
        let config = self.config.clone().ok_or(io::ErrorKind::Unsupported)?;
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            Err(_) if self.wish.checked == Checked::IssuerAndName => {
                let error = format!("no certificate can be for the name \"{host}\"");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
            }
            // It is shown to nobody, and compared with nothing.
            Err(_) => ServerName::from(ip),
        };
        Tls::connect(config, name)
    }
}

/// A certificate with its chain, and its key.
#[derive(PartialEq, Eq)]
struct Pair {
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
}

/// Where a pair is, and which settings say so.
struct PairFiles<'a> {
    cert_key: &'static str,
    cert: &'a str,
    key_key: &'static str,
    key: &'a str,
}

impl PairFiles<'_> {
    fn read(&self) -> Result<Pair, TlsConfigError> {
        let chain = certificates(self.cert_key, self.cert)?;
        let bytes = read(self.key_key, self.key)?;
        let private = PrivateKeyDer::from_pem_slice(&bytes)
            .map_err(|error| file_error(self.key_key, self.key, error.to_string()))?;
        Ok(Pair { chain, private })
    }

    fn error(&self, reason: rustls::Error) -> TlsConfigError {
        TlsConfigError::Pair {
            cert_key: self.cert_key,
            cert: self.cert.to_owned(),
            key_key: self.key_key,
            key: self.key.to_owned(),
            reason: Box::new(reason),
        }
    }
}

fn versions(protocols: TlsProtocols) -> Vec<&'static SupportedProtocolVersion> {
    let mut versions = Vec::new();
    if protocols.tls12 {
        versions.push(&rustls::version::TLS12);
    }
    if protocols.tls13 {
        versions.push(&rustls::version::TLS13);
    }
    versions
}

/// The certificates in a file, at least one.
fn certificates(
    key: &'static str,
    path: &str,
) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let chain = CertificateDer::pem_slice_iter(&read(key, path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| file_error(key, path, error.to_string()))?;
    if chain.is_empty() {
        let reason = "holds no certificate in PEM form".to_owned();
        return Err(file_error(key, path, reason));
    }
    Ok(chain)
}

fn read(key: &'static str, path: &str) -> Result<Vec<u8>, TlsConfigError> {
    fs::read(Path::new(path)).map_err(|error| file_error(key, path, error.to_string()))
}

fn file_error(key: &'static str, path: &str, reason: String) -> TlsConfigError {
    TlsConfigError::File {
        key,
        path: path.to_owned(),
        reason,
    }
}
