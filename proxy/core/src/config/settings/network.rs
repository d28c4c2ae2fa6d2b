//! Networks, and whose word is taken for a client's address.

use std::{fmt, net::IpAddr};

use super::value::{Kind, Value};

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, `fd00::/8`, or one address alone.
    fn parse(text: &str) -> Result<Self, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let wrong = || format!("{text} is not a network");
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.trim().parse().map_err(|_| wrong())?,
            None => all,
        };
        if bits > all {
            return Err(format!("{text} has more than {all} bits"));
        }
        let network = Self { address, bits };
        if number(address) & !network.mask() != 0 {
            return Err(format!("{text} has bits set after the first {bits}"));
        }
        Ok(network)
    }

    /// Whether `address` is in it; an IPv4 address may be written as an IPv6 one.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && number(address) & self.mask() == number(self.address)
    }

    /// As in [`number`], whose high bits IPv4 does not use.
    fn mask(&self) -> u128 {
        let all: u8 = if self.address.is_ipv4() { 32 } else { 128 };
        let ones = match all {
            32 => u128::from(u32::MAX),
            _ => u128::MAX,
        };
        let free = u32::from(all - self.bits);
        ones & u128::MAX.checked_shl(free).unwrap_or(0)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Whose PROXY header is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Nobody's.
    #[default]
    Off,
    /// Whoever has the shared key.
    Mac,
    /// Whoever connects from one of these, with or without the key.
    From(Vec<Network>),
}

impl Value for ProxyProtocol {
    const KIND: Kind = Kind::of("off, mac, or networks separated by commas, such as 10.0.0.0/8");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        match text {
            "" | "off" | "0" => Ok(Self::Off),
            "mac" => Ok(Self::Mac),
            _ => {
                let networks = Vec::<String>::parse(text)?;
                let networks = networks.iter().map(|network| Network::parse(network));
                networks
                    .collect::<Result<_, _>>()
                    .map(Self::From)
                    .map_err(Some)
            }
        }
    }

    fn unset() -> Self {
        Self::Off
    }

    fn format(&self) -> String {
        match self {
            Self::Off => "off".to_owned(),
            Self::Mac => "mac".to_owned(),
            Self::From(networks) => {
                let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
                networks.join(", ")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_begins_like_them() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.6", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
        ];
        for (network, address, within) in cases {
            let network = Network::parse(network).unwrap();
            assert_eq!(
                network.contains(address.parse().unwrap()),
                within,
                "{network} {address}"
            );
        }
    }

    #[test]
    fn settings_read_back_and_nonsense_is_told() {
        for text in ["off", "mac", "10.0.0.0/8, fd00::/8", "192.0.2.7/32"] {
            assert_eq!(ProxyProtocol::parse(text).unwrap().format(), text);
        }
        for (text, told) in [
            ("on", "on is not a network"),
            ("10.0.0.0/33", "10.0.0.0/33 has more than 32 bits"),
            ("10.0.0.1/8", "10.0.0.1/8 has bits set after the first 8"),
            ("10.0.0.0/8, mac", "mac is not a network"),
            ("10.0.0.0/x", "10.0.0.0/x is not a network"),
        ] {
            assert_eq!(ProxyProtocol::parse(text), Err(Some(told.to_owned())));
        }
    }
}
