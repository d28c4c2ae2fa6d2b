//! Listening sockets: non-blocking, closed on exec, on a port that may have been
//! left a moment ago.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that come in the moment before they are accepted, where it is not
/// clients of PostgreSQL that come.
pub const BACKLOG: i32 = 1024;

/// What a listening socket is besides its address.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Other sockets of the same user may share the port (SO_REUSEPORT).
    pub reuse_port: bool,
    /// One for IPv6 takes IPv4 too. Peers' addresses are then written as IPv6's,
    /// which nobody sees of HTTP; clients of PostgreSQL are told theirs.
    pub both_families: bool,
    /// Connections that wait to be accepted, at most; the kernel cuts it to
    /// net.core.somaxconn.
    pub backlog: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            reuse_port: false,
            both_families: false,
            backlog: BACKLOG,
        }
    }
}

/// A listening socket on `address`; port 0 takes a free one.
///
/// # Errors
/// The port is taken or not ours to take, or the host has no such address.
pub fn listen(address: SocketAddr, options: Options) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!options.both_families)?;
    }
    // Without it a restart would fail for a minute, as long as connections
    // of the process before are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// One listening socket for all addresses of the host, those of IPv6 too where it
/// has them.
///
/// # Errors
/// The port is taken, or not ours to take.
pub fn listen_everywhere(port: u16) -> io::Result<TcpListener> {
    let options = Options {
        both_families: true,
        ..Options::default()
    };
    let both = listen((Ipv6Addr::UNSPECIFIED, port).into(), options);
    both.or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
        // The host may have no IPv6.
        _ => listen((Ipv4Addr::UNSPECIFIED, port).into(), options),
    })
}
