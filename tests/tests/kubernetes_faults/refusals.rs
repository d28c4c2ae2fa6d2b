//! An API server that refuses the first writes of every object, as one does where
//! somebody else is always faster.
//!
//! What is asked of it comes without TLS, one request a connection, and goes on
//! to the real one with TLS.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value as Json, json};

pub(crate) struct Refusals {
    address: SocketAddr,
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// How the real one is reached.
struct Beyond {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

struct Request {
    method: String,
    /// Without what follows a question mark.
    path: String,
    head: Vec<String>,
    body: Vec<u8>,
}

impl Refusals {
    /// Before the API server of a kubeconfig: each object's first `times` writes
    /// are refused.
    pub(crate) fn before(kubeconfig: &Path, times: usize) -> Result<Self> {
        let text: Json = serde_json::from_str(&fs::read_to_string(kubeconfig)?)?;
        let cluster = &text["clusters"][0]["cluster"];
        let field = |name: &str| cluster[name].as_str().context(name.to_owned());
        let mut roots = RootCertStore::empty();
        let authorities = STANDARD.decode(field("certificate-authority-data")?)?;
        for authority in CertificateDer::pem_slice_iter(&authorities) {
            roots.add(authority?)?;
        }
        let tls = ClientConfig::builder().with_root_certificates(roots);
        let server = field("server")?;
        let server = server.strip_prefix("https://").context("it has TLS")?;
        let beyond = Arc::new(Beyond {
            address: server.parse()?,
            tls: Arc::new(tls.with_no_client_auth()),
        });
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let refusals = Self {
            address: listener.local_addr()?,
            counts: Arc::default(),
        };
        let counts = refusals.counts.clone();
        // Ends with the process; nothing is left of it.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (beyond, counts) = (beyond.clone(), counts.clone());
                // Whoever asks hears of a failure by the connection's end.
                thread::spawn(move || answer(stream, &beyond, &counts, times));
            }
        });
        Ok(refusals)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many writes of each object were refused, by its path.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        self.counts
            .lock()
            .expect("nobody panics holding it")
            .clone()
    }
}

fn answer(
    stream: TcpStream,
    beyond: &Beyond,
    counts: &Mutex<BTreeMap<String, usize>>,
    times: usize,
) -> Result<()> {
    let request = Request::read(&stream)?;
    if let Some(object) = request.written() {
        let mut counts = counts.lock().expect("nobody panics holding it");
        let count = counts.entry(object).or_default();
        if *count < times {
            *count += 1;
            return refuse(&stream);
        }
    }
    pass_on(stream, &request, beyond)
}

fn refuse(mut stream: &TcpStream) -> Result<()> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict",
        "code": 409, "message": "the object has been modified; please apply your changes to the latest version",
    })
    .to_string();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 409 Conflict\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )?;
    Ok(())
}

fn pass_on(mut near: TcpStream, request: &Request, beyond: &Beyond) -> Result<()> {
    let name = ServerName::IpAddress(beyond.address.ip().into());
    let connection = ClientConnection::new(beyond.tls.clone(), name)?;
    let far = TcpStream::connect(beyond.address)?;
    let mut far = StreamOwned::new(connection, far);
    for line in &request.head {
        if !line.to_ascii_lowercase().starts_with("connection:") {
            write!(far, "{line}\r\n")?;
        }
    }
    far.write_all(b"connection: close\r\n\r\n")?;
    far.write_all(&request.body)?;
    far.flush()?;
    // A watch is told of as it comes.
    let mut buffer = [0; 16 * 1024];
    loop {
        match far.read(&mut buffer)? {
            0 => return Ok(()),
            count => near.write_all(&buffer[..count])?,
        }
    }
}

impl Request {
    fn read(stream: &TcpStream) -> Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            head.push(line.to_owned());
        }
        let mut words = head.first().context("a first line")?.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default().to_owned();
        let length = head.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        Ok(Self {
            method,
            path,
            head,
            body,
        })
    }

    /// The path of the object that it would write, if it would.
    fn written(&self) -> Option<String> {
        match self.method.as_str() {
            "PUT" | "PATCH" | "DELETE" => Some(self.path.clone()),
            "POST" => {
                let object: Json = serde_json::from_slice(&self.body).ok()?;
                let name = object["metadata"]["name"].as_str()?;
                Some(format!("{}/{name}", self.path))
            }
            _ => None,
        }
    }
}
