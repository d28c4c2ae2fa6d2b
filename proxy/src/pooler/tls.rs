//! TLS over buffers that belong to nobody: rustls's unbuffered API.
//!
//! A session keeps its keys and no buffer (decision 3): records are decrypted
//! in the loop's scratch buffer, and encrypted into one that lives for the write.

use std::{fs, io, path::Path, sync::Arc};

use proxy_core::config::{Global, SslMode};
use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// Most plaintext in one record (RFC 8446, 5.1).
const RECORD_PLAIN_MAX: usize = 16 * 1024;
/// Longest record: header, ciphertext and expansion (RFC 8446, 5.2; TLS 1.2 allows more).
const RECORD_MAX: usize = 5 + RECORD_PLAIN_MAX + 2_048;

/// Why TLS cannot be offered: names the key and the file.
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
    #[error("client_tls_cert_file = {cert}, client_tls_key_file = {key}: {reason}")]
    Pair {
        /// Certificate file.
        cert: String,
        /// Key file.
        key: String,
        /// What is wrong.
        reason: rustls::Error,
    },
}

impl TlsConfigError {
    /// The setting that names the file.
    pub(super) fn key(&self) -> &'static str {
        match self {
            Self::File { key, .. } => key,
            Self::Pair { .. } => "client_tls_cert_file",
        }
    }
}

/// What the settings `client_tls_*` ask for; `None` if TLS is disabled.
///
/// # Errors
/// See [`TlsConfigError`].
pub(super) fn server_config(global: &Global) -> Result<Option<Arc<ServerConfig>>, TlsConfigError> {
    if global.client_tls_sslmode == SslMode::Disable {
        return Ok(None);
    }
    let (Some(cert), Some(key)) = (&global.client_tls_cert_file, &global.client_tls_key_file)
    else {
        return Ok(None);
    };
    let file_error = |key, path: &str, reason: String| TlsConfigError::File {
        key,
        path: path.to_owned(),
        reason,
    };
    let read = |key, path: &str| {
        fs::read(Path::new(path)).map_err(|error| file_error(key, path, error.to_string()))
    };
    let chain = CertificateDer::pem_slice_iter(&read("client_tls_cert_file", cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| file_error("client_tls_cert_file", cert, error.to_string()))?;
    if chain.is_empty() {
        let reason = "holds no certificate in PEM form".to_owned();
        return Err(file_error("client_tls_cert_file", cert, reason));
    }
    let private = PrivateKeyDer::from_pem_slice(&read("client_tls_key_file", key)?)
        .map_err(|error| file_error("client_tls_key_file", key, error.to_string()))?;
    let protocols = global.client_tls_protocols;
    let mut versions = Vec::new();
    if protocols.tls12 {
        versions.push(&rustls::version::TLS12);
    }
    if protocols.tls13 {
        versions.push(&rustls::version::TLS13);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, private)
        });
    let mut config = config.map_err(|reason| TlsConfigError::Pair {
        cert: cert.clone(),
        key: key.clone(),
        reason,
    })?;
    // libpq never resumes, so one ticket is one too many; but without any, the
    // client's first request waits for a delayed ACK (44 ms measured).
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Some(Arc::new(config)))
}

