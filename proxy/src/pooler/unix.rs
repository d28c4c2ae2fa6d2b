//! Unix sockets: where they are, and listening on one.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{fs::PermissionsExt, net::SocketAddr},
    },
    path::{Path, PathBuf},
};

use mio::net::{UnixListener, UnixStream};
use rustix::fs::Gid;

/// The address of the socket for `port` in `directory`, `@` before it for the
/// abstract namespace: PostgreSQL's convention.
fn address(directory: &str, port: u16) -> io::Result<SocketAddr> {
    match directory.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(format!("{name}/.s.PGSQL.{port}")),
        None => SocketAddr::from_pathname(path(directory, port)),
    }
}

fn path(directory: &str, port: u16) -> PathBuf {
    Path::new(directory).join(format!(".s.PGSQL.{port}"))
}

/// Whether a database's host means a Unix socket.
pub(super) fn is_directory(host: &str) -> bool {
    host.starts_with(['/', '@'])
}

/// Connects to the PostgreSQL behind the socket in `directory`.
pub(super) fn connect(directory: &str, port: u16) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&address(directory, port)?)
}

/// The same, for tokio.
pub(super) fn connect_std(
    directory: &str,
    port: u16,
) -> io::Result<std::os::unix::net::UnixStream> {
    let stream = std::os::unix::net::UnixStream::connect_addr(&address(directory, port)?)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// A listening socket, and the path to remove at the end, if it has one.
pub(super) fn listen(
    directory: &str,
    port: u16,
    mode: u32,
    group: Option<Gid>,
) -> io::Result<(UnixListener, Option<PathBuf>)> {
    let address = address(directory, port)?;
    if directory.starts_with('@') {
        return Ok((UnixListener::bind_addr(&address)?, None));
    }
    let path = path(directory, port);
    // A socket that nobody listens on is a leftover of a killed process.
    if std::os::unix::net::UnixStream::connect(&path).is_err() && path.exists() {
        std::fs::remove_file(&path)?;
    }
    let listener = UnixListener::bind_addr(&address)?;
    if let Some(group) = group {
        rustix::fs::chown(&path, None, Some(group))?;
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    Ok((listener, Some(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_is_replaced_and_a_socket_in_use_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().to_str().unwrap();
        let (first, socket) = listen(name, 1, 0o700, None).unwrap();
        assert!(listen(name, 1, 0o700, None).is_err(), "it is in use");
        drop(first);
        let (_second, _) = listen(name, 1, 0o600, None).unwrap();
        let mode = std::fs::metadata(socket.unwrap()).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        connect(name, 1).unwrap();
    }

    #[test]
    fn an_abstract_socket_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let name = format!("@{}", directory.path().display());
        let (_listener, socket) = listen(&name, 1, 0o700, None).unwrap();
        assert_eq!(socket, None);
        connect(&name, 1).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
