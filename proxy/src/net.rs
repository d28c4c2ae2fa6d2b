//! Sockets as both proxies want them: non-blocking, closed on exec, with
//! deadlines of the kernel's own for peers that vanish.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    time::Duration,
};

use proxy_core::config::{Bind, Global, ListenAddress};
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use socket2::{SockRef, TcpKeepalive};
use web::listener::{self, Options};

/// Why a listening socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    /// Address and port asked for.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

impl ListenError {
    /// What to do about it: a sentence, empty where the cause speaks for itself.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                "Another process listens there: stop it, or choose another port."
            }
            io::ErrorKind::AddrNotAvailable => "No interface of this host has that address.",
            io::ErrorKind::PermissionDenied => {
                "Ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher port."
            }
            _ => "",
        }
    }
}

/// Listening sockets for `bind`: one, or for `*` one for IPv4 and, where the host
/// has it, one for IPv6 with the same port.
///
/// # Errors
/// As [`listen`].
pub fn listen_at(bind: Bind, options: Options) -> Result<Vec<TcpListener>, ListenError> {
    let ip = match bind.address {
        ListenAddress::One(ip) => ip,
        ListenAddress::All => Ipv4Addr::UNSPECIFIED.into(),
    };
    let first = listen(SocketAddr::new(ip, bind.port), options)?;
    if bind.address != ListenAddress::All {
        return Ok(vec![first]);
    }
    let port = first.local_addr().map_or(bind.port, |taken| taken.port());
    let second = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match listen(second, options) {
        Ok(second) => Ok(vec![first, second]),
        Err(error) if lacks_family(&error.source) => {
            tracing::debug!(%error, "no IPv6");
            Ok(vec![first])
        }
        Err(error) => Err(error),
    }
}

/// A listening socket for HTTP on `bind`. That for `*` takes IPv4 and IPv6: whence
/// a question comes does not matter.
///
/// # Errors
/// [`ListenError`], naming the address.
pub fn listen_http(bind: Bind) -> Result<TcpListener, ListenError> {
    match bind.one() {
        Some(address) => listen(address, Options::default()),
        None => listener::listen_everywhere(bind.port).map_err(|source| ListenError {
            address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), bind.port),
            source,
        }),
    }
}

/// Whether the host has no such addresses at all.
fn lacks_family(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// A listening socket on `address`; port 0 takes a free one. One for IPv6 takes no
/// IPv4 unless it is asked to, as PgBouncer's: `0.0.0.0` and `::` can be listened on
/// side by side.
///
/// Where others may share the port (SO_REUSEPORT) nobody learns of a stranger on it:
/// whoever starts several sharers makes sure beforehand that the port is free.
///
/// # Errors
/// [`ListenError`], naming the address.
pub fn listen(address: SocketAddr, options: Options) -> Result<TcpListener, ListenError> {
    listener::listen(address, options).map_err(|source| ListenError { address, source })
}

/// Starts a connection to `address`; it is made, or has failed, when the
/// stream turns writable: ask [`established`] then.
///
/// # Errors
/// What the kernel knows at once: no route, no descriptor, no free port.
pub fn connect(address: SocketAddr) -> io::Result<mio::net::TcpStream> {
    mio::net::TcpStream::connect(address)
}

/// Whether a connection begun with [`connect`] is made: false while it is
/// still under way.
///
/// # Errors
/// The connection failed.
pub fn established(stream: &mio::net::TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// When an idle connection's peer is probed. `None` leaves the kernel's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe, whole seconds.
    pub idle: Option<Duration>,
    /// Time between two probes, whole seconds.
    pub interval: Option<Duration>,
    /// Probes without an answer until the connection is dead.
    pub probes: Option<u32>,
}

/// Options of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Send at once instead of collecting small writes (TCP_NODELAY).
    pub nodelay: bool,
    /// Probe an idle peer (SO_KEEPALIVE).
    pub keepalive: Option<Keepalive>,
    /// How long sent bytes may stay unacknowledged until the connection is
    /// dead (TCP_USER_TIMEOUT); it also ends a peer that opens no window.
    /// `None` leaves the kernel's value, about 15 minutes.
    pub user_timeout: Option<Duration>,
}

impl Tuning {
    /// What pgbouncer.ini asks for, for clients and servers alike; its 0 leaves
    /// the kernel's value.
    #[must_use]
    pub fn of_pooler(global: &Global) -> Self {
        let some = |duration: Duration| (!duration.is_zero()).then_some(duration);
        Self {
            nodelay: true,
            keepalive: global.tcp_keepalive.then(|| Keepalive {
                idle: some(global.tcp_keepidle),
                interval: some(global.tcp_keepintvl),
                probes: (global.tcp_keepcnt > 0).then_some(global.tcp_keepcnt),
            }),
            user_timeout: some(global.tcp_user_timeout.0),
        }
    }
}

