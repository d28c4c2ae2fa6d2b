//! A relay between two sockets that decides nothing: the floor that
//! `cargo xtask bench` compares with.
//!
//! `relay LISTEN UPSTREAM`: one epoll loop, descriptors registered once and
//! edge-triggered, one recv and one send for each message that arrives whole.

use std::{
    error::Error,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr},
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);
const SCRATCH: usize = 64 * 1024;

/// One direction's source: what it has sent and the other side did not take yet.
struct Side {
    stream: TcpStream,
    pending: Vec<u8>,
    ended: bool,
}

impl Side {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
            ended: false,
        }
    }
}

type Pair = [Side; 2];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (arguments.next(), arguments.next()) else {
        return Err("usage: relay LISTEN UPSTREAM".into());
    };
    run(listen.parse()?, upstream.parse()?)?;
    Ok(())
}

fn run(listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = TcpListener::bind(listen)?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut pairs: Slab<Pair> = Slab::new();
    let mut scratch = vec![0; SCRATCH];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&poll, &listener, upstream, &mut pairs)?;
                continue;
            }
            let (key, side) = (event.token().0 / 2, event.token().0 % 2);
            let Some(pair) = pairs.get_mut(key) else {
                continue;
            };
            let mut result = Ok(());
            if event.is_writable() && !pair[1 - side].pending.is_empty() {
                result = flush(pair, 1 - side).and_then(|()| pump(pair, 1 - side, &mut scratch));
            }
            if event.is_readable() {
                result = result.and_then(|()| pump(pair, side, &mut scratch));
            }
            if result.is_err()
                || pair
                    .iter()
                    .all(|side| side.ended && side.pending.is_empty())
            {
                pairs.remove(key);
            }
        }
    }
}

fn accept(
    poll: &Poll,
    listener: &TcpListener,
    upstream: SocketAddr,
    pairs: &mut Slab<Pair>,
) -> io::Result<()> {
    loop {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let server = TcpStream::connect(upstream)?;
        let entry = pairs.vacant_entry();
        let key = entry.key();
        let pair = entry.insert([client, server].map(Side::new));
        for (side, end) in pair.iter_mut().enumerate() {
            end.stream.set_nodelay(true)?;
            poll.registry().register(
                &mut end.stream,
                Token(key * 2 + side),
                Interest::READABLE | Interest::WRITABLE,
            )?;
        }
    }
}

/// Moves what `from` has to the other side until a short read says that there
/// is no more, or the other side takes no more.
fn pump(pair: &mut Pair, from: usize, scratch: &mut [u8]) -> io::Result<()> {
    while pair[from].pending.is_empty() && !pair[from].ended {
        let length = match pair[from].stream.read(scratch) {
            Ok(0) => {
                pair[from].ended = true;
                // Fails when it is not connected, and then there is nothing to end.
                let _ = pair[1 - from].stream.shutdown(Shutdown::Write);
                return Ok(());
            }
            Ok(length) => length,
            // Not connected yet: its first writable event comes.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::NotConnected
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let sent = send(&mut pair[1 - from].stream, &scratch[..length])?;
        if sent < length {
            pair[from].pending.extend_from_slice(&scratch[sent..length]);
        }
        if length < scratch.len() {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends what `from` left over.
fn flush(pair: &mut Pair, from: usize) -> io::Result<()> {
    let pending = std::mem::take(&mut pair[from].pending);
    let sent = send(&mut pair[1 - from].stream, &pending)?;
    pair[from].pending.extend_from_slice(&pending[sent..]);
    Ok(())
}

fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(length) => sent += length,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::NotConnected
                ) =>
            {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
