//! A socket of the loop, with or without TLS, and what is left over on either
//! side of it. While nothing is left over it holds no buffer.

use std::{
    fmt, io,
    io::{IoSlice, Read, Write},
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use mio::{
    Interest, Registry, Token,
    net::{TcpStream, UnixStream},
};
use proxy_core::session::Output;

use super::tls::Tls;

/// Bytes read at once. Large, because results are; one buffer serves a whole loop.
pub(super) const READ_SIZE: usize = 64 * 1024;
/// Bytes read at once from a client that has no server yet: what it sends must
/// be kept while it waits, and thousands may wait.
pub(super) const READ_SIZE_UNLINKED: usize = 8 * 1024;
/// Most slices given to one writev.
const SLICES_MAX: usize = 64;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(stream) => registry.register(stream, token, both),
            Self::Unix(stream) => registry.register(stream, token, both),
        }
    }

    pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => registry.deregister(stream),
            Self::Unix(stream) => registry.deregister(stream),
        }
    }

    /// Whether a connect that was begun has succeeded.
    pub(super) fn established(&self) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => crate::net::established(stream),
            Self::Unix(stream) => match stream.take_error()? {
                Some(error) => Err(error),
                None => Ok(true),
            },
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write_vectored(slices),
            Self::Unix(stream) => stream.write_vectored(slices),
        }
    }

    pub(super) fn shutdown_write(&self) {
        // Fails only if the connection is gone already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    /// This side's address and port; `unix` and 0 for a Unix socket.
    pub(super) fn local(&self) -> Address {
        match self {
            Self::Tcp(stream) => stream.local_addr().map_or(Address::Unix, Address::Tcp),
            Self::Unix(_) => Address::Unix,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix,
}

impl Address {
    /// Address and port as the console shows them.
    pub(super) fn parts(self) -> (String, u16) {
        match self {
            Self::Tcp(address) => (address.ip().to_string(), address.port()),
            Self::Unix => ("unix".to_owned(), 0),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Buffers that a loop lends to whichever socket has its turn.
#[derive(Debug)]
pub(super) struct Scratch {
    plain: Vec<u8>,
    decrypted: Vec<u8>,
    cipher: Vec<u8>,
    out: Vec<u8>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            plain: vec![0; READ_SIZE],
            decrypted: Vec::new(),
            cipher: Vec::new(),
            out: Vec::new(),
        }
    }

    /// The bytes that a read gave.
    pub(super) fn bytes<'a>(&'a self, input: &'a Input) -> &'a [u8] {
        match input {
            Input::Scratch(length) => &self.plain[..*length],
            Input::Decrypted => &self.decrypted,
            Input::Owned(bytes) => bytes,
            Input::Nothing | Input::Closed => &[],
        }
    }
}

/// What a read gave.
#[derive(Debug)]
pub(super) enum Input {
    /// Nothing to deal with now.
    Nothing,
    /// So many bytes, what was kept included, at the front of the scratch buffer.
    Scratch(usize),
    /// The scratch buffer's plaintext, what was kept included.
    Decrypted,
    /// A message too long for the scratch buffer.
    Owned(Vec<u8>),
    /// The peer sends no more.
    Closed,
}

/// A socket and what is left over.
#[derive(Debug)]
pub(super) struct Io {
    pub(super) stream: Stream,
    /// The socket may have something to read. Cleared by a read that finds
    /// nothing or less than it has room for.
    pub(super) readable: bool,
    /// The peer has closed its side: read on until that is seen.
    pub(super) hung_up: bool,
    /// Bytes read that cannot be dealt with yet.
    kept: Vec<u8>,
    /// If not zero: there is nothing to do until so many bytes are kept.
    needed: usize,
    unsent: Vec<u8>,
    unsent_from: usize,
    pub(super) tls: Option<Box<Tls>>,
}

impl Io {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            readable: false,
            hung_up: false,
            kept: Vec::new(),
            needed: 0,
            unsent: Vec::new(),
            unsent_from: 0,
            tls: None,
        }
    }

    /// Whether the peer takes less than we have for it.
    pub(super) fn is_choked(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(super) fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Bytes held on behalf of this socket.
    pub(super) fn held_bytes(&self) -> usize {
        self.kept.capacity()
            + self.unsent.capacity()
            + self.tls.as_ref().map_or(0, |tls| tls.pending_len())
    }

    /// Keeps the bytes that could not be dealt with, and how many are needed.
    pub(super) fn keep(&mut self, rest: &[u8], needed: usize) {
        self.kept = rest.to_vec();
        self.needed = if needed > rest.len() { needed } else { 0 };
    }

    /// What was kept, to be dealt with now.
    pub(super) fn take_kept(&mut self) -> Vec<u8> {
        self.needed = 0;
        std::mem::take(&mut self.kept)
    }

    /// Reads once, at most `size` bytes. `out` bytes (TLS) are sent at once.
    pub(super) fn read(&mut self, scratch: &mut Scratch, size: usize) -> io::Result<Input> {
        if self.needed > READ_SIZE {
            return self.read_long(scratch);
        }
        if self.tls.is_some() {
            return self.read_tls(scratch, size);
        }
        let kept = self.kept.len();
        let room = (kept + size.min(READ_SIZE)).max(READ_SIZE);
        if scratch.plain.len() < room {
            scratch.plain.resize(room, 0);
        }
        let to = (kept + size).min(scratch.plain.len());
        match self.stream.read(&mut scratch.plain[kept..to]) {
            Ok(0) => self.end_of_input(),
            Ok(length) => {
                if length < to - kept && !self.hung_up {
                    self.readable = false;
                }
                if kept > 0 {
                    scratch.plain[..kept].copy_from_slice(&self.kept);
                    self.kept = Vec::new();
                }
                Ok(Input::Scratch(kept + length))
            }
            Err(error) => self.not_read(error),
        }
    }

    fn end_of_input(&mut self) -> io::Result<Input> {
        self.readable = false;
        Ok(Input::Closed)
    }

    fn not_read(&mut self, error: io::Error) -> io::Result<Input> {
        match error.kind() {
            io::ErrorKind::WouldBlock => {
                // Neither data nor an end: whatever was announced has been seen.
                self.readable = false;
                self.hung_up = false;
                Ok(Input::Nothing)
            }
            io::ErrorKind::Interrupted => Ok(Input::Nothing),
            _ => Err(error),
        }
    }

    /// Collects a message that is longer than the scratch buffer.
    fn read_long(&mut self, scratch: &mut Scratch) -> io::Result<Input> {
        let needed = std::mem::take(&mut self.needed);
        let mut kept = std::mem::take(&mut self.kept);
        let input = self.read(scratch, READ_SIZE);
        match input? {
            Input::Closed => return Ok(Input::Closed),
            input => kept.extend_from_slice(scratch.bytes(&input)),
        }
        if kept.len() < needed {
            self.kept = kept;
            self.needed = needed;
            return Ok(Input::Nothing);
        }
        Ok(Input::Owned(kept))
    }

    fn read_tls(&mut self, scratch: &mut Scratch, size: usize) -> io::Result<Input> {
        let tls = self.tls.as_mut().expect("asked for before");
        if tls.is_closed() {
            return self.end_of_input();
        }
        scratch.cipher.resize(2 * READ_SIZE, 0);
        let pending = tls.take_pending(&mut scratch.cipher);
        let to = pending + size;
        let length = match self.stream.read(&mut scratch.cipher[pending..to]) {
            Ok(0) => return self.end_of_input(),
            Ok(length) => {
                if length < to - pending && !self.hung_up {
                    self.readable = false;
                }
                length
            }
            Err(error) => {
                tls.put_back(&scratch.cipher[..pending]);
                return self.not_read(error);
            }
        };
        scratch.decrypted.clear();
        scratch.decrypted.extend_from_slice(&self.kept);
        self.kept = Vec::new();
        scratch.out.clear();
        let cipher = &mut scratch.cipher[..pending + length];
        let received = tls.receive(cipher, &mut scratch.decrypted, &mut scratch.out);
        let closed = tls.is_closed();
        if !scratch.out.is_empty() {
            let out = std::mem::take(&mut scratch.out);
            let sent = self.write_plain(&[&out]);
            scratch.out = out;
            sent?;
        }
        received?;
        let plain_length = scratch.decrypted.len();
        if closed {
            // What came before the goodbye is dealt with first.
            self.hung_up = true;
            self.readable = true;
            if plain_length == 0 {
                return self.end_of_input();
            }
        }
        if plain_length == 0 {
            return Ok(Input::Nothing);
        }
        Ok(Input::Decrypted)
    }

    /// Sends the pieces of `output` that were made from `input`.
    pub(super) fn send(&mut self, output: &mut Output, input: &[u8]) -> io::Result<()> {
        if output.is_empty() {
            return Ok(());
        }
        if let Some(bytes) = output.contiguous(input) {
            return self.send_bytes(bytes);
        }
        if self.tls.is_some() {
            return self.send_tls(&output.concat(input));
        }
        self.send_pieces(output, input)
    }

    fn send_pieces(&mut self, output: &Output, input: &[u8]) -> io::Result<()> {
        let mut slices: [&[u8]; SLICES_MAX] = [&[]; SLICES_MAX];
        let mut count = 0;
        for slice in output.slices(input) {
            if count == SLICES_MAX {
                self.write_plain(&slices)?;
                count = 0;
            }
            slices[count] = slice;
            count += 1;
        }
        self.write_plain(&slices[..count])
    }

    /// Sends bytes of our own.
    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.tls.is_some() {
            return self.send_tls(bytes);
        }
        self.write_plain(&[bytes])
    }

    /// Begins a TLS session with our hello.
    pub(super) fn start_tls(&mut self, mut tls: Box<Tls>) -> io::Result<()> {
        let mut hello = Vec::new();
        tls.receive(&mut [], &mut Vec::new(), &mut hello)?;
        self.tls = Some(tls);
        self.write_plain(&[&hello])
    }

    /// Whether there is a TLS session whose handshake is done.
    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_established())
    }

    fn send_tls(&mut self, plain: &[u8]) -> io::Result<()> {
        let tls = self.tls.as_mut().expect("asked for before");
        let mut cipher = Vec::with_capacity(plain.len() + 512);
        tls.send(plain, &mut cipher)?;
        self.write_plain(&[&cipher])
    }

    /// Writes at once what the socket takes; keeps the rest.
    fn write_plain(&mut self, slices: &[&[u8]]) -> io::Result<()> {
        let mut written = 0;
        if self.unsent.is_empty() {
            written = self.write_once(slices)?;
        }
        for slice in slices {
            let done = written.min(slice.len());
            written -= done;
            self.unsent.extend_from_slice(&slice[done..]);
        }
        Ok(())
    }

    fn write_once(&mut self, slices: &[&[u8]]) -> io::Result<usize> {
        loop {
            let result = match slices {
                [] => return Ok(0),
                [only] => self.stream.write(only),
                _ => {
                    let mut vectors = [IoSlice::new(&[]); SLICES_MAX];
                    for (vector, slice) in vectors.iter_mut().zip(slices) {
                        *vector = IoSlice::new(slice);
                    }
                    self.stream.write_vectored(&vectors[..slices.len()])
                }
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                result => return result,
            }
        }
    }

    /// The socket takes more: writes what is unsent. Says whether all is gone.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while self.unsent_from < self.unsent.len() {
            match self.stream.write(&self.unsent[self.unsent_from..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.unsent_from += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.unsent = Vec::new();
        self.unsent_from = 0;
        Ok(true)
    }

    /// Says goodbye (TLS) and closes our side for writing.
    pub(super) fn end_output(&mut self) {
        if let Some(tls) = &mut self.tls {
            let mut out = Vec::new();
            tls.close(&mut out);
            // The connection ends whether or not the peer hears it.
            let _ = self.write_plain(&[&out]);
        }
        self.stream.shutdown_write();
    }
}
