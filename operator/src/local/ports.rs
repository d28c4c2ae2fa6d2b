//! Ports: which are free, and which an operator has said it will use.
//!
//! Balancers share a port by SO_REUSEPORT, which would also let them share it
//! with the balancers of another tier. So a port is probed without it first,
//! and claimed against other operators that start in the same moment.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddr, UnixListener},
    },
};

use crate::controller::build::{PoolerAddresses, Tier};

/// Where poolers' ports are looked for.
const POOLER_DATA: u16 = 6432;
const POOLER_HTTP: u16 = 9127;
const DASHBOARD: u16 = 8404;
const OPERATOR: u16 = 8080;

/// Why a tier cannot have its ports.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody listens there.
    #[error(
        "port {address} ({what}) is in use{by}; stop who uses it, or move the tier's ports with --port-offset"
    )]
    InUse {
        /// Where.
        address: SocketAddr,
        /// What it is for.
        what: &'static str,
        /// By whom, if that is known.
        by: &'static str,
    },
    /// Two things of one tier.
    #[error(
        "port {port} would be used twice, for {one} and for {other}; change spec.service.port or --port-offset"
    )]
    Twice {
        /// Which.
        port: u16,
        /// By this.
        one: &'static str,
        /// And by this.
        other: &'static str,
    },
    /// Not a port.
    #[error("{what}: port {port} with offset {offset} is above 65535")]
    TooHigh {
        /// What it is for.
        what: &'static str,
        /// Without the offset.
        port: u16,
        /// What was added.
        offset: u16,
    },
    /// No free ports.
    #[error("no {count} consecutive free ports from {from} for {what}")]
    NoneFree {
        /// How many were looked for.
        count: usize,
        /// From where.
        from: u16,
        /// What they are for.
        what: &'static str,
    },
    /// The address is not one of this machine, or not ours to use.
    #[error("cannot listen on {address} ({what}): {error}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// What it is for.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// A port that no other operator of this machine will take while this lives.
#[derive(Debug)]
pub struct Claim {
    _socket: UnixListener,
}

impl Claim {
    /// Claims a port; `None` if another operator has.
    fn new(address: SocketAddr) -> Option<Self> {
        // A name that lives as long as its socket, and leaves no file behind.
        let name = format!("poolkeeper-port/{address}");
        let name = UnixAddr::from_abstract_name(name).ok()?;
        let socket = UnixListener::bind_addr(&name).ok()?;
        Some(Self { _socket: socket })
    }
}

/// The ports of a tier.
#[derive(Debug)]
pub struct Ports {
    /// What applications connect to.
    pub service: SocketAddr,
    /// Each pooler's.
    pub poolers: Vec<PoolerAddresses>,
    /// Each balancer's dashboard.
    pub dashboards: Vec<SocketAddr>,
    /// The operator's own.
    pub operator: SocketAddr,
    _claims: Vec<Claim>,
}

/// Ports that children of ours hold already.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// By pooler; `None` for one that does not run.
    pub poolers: Vec<Option<PoolerAddresses>>,
    /// Ports that balancers that run listen on.
    pub balancers: Vec<SocketAddr>,
}

/// Finds and claims the ports of a tier, and starts nothing.
///
/// # Errors
/// If a port that must be just that one is taken, or none are free.
pub fn plan(tier: &Tier, bind: IpAddr, offset: u16, held: &Held) -> Result<Ports, PortError> {
    let mut planner = Planner {
        bind,
        offset,
        held,
        used: Vec::new(),
        claims: Vec::new(),
    };
    let service = planner.fixed(tier.service_port, "the service")?;
    let mut dashboards = Vec::new();
    for index in 0..tier.balancer.replicas {
        let port = DASHBOARD + u16::try_from(index).unwrap_or(u16::MAX - DASHBOARD);
        dashboards.push(planner.fixed(port, "a dashboard")?);
    }
    let operator = planner.fixed(OPERATOR, "the operator")?;
    let replicas = tier.pooler.replicas as usize;
    let held_data = |index: usize| Some(held.poolers.get(index)?.as_ref()?.data);
    let held_http = |index: usize| Some(held.poolers.get(index)?.as_ref()?.http);
    let data = planner.consecutive(POOLER_DATA, replicas, &held_data, "poolers")?;
    let http = planner.consecutive(POOLER_HTTP, replicas, &held_http, "the poolers' HTTP")?;
    Ok(Ports {
        service,
        poolers: data
            .into_iter()
            .zip(http)
            .map(|(data, http)| PoolerAddresses { data, http })
            .collect(),
        dashboards,
        operator,
        _claims: planner.claims,
    })
}

struct Planner<'a> {
    bind: IpAddr,
    offset: u16,
    held: &'a Held,
    used: Vec<(u16, &'static str)>,
    claims: Vec<Claim>,
}

impl Planner<'_> {
    /// A port that must be just this one.
    fn fixed(&mut self, port: u16, what: &'static str) -> Result<SocketAddr, PortError> {
        let offset = self.offset;
        let moved = port
            .checked_add(offset)
            .ok_or(PortError::TooHigh { what, port, offset })?;
        if let Some((_, one)) = self.used.iter().find(|(used, _)| *used == moved) {
            return Err(PortError::Twice {
                port: moved,
                one,
                other: what,
            });
        }
        let address = SocketAddr::new(self.bind, moved);
        if !self.held.balancers.contains(&address) {
            probe(address, what)?;
        }
        let by = " by another operator's tier that is about to start";
        let claim = Claim::new(address).ok_or(PortError::InUse { address, what, by })?;
        self.claims.push(claim);
        self.used.push((moved, what));
        Ok(address)
    }

    /// Ports that may be any. Children that run keep theirs; the others get the
    /// first consecutive free ones.
    fn consecutive(
        &mut self,
        from: u16,
        count: usize,
        held: &dyn Fn(usize) -> Option<SocketAddr>,
        what: &'static str,
    ) -> Result<Vec<SocketAddr>, PortError> {
        let missing = (0..count).filter(|index| held(*index).is_none()).count();
        let from = from.saturating_add(self.offset);
        let mut free = Vec::with_capacity(missing);
        let mut port = from;
        while free.len() < missing {
            let address = SocketAddr::new(self.bind, port);
            let taken = self.used.iter().any(|(used, _)| *used == port)
                || (0..count).any(|index| held(index) == Some(address));
            let claim = (!taken && probe(address, what).is_ok()).then(|| Claim::new(address));
            match claim.flatten() {
                Some(claim) => free.push((address, claim)),
                None => free.clear(),
            }
            port = match port.checked_add(1) {
                Some(port) => port,
                None if free.len() == missing => port,
                None => {
                    let count = missing;
                    return Err(PortError::NoneFree { count, from, what });
                }
            };
        }
        let mut free = free.into_iter();
        let mut addresses = Vec::with_capacity(count);
        for index in 0..count {
            addresses.push(match held(index) {
                Some(address) => address,
                None => {
                    let (address, claim) = free.next().expect("as many as are missing");
                    self.claims.push(claim);
                    address
                }
            });
        }
        self.used
            .extend(addresses.iter().map(|address| (address.port(), what)));
        Ok(addresses)
    }
}

/// Whether nobody listens on an address. Without SO_REUSEPORT, so that nobody
/// who sets it can hide.
fn probe(address: SocketAddr, what: &'static str) -> Result<(), PortError> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(PortError::InUse {
            address,
            what,
            by: "",
        }),
        Err(error) => Err(PortError::Refused {
            address,
            what,
            error,
        }),
    }
}

#[cfg(test)]
mod tests;
