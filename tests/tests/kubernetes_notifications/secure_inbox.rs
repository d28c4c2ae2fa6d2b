//! The double of Slack behind TLS: `operator run` posts to nobody without.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tests::{Authority, Inbox, Validity};

/// An inbox, who may sign its certificate, and what speaks TLS.
pub(crate) struct SecureInbox {
    pub(crate) inbox: Inbox,
    authority: Authority,
    address: SocketAddr,
}

impl SecureInbox {
    /// Starts it at an address of this machine, which is also its host's name.
    pub(crate) fn start(address: Ipv4Addr) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let inbox = Inbox::start()?;
        let authority = Authority::new()?;
        let certificate = authority.issue("inbox", &format!("IP:{address}"), Validity::Today)?;
        let chain = CertificateDer::from_pem_slice(&fs::read(&certificate.cert)?)?;
        let key = PrivateKeyDer::from_pem_slice(&fs::read(&certificate.key)?)?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)?;
        let config = Arc::new(config);
        let root = inbox.root_url();
        let behind: SocketAddr = root.trim_start_matches("http://").parse()?;
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        // Ends with the process; nothing is left of it.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = config.clone();
                thread::spawn(move || relay(stream, config, behind));
            }
        });
        Ok(Self {
            inbox,
            authority,
            address,
        })
    }

    /// The webhook's address.
    pub(crate) fn url(&self) -> Result<String> {
        let url = self.inbox.url();
        let (_, path) = url.split_once("/services/").context("a webhook's path")?;
        Ok(format!("https://{}/services/{path}", self.address))
    }

    /// The PEM file of its authority.
    pub(crate) fn authority(&self) -> &Path {
        &self.authority.cert
    }
}

/// Serves one connection until either side has enough.
fn relay(stream: TcpStream, config: Arc<ServerConfig>, behind: SocketAddr) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let tls = ServerConnection::new(config)?;
    let mut client = BufReader::new(StreamOwned::new(tls, stream));
    while let Some(request) = message(&mut client)? {
        let mut inbox = TcpStream::connect(behind)?;
        inbox.write_all(&request)?;
        let answer = message(&mut BufReader::new(&inbox))?;
        let Some(answer) = answer else { break };
        client.get_mut().write_all(&answer)?;
        client.get_mut().flush()?;
    }
    Ok(())
}

/// A request or an answer, as far as it comes.
fn message(from: &mut BufReader<impl Read>) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut length = 0;
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&line);
        let line = String::from_utf8_lossy(&line).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    from.take(length).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
