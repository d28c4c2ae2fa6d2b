//! What may stand between a pooler and PostgreSQL: a relay that sees what each
//! connection begins with, cuts what it passes on, and may add to it.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
};

use anyhow::Result;

/// What is done with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// They are passed on as they come.
    Pass,
    /// They are passed on in pieces whose lengths follow from this seed.
    Cut(u64),
    /// Bytes in clear stand behind PostgreSQL's answer to an SSLRequest, in one
    /// segment with it.
    Append,
    /// The same, in a segment of their own.
    Follow,
}

/// A relay, which ends when it is dropped.
pub(crate) struct Relay {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: SocketAddr,
    deed: Mutex<Deed>,
    over: AtomicBool,
    /// The first four bytes behind the length of each connection's first packet.
    codes: Mutex<Vec<u32>>,
    streams: Mutex<Vec<TcpStream>>,
}

impl Relay {
    pub(crate) fn start(upstream: SocketAddr, deed: Deed) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            upstream,
            deed: Mutex::new(deed),
            over: AtomicBool::new(false),
            codes: Mutex::new(Vec::new()),
            streams: Mutex::new(Vec::new()),
        });
        let accepting = shared.clone();
        let acceptor = std::thread::spawn(move || accepting.accept(&listener));
        Ok(Self {
            port,
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// From now on connections are treated so.
    pub(crate) fn turn(&self, deed: Deed) {
        *self.shared.deed.lock().expect("no holder panics") = deed;
    }

    /// Codes of the first packets so far, one for each connection.
    pub(crate) fn codes(&self) -> Vec<u32> {
        self.shared.codes.lock().expect("no holder panics").clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        // Ends the wait for a connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads = Vec::new();
        while let Ok((client, _)) = listener.accept() {
            if self.over.load(SeqCst) {
                break;
            }
            let shared = self.clone();
            // The end of either side ends both.
            threads.push(std::thread::spawn(move || drop(shared.serve(client))));
        }
        for stream in self.streams.lock().expect("no holder panics").iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut server = TcpStream::connect(self.upstream)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            let mut streams = self.streams.lock().expect("no holder panics");
            streams.push(stream.try_clone()?);
        }
        let mut first = [0; 8];
        client.read_exact(&mut first)?;
        let code = u32::from_be_bytes([first[4], first[5], first[6], first[7]]);
        self.codes.lock().expect("no holder panics").push(code);
        server.write_all(&first)?;
        let deed = *self.deed.lock().expect("no holder panics");
        if matches!(deed, Deed::Append | Deed::Follow) {
            let mut answer = [0; 1];
            server.read_exact(&mut answer)?;
            let forged = proxy_core::wire::authentication_ok();
            if deed == Deed::Append {
                client.write_all(&[&answer[..], &forged].concat())?;
            } else {
                client.write_all(&answer)?;
                client.write_all(&forged)?;
            }
        }
        let (from_client, from_server) = (client.try_clone()?, server.try_clone()?);
        let other = std::thread::spawn(move || pass(from_server, client, deed));
        pass(from_client, server, deed);
        let _ = other.join();
        Ok(())
    }
}

/// Passes bytes on until either side has ended.
fn pass(mut from: TcpStream, mut to: TcpStream, deed: Deed) {
    let mut cuts = Cuts::new(deed);
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(cuts.next_length().min(rest.len()));
            if to.write_all(piece).is_err() {
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
            rest = after;
        }
        if length == 0 {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Lengths of pieces: short ones first, where the handshake is.
struct Cuts {
    state: u64,
    cutting: bool,
    passed: usize,
}

impl Cuts {
    fn new(deed: Deed) -> Self {
        let (cutting, seed) = match deed {
            Deed::Cut(seed) => (true, seed),
            _ => (false, 0),
        };
        Self {
            state: seed | 1,
            cutting,
            passed: 0,
        }
    }

    fn next_length(&mut self) -> usize {
        if !self.cutting {
            return usize::MAX;
        }
        // xorshift64
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let longest = match self.passed {
            0..8_000 => 13,
            _ => 20_000,
        };
        let length = 1 + usize::try_from(self.state >> 33).unwrap_or(0) % longest;
        self.passed += length;
        length
    }
}
