//! A node's addresses, and the cable that joins it to this machine.
//!
//! Node `n` has 10.(240+n).0.0/16: pods in its first /24, Services from
//! 10.X.96.0/20, this machine at 10.X.255.1 and the node at 10.X.255.2. The
//! machine routes all of it to the node, so that whoever sits at it can reach
//! pods and Services; and pods reach the machine, but no further.

use std::{fs, net::Ipv4Addr, process::Command};

use anyhow::{Result, bail};

use super::isolation::{Isolation, finish};

const FIRST: u8 = 240;
const NODES: u8 = 15;

/// A network device that leads into a node. It goes when the node's namespaces
/// go, and as there is only one of each name it is also what claims the addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    number: u8,
}

impl Network {
    /// Takes the first addresses that neither another node nor this machine's
    /// own network uses.
    pub(crate) fn join(isolation: &Isolation) -> Result<Self> {
        let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
        for number in 0..NODES {
            let network = Self { number };
            if !is_routed(&routes, network.address(0, 0)) && network.claim(isolation)? {
                network.set_up(isolation)?;
                return Ok(network);
            }
        }
        bail!(
            "10.{FIRST}.0.0/16 to 10.{}.0.0/16 are all in use: too many nodes, or this machine's network",
            FIRST + NODES - 1
        );
    }

    /// The device on this machine, and the name of all that the node has here.
    pub(crate) fn name(self) -> String {
        format!("poolkeeper{}", self.number)
    }

    /// This machine, as pods see it.
    pub(crate) fn machine(self) -> Ipv4Addr {
        self.address(255, 1)
    }

    /// The node.
    pub(crate) fn node(self) -> Ipv4Addr {
        self.address(255, 2)
    }

    pub(crate) fn pods(self) -> String {
        format!("{}/24", self.address(0, 0))
    }

    pub(crate) fn services(self) -> String {
        format!("{}/20", self.address(96, 0))
    }

    fn address(self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, FIRST + self.number, third, fourth)
    }

    /// False if the name is taken.
    fn claim(self, isolation: &Isolation) -> Result<bool> {
        let result = finish(
            "ip link add",
            Command::new("ip")
                .args(["link", "add", &self.name(), "type", "veth"])
                .args(["peer", "name", "uplink", "netns"])
                .arg(isolation.init().to_string()),
        );
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.to_string().contains("File exists") => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn set_up(self, isolation: &Isolation) -> Result<()> {
        let (name, machine, node) = (self.name(), self.machine(), self.node());
        finish(
            "setting up the node's network",
            Command::new("sh").arg("-ec").arg(format!(
                "ip address add {machine}/30 dev {name}; ip link set {name} up; \
                 ip route add {}/16 via {node}",
                self.address(0, 0)
            )),
        )?;
        isolation.shell(&format!(
            "ip address add {node}/30 dev uplink; ip link set uplink up; \
             ip route add default via {machine}"
        ))
    }
}

/// What nodes may be called, in use or not.
pub(crate) fn names() -> impl Iterator<Item = String> {
    (0..NODES).map(|number| Network { number }.name())
}

/// Whether `/proc/net/route` has a route, other than the default one, to any
/// address of the /16 that begins at `wished`.
fn is_routed(routes: &str, wished: Ipv4Addr) -> bool {
    let wished = u32::from(wished);
    routes.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| {
            let digits = fields.get(index)?;
            // The kernel prints the bytes of memory, not of the network.
            Some(u32::from_str_radix(digits, 16).ok()?.swap_bytes())
        };
        match (number(1), number(7)) {
            (Some(to), Some(mask)) if mask != 0 => {
                let common = mask & 0xffff_0000;
                to & common == wished & common
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_the_machine_uses_are_passed_over() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                      eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n\
                      eth0\t0005F00A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        assert!(is_routed(routes, Ipv4Addr::new(10, 240, 0, 0)));
        assert!(!is_routed(routes, Ipv4Addr::new(10, 241, 0, 0)));
        let all_of_ten = "Iface\n eth0\t0000000A\t0\t1\t0\t0\t0\t000000FF\n";
        assert!(is_routed(all_of_ten, Ipv4Addr::new(10, 241, 0, 0)));
    }
}