/// One TLS session with a client.
pub(super) struct Tls {
    connection: UnbufferedServerConnection,
    /// The start of a record whose end has not come.
    pending: Vec<u8>,
    established: bool,
    closed: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("established", &self.established)
            .finish_non_exhaustive()
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Tls {
    /// A session that begins with the client's hello.
    ///
    /// # Errors
    /// The configuration cannot serve anybody.
    pub(super) fn new(config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config).map_err(invalid)?,
            pending: Vec::new(),
            established: false,
            closed: false,
        })
    }

    /// Bytes kept of a record that is not whole yet.
    pub(super) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Whether the client said that it sends no more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// `TLSv1.3` and the like; empty before the handshake is done.
    pub(super) fn protocol(&self) -> &'static str {
        match self.connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        }
    }

    /// Moves the kept start of a record to the front of `cipher`, where what is
    /// read next is to follow it. Returns its length.
    pub(super) fn take_pending(&mut self, cipher: &mut [u8]) -> usize {
        let length = self.pending.len();
        cipher[..length].copy_from_slice(&self.pending);
        self.pending = Vec::new();
        length
    }

    /// Keeps the start of a record again: nothing came after it.
    pub(super) fn put_back(&mut self, cipher: &[u8]) {
        self.pending = cipher.to_vec();
    }

    /// Decrypts `cipher` (what [`Tls::take_pending`] put there, and what was
    /// read after it). Appends plaintext to `plain` and what must be sent to
    /// `out`.
    ///
    /// # Errors
    /// The client broke the protocol; `out` holds the alert to send.
    pub(super) fn receive(
        &mut self,
        cipher: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut at = 0;
        loop {
            let UnbufferedStatus {
                mut discard, state, ..
            } = self.connection.process_tls_records(&mut cipher[at..]);
            let mut stop = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(out, |room| data.encode(room))?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.established = true;
                    stop = true;
                }
                Ok(ConnectionState::PeerClosed) => self.closed = true,
                Ok(ConnectionState::Closed) => {
                    self.closed = true;
                    stop = true;
                }
                Ok(_) => stop = true,
                Err(error) => {
                    self.alert(out);
                    return Err(invalid(error));
                }
            }
            at += discard;
            if stop {
                break;
            }
        }
        let rest = &cipher[at..];
        if rest.len() > RECORD_MAX && !self.closed {
            let error = "record longer than TLS allows";
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        if !self.closed {
            self.pending = rest.to_vec();
        }
        Ok(())
    }

    /// After an error rustls has one alert to send.
    fn alert(&mut self, out: &mut Vec<u8>) {
        let status = self.connection.process_tls_records(&mut []);
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state {
            // The connection ends anyway; an alert that does not fit is no loss.
            let _ = encode(out, |room| data.encode(room));
        }
    }

    /// Encrypts `plain` and appends the records to `out`.
    ///
    /// # Errors
    /// The session cannot send any more.
    pub(super) fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        for chunk in plain.chunks(RECORD_PLAIN_MAX) {
            self.write_traffic(out, |mut traffic, out| {
                let from = out.len();
                // 256 bytes more than any cipher suite adds to a record.
                out.resize(from + chunk.len() + 256, 0);
                match traffic.encrypt(chunk, &mut out[from..]) {
                    Ok(length) => {
                        out.truncate(from + length);
                        Ok(())
                    }
                    Err(error) => Err(invalid(error)),
                }
            })?;
        }
        Ok(())
    }

    /// Says that no more will be sent.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        // Best effort: the connection is closed in any case.
        let _ = self.write_traffic(out, |mut traffic, out| {
            encode_close(out, |room| traffic.queue_close_notify(room))
        });
    }

    fn write_traffic(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(
            rustls::unbuffered::WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut Vec<u8>,
        ) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => return write(traffic, out),
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(out, |room| data.encode(room))?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.closed = true,
                Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(error) => return Err(invalid(error)),
            }
        }
    }
}

/// Appends what `fill` writes, asking it first how much room it needs.
fn encode(
    out: &mut Vec<u8>,
    mut fill: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> io::Result<()> {
    let from = out.len();
    let needed = match fill(&mut []) {
        Ok(_) => return Ok(()),
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        Err(error @ EncodeError::AlreadyEncoded) => return Err(invalid(error)),
    };
    out.resize(from + needed, 0);
    let length = fill(&mut out[from..]).map_err(invalid)?;
    out.truncate(from + length);
    Ok(())
}

fn encode_close(
    out: &mut Vec<u8>,
    mut fill: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> io::Result<()> {
    let from = out.len();
    out.resize(from + 256, 0);
    let length = fill(&mut out[from..]).map_err(invalid)?;
    out.truncate(from + length);
    Ok(())
}
