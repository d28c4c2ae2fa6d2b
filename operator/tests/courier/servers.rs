//! A TLS server with a certificate that nobody else trusts, and a proxy.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring};
use rustls_pki_types::PrivateKeyDer;
use tempfile::{NamedTempFile, TempDir};

/// How a server answers.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// With this status line, headers after it, and this body.
    Whole(&'static str, &'static str),
    /// With a body that does not end.
    Endless,
    /// Not at all.
    Nothing,
}

/// Serves HTTPS as `localhost` and as `hooks.slack.com`, while the test runs.
pub(crate) struct Server {
    port: u16,
    folder: TempDir,
    requests: Arc<Mutex<Vec<String>>>,
    sent: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) fn start(answer: Answer) -> Self {
        let names = ["localhost", "hooks.slack.com"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tls.crt"), made.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            folder,
            requests: Arc::default(),
            sent: Arc::default(),
        };
        let (config, requests) = (Arc::new(config), server.requests.clone());
        let sent = server.sent.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let connection = ServerConnection::new(config.clone()).unwrap();
                let stream = StreamOwned::new(connection, stream);
                let (requests, sent) = (requests.clone(), sent.clone());
                // Who does not trust us hangs up.
                thread::spawn(move || serve(stream, answer, &requests, &sent));
            }
        });
        server
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.port)
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    /// A file with another's certificate too.
    pub(crate) fn certificate_with(&self, other: &Self) -> NamedTempFile {
        let read = |path: &Path| std::fs::read(path).unwrap();
        let both = [read(&self.certificate()), read(&other.certificate())].concat();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&both).unwrap();
        file
    }

    /// What came, oldest first.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Bytes of endless bodies that were taken.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

fn serve(
    mut stream: impl Read + Write,
    answer: Answer,
    requests: &Mutex<Vec<String>>,
    sent: &AtomicUsize,
) -> io::Result<()> {
    let request = read_request(&mut stream)?;
    requests.lock().unwrap().push(request);
    match answer {
        Answer::Whole(head, body) => {
            let length = body.len();
            let end = format!("content-length: {length}\r\nconnection: close");
            write!(stream, "HTTP/1.1 {head}\r\n{end}\r\n\r\n{body}")?;
            stream.flush()
        }
        Answer::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\n\r\n")?;
            let block = [b'o'; 16 * 1024];
            loop {
                stream.write_all(&block)?;
                sent.fetch_add(block.len(), Ordering::Relaxed);
            }
        }
        // Until the client has had enough.
        Answer::Nothing => stream.read(&mut [0]).map(drop),
    }
}

/// A request with its body.
fn read_request(stream: &mut impl Read) -> io::Result<String> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok(text.into_owned());
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => request.extend_from_slice(&buffer[..read]),
        }
    }
}

/// A proxy that is asked to connect, and leads everyone to one port.
pub(crate) struct Proxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// One that leads to a port of this machine, or refuses.
    pub(crate) fn start(to: Option<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            asked: Arc::default(),
        };
        let asked = proxy.asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let asked = asked.clone();
                // Who hangs up in the middle is served no longer.
                thread::spawn(move || lead(stream, to, &asked));
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The first lines of what it was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn lead(mut client: TcpStream, to: Option<u16>, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let request = read_request(&mut client)?;
    let first = request.lines().next().unwrap_or_default();
    asked.lock().unwrap().push(first.to_owned());
    let Some(port) = to else {
        return write!(
            client,
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"
        );
    };
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    write!(client, "HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || io::copy(&mut from_client, &mut to_server));
    io::copy(&mut server, &mut client).map(drop)
}
