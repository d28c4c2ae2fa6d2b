//! A `--port-offset` that nobody else uses while it is held.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

/// Holds an offset until it is dropped.
pub(crate) struct Offset {
    pub(crate) ports: u16,
    _lock: UnixListener,
}

/// The fixed ports of a tier of two balancers.
const FIXED: [u16; 4] = [5432, 8404, 8405, 8080];
/// Steps of ten: then no two offsets bring two different ports together, not
/// even those of ten poolers.
const STEP: u16 = 10;
/// Below 10000 stay all ports that a tier looks at.
const STEPS: u16 = 86;

impl Offset {
    pub(crate) fn free() -> Self {
        (1..STEPS)
            .map(|step| step * STEP)
            .find_map(|ports| {
                let name = format!("poolkeeper-test-offset/{ports}");
                let lock = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).ok()?);
                let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
                let lock = lock.ok()?;
                FIXED
                    .iter()
                    .all(|port| free(port + ports))
                    .then_some(Self { ports, _lock: lock })
            })
            .expect("one of many offsets is free")
    }
}
