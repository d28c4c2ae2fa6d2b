//! Where something listens, in one word.

use std::{fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ListenAddress;

/// An address and a port to listen on: `10.0.0.5:5432`, `[::1]:5432`, or `*:5432`
/// for all addresses of the host, those of IPv6 too where it has them.
/// `0.0.0.0:5432` is IPv4 alone and `[::]:5432` is IPv6 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The address.
    pub address: ListenAddress,
    /// The port; 0 takes a free one.
    pub port: u16,
}

impl Bind {
    /// What is accepted, for messages.
    pub const EXPECTED: &str =
        "a numeric address and a port, such as 10.0.0.5:6432 or [::1]:6432, or *:6432 for all";

    /// All addresses of the host.
    #[must_use]
    pub const fn everywhere(port: u16) -> Self {
        Self {
            address: ListenAddress::All,
            port,
        }
    }

    /// The address and port, unless it is `*`.
    #[must_use]
    pub fn one(self) -> Option<SocketAddr> {
        match self.address {
            ListenAddress::One(ip) => Some(SocketAddr::new(ip, self.port)),
            ListenAddress::All => None,
        }
    }

    /// Whether two of them cannot both be listened on.
    #[must_use]
    pub fn clashes_with(self, other: Self) -> bool {
        let overlap = match (self.address, other.address) {
            (ListenAddress::One(left), ListenAddress::One(right)) => {
                left == right
                    || left.is_ipv4() == right.is_ipv4()
                        && (left.is_unspecified() || right.is_unspecified())
            }
            _ => true,
        };
        overlap && self.port == other.port && self.port != 0
    }
}

impl From<SocketAddr> for Bind {
    fn from(address: SocketAddr) -> Self {
        Self {
            address: ListenAddress::One(address.ip()),
            port: address.port(),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.one() {
            Some(address) => address.fmt(f),
            None => write!(f, "*:{}", self.port),
        }
    }
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bind = match text.strip_prefix("*:") {
            Some(port) => port.parse().ok().map(Self::everywhere),
            None => text.parse::<SocketAddr>().ok().map(Self::from),
        };
        bind.ok_or_else(|| format!("expected {}", Self::EXPECTED))
    }
}

impl Serialize for Bind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(text: &str) -> Bind {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        for text in ["10.0.0.5:5432", "[::1]:0", "[::]:8404", "*:5432"] {
            assert_eq!(bind(text).to_string(), text);
        }
        for text in ["*", "*:", "*:65536", "::1:80", "localhost:80", "5432", ""] {
            let error = text.parse::<Bind>().unwrap_err();
            assert!(error.contains("*:6432"), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_clash_where_both_cannot_listen() {
        let clash = |left: &str, right: &str| {
            let both = [
                bind(left).clashes_with(bind(right)),
                bind(right).clashes_with(bind(left)),
            ];
            assert_eq!(both[0], both[1]);
            both[0]
        };
        assert!(clash("*:1", "[::1]:1"));
        assert!(clash("*:1", "*:1"));
        assert!(clash("0.0.0.0:1", "10.0.0.1:1"));
        assert!(clash("[::]:1", "[::1]:1"));
        assert!(!clash("0.0.0.0:1", "[::]:1"));
        assert!(!clash("10.0.0.1:1", "10.0.0.2:1"));
        assert!(!clash("*:1", "*:2"));
        assert!(!clash("*:0", "*:0"));
    }
}
