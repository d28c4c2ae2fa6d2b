//! TLS: a client that says goodbye when it is told to, certificates that are renewed.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::symlink,
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

/// Makes a certificate in `directory`.
pub(crate) fn command(directory: &Path) -> Command {
    make(directory);
    pooler::command()
}

/// Makes a certificate and its key in `directory`, with Debian's `openssl`.
fn make(directory: &Path) {
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
}

/// Mounts what `fill` makes as kubelet does a Secret: files are links through
/// `..data`, a link that is swapped.
fn mount(at: &Path, version: &str, fill: impl FnOnce(&Path)) {
    let made = at.join(version);
    fs::create_dir_all(&made).unwrap();
    fill(&made);
    let (data, next) = (at.join("..data"), at.join("..data_tmp"));
    let before = fs::read_link(&data).ok();
    symlink(version, &next).unwrap();
    fs::rename(next, data).unwrap();
    if let Some(before) = before {
        fs::remove_dir_all(at.join(before)).unwrap();
        return;
    }
    for name in ["cert.pem", "key.pem"] {
        symlink(Path::new("..data").join(name), at.join(name)).unwrap();
    }
}

/// The serial number of a certificate, as openssl prints it.
fn serial(certificate: &[u8], form: &str) -> String {
    let mut openssl = Command::new("openssl")
        .args(["x509", "-noout", "-serial", "-inform", form])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = openssl.stdin.take().unwrap();
    input.write_all(certificate).unwrap();
    drop(input);
    let printed = openssl.wait_with_output().unwrap();
    assert!(printed.status.success(), "{printed:?}");
    String::from_utf8(printed.stdout).unwrap()
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

    /// The serial number of the certificate that it was shown.
    fn serial(&self) -> String {
        let shown = self.tls.peer_certificates().unwrap();
        serial(&shown[0], "DER")
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

/// As cert-manager does it every few weeks.
#[test]
fn a_renewed_certificate_is_shown_to_new_clients_and_ends_no_session() {
    let postgres = Postgres::start();
    let config = offered(Config::over(&postgres))
        .set("client_tls_cert_file", "{dir}/tls/cert.pem")
        .set("client_tls_key_file", "{dir}/tls/key.pem")
        .set("reload_on_change", "1");
    let pooler = Pooler::start_by(&config, |directory| {
        mount(&directory.join("tls"), "..1", make);
        pooler::command()
    });
    let files = pooler.directory().join("tls");
    let mounted = || serial(&fs::read(files.join("cert.pem")).unwrap(), "PEM");
    let shown = || Client::connect(pooler.address).serial();
    let mut open = Client::connect(pooler.address);
    open.log_in();
    let first = mounted();
    assert_eq!(open.serial(), first);
    let mut goes_on = |what: &str| {
        open.send(&wire::query(what));
        open.until_ready();
        assert!(postgres.has_seen(what));
    };

    mount(&files, "..2", make);
    let renewed = mounted();
    assert_ne!(renewed, first);
    wait_for("the renewed one", || (shown() == renewed).then_some(()));
    goes_on("SELECT 'renewed'");

    // With the key of another.
    mount(&files, "..3", |directory| {
        make(directory);
        let cert = directory.join("cert.pem");
        let kept = fs::read(&cert).unwrap();
        make(directory);
        fs::write(cert, kept).unwrap();
    });
    assert_ne!(mounted(), renewed);
    let refused = wait_for("the refusal", || {
        let log = pooler.log();
        let line = log.lines().find(|line| line.contains("not reloaded"));
        line.map(str::to_owned)
    });
    for part in ["client_tls_cert_file", "client_tls_key_file", "KeyMismatch"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(shown(), renewed, "what was in force stays");
    goes_on("SELECT 'refused'");
    assert!(pooler.get("/status").body.contains("client_tls_cert_file"));

    mount(&files, "..4", make);
    let mended = mounted();
    wait_for("the mended one", || (shown() == mended).then_some(()));
    goes_on("SELECT 'mended'");
}
