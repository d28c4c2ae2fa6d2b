//! What a target is told first: whose connection this is.

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
};

use mio::net::TcpStream;
use proxy_core::{config::balancer::BalancerConfig, wire::proxy_header};

use super::shared::Shared;
use crate::boot::unix_ms;

/// Announces clients to targets by PROXY headers.
#[derive(Debug)]
pub(super) struct Announce {
    config: Arc<BalancerConfig>,
    boot_id: u64,
}

impl Announce {
    /// As the configuration in force asks; `None` if it does not.
    pub(super) fn by(shared: &Shared) -> Option<Self> {
        let config = shared.config();
        config.proxy_protocol.then(|| Self {
            config,
            boot_id: shared.boot_number(),
        })
    }

    /// Tells `server`, a connection just made, whose connection `client` is.
    ///
    /// # Errors
    /// The client is gone, or the server takes not even that.
    pub(super) fn announce(&self, client: &TcpStream, mut server: &TcpStream) -> io::Result<()> {
        let header = self.header(client.peer_addr()?, client.local_addr()?);
        // A new socket takes a hundred bytes whole, or something is very wrong.
        match server.write(&header)? {
            written if written == header.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn header(&self, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
        let key = self.config.shared_key.as_ref().map(|key| (key, unix_ms()));
        proxy_header(client, local, self.boot_id, key)
    }
}
