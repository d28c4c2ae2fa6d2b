//! A connection URI, as libpq reads it:
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>.
//! No message repeats any part of it: all of it is from a Secret.

use std::fmt;

use super::HostPort;
use crate::api::TlsMode;

/// What a URI says of a server and of who logs in there.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Uri {
    pub(super) address: HostPort,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// None if it cannot be read; nobody but an application needs it.
    pub(super) database: Option<String>,
    /// `sslmode`; `allow` is taken for [`TlsMode::Prefer`].
    pub(super) tls: Option<TlsMode>,
    /// Names of other parameters, in order.
    pub(super) others: Vec<String>,
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uri(..)")
    }
}

const EXPECTED: &str = "expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE";

/// Reads a URI.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &str) -> Result<Uri, String> {
    let rest = ["postgresql://", "postgres://"]
        .iter()
        .find_map(|scheme| text.trim().strip_prefix(scheme))
        .ok_or_else(|| format!("is not a connection URI, {EXPECTED}"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, place) = match authority.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, authority),
    };
    let (user, password) = match login {
        Some(login) => match login.split_once(':') {
            Some((user, password)) => (Some(decode(user)?), Some(decode(password)?)),
            None => (Some(decode(login)?), None),
        },
        None => (None, None),
    };
    let mut uri = Uri {
        address: address(place)?,
        user: user.filter(|user| !user.is_empty()),
        password: password.filter(|password| !password.is_empty()),
        database: decode(database).ok(),
        tls: None,
        others: Vec::new(),
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameter(&mut uri, &decode(name)?, decode(value)?)?;
    }
    let can_be_used = |name: &String| !name.is_empty() && !name.chars().any(char::is_control);
    uri.database = uri.database.filter(can_be_used);
    Ok(uri)
}

fn parameter(uri: &mut Uri, name: &str, value: String) -> Result<(), String> {
    match name {
        "sslmode" => {
            uri.tls = Some(match value.as_str() {
                "disable" => TlsMode::Disable,
                "allow" | "prefer" => TlsMode::Prefer,
                "require" => TlsMode::Require,
                "verify-ca" => TlsMode::VerifyCa,
                "verify-full" => TlsMode::VerifyFull,
                _ => return Err("has an sslmode that libpq does not know".to_owned()),
            });
        }
        "user" => uri.user = Some(value),
        "password" => uri.password = Some(value),
        "dbname" => uri.database = Some(value),
        "host" | "hostaddr" | "port" => {
            return Err(format!(
                "has a parameter {name}; write it before the path, {EXPECTED}"
            ));
        }
        known if known.chars().all(|c| c.is_ascii_lowercase() || c == '_') && known.len() < 64 => {
            uri.others.push(known.to_owned());
        }
        _ => return Err("has a parameter whose name libpq does not know".to_owned()),
    }
    Ok(())
}

fn address(text: &str) -> Result<HostPort, String> {
    if text.contains(',') {
        return Err("names several hosts; give the name of a Service that leads to one".to_owned());
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("has a [ without a ]")?;
            (host, rest.strip_prefix(':').unwrap_or(rest))
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let host = decode(host)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
        return Err(format!(
            "names no host, or none that can be looked up, {EXPECTED}"
        ));
    }
    let port = match port {
        "" => Some(5432),
        port => port.parse().ok().filter(|port| *port > 0),
    };
    let port = port.ok_or("has a port that is not a number from 1 to 65535")?;
    Ok(HostPort { host, port })
}

/// Takes `%2F` and the like for what they stand for.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit().zip(digit()).map(|(high, low)| high * 16 + low);
        let value = value.and_then(|value| u8::try_from(value).ok());
        bytes.push(value.ok_or("has a % that two hexadecimal digits do not follow")?);
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 when its % are replaced".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_found() {
        let uri = parse("postgresql://al%20ice:p%40ss:w@db.example:5433/shop?sslmode=require&application_name=x\n").unwrap();
        assert_eq!(uri.address.to_string(), "db.example:5433");
        assert_eq!(uri.user.as_deref(), Some("al ice"));
        assert_eq!(uri.password.as_deref(), Some("p@ss:w"));
        assert_eq!(uri.database.as_deref(), Some("shop"));
        assert_eq!(uri.tls, Some(TlsMode::Require));
        assert_eq!(uri.others, ["application_name"]);
        let uri = parse("postgres://[fd00::1]").unwrap();
        assert_eq!(
            (uri.address.host.as_str(), uri.address.port),
            ("fd00::1", 5432)
        );
        assert_eq!((uri.user, uri.password, uri.tls), (None, None, None));
        assert_eq!(uri.database, None);
        let uri = parse("postgres://h/?user=a&password=b&dbname=c").unwrap();
        assert_eq!(uri.database.as_deref(), Some("c"));
        for odd in ["", "/", "/100%", "/a%0Ab", "/%ff", "/a?dbname="] {
            let uri = parse(&format!("postgres://a:b@h{odd}")).unwrap();
            assert_eq!(uri.database, None, "{odd}");
        }
        assert_eq!(
            (uri.user.as_deref(), uri.password.as_deref()),
            (Some("a"), Some("b"))
        );
    }

    #[test]
    fn what_is_wrong_is_said_without_showing_it() {
        for (text, about) in [
            ("host=hunter2", "is not a connection URI"),
            ("postgresql://hunter2:hunter2@/x", "names no host"),
            ("postgresql:///x?host=hunter2", "names no host"),
            ("postgresql://h?host=hunter2", "has a parameter host"),
            ("postgresql://h:hunter2", "has a port"),
            ("postgresql://h:0", "has a port"),
            ("postgresql://hunter2:1,b:2", "names several hosts"),
            ("postgresql://a:hunter%2@h", "has a %"),
            ("postgresql://a:%ff@h", "is not UTF-8"),
            ("postgresql://h?sslmode=hunter2", "has an sslmode"),
            ("postgresql://h?hunter2!=1", "has a parameter whose name"),
            ("postgresql://[hunter2", "has a ["),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(about), "{text}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