/// Sets options of a connection, or of a listening socket: Linux hands them
/// down to the connections accepted from it, which saves the calls on each.
///
/// # Errors
/// The kernel refuses a value.
pub fn tune(socket: &impl AsFd, tuning: &Tuning) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if tuning.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(keepalive) = tuning.keepalive {
        let mut parameters = TcpKeepalive::new();
        if let Some(idle) = keepalive.idle {
            parameters = parameters.with_time(idle);
        }
        if let Some(interval) = keepalive.interval {
            parameters = parameters.with_interval(interval);
        }
        if let Some(probes) = keepalive.probes {
            parameters = parameters.with_retries(probes);
        }
        socket.set_tcp_keepalive(&parameters)?;
    }
    if tuning.user_timeout.is_some() {
        socket.set_tcp_user_timeout(tuning.user_timeout)?;
    }
    Ok(())
}

/// Makes the coming close of `socket` a reset (RST): the peer must not take an
/// abort for a clean end. What the kernel had still to send is dropped.
pub fn reset_on_close(socket: &impl AsFd) {
    // It fails only on a descriptor that is no socket; the close then says so.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Raises the soft limit of open descriptors to the hard one; returns the limit
/// then in force.
pub fn raise_nofile_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum;
    if limit.current != hard {
        let raised = Rlimit {
            current: hard,
            maximum: hard,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "descriptor limit not raised");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Whether a connect failed for what this host lacks: descriptors, memory, ports.
/// That says nothing of the other side.
#[must_use]
pub fn is_own_fault(error: &io::Error) -> bool {
    let own = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
    ];
    Errno::from_io_error(error).is_some_and(|errno| own.contains(&errno))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn a_taken_port_is_named_with_advice() {
        let first = listen(loopback(), Options::default()).unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(address, Options::default()).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(error.hint().contains("Another process"), "{}", error.hint());
    }

    #[test]
    fn everywhere_is_both_families_on_one_port() {
        // A host may have the one and not the other.
        let [has_ipv6, has_loopback] =
            ["[::]:0", "[::1]:0"].map(|address| TcpListener::bind(address).is_ok());
        let listeners = listen_at(Bind::everywhere(0), Options::default()).unwrap();
        assert_eq!(listeners.len(), 1 + usize::from(has_ipv6));
        let port = listeners[0].local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        // Nobody is told an IPv4 address that is written as an IPv6 one.
        let (_, peer) = listeners[0].accept().unwrap();
        assert!(peer.is_ipv4(), "{peer}");
        if let Some(listener) = listeners.get(1)
            && has_loopback
        {
            TcpStream::connect(("::1", port)).unwrap();
            let (_, peer) = listener.accept().unwrap();
            assert!(peer.is_ipv6(), "{peer}");
        }
        let taken = listen_at(Bind::everywhere(port), Options::default()).unwrap_err();
        assert!(taken.hint().contains("Another process"), "{taken}");
        let http = listen_http(Bind::everywhere(0)).unwrap();
        let port = http.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        if has_loopback {
            TcpStream::connect(("::1", port)).unwrap();
        }
    }

    #[test]
    fn sharers_share_and_others_do_not() {
        let shared = Options {
            reuse_port: true,
            ..Options::default()
        };
        let first = listen(loopback(), shared).unwrap();
        let address = first.local_addr().unwrap();
        listen(address, shared).unwrap();
        listen(address, Options::default()).unwrap_err();
    }

    #[test]
    fn accepted_connections_inherit_the_listeners_options() {
        let listener = listen(loopback(), Options::default()).unwrap();
        let tuning = Tuning {
            nodelay: true,
            keepalive: Some(Keepalive {
                idle: Some(Duration::from_secs(7)),
                interval: Some(Duration::from_secs(3)),
                probes: Some(2),
            }),
            user_timeout: Some(Duration::from_secs(9)),
        };
        tune(&listener, &tuning).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(3)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 2);
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(9))
        );
    }

    #[test]
    fn zero_leaves_the_kernels_value() {
        let mut global = Global::default();
        let tuning = Tuning::of_pooler(&global);
        assert_eq!(tuning.keepalive, Some(Keepalive::default()));
        assert_eq!(tuning.user_timeout, None);
        global.tcp_keepidle = Duration::from_secs(7);
        global.tcp_keepcnt = 2;
        let keepalive = Tuning::of_pooler(&global).keepalive.unwrap();
        assert_eq!(keepalive.idle, Some(Duration::from_secs(7)));
        assert_eq!((keepalive.interval, keepalive.probes), (None, Some(2)));
        global.tcp_keepalive = false;
        assert_eq!(Tuning::of_pooler(&global).keepalive, None);
    }

    #[test]
    fn nofile_limit_ends_at_the_hard_one() {
        let limit = raise_nofile_limit();
        assert_eq!(Some(limit), getrlimit(Resource::Nofile).maximum);
    }
}
