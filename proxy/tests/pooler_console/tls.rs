//! TLS: a client that says goodbye when it is told to.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use proxy_core::wire::{self, backend, messages};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{
    pooler::{self, Config, Pooler},
    postgres::Postgres,
    support::connect,
    wait_for,
};

/// Offers TLS to clients; to be started by [`command`].
pub(crate) fn offered(config: Config) -> Config {
    config
        .set("client_tls_sslmode", "allow")
        .set("client_tls_cert_file", "{dir}/cert.pem")
        .set("client_tls_key_file", "{dir}/key.pem")
}

/// Makes a certificate in `directory`, with Debian's `openssl`.
pub(crate) fn command(directory: &Path) -> Command {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-subj", "/CN=localhost"])
        .arg("-out")
        .arg(directory.join("cert.pem"))
        .arg("-keyout")
        .arg(directory.join("key.pem"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    pooler::command()
}

/// A client whose bytes are encrypted.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    tls: ClientConnection,
}

impl Client {
    /// Connects and shakes hands.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let mut stream = connect(address);
        stream.write_all(&wire::ssl_request()).unwrap();
        let mut answer = [0; 1];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"S");
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        tls.complete_io(&mut stream).unwrap();
        Self { stream, tls }
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        self.flush();
    }

    /// Sends bytes and a goodbye behind them, both at once.
    #[track_caller]
    pub(crate) fn send_last(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        self.tls.send_close_notify();
        self.flush();
    }

    fn flush(&mut self) {
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).unwrap();
        }
        self.stream.write_all(&records).unwrap();
    }

    /// Logs in to the database `shop`; gives the cancel key.
    #[track_caller]
    pub(crate) fn log_in(&mut self) -> Vec<u8> {
        self.send(&wire::startup(&[("user", "ann"), ("database", "shop")]));
        let greeting = self.until_ready();
        let mut keys = messages(&greeting).filter(|frame| frame.kind == backend::BACKEND_KEY_DATA);
        keys.next().unwrap().body.to_vec()
    }

    /// Reads up to ReadyForQuery.
    #[track_caller]
    pub(crate) fn until_ready(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(&wire::ready_for_query(b'I')) {
            let mut buffer = [0; 4096];
            let length = self.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "it ended");
            bytes.extend(&buffer[..length]);
        }
        bytes
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        rustls::Stream::new(&mut self.tls, &mut self.stream).read(buffer)
    }
}

/// Takes any certificate: who the pooler is is not the question here.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A goodbye that comes with the last query takes nothing of it away.
#[test]
fn what_comes_with_a_goodbye_is_dealt_with_first() {
    let postgres = Postgres::start();
    let config = offered(Config::over(&postgres));
    let pooler = Pooler::start_by(&config, command);
    let mut client = Client::connect(pooler.address);
    client.log_in();
    client.send(&wire::query("SELECT 'first'"));
    client.until_ready();
    client.send_last(&wire::query("SELECT 'last'"));
    wait_for("the last query", || {
        postgres.has_seen("SELECT 'last'").then_some(())
    });
}
