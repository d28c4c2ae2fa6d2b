//! How poolers find each other: a name, and the address of one's own.

use std::net::{IpAddr, SocketAddr};

use super::value::{Kind, Value};

/// Longest name (RFC 1035, 2.3.4), as text without the last dot.
const NAME_LENGTH_MAX: usize = 253;

/// A name to look up, with or without the port of what is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName {
    /// The DNS name; an IP address stands for itself.
    pub name: String,
    /// Where it says nothing: `listen_port`.
    pub port: Option<u16>,
}

impl Value for Option<PeerName> {
    const KIND: Kind = Kind::of("NAME or NAME:PORT");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        if text.is_empty() {
            return Ok(None);
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(self::port(port)?)),
            None => (text, None),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.chars().all(fits) {
            return Err(Some("that is no DNS name".to_owned()));
        }
        let name = name.to_owned();
        Ok(Some(PeerName { name, port }))
    }

    fn unset() -> Self {
        None
    }

    fn format(&self) -> String {
        match self {
            None => String::new(),
            Some(PeerName { name, port: None }) => name.clone(),
            Some(PeerName {
                name,
                port: Some(port),
            }) => format!("{name}:{port}"),
        }
    }
}

/// The address of a pooler, with or without its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvertisedAddress {
    /// The address.
    pub ip: IpAddr,
    /// Where it says nothing: `listen_port`.
    pub port: Option<u16>,
}

impl AdvertisedAddress {
    /// Reads `10.0.0.5`, `10.0.0.5:6432`, `fd00::5` or `[fd00::5]:6432`.
    ///
    /// # Errors
    /// What is wrong with it, where there is more to say than that it is.
    pub fn parse(text: &str) -> Result<Self, Option<String>> {
        let (ip, port) = match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
            (Ok(ip), _) => (ip, None),
            (_, Ok(address)) => (address.ip(), Some(address.port())),
            _ => return Err(None),
        };
        if ip.is_unspecified() || port == Some(0) {
            return Err(Some("nobody can connect to that".to_owned()));
        }
        Ok(Self { ip, port })
    }
}

impl Value for Option<AdvertisedAddress> {
    const KIND: Kind = Kind::of("an IP address, with or without a port");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        match text {
            "" => Ok(None),
            _ => AdvertisedAddress::parse(text).map(Some),
        }
    }

    fn unset() -> Self {
        None
    }

    fn format(&self) -> String {
        match self {
            None => String::new(),
            Some(AdvertisedAddress { ip, port: None }) => ip.to_string(),
            Some(AdvertisedAddress {
                ip,
                port: Some(port),
            }) => SocketAddr::new(*ip, *port).to_string(),
        }
    }
}

/// A server to ask: nothing is looked up to find it.
impl Value for Option<SocketAddr> {
    const KIND: Kind = Kind::of("an IP address and a port, such as 10.0.0.10:53");

    fn parse(text: &str) -> Result<Self, Option<String>> {
        if text.is_empty() {
            return Ok(None);
        }
        let address: SocketAddr = text.parse().map_err(|_| None)?;
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(Some("nobody can be asked there".to_owned()));
        }
        Ok(Some(address))
    }

    fn unset() -> Self {
        None
    }

    fn format(&self) -> String {
        self.map(|address| address.to_string()).unwrap_or_default()
    }
}

fn port(text: &str) -> Result<u16, Option<String>> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| Some("the port is a whole number from 1 to 65535".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_back_and_nonsense_is_told() {
        for text in ["", "shop-pooler.default.svc", "shop-pooler:6432"] {
            assert_eq!(Option::<PeerName>::parse(text).unwrap().format(), text);
        }
        for text in ["", "10.0.0.5", "10.0.0.5:6432", "fd00::5", "[fd00::5]:6432"] {
            let value = Option::<AdvertisedAddress>::parse(text).unwrap();
            assert_eq!(value.format(), text);
        }
        for text in ["", "10.0.0.10:53", "[fd00::a]:53"] {
            assert_eq!(Option::<SocketAddr>::parse(text).unwrap().format(), text);
        }
        for text in [":6432", "a b", "a:0", "a:b", "a:1:2", "a:70000", "fd00::5"] {
            let told = Option::<PeerName>::parse(text).unwrap_err();
            assert!(told.is_some(), "{text}");
        }
        for text in [
            "shop-pooler",
            "10.0.0.5:x",
            "0.0.0.0",
            "[::]:1",
            "10.0.0.5:0",
        ] {
            assert!(AdvertisedAddress::parse(text).is_err(), "{text}");
        }
        for text in ["10.0.0.10", "dns:53", "0.0.0.0:53", "10.0.0.10:0"] {
            assert!(Option::<SocketAddr>::parse(text).is_err(), "{text}");
        }
    }
}
