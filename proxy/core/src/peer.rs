//! Poolers that find each other by name: which of them a cancel key belongs to.
//!
//! The name gives addresses, and a pooler's number follows from its address, so
//! that nobody has to hand out numbers. Two addresses may have one number: a
//! cancel request then goes to both, and the one that does not know the key
//! drops it.

use std::net::{IpAddr, SocketAddr};

use sha2::{Digest, Sha256};

/// Largest number of a peer: a cancel key has 14 bits for it, and 0 means none.
pub const PEER_ID_MAX: u16 = 16_383;
/// Peers that one name may have.
pub const PEERS_MAX: usize = 256;

/// The number of the pooler at `address`, 1 to [`PEER_ID_MAX`].
///
/// The first eight bytes of SHA-256, big-endian, over the address as an IPv6
/// one (IPv4 mapped) and the port, both big-endian; modulo 16,383, plus 1. Poolers
/// of two versions are peers during an update, so that this must not change.
#[must_use]
pub fn peer_id(address: SocketAddr) -> u16 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let digest = Sha256::new()
        .chain_update(ip.octets())
        .chain_update(address.port().to_be_bytes())
        .finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    let number = u64::from_be_bytes(first) % u64::from(PEER_ID_MAX);
    u16::try_from(number).expect("less than 16,383") + 1
}

/// A pooler that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundPeer {
    /// Its number.
    pub id: u16,
    /// Where it is.
    pub address: SocketAddr,
}

/// The poolers that a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundPeers {
    own: Option<SocketAddr>,
    all: Vec<FoundPeer>,
    left_out: usize,
}

impl FoundPeers {
    /// Those at `addresses`, as seen by the one at `own`. Of more than
    /// [`PEERS_MAX`] the first are taken.
    #[must_use]
    pub fn new(own: SocketAddr, addresses: &[SocketAddr]) -> Self {
        let all = addresses.iter().take(PEERS_MAX).map(|&address| FoundPeer {
            id: peer_id(address),
            address: canonical(address),
        });
        Self {
            own: Some(canonical(own)),
            all: all.collect(),
            left_out: addresses.len().saturating_sub(PEERS_MAX),
        }
    }

    /// All, the own one among them if the name lists it, in the order of the answer.
    #[must_use]
    pub fn all(&self) -> &[FoundPeer] {
        &self.all
    }

    /// Whether the own address is among them; if not, nobody finds its keys.
    #[must_use]
    pub fn lists_own(&self) -> bool {
        self.all.iter().any(|peer| Some(peer.address) == self.own)
    }

    /// How many addresses found no room.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Those that a key with the number `id` may belong to, the own one left out.
    #[must_use]
    pub fn with_id(&self, id: u16) -> Vec<SocketAddr> {
        let others = self
            .all
            .iter()
            .filter(|peer| Some(peer.address) != self.own);
        others
            .filter(|peer| peer.id == id)
            .map(|peer| peer.address)
            .collect()
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Poolers of two versions must agree: these numbers stay.
    #[test]
    fn numbers_are_the_same_in_every_version() {
        let known = [
            ("10.0.0.5:6432", 8508),
            ("10.0.0.6:6432", 13263),
            ("10.0.0.5:6433", 10638),
            ("[fd00::5]:6432", 11995),
        ];
        let numbers = known.map(|(address, _)| (address, peer_id(at(address))));
        assert_eq!(numbers, known);
    }

    #[test]
    fn one_address_in_two_forms_is_one_pooler() {
        let (plain, mapped) = (at("10.0.0.5:6432"), at("[::ffff:10.0.0.5]:6432"));
        assert_eq!(peer_id(plain), peer_id(mapped));
        assert!(
            FoundPeers::new(mapped, &[plain])
                .with_id(peer_id(plain))
                .is_empty()
        );
        assert!(FoundPeers::new(mapped, &[plain]).lists_own());
        assert!(!FoundPeers::new(mapped, &[at("10.0.0.6:6432")]).lists_own());
    }

    /// Two addresses with one number, found by trying.
    fn colliding() -> [SocketAddr; 2] {
        let first = at("10.0.0.1:6432");
        let second = (1..=u16::MAX)
            .map(|index| SocketAddr::from(([10, 1, (index >> 8) as u8, index as u8], 6432)))
            .find(|&address| peer_id(address) == peer_id(first));
        [first, second.unwrap()]
    }

    #[test]
    fn two_with_one_number_both_get_the_request() {
        let [first, second] = colliding();
        let other = at("10.0.0.9:6432");
        let id = peer_id(first);
        assert_ne!(id, peer_id(other));
        let found = FoundPeers::new(other, &[first, other, second]);
        assert_eq!(found.with_id(id), [first, second]);
        assert!(found.lists_own());
        assert!(found.with_id(peer_id(other)).is_empty(), "not to itself");
        // One of the two is asked: the other may be meant.
        let found = FoundPeers::new(second, &[first, other, second]);
        assert_eq!(found.with_id(id), [first]);
    }

    #[test]
    fn there_are_not_endlessly_many() {
        let addresses: Vec<SocketAddr> = (0..300_u16)
            .map(|index| SocketAddr::from(([10, 2, (index >> 8) as u8, index as u8], 6432)))
            .collect();
        let found = FoundPeers::new(at("10.0.0.1:6432"), &addresses);
        assert_eq!((found.all().len(), found.left_out()), (PEERS_MAX, 44));
    }

    proptest! {
        #[test]
        fn numbers_are_in_range(ip: [u8; 16], port: u16) {
            let id = peer_id(SocketAddr::new(IpAddr::from(ip), port));
            prop_assert!((1..=PEER_ID_MAX).contains(&id));
        }
    }
}
